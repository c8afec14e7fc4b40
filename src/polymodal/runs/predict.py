"""From files to predictions and pictures of them, with a model folder alone."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from polymodal import checkpoint
from polymodal.data import InputSpec, TargetSpec, resize_inputs
from polymodal.data.inputs import check_sizes, reached, settled
from polymodal.data.progress import track
from polymodal.data.reading import decode, stored_bytes
from polymodal.data.resizing import aligned
from polymodal.data.sizes import header_size
from polymodal.errors import CheckpointError, ConfigError, DataError
from polymodal.files import complete_file, new_folder
from polymodal.names import ENSEMBLE, one_part
from polymodal.runs.evaluation import best_device, described, trained
from polymodal.runs.scenes import SHOWN_STEMS, Scene, check_out, check_pictures, find_scenes, picture_name
from polymodal.tasks.base import named_outputs, output_at
from polymodal.tasks.images import viewable
from polymodal.tasks.outputs import Output, output_of

if TYPE_CHECKING:
    from polymodal.export import Session

ONNX = ".onnx"
"""The ending of exported files."""

Predictor = Callable[[dict[str, Tensor], Sequence[int]], dict[str, Tensor]]
"""From images (1, C, H, W) by modality, and a size, to predictions of this size by name."""


def predict(model: Path, inputs: Mapping[str, Path], out: Path, *, subset: bool = False) -> list[Path]:
    """Predict every scene by every modality and by all of them together.

    Writes at the size of the files, of a class map, `<stem>_<prediction>.png`, the class numbers with 8 bits (16 for
    more than 256 classes), and `<stem>_<prediction>_overlay.png`, a picture for people; of an image,
    `<stem>_<prediction>.png` as the files of the target are stored, and for depth or raw values
    `<stem>_<prediction>_picture.png`. Every file is read and checked before the first one is written; a scene of a size
    that the network cannot take is refused in its turn, by name.

    Args:
        model: A run folder, a model folder, or a file that `polymodal export` wrote as ONNX, run by ONNX Runtime.
        inputs: By modality, all files, or all folders, whose files, also those in folders below them, are matched by
            their names without ending, and without the prefix and suffix that the training's dataset.yaml declares.
        out: The folder for the pictures, new or empty, and in none that is read; scenes in folders below those given
            have their pictures in folders of the same names.
        subset: Whether modalities of the model may be absent, of all scenes or of some.

    Returns:
        The files that were written.

    Raises:
        CheckpointError: The model cannot be used.
        ExportError: A package that runs exported files is missing.
        ConfigError: The model has no such modality, or one is missing, or `out` holds something or is read from.
        DataError: A file is missing, cannot be read, or is no such input as the model was trained with, or two pictures
            would have one name.
        OSError: A picture cannot be written.
    """
    if model.is_file() and model.suffix != ONNX:
        raise CheckpointError(
            f"{model}: expected a run folder, a model folder or an exported file that ends in {ONNX}; no other file "
            "can be predicted with here. Give the folder, or export the run again with --format onnx."
        )
    check_out(out, inputs)
    session = None if model.suffix != ONNX else _session(model)
    folder = checkpoint.model_folder(model)
    if session is None:
        metadata = checkpoint.read_config(folder).get("metadata") or {}
        specs, target, size = read_model_description(metadata, folder)
    else:
        metadata = session.metadata
        specs, target, size = read_model_description(metadata, model, session.modalities)
    _check_names(list(inputs), list(specs), subset=subset, exported=session is not None)
    specs = {name: spec for name, spec in specs.items() if name in inputs}
    chosen = {name: inputs[name] for name in specs}
    scenes = find_scenes(chosen, specs, subset=subset and session is None, whole=session is not None)
    output = output_of(target, metadata.get("training") or {})
    check_pictures(scenes, [ENSEMBLE], output.endings, whole=session is not None)
    run = _network(folder, subset) if session is None else _exported(session)
    for scene in track(scenes, "checking"):
        raw, meanings = _read(scene, specs)
        tensors = _tensors(raw, meanings, scene, size)
        warn_of_other_units(raw, scene, meanings)
        if session is not None:
            try:
                session.check({name: image[None] for name, image in tensors.items()})
            except DataError as error:
                raise DataError(f"{scene.stem}: {error}") from error

    with new_folder(out, _work(model, scenes)):
        written: list[Path] = []
        for scene in track(scenes, "predicting"):
            raw, meanings = _read(scene, specs)
            tensors = _tensors(raw, meanings, scene, size)
            picture = _picture(raw, meanings, scene)
            try:
                predictions = run({name: image[None] for name, image in tensors.items()}, picture.shape[:2])
            except DataError as error:
                raise DataError(f"{scene.stem}: {error}") from error
            _check_predictions(predictions, output, model)
            for name, logits in predictions.items():
                for ending, image in output.files(logits, picture, title=name).items():
                    written.append(_write(image, out / picture_name(scene, name, ending)))
    for name in specs:
        if absent := [scene.stem for scene in scenes if name not in scene.files]:
            print(
                f"{len(absent)} of {len(scenes)} scenes have no {name}: {', '.join(absent[:SHOWN_STEMS])}"
                f"{', ...' if len(absent) > SHOWN_STEMS else ''}"
            )
    return written


def _work(model: Path, scenes: Sequence[Scene]) -> str:
    """What is predicted, in one line: pictures of anything else do not belong among these."""
    files = [str(file.resolve()) for scene in scenes for file in scene.files.values()]
    return f"predict --model {model.resolve()}, {len(scenes)} scenes, {sha256(json.dumps(files).encode()).hexdigest()}"


def _network(folder: Path, subset: bool) -> Predictor:
    """What predicts with a model folder."""
    net = trained(folder)

    def run(images: dict[str, Tensor], size: Sequence[int]) -> dict[str, Tensor]:
        with torch.inference_mode():
            prediction = net(
                {name: image.to(best_device()) for name, image in images.items()}, subset=subset, per_modality=True
            )
            return named_outputs(prediction, size)

    return run


def _session(file: Path) -> "Session":
    from polymodal.export import Session  # takes seconds to load, and few need it

    return Session(file)


def _exported(session: "Session") -> Predictor:
    """What predicts with an exported file."""
    return lambda images, size: {
        name: output_at(torch.from_numpy(output), size if output.ndim == 4 else None)
        for name, output in session(images).items()
    }


def read_model_description(
    metadata: Any, source: Path, modalities: Iterable[str] | None = None
) -> tuple[dict[str, InputSpec], TargetSpec, tuple[int, int] | None]:
    """Inputs, target and input size of a model, from what it says of itself.

    Args:
        metadata: As `describe` made it.
        source: The model folder or the exported file that it stands in.
        modalities: Those that the network takes; all that are described if not given.

    Raises:
        CheckpointError: They are not there, as in a model that was saved by hand, or damaged.
    """
    try:
        specs, target, size = described(metadata)
        specs = {one_part(name): specs[name] for name in modalities or specs}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, DataError) as error:
        raise CheckpointError(
            f"{source} does not say what the inputs and the classes are ({error!r}). A model that `polymodal fit` has "
            "trained does, and so does what `polymodal export` makes of it."
        ) from error
    if not specs or not target.settled:
        raise CheckpointError(
            f"{source} does not say what it predicts: {len(specs)} inputs, target {target.kind} of "
            f"{len(target.classes)} classes, {len(target.colors)} colours and the range {target.range}."
        )
    return specs, target, size


def _check_predictions(predictions: Mapping[str, Tensor], output: Output, model: Path) -> None:
    """Refuse a network that predicts something else than its description says."""
    for name, prediction in predictions.items():
        if prediction.ndim != 4 or prediction.shape[1] != output.channels:
            raise CheckpointError(
                f"{model}: its description says that it predicts {output.channels} channels, and the network's "
                f"{name!r} has the shape {tuple(prediction.shape)}. Restore the model, or save or export it again."
            )


def _check_names(given: Sequence[str], known: Sequence[str], *, subset: bool, exported: bool) -> None:
    for name in given:
        if name not in known:
            raise ConfigError(f"the model has no modality {name!r}; it has {', '.join(known)}.")
    missing = [name for name in known if name not in given]
    if not missing or (given and subset and not exported):
        return
    remedy = (
        "An exported network takes all of them: predict with the model folder, or export one absorbed for some, "
        "polymodal.export.absorb(net, modalities)."
        if exported
        else "Give a file or folder for each, or allow some to be absent with --subset."
    )
    raise ConfigError(f"no input for {', '.join(missing)}: the model has {', '.join(known)}. {remedy}")


def _read(scene: Scene, specs: Mapping[str, InputSpec]) -> tuple[dict[str, np.ndarray], dict[str, InputSpec]]:
    """The files of a scene by modality, and what the values of each mean."""
    stored = {name: stored_bytes(file) for name, file in scene.files.items()}
    claimed = {str(file): header_size(stored[name]) for name, file in scene.files.items() if not specs[name].resize}
    check_sizes({file: size for file, size in claimed.items() if size})  # before any is decoded
    read = {
        name: settled(decode(stored[name], str(file), specs[name]), specs[name], str(file))
        for name, file in scene.files.items()
    }
    raw, meaning = {name: array for name, (array, _) in read.items()}, {name: spec for name, (_, spec) in read.items()}
    return aligned(raw, meaning, {name: str(file) for name, file in scene.files.items()}), meaning


def warn_of_other_units(raw: Mapping[str, np.ndarray], scene: Scene, specs: Mapping[str, InputSpec]) -> None:
    """Say on stderr which files hold numbers that lie far from those that the model was trained with."""
    for name, path in scene.files.items():
        spec, file = specs[name], str(path)
        found = spec.seen and reached(raw[name], spec, file)
        if spec.seen and found and found.apart(spec.seen):
            print(
                f"polymodal: warning: {file}: its values are {found}, far from the {spec.seen} "
                f"{f'{spec.unit} ' if spec.unit else ''}that the model was trained with: is it in another unit?",
                file=sys.stderr,
            )


def _tensors(
    raw: Mapping[str, np.ndarray], specs: Mapping[str, InputSpec], scene: Scene, size: tuple[int, int] | None
) -> dict[str, Tensor]:
    own = {name: specs[name] for name in raw}
    return resize_inputs(raw, own, {name: str(file) for name, file in scene.files.items()}, size)[0]


def _picture(raw: Mapping[str, np.ndarray], specs: Mapping[str, InputSpec], scene: Scene) -> np.ndarray:
    """What people see of a scene, uint8 (H, W, 3): the first image among its modalities, or else the first one."""
    name = next((name for name in raw if specs[name].kind == "image"), next(iter(raw)))
    full = _tensors({name: raw[name]}, {name: specs[name]}, scene, None)[name]
    return viewable(full, specs[name]).permute(1, 2, 0).numpy()


def _write(image: Image.Image, path: Path) -> Path:
    with complete_file(path) as file:
        image.save(file)
    return path
