"""A run folder read into plain values: a piece that a run lacks is None or empty, a broken piece is an error."""

import csv
import zipfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polymodal.documents import MAX_FILE, MAX_LIST, DocumentError, read_bytes, read_json, require_regular, too_long
from polymodal.errors import ConfigError
from polymodal.report.scores import counted
from polymodal.yaml_documents import parse_yaml

SPLITS = ("test", "val")  # what counts comes first


@dataclass(frozen=True)
class Scores:
    """What `scores.<split>.json` says; `predictions` of classes are in per cent, `weights` and `exchanged` in 0..1.

    `selected_here`: whether the checkpoint was chosen on the very scenes that it is scored on.
    """

    split: str
    scenes: str | None
    modalities: list[str]
    classes: list[str]
    predictions: dict[str, dict[str, Any]]
    weights: dict[str, float]
    exchanged: dict[str, float]
    parameters: int | None
    seconds: float | None
    epochs: int | None
    seed: int | None
    network: str | None
    fusion: str | None
    selected_here: bool


@dataclass(frozen=True)
class Site:
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
    sites: list[Site]
    threshold: float | None
    share: float | None


@dataclass(frozen=True)
class Scenes:
    """N scenes to look at: inputs (N, H, W, 3) uint8, target and predictions (N, H, W) class indices.

    Where images are predicted, target and predictions are (N, H, W, 3) uint8, too, and there are no classes. `known`
    (N, H, W) is where there is truth.
    """

    keys: list[str]
    inputs: dict[str, np.ndarray]
    target: np.ndarray
    known: np.ndarray
    predictions: dict[str, np.ndarray]
    colors: np.ndarray
    classes: list[str]


@dataclass(frozen=True)
class Run:
    """One run; `history` maps a column of `metrics.csv` to {epoch: mean of the epoch's rows}.

    `target`: the modality that was chosen to be predicted; None where it is what the data set declares.
    """

    name: str
    dataset: str | None
    target: str | None
    config: str | None
    scores: dict[str, Scores]
    history: dict[str, dict[int, float]]
    scales: Scales | None
    scenes: Scenes | None
    environment: dict[str, Any]

    @property
    def main(self) -> Scores:
        """The scores that count: on test where there are any, else on val."""
        return next(iter(self.scores.values()))


def load_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        ConfigError: The folder has no scores, or one of its files cannot be read.
    """
    files = {split: folder / f"scores.{split}.json" for split in SPLITS}
    weights = _weights(folder)
    scores = {split: _scores(file, split, weights) for split, file in files.items() if file.is_file()}
    if not scores:
        state = "the folder does not exist" if not folder.is_dir() else "it has neither"
        raise ConfigError(
            f"{folder} is no finished run: expected scores.val.json or scores.test.json in it, but {state}. "
            "A run is made by `polymodal fit --config RECIPE.yaml`; name the folder that it wrote."
        )
    config = folder / "config.yaml"
    text = _text(config) if config.is_file() else None
    environment = folder / "environment.json"
    data = _data(config, text) if text else {}
    return Run(
        name=folder.resolve().name,
        dataset=Path(str(data["root"])).name if data.get("root") else None,
        target=data.get("target"),
        config=text,
        scores=scores,
        history=_history(folder / "metrics.csv"),
        scales=_scales(folder / "scales.npz"),
        scenes=_scenes(folder / "samples.npz"),
        environment=_json(environment) if environment.is_file() else {},
    )


def _broken(file: Path, problem: object) -> ConfigError:
    said = " ".join(str(problem).split())
    return ConfigError(f"{file} cannot be read: {said}. Delete it to make the page without it, or run again.")


def _text(file: Path) -> str:
    try:
        return read_bytes(file, MAX_LIST, ConfigError).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise _broken(file, error) from error


def _json(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file, ConfigError)
    except (DocumentError, OSError) as error:
        raise _broken(file, error) from error
    if not isinstance(content, dict):
        raise _broken(file, f"expected an object, got {type(content).__name__}")
    return content


_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("modalities", "classes"), list),
    **dict.fromkeys(("weights", "exchanged"), dict),
    **dict.fromkeys(("samples", "split_samples", "parameters", "epochs", "seed"), int),
    **dict.fromkeys(("network", "fusion"), str),
    "seconds": (int, float),
}
"""What the values of scores are, where they are there."""


def _weights(folder: Path) -> str | None:
    """What the weights of a run's model add up to; None where there is none, or one of an earlier version."""
    within = folder / "model"
    file = (within if within.is_dir() else folder) / "config.json"
    return _json(file).get("weights") if file.is_file() else None


