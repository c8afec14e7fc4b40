"""A run folder read into plain values: a piece that a run lacks is None or empty, a broken piece is an error."""

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polymodal.documents import MAX_LIST, DocumentError, read_bytes, read_json
from polymodal.errors import ConfigError
from polymodal.names import ENSEMBLE
from polymodal.report.arrays import Scales, Scenes, broken, read_scales, read_scenes
from polymodal.report.reliability import Trust
from polymodal.report.render import counted
from polymodal.run_folder import (
    CONFIG,
    ENVIRONMENT,
    METRICS,
    MODEL,
    MODEL_CONFIG,
    RELIABILITY,
    SCALES,
    SCENES,
    TEMPERATURES,
    scores_file,
    subsets_file,
)
from polymodal.scores import SCORES, Score, from_plain, known_scores, leading, of_some
from polymodal.yaml_documents import parse_yaml

SPLITS = ("test", "val")  # what counts comes first


@dataclass(frozen=True)
class Scores:
    """What `scores.<split>.json` says; `predictions` of classes are in per cent, `weights` and `exchanged` in 0..1.

    `classes`: by target, of which the only one has no name. `selected_here`: whether the checkpoint was chosen on the
    very scenes that it is scored on. `scored_on`: the data set and its split. `truth`: what tells their keys and truth
    from any others. `at`: how large the first of these was. `lacking`: how many scenes are without a modality, in
    words; empty if none is. `outdated`: whether the model was calibrated after `reliability` was measured.
    """

    split: str
    scenes: str | None
    modalities: list[str]
    classes: dict[str, list[str]]
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
    scored_on: str | None
    truth: str | None
    at: str
    described: tuple[Score, ...]
    reliability: dict[str, Trust]
    outdated: bool
    lacking: str

    @property
    def known(self) -> list[Score]:
        """The scores that there are, the one that counts first."""
        return known_scores(self.predictions.values(), self.described)

    @property
    def leading(self) -> list[Score]:
        """The score that counts; of several targets, that of each."""
        return leading(self.known, self.classes)


@dataclass(frozen=True)
class Run:
    """One run; `history` maps a column of `METRICS` to {epoch: mean of the epoch's rows}.

    `subsets`: the ensemble's scores by sets of modalities, if they were counted, on test where they were.
    `scenes`: by target, as the classes of scores. `target`: the modality that was chosen to be predicted; None where it
    is what the data set declares.
    """

    name: str
    dataset: str | None
    target: str | None
    config: str | None
    scores: dict[str, Scores]
    subsets: Scores | None
    history: dict[str, dict[int, float]]
    scales: Scales | None
    scenes: dict[str, Scenes]
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
    files = {split: folder / scores_file(split) for split in SPLITS}
    model = _model(folder)
    scores = {split: _scores(file, split, model) for split, file in files.items() if file.is_file()}
    if not scores:
        state = "the folder does not exist" if not folder.is_dir() else "it has neither"
        raise ConfigError(
            f"{folder} is no finished run: expected {scores_file('val')} or {scores_file('test')} in it, but {state}. "
            "A run is made by `polymodal fit --config RECIPE.yaml`; name the folder that it wrote."
        )
    config = folder / CONFIG
    text = _text(config) if config.is_file() else None
    subsets = {split: folder / subsets_file(file.name) for split, file in files.items()}
    environment = folder / ENVIRONMENT
    data = _data(config, text) if text else {}
    return Run(
        name=folder.resolve().name,
        dataset=Path(str(data["root"])).name if data.get("root") else None,
        target=", ".join(target) if isinstance(target := data.get("target"), list) else target,
        config=text,
        scores=scores,
        subsets=next(
            (_scores(file, split, model, "--subsets all") for split, file in subsets.items() if file.is_file()), None
        ),
        history=_history(folder / METRICS),
        scales=read_scales(folder / SCALES),
        scenes=read_scenes(folder / SCENES),
        environment=_json(environment) if environment.is_file() else {},
    )


def _text(file: Path) -> str:
    try:
        return read_bytes(file, MAX_LIST, ConfigError).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise broken(file, error) from error


def _json(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file, ConfigError)
    except (DocumentError, OSError) as error:
        raise broken(file, error) from error
    if not isinstance(content, dict):
        raise broken(file, f"expected an object, got {type(content).__name__}")
    return content


