"""From files to predictions and pictures of them, with a model folder alone."""

import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from time import perf_counter

import numpy as np
from torch import Tensor

from polymodal.data import InputSpec, resize_inputs
from polymodal.data.bands import thinned
from polymodal.data.georeference import Georeference, beside, check_grids, georeference
from polymodal.data.inputs import UNITS, check_sizes, measures_nothing, reached, settled, where_measured
from polymodal.data.large_tiff import large_tiff
from polymodal.data.reading import decode, stored_bytes
from polymodal.data.resizing import aligned
from polymodal.data.sizes import header_size
from polymodal.data.track import track
from polymodal.data.undeclared import undeclared
from polymodal.errors import ConfigError, PolymodalError, naming
from polymodal.files import new_folder
from polymodal.names import ENSEMBLE
from polymodal.runs.maps import Canvas, write_maps
from polymodal.runs.opened import Opened
from polymodal.runs.parts import predicted_parts, size_of, step_of
from polymodal.runs.scenes import SHOWN_STEMS, Scene, check_out, check_pictures, find_scenes, not_read, picture_name
from polymodal.tasks.images import viewable
from polymodal.tasks.windows import Part, Size, Windows, listed


def predict(
    model: Path,
    inputs: Mapping[str, Path],
    out: Path,
    *,
    subset: bool = False,
    certainty: bool = False,
    scales: Mapping[str, float] | None = None,
    windows: Windows | None = None,
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
        windows: In which parts a scene that is larger than one is predicted, with memory that does not grow with it
            beyond the decoded files; its pictures for people then have sides of at most 1920 pixels. None for all at
            once.

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
    for line in not_read(inputs):
        print(f"polymodal: warning: {line}", file=sys.stderr)
    for scene in track(scenes, "checking"):
        _check(opened, scene, specs, windows)

    with new_folder(out, _work(model, scenes, maps, windows, scales or {})):
        written: list[Path] = []
        began = perf_counter()
        for scene in track(scenes, "predicting"):
            with naming(scene.stem):
                written += _write(opened, scene, specs, out, windows, certainty=certainty)
        seconds = perf_counter() - began
    count = "1 scene" if len(scenes) == 1 else f"{len(scenes)} scenes"
    print(f"{count} read, predicted and written in {seconds:.1f} s, {len(scenes) / seconds:.3g} a second")
    for name in specs:
        if absent := [scene.stem for scene in scenes if name not in scene.files]:
            print(
                f"{len(absent)} of {len(scenes)} scenes have no {name}: {', '.join(absent[:SHOWN_STEMS])}"
                f"{', ...' if len(absent) > SHOWN_STEMS else ''}"
            )
    return written


def _check(opened: Opened, scene: Scene, specs: Mapping[str, InputSpec], windows: Windows | None) -> None:
    """Refuse values that mean nothing, and sizes that the network cannot take, before anything is written."""
    trained = specs
    raw, specs = read_scene(scene, specs, by_rows=windows is not None)
    for name, path in scene.files.items():
        if doubt := doubt_of_scaling(specs[name], trained[name], str(path)):
            print(f"polymodal: warning: {doubt}", file=sys.stderr)
    warn_of_values(raw, scene, specs)
    _warn_of_place(scene, size_of(raw))
    height, width = windows.size if windows else size_of(raw)
    with naming(scene.stem):
        for top in range(0, size_of(raw)[0], height):
            rows = {name: array[:, top : top + height, :] for name, array in raw.items()}
            resize_inputs(rows, specs, scene.named, None)
        first = {name: array[:, :height, :width] for name, array in raw.items()}
        prepared = resize_inputs(first, specs, scene.named, opened.size)[0]
        images = {name: image[None] for name, image in prepared.items()}
        if opened.session is not None:
            opened.session.check(images)
        if windows and not windows.cover(size_of(raw)):
            _try(opened, images, windows)


def _write(
    opened: Opened,
    scene: Scene,
    specs: Mapping[str, InputSpec],
    out: Path,
    windows: Windows | None,
    *,
    certainty: bool,
) -> list[Path]:
    """Predict a scene and write its maps."""
    raw, specs = read_scene(scene, specs, by_rows=windows is not None)
    size = size_of(raw)
    step = step_of(size) if windows else 1
    canvas = Canvas(
        size,
        step,
        picture_of({name: array[:, ::step, ::step] for name, array in raw.items()}, specs),
        lambda name, ending: out / picture_name(scene, name, ending),
        _reference(scene, size),
        partial(_absent, raw, specs),
    )
    parts = predicted_parts(opened, raw, specs, scene.named, windows, lambda _: opened.size)
    return write_maps(opened, parts, canvas, certainty=certainty)


def _try(opened: Opened, images: Mapping[str, Tensor], windows: Windows) -> None:
    """Refuse windows that the network cannot take, by the first one: the others of a scene have its size.

    Raises:
        ConfigError: With the network's own reason.
    """
    try:
        opened.predict(images, next(iter(images.values())).shape[-2:], subset=True)
    except PolymodalError:
        raise
    except Exception as error:  # networks refuse sizes each by an error of its own
        raise ConfigError(f"--window {listed(windows.size)}: the network takes no such part: {error}") from error


def _references(scene: Scene) -> dict[str, Georeference]:
    """What the files of a scene say of their place, by file."""
    found = {str(file): georeference(file) for file in scene.files.values()}
    return {file: reference for file, reference in found.items() if reference is not None}


def _reference(scene: Scene, size: Size) -> Georeference | None:
    """The place of a scene: that of its first file of this size that has one, and a CRS if any has."""
    own = [reference for reference in _references(scene).values() if reference.size == size]
    return next((reference for reference in own if reference.crs), own[0] if own else None)


def _warn_of_place(scene: Scene, size: Size) -> None:
    """Refuse files that lie at different places; say on stderr what is assumed of a place, or lost.

    Raises:
        DataError: With two files, and what differs.
    """
    references = _references(scene)
    said = check_grids(references) if references else []
    if references and not any(reference.size == size for reference in references.values()):
        said.append(f"{', '.join(references)}: no map keeps its georeference, as maps have the size of the other files")
    for file in scene.files.values():
        own = references.get(str(file))
        if (own is None or own.corners is None) and (world := beside(file)):
            said.append(f"{world}: no map keeps this georeference; write it into {file.name}, as gdal_translate does")
    for line in said:
        print(f"polymodal: warning: {line}", file=sys.stderr)


def _absent(raw: Mapping[str, np.ndarray], specs: Mapping[str, InputSpec], part: Part) -> np.ndarray | None:
    """The pixels (h, w) of which no modality has a measurement; None for none."""
    there = [where_measured(array[:, part[0], part[1]], specs[name]) for name, array in raw.items()]
    found = [one for one in there if one is not None]
    return ~np.any(found, axis=0)[0] if len(found) == len(there) else None


def _work(
    model: Path, scenes: Sequence[Scene], maps: Sequence[str], windows: Windows | None, scales: Mapping[str, float]
) -> str:
    """What is predicted, in one line: pictures of anything else do not belong among these."""
    files = [str(file.resolve()) for scene in scenes for file in scene.files.values()]
    options = [*(["--certainty"] if maps else []), *([str(windows)] if windows else [])]
    options += [f"--scale {name}={scale:g}" for name, scale in scales.items()]
    what = " ".join(["predict", *options, f"--model {model.resolve()}"])
    return f"{what}, {len(scenes)} scenes, {sha256(json.dumps(files).encode()).hexdigest()}"


def read_scene(
    scene: Scene, specs: Mapping[str, InputSpec], *, by_rows: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, InputSpec]]:
    """The files of a scene by modality, aligned, and what the values of each mean.

    Args:
        scene: The files.
        specs: What the values of each modality mean.
        by_rows: Whether a TIFF file may be a `LargeTiff`, unpacked as its rows are taken.

    Raises:
        DataError: A file is missing, cannot be read, or is no such input as the model was trained with.
    """
    may = [name for name in scene.files if by_rows and specs[name].resize is None and specs[name].kind != "label"]
    large = {name: large_tiff(scene.files[name], specs[name]) for name in may}
    contents = {name: content for name, content in large.items() if content is not None}
    stored = {name: stored_bytes(file) for name, file in scene.files.items() if name not in contents}
    claimed = {str(scene.files[name]): header_size(data) for name, data in stored.items() if not specs[name].resize}
    check_sizes({file: size for file, size in claimed.items() if size})  # before any is decoded
    for name in stored:
        contents[name] = decode(stored[name], str(scene.files[name]), specs[name])
    read = {name: settled(contents[name], specs[name], str(file)) for name, file in scene.files.items()}
    raw, meaning = {name: array for name, (array, _) in read.items()}, {name: spec for name, (_, spec) in read.items()}
    return aligned(raw, meaning, scene.named), meaning