def _scores(file: Path, split: str, weights: str | None) -> Scores:
    content = _json(file)
    if weights and content.get("model", weights) not in (weights, None):
        raise ConfigError(
            f"{file} has the scores of an earlier model than the one that is there: a training that went on was "
            f"interrupted before it scored. Score it: polymodal validate {file.parent} --split {split}"
        )
    predictions = content.get("predictions")
    if not (isinstance(predictions, dict) and predictions and all(isinstance(p, dict) for p in predictions.values())):
        raise _broken(file, "expected the scores of at least one prediction under the key 'predictions'")
    for key, kind in _KINDS.items():
        value = content.get(key)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise _unwritten(file, key, value)
    for key, values in (*predictions.items(), *((key, content.get(key) or {}) for key in ("weights", "exchanged"))):
        for name, value in values.items():
            numbers = value if name == "iou" and isinstance(value, list) else [value]
            if not all(number is None or type(number) in (int, float) for number in numbers):
                raise _unwritten(file, f"{key}.{name}", value)
    for key in ("modalities", "classes"):
        if not all(isinstance(name, str) for name in content.get(key) or []):
            raise _unwritten(file, key, content[key])
    for name, figures in predictions.items():
        if not isinstance(figures.get("iou"), list | None):
            raise _unwritten(file, f"predictions.{name}.iou", figures["iou"])
    return Scores(
        split=split,
        scenes=counted(content.get("samples"), content.get("split_samples")),
        modalities=content.get("modalities") or [name for name in predictions if name != "ensemble"],
        classes=content.get("classes") or [],
        predictions=predictions,
        weights=content.get("weights") or {},
        exchanged=content.get("exchanged") or {},
        parameters=content.get("parameters"),
        seconds=content.get("seconds"),
        epochs=content.get("epochs"),
        seed=content.get("seed"),
        network=content.get("network"),
        fusion=content.get("fusion"),
        selected_here=content.get("selected_on") is not None and content["selected_on"] == content.get("scored_on"),
    )


def _unwritten(file: Path, key: str, value: object) -> ConfigError:
    return _broken(file, f"{key}: got {str(value)[:60]} ({type(value).__name__}), which nothing wrote")


def _data(file: Path, text: str) -> dict[str, Any]:
    """The settings of the data, by name."""
    try:
        content = parse_yaml(text)
    except DocumentError as error:
        raise _broken(file, error) from error
    data = content.get("data") if isinstance(content, dict) else None
    return {**data, **(data.get("init_args") or {})} if isinstance(data, dict) else {}


def _history(file: Path) -> dict[str, dict[int, float]]:
    if not file.is_file():
        return {}
    rows: defaultdict[str, defaultdict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number, row in enumerate(csv.DictReader(_text(file).splitlines()), start=2):
        try:
            if not row.get("epoch"):
                continue
            epoch = int(float(row.pop("epoch")))
            for column, cell in row.items():
                if cell:
                    rows[column][epoch].append(float(cell))
        except (TypeError, ValueError, OverflowError, AttributeError) as error:
            raise _broken(file, f"line {number}: {error}") from error
    return {column: {e: float(np.mean(v)) for e, v in sorted(epochs.items())} for column, epochs in rows.items()}


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
        raise _broken(file, str(error) or type(error).__name__) from error


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


def _scales(file: Path) -> Scales | None:
    content = _npz(file)
    if content is None:
        return None
    try:
        sites = [
            Site(
                name,
                _array(content, f"scale:{name}", _NUMBERS, 3),
                _array(content, f"keep:{name}", _TRUTHS, 2),
                _array(content, f"part:{name}", _TRUTHS, 2),
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
    except KeyError as error:
        raise _broken(file, f"the array {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise _broken(file, error) from error
    for site in sites:
        expected = (len(scales.epochs), len(scales.modalities), site.keep.shape[-1])
        if site.scale.shape != expected or site.keep.shape != expected[1:] or site.part.shape != expected[1:]:
            raise _broken(
                file,
                f"site {site.name}: expected scales {expected} with keep and part {expected[1:]}, "
                f"got {site.scale.shape}, {site.keep.shape} and {site.part.shape}",
            )
    return scales


def _scenes(file: Path) -> Scenes | None:
    content = _npz(file)
    if content is None:
        return None
    try:
        scenes = Scenes(
            keys=_array(content, "keys", _TEXTS, 1).tolist(),
            inputs={name: _array(content, f"input:{name}", _BYTES, 4) for name in _group(content, "input:")},
            target=_array(content, "target", _WHOLE, 3, 4),
            known=_known(content),
            predictions={
                name: _array(content, f"prediction:{name}", _WHOLE, 3, 4) for name in _group(content, "prediction:")
            },
            **_classes(content),
        )
    except KeyError as error:
        raise _broken(file, f"the array {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise _broken(file, error) from error
    shape = scenes.target.shape[:3]
    colored = [array for array in (scenes.target, *scenes.inputs.values()) if array.ndim == 4]
    if len(scenes.keys) != shape[0] or not all(array.shape == (*shape, 3) and array.size for array in colored):
        raise _broken(file, f"expected {len(scenes.keys)} scenes of one size, got targets {scenes.target.shape}")
    for name, prediction in scenes.predictions.items():
        if prediction.shape != scenes.target.shape:
            raise _broken(file, f"prediction:{name} is {prediction.shape}, but the target {scenes.target.shape}")
    if scenes.known.shape != scenes.target.shape[:3]:
        raise _broken(file, f"target_valid is {scenes.known.shape}, but the target {scenes.target.shape}")
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