_KINDS: dict[str, type | tuple[type, ...]] = {
    "modalities": list,
    "classes": (list, dict),
    "truth_size": list,
    **dict.fromkeys(("weights", "exchanged", "lacking", RELIABILITY), dict),
    **dict.fromkeys(("samples", "split_samples", "parameters", "epochs", "seed"), int),
    **dict.fromkeys(("network", "fusion", "scored_on", "truth"), str),
    "seconds": (int, float),
}
"""What the values of scores are, where they are there."""


def _model(folder: Path) -> dict[str, Any]:
    """What a run's model says of itself; nothing where there is none."""
    within = folder / MODEL
    file = (within if within.is_dir() else folder) / MODEL_CONFIG
    return _json(file) if file.is_file() else {}


def _dict(value: Any) -> dict[str, Any]:
    """A mapping, or an empty one in the place of anything else."""
    return value if isinstance(value, dict) else {}


def _scores(file: Path, split: str, model: dict[str, Any], how: str = "") -> Scores:
    content = _json(file)
    weights = model.get("weights")  # none in models of earlier versions
    if weights and content.get("model", weights) not in (weights, None):
        raise ConfigError(
            f"{file} has the scores of an earlier model than the one that is there: a training that went on was "
            f"interrupted before it scored. Score it: polymodal validate {file.parent} --split {split} {how}".rstrip()
        )
    predictions = content.get("predictions")
    if not (isinstance(predictions, dict) and predictions and all(isinstance(p, dict) for p in predictions.values())):
        raise broken(file, "expected the scores of at least one prediction under the key 'predictions'")
    for key, kind in _KINDS.items():
        value = content.get(key)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise _unwritten(file, key, value)
    try:
        described = from_plain(content.get("scores"))
        reliability = {name: Trust.from_plain(plain) for name, plain in (content.get(RELIABILITY) or {}).items()}
    except (TypeError, ValueError) as error:
        raise broken(file, error) from error
    temperatures = _dict(_dict(model.get("metadata")).get(TEMPERATURES))
    lists = {score.per_class for score in (*SCORES, *described) if score.per_class}
    others = ((key, content.get(key) or {}) for key in ("weights", "exchanged", "lacking"))
    for key, values in (*predictions.items(), *others):
        for name, value in values.items():
            numbers = value if name in lists and isinstance(value, list) else [value]
            if not all(number is None or type(number) in (int, float) for number in numbers):
                raise _unwritten(file, f"{key}.{name}", value)
    classes = content.get("classes") or []
    classes = classes if isinstance(classes, dict) else {"": classes}
    modalities = content.get("modalities") or []
    for names in (modalities, *classes.values()):
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise _unwritten(file, "modalities" if names is modalities else "classes", names)
    for name, figures in predictions.items():
        for key in lists:
            if not isinstance(figures.get(key), list | None):
                raise _unwritten(file, f"predictions.{name}.{key}", figures[key])
    return Scores(
        split=split,
        scenes=counted(content.get("samples"), content.get("split_samples")),
        modalities=modalities or [name for name in predictions if name != ENSEMBLE],
        classes=classes,
        predictions=predictions,
        weights=content.get("weights") or {},
        exchanged=content.get("exchanged") or {},
        **{key: content.get(key) for key in ("parameters", "seconds", "epochs", "seed", "network", "fusion")},
        **{key: content.get(key) for key in ("scored_on", "truth")},
        at="x".join(map(str, reversed(content.get("truth_size") or []))),
        selected_here=content.get("selected_on") is not None and content["selected_on"] == content.get("scored_on"),
        described=described,
        reliability=reliability,
        outdated=bool(model)
        and any(trust.temperature != temperatures.get(name, 1.0) for name, trust in reliability.items()),
        lacking=of_some(content.get("lacking") or {}),
    )


def _unwritten(file: Path, key: str, value: object) -> ConfigError:
    return broken(file, f"{key}: got {str(value)[:60]} ({type(value).__name__}), which nothing wrote")


def _data(file: Path, text: str) -> dict[str, Any]:
    """The settings of the data, by name."""
    try:
        content = parse_yaml(text)
    except DocumentError as error:
        raise broken(file, error) from error
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
            raise broken(file, f"line {number}: {error}") from error
    return {column: {e: float(np.mean(v)) for e, v in sorted(epochs.items())} for column, epochs in rows.items()}
