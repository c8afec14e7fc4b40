"""The arrays of a run, scales.npz, samples.npz and images.<split>.npz, held to what a run writes."""

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polymodal.documents import MAX_FILE, require_regular, too_long
from polymodal.errors import ConfigError
from polymodal.run_folder import ABOVE, BELOW, INPUT, KEEP, KEYS, PART, PREDICTION, PRESENT, SCALE
from polymodal.scores import of_target


@dataclass(frozen=True)
class SiteScales:
    """One exchange site: scale (E, M, C) holds |γ| after each epoch; keep and part (M, C) belong to the final model."""

    name: str
    scale: np.ndarray
    keep: np.ndarray
    part: np.ndarray


@dataclass(frozen=True)
class Scales:
    """The scales at every site, over the epochs (E,), and which of `threshold` and `share` (0..1) decides, if any."""

    epochs: np.ndarray
    modalities: list[str]
    sites: list[SiteScales]
    threshold: float | None
    share: float | None


@dataclass(frozen=True)
class Scenes:
    """N scenes to look at, of one target: inputs (N, H, W, 3) uint8, target and predictions (N, H, W) class indices.

    Where images are predicted, target and predictions are (N, H, W, 3) uint8, too, and there are no classes. `known`
    (N, H, W) is where there is truth. `present` (N,) says by modality which scenes have it, where some may not.
    """

    keys: list[str]
    inputs: dict[str, np.ndarray]
    target: np.ndarray
    known: np.ndarray
    predictions: dict[str, np.ndarray]
    colors: np.ndarray
    classes: list[str]
    present: dict[str, np.ndarray]

    def has(self, name: str, i: int) -> bool:
        """Whether a scene has a modality, and so what is predicted from it; an ensemble is always there."""
        return name not in self.present or bool(self.present[name][i])

    @property
    def lacking(self) -> bool:
        """Whether a scene is without a modality."""
        return not all(has.all() for has in self.present.values())

    @property
    def pictured(self) -> bool:
        """Whether what is predicted is shown as pictures, not as class maps."""
        return self.target.ndim == 4

    @property
    def css_colors(self) -> list[str]:
        """The colour of each class, as pages write it."""
        return ["#" + "".join(f"{channel:02x}" for channel in color) for color in self.colors.tolist()]

    @property
    def legend(self) -> list[tuple[str, str]]:
        """The classes with their colours."""
        return list(zip(self.classes, self.css_colors, strict=True))


def broken(file: Path, problem: object) -> ConfigError:
    """What to raise of a file of a run that cannot be read."""
    said = " ".join(str(problem).split())
    return ConfigError(f"{file} cannot be read: {said}. Delete it to make the page without it, or run again.")


def _npz(file: Path) -> Mapping[str, np.ndarray] | None:
    if not file.exists():
        return None
    require_regular(file, ConfigError)
    try:
        with zipfile.ZipFile(file) as archive:
            if (size := sum(member.file_size for member in archive.infolist())) > MAX_FILE:
                raise ValueError(too_long(size, MAX_FILE))
        with np.load(file, allow_pickle=False) as content:
            return {key: np.asanyarray(content[key]) for key in content.files}  # what is no array is bytes
    except Exception as error:  # zlib's, struct's, tokenize's, ...: whatever a damaged archive runs into
        raise broken(file, str(error) or type(error).__name__) from error


_TEXTS, _TRUTHS, _BYTES, _WHOLE, _NUMBERS = "U", "b", "u", "iu", "iuf"
"""Kinds of numpy's types."""


def _array(content: Mapping[str, np.ndarray], key: str, kinds: str, *axes: int) -> np.ndarray:
    """An array of a type and a number of axes.

    Raises:
        KeyError: It is not there.
        ValueError: It is another one.
    """
    array = content[key]
    if array.dtype.kind not in kinds or array.ndim not in axes:
        raise ValueError(f"{key}: got {array.dtype} of shape {array.shape}, which nothing wrote")
    return array