def warn_of_values(raw: Mapping[str, np.ndarray], scene: Scene, specs: Mapping[str, InputSpec]) -> None:
    """Say on stderr which files hold no measurement, or numbers far from those that the model was trained with."""
    for name, path in scene.files.items():
        if doubt := doubt_of(raw[name], specs[name], str(path)):
            print(f"polymodal: warning: {doubt}", file=sys.stderr)


def doubt_of(raw: np.ndarray, spec: InputSpec, file: str) -> str:
    """What to warn of where nothing is measured, or a number seems to say so, or all lie far from the training's."""
    some = thinned(raw)  # once, as a large file is unpacked for it
    if measures_nothing(some, spec) and measures_nothing(raw, spec):
        return (
            f"{file}: no pixel holds a measurement, which misleads a model more than a modality that is absent: if it "
            "can do without, leave the file or frame out (predict --subset)."
        )
    found = spec.seen and reached(some, spec, file)
    if spec.seen and found and found.apart(spec.seen):
        unit = f"{spec.unit} " if spec.unit else ""
        return (
            f"{file}: its values are {found}, far from the {spec.seen} {unit}that the model was trained with: is it in "
            "another unit?"
        )
    if (doubt := undeclared(some, spec)) and not (spec.seen and spec.seen.holds(float(doubt.value) * spec.scale)):
        remedy = "declare it in the file as the no-data value, as TIFF can"
        if spec.invalid is not None or raw.dtype.kind == "f":
            remedy = f"store {'NaN' if spec.invalid is None else f'{spec.invalid:.9g}'}"
        return f"{file}: {doubt.value} {doubt.why}, and counts as measured. Where it means that nothing was, {remedy}."
    return ""


def doubt_of_scaling(own: InputSpec, trained: InputSpec, file: str) -> str:
    """What to warn of where a file declares its numbers to be scaled otherwise than the training's files."""
    if own.kind == "label" or trained.scaling in (None, own.scaling):
        return ""
    remedy = ", or give what one step is in the model's unit by --scale" if own.kind in UNITS else ""
    return (
        f"{file}: declares {own.scaling or 'no scale'} of its numbers, which are taken as they are stored, and the "
        f"files that the model was trained with {trained.scaling or 'none'}. Store numbers as in those{remedy}."
    )


def picture_of(raw: Mapping[str, np.ndarray], specs: Mapping[str, InputSpec]) -> np.ndarray:
    """What people see of a scene, uint8 (H, W, 3): the first image among its modalities, or else the first one."""
    name = next((name for name in raw if specs[name].kind == "image"), next(iter(raw)))
    full = resize_inputs({name: raw[name]}, {name: specs[name]}, {name: name}, None)[0][name]
    return viewable(full, specs[name]).permute(1, 2, 0).numpy()
