"""From files to predictions and pictures of them, with a model folder alone."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from polymodal.data import InputSpec, resize_inputs
from polymodal.data.inputs import check_sizes, reached, settled
from polymodal.data.reading import decode, stored_bytes
from polymodal.data.resizing import aligned
from polymodal.data.sizes import header_size
from polymodal.data.track import track
from polymodal.errors import ConfigError, DataError
from polymodal.files import complete_file, new_folder
from polymodal.names import ENSEMBLE
from polymodal.runs.opened import Opened
from polymodal.runs.scenes import SHOWN_STEMS, Scene, check_out, check_pictures, find_scenes, picture_name
from polymodal.tasks.images import viewable


def predict(
    model: Path,
    inputs: Mapping[str, Path],
    out: Path,
    *,
    subset: bool = False,
    certainty: bool = False,
    scales: Mapping[str, float] | None = None,
) -> list[Path]:
    """Predict every scene by every modality and by all of them together.

    Writes at the size of the files, of a class map, `<stem>_<prediction>.png`, the class numbers with 8 bits (16 for
    more than 256 classes), and `<stem>_<prediction>_overlay.png`, a picture for people; of an image,
    `<stem>_<prediction>.png` as the files of the target are stored, and for depth or raw values
    `<stem>_<prediction>_picture.png`. Every file is read and checked before the first one is written; a scene of a size
    that the network cannot take is refused in its turn, by name.

    Args:
        model: A run folder, a model folder, the name of a model that comes with the package, or a file that
            `polymodal export` wrote as ONNX, run by ONNX Runtime.
        inputs: By modality, all files, or all folders, whose files, also those in folders below them, are matched by
            their names without ending, and without the prefix and suffix that the training's dataset.yaml declares.
        out: The folder for the pictures, new or empty, and in none that is read; scenes in folders below those given
            have their pictures in folders of the same names.
        subset: Whether modalities of the model may be absent, of all scenes or of some.
        certainty: Whether to write how sure each class map is, too: `<stem>_<prediction>_confidence.png`,
            `<stem>_<prediction>_entropy.png`, and, where several modalities predict,
            `<stem>_ensemble_disagreement.png`; grey with 16 bits, 0 to 65535 for 0 to 1.
        scales: As for `polymodal.Predictor`.

    Returns:
        The files that were written.

    Raises:
        CheckpointError: The model cannot be used.
        ExportError: A package that runs exported files is missing.
        ConfigError: The model has no such modality, or one is missing, or `out` holds something or is read from, or
            there is no certainty of what it predicts, or a scale is none.
        DataError: A file is missing, cannot be read, or is no such input as the model was trained with, or two pictures
            would have one name.
        OSError: A picture cannot be written.
    """
    check_out(out, inputs)
    opened = Opened(model, scales)
    whole = opened.session is not None
    opened.check_names(
        inputs,
        subset=subset,
        how_absent="Give a file or folder for each, or allow some to be absent with --subset.",
    )
    specs = {name: spec for name, spec in opened.specs.items() if name in inputs}
    scenes = find_scenes({name: inputs[name] for name in specs}, specs, subset=subset and not whole, whole=whole)
    if certainty and not opened.output.maps:
        raise ConfigError(
            f"--certainty: the model predicts {opened.output.name}, which have none; leave the option out."
        )
    maps = [f"_{what}" for what in opened.output.maps if certainty]
    check_pictures(scenes, [ENSEMBLE], [*opened.output.endings, *maps], whole=whole)
    for scene in track(scenes, "checking"):
        raw, meanings = read_scene(scene, specs)
        tensors = _tensors(raw, meanings, scene, opened.size)
        warn_of_other_units(raw, scene, meanings)
        with _naming(scene):
            opened.check({name: image[None] for name, image in tensors.items()})

    with new_folder(out, _work(model, scenes, maps)):
        written: list[Path] = []
        for scene in track(scenes, "predicting"):
            raw, meanings = read_scene(scene, specs)
            tensors = _tensors(raw, meanings, scene, opened.size)
            picture = picture_of(raw, meanings)
            with _naming(scene):
                images = {name: image[None] for name, image in tensors.items()}
                predictions = opened.predict(images, picture.shape[:2], subset=subset)
            for name, logits in predictions.items():
                for ending, image in opened.output.files(logits, picture, title=name).items():
                    written.append(_write(image, out / picture_name(scene, name, ending)))
            if certainty:
                own = {name: logits[0] for name, logits in predictions.items()}
                for name, said in opened.output.certainty(own, opened.temperatures).items():
                    for what, values in said.items():
                        written.append(_write(_grey(values), out / picture_name(scene, name, f"_{what}")))
    for name in specs:
        if absent := [scene.stem for scene in scenes if name not in scene.files]:
            print(
                f"{len(absent)} of {len(scenes)} scenes have no {name}: {', '.join(absent[:SHOWN_STEMS])}"
                f"{', ...' if len(absent) > SHOWN_STEMS else ''}"
            )
    return written


def _grey(values: np.ndarray) -> Image.Image:
    """Values in 0..1 with 16 bits."""
    return Image.fromarray((values * 65535).round().astype(np.uint16))


def _work(model: Path, scenes: Sequence[Scene], maps: Sequence[str]) -> str:
    """What is predicted, in one line: pictures of anything else do not belong among these."""
    files = [str(file.resolve()) for scene in scenes for file in scene.files.values()]
    what = f"predict {'--certainty ' if maps else ''}--model {model.resolve()}"
    return f"{what}, {len(scenes)} scenes, {sha256(json.dumps(files).encode()).hexdigest()}"


def read_scene(scene: Scene, specs: Mapping[str, InputSpec]) -> tuple[dict[str, np.ndarray], dict[str, InputSpec]]:
    """The files of a scene by modality, aligned, and what the values of each mean.

    Raises:
        DataError: A file is missing, cannot be read, or is no such input as the model was trained with.
    """
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
        if far := other_units(raw[name], specs[name], str(path)):
            print(f"polymodal: warning: {far}", file=sys.stderr)


def other_units(raw: np.ndarray, spec: InputSpec, file: str) -> str:
    """What to warn of where numbers lie far from those that the model was trained with; else nothing."""
    found = spec.seen and reached(raw, spec, file)
    if not (spec.seen and found and found.apart(spec.seen)):
        return ""
    unit = f"{spec.unit} " if spec.unit else ""
    return (
        f"{file}: its values are {found}, far from the {spec.seen} {unit}that the model was trained with: is it in "
        "another unit?"
    )


def _tensors(
    raw: Mapping[str, np.ndarray], specs: Mapping[str, InputSpec], scene: Scene, size: tuple[int, int] | None
) -> dict[str, Tensor]:
    own = {name: specs[name] for name in raw}
    return resize_inputs(raw, own, {name: str(file) for name, file in scene.files.items()}, size)[0]


def picture_of(raw: Mapping[str, np.ndarray], specs: Mapping[str, InputSpec]) -> np.ndarray:
    """What people see of a scene, uint8 (H, W, 3): the first image among its modalities, or else the first one."""
    name = next((name for name in raw if specs[name].kind == "image"), next(iter(raw)))
    full = resize_inputs({name: raw[name]}, {name: specs[name]}, {name: name}, None)[0][name]
    return viewable(full, specs[name]).permute(1, 2, 0).numpy()


@contextmanager
def _naming(scene: Scene) -> Iterator[None]:
    """Say of which scene an error is."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{scene.stem}: {error}") from error


def _write(image: Image.Image, path: Path) -> Path:
    with complete_file(path) as file:
        image.save(file)
    return path