@contextmanager
def _held_to_runs(file: Path) -> Iterator[Mapping[str, np.ndarray] | None]:
    """The arrays of a file, None where it is not there; of what cannot be read, say in which file it stands."""
    try:
        yield _npz(file)
    except KeyError as error:
        raise broken(file, f"the array {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise broken(file, error) from error


def read_scales(file: Path) -> Scales | None:
    """The scales of every epoch; None where the file is not there.

    Raises:
        ConfigError: The file is damaged, or holds what no run writes.
    """
    with _held_to_runs(file) as content:
        if content is None:
            return None
        sites = [
            SiteScales(
                name,
                _array(content, SCALE + name, _NUMBERS, 3),
                _array(content, KEEP + name, _TRUTHS, 2),
                _array(content, PART + name, _TRUTHS, 2),
            )
            for name in _array(content, "sites", _TEXTS if content["sites"].size else _NUMBERS, 1).tolist()
        ]
        threshold, share = (
            float(_array(content, name, _NUMBERS, 0)) if name in content else None for name in ("threshold", "share")
        )
        epochs, modalities = _array(content, "epochs", _NUMBERS, 1), _array(content, "modalities", _TEXTS, 1).tolist()
        scales = Scales(epochs, modalities, sites, threshold, share)
        for name, values in {"threshold": threshold, "share": share, **{s.name: s.scale for s in sites}}.items():
            if values is not None and not (np.isfinite(values) & (np.asarray(values) >= 0)).all():
                raise ValueError(f"{name}: got a number that is negative or not finite, which nothing wrote")
        for site in sites:
            expected = (len(scales.epochs), len(scales.modalities), site.keep.shape[-1])
            if site.scale.shape != expected or site.keep.shape != expected[1:] or site.part.shape != expected[1:]:
                raise ValueError(
                    f"site {site.name}: expected scales {expected} with keep and part {expected[1:]}, "
                    f"got {site.scale.shape}, {site.keep.shape} and {site.part.shape}"
                )
    return scales


def read_scenes(file: Path) -> dict[str, Scenes]:
    """Scenes to look at, by target, of which the only one has no name; none where the file is not there.

    Raises:
        ConfigError: The file is damaged, or holds what no run writes.
    """
    with _held_to_runs(file) as content:
        if content is None:
            return {}
        targets = [key.removesuffix("/target") for key in content if key.endswith("/target")] or [""]
        return {target: _scenes(content, of_target(target, "")) for target in targets}


def _scenes(content: Mapping[str, np.ndarray], prefix: str) -> Scenes:
    """Those of the target whose arrays are called like this."""
    own = {key.removeprefix(prefix): array for key, array in content.items() if key.startswith(prefix)}
    scenes = Scenes(
        keys=_array(content, "keys", _TEXTS, 1).tolist(),
        inputs={name: _array(content, INPUT + name, _BYTES, 4) for name in _group(content, INPUT)},
        target=_array(own, "target", _WHOLE, 3, 4),
        known=_known(own),
        predictions={name: _array(own, PREDICTION + name, _WHOLE, 3, 4) for name in _group(own, PREDICTION)},
        present={name: _array(content, PRESENT + name, _TRUTHS, 1) for name in _group(content, PRESENT)},
        **_classes(own),
    )
    whole, shape = scenes.target.shape, scenes.target.shape[:3]
    colored = [array for array in (scenes.target, *scenes.inputs.values()) if array.ndim == 4]
    if len(scenes.keys) != shape[0] or not all(array.shape == (*shape, 3) and array.size for array in colored):
        raise ValueError(f"expected {len(scenes.keys)} scenes of one size, got targets {whole}")
    for name, prediction in scenes.predictions.items():
        if prediction.shape != whole:
            raise ValueError(f"{PREDICTION}{name} is {prediction.shape}, but the target {whole}")
    for name, has in scenes.present.items():
        if has.shape != shape[:1]:
            raise ValueError(f"{PRESENT}{name} is {has.shape}, but the target {whole}")
    if scenes.known.shape != shape:
        raise ValueError(f"target_valid is {scenes.known.shape}, but the target {whole}")
    return scenes


def _known(content: Mapping[str, np.ndarray]) -> np.ndarray:
    target = content["target"]
    if target.ndim == 4:
        return _array({"target_valid": np.ones(target.shape[:3], bool), **content}, "target_valid", _TRUTHS, 3)
    return np.asarray(target != int(_array(content, "ignore", _WHOLE, 0)))


def _classes(content: Mapping[str, np.ndarray]) -> dict[str, Any]:
    if content["target"].ndim == 4:
        return {"colors": np.zeros((0, 3), np.uint8), "classes": []}
    colors, classes = _array(content, "colors", _BYTES, 2), _array(content, "classes", _TEXTS, 1).tolist()
    if colors.shape != (len(classes), 3) or not classes:
        raise ValueError(f"colors: got {colors.shape} for {len(classes)} classes, which nothing wrote")
    return {"colors": colors, "classes": classes}


def _group(content: Mapping[str, np.ndarray], prefix: str) -> list[str]:
    return [key.removeprefix(prefix) for key in content if key.startswith(prefix)]


@dataclass(frozen=True)
class ImageSums:
    """What each of N images adds to scores that are means of ratios of sums.

    Attributes:
        keys: Those of the images.
        sums: By the key of a score and the name of a prediction, above and below the line, each (N, K).
    """

    keys: list[str]
    sums: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]


def read_image_sums(file: Path) -> ImageSums | None:
    """What every image adds to the scores of a run; None where the file is not there, as in runs of earlier versions.

    Raises:
        ConfigError: The file is damaged, or holds what no run writes.
    """
    with _held_to_runs(file) as content:
        if content is None:
            return None
        keys = _array(content, KEYS, _TEXTS, 1).tolist()
        sums = {}
        for name in _group(content, ABOVE):
            above, below = (_array(content, side + name, _NUMBERS, 2) for side in (ABOVE, BELOW))
            finite = np.isfinite(above).all() and np.isfinite(below).all()
            if above.shape != below.shape or len(above) != len(keys) or not finite:
                raise ValueError(f"{name}: got {above.shape} and {below.shape} for {len(keys)} images, or no numbers")
            score, _, prediction = name.rpartition("/")
            sums[score, prediction] = above, below
    return ImageSums(keys, sums)
