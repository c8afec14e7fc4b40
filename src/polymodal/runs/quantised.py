"""A trained network in 8 bits: calibrated on its data, and scored beside itself in float before anybody gets it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polymodal import checkpoint, export
from polymodal.data import FolderData, FolderDataset
from polymodal.data.track import track
from polymodal.errors import ConfigError, DataError, ExportError, naming
from polymodal.export.comparison import Run
from polymodal.export.nncf_quantiser import NncfQuantiser
from polymodal.export.quantiser import Images, Quantiser
from polymodal.files import publish, workplace
from polymodal.runs.tested import size_of_truth
from polymodal.runs.validate import data_settings, scenes_of
from polymodal.scores import Score
from polymodal.sources import local
from polymodal.tasks.base import output_at
from polymodal.tasks.gaps import may_lack
from polymodal.tasks.protocol import Protocol
from polymodal.tasks.several import output_of

SPLITS = ("train", "val")
"""Splits of a run's own data that ranges may be taken from; the test split is for no decision."""

IMAGES = 64
"""Of so many images, evenly over the split, ranges are taken where a user states no number."""

MAX_DROP = 0.5
"""Per cent that a score may lose where a user states no number."""

LOOKED_AT = 4
"""Images on which it is measured which layers lose most."""

KEPT = (1, 2, 4, 8, 16, 32)
"""How many of the layers that lose most are kept in float, one after the other, until the score is kept."""


@dataclass(frozen=True)
class Quantisation:
    """How a network is quantised.

    Args:
        calibrate: "train" or "val", a split of the run's own data; or another data set, whose training split is taken.
        images: How many images ranges are taken from; `IMAGES`, or all of fewer, if not given.
        max_drop: How much worse the score that counts may be, of any prediction, in the score's unit; `MAX_DROP` of a
            score in per cent if not given.

    Raises:
        ConfigError: A number is out of its range.
    """

    calibrate: str
    images: int | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        if self.images is not None and self.images < 1:
            raise ConfigError(f"--images: expected 1 or more, got {self.images}.")
        if self.max_drop is not None and not self.max_drop >= 0:
            raise ConfigError(f"--max-drop: expected 0 or more, got {self.max_drop:g}.")


class Calibration:
    """The data that a network is quantised with, found and checked before any work.

    Args:
        run: A run folder; or a model folder, for another data set than its own.
        how: What a user asked for.

    Raises:
        ConfigError: There are no such data, or they have other modalities or classes than the model.
        DataError: The data cannot be read, are fewer than stated, or have no truth to be scored against.
    """

    def __init__(self, run: Path, how: Quantisation) -> None:
        run = local(run)
        model = checkpoint.model_folder(run)
        metadata: Any = checkpoint.read_config(model).get("metadata")
        own = how.calibrate in SPLITS
        if not own and how.calibrate != "rooms" and not Path(how.calibrate).exists():
            raise ConfigError(
                f"--calibrate {how.calibrate}: expected {' or '.join(SPLITS)}, a split of the run's own data, or "
                "another data set, a folder or rooms; there is no such folder."
            )
        if own and model == run:
            raise ConfigError(
                f"--calibrate {how.calibrate}: {run} is a model folder, which does not say where its data are. Give "
                "the run folder, or a data set folder: --calibrate DIR."
            )
        settings = data_settings(run) if own else {}
        self.data: FolderData = scenes_of(run, model, settings, "val", None if own else how.calibrate, Protocol())[0]
        self.data.setup("validate")
        self.output = output_of(self.data.targets, metadata["training"])
        if len(self.data.targets) > 1:
            raise ConfigError(
                f"--int8: the model predicts {', '.join(self.data.targets)}, and what 8 bits cost is measured by the "
                "score of one target. Export it in float."
            )
        self.score: Score = self.output.scores(["ensemble"]).scored[0]
        if how.max_drop is None and self.score.unit != "per cent":
            raise ConfigError(
                f"--max-drop: {self.score.name} is in {self.score.unit or 'a unit of its own'}, where {MAX_DROP:g} may "
                "be much or little. Say how much worse it may be."
            )
        self.max_drop = MAX_DROP if how.max_drop is None else how.max_drop
        self._samples = FolderDataset(
            self.data.description,
            self.data.val_split if how.calibrate == "val" else "train",
            list(self.data.inputs),
            inputs=self.data.inputs,
            size=self.data.size,
            substitute=self.data.substitute,
            target=self.data.target_name,
        )
        if self._samples.gaps or may_lack(self.data.val_dataloader().dataset):
            raise DataError(
                f"{self.data.root}: samples lack modalities (`optional` in dataset.yaml), and an exported network "
                "takes all of them. Calibrate with a data set of complete samples: --calibrate DIR."
            )
        there = len(self._samples)
        if how.images is not None and how.images > there:
            raise DataError(
                f"--images {how.images}: {self.data.root} has {there} for calibration. State {there} or fewer."
            )
        if not self.data.val_dataloader().dataset.has_truth():  # type: ignore[attr-defined]
            raise DataError(f"{self.data.root}: the split that scores are compared on has no truth.")
        self.images = min(how.images or IMAGES, there)

    def inputs(self, count: int) -> Iterator[Images]:
        """So many images, evenly chosen, as the network takes them."""
        chosen = np.linspace(0, len(self._samples) - 1, count).round().astype(int)
        for index in track(chosen, "images for calibration", count):
            yield {name: image[None].numpy() for name, image in self._samples[int(index)]["inputs"].items()}

    def scored(self, run: Run, outputs: Sequence[str], what: str) -> dict[str, float]:
        """The score that counts of every prediction of a file, on the split for validation.

        Args:
            run: What runs it.
            outputs: The names of its predictions.
            what: What is measured, for people.

        Raises:
            DataError: The file cannot take a sample; with its key.
        """
        counts = self.output.scores(outputs)
        loader = self.data.val_dataloader()
        with torch.inference_mode():
            for batch in track(loader, f"scores in {what}", len(loader)):
                truth = self.output.truth(batch, next(iter(batch["inputs"].values())).shape[-2:])
                with naming(", ".join(batch["key"])):
                    found = run(batch["inputs"])
                for name, prediction in found.items():
                    counts.update(name, output_at(torch.from_numpy(prediction), size_of_truth(truth)), *truth)
        return {name: float(figures[self.score.key]) for name, figures in counts.compute().items()}

    def lost(self, found: Mapping[str, float], expected: Mapping[str, float]) -> float:
        """How much worse the worst prediction is."""
        sign = 1 if self.score.higher_is_better else -1
        return float(np.max([sign * (expected[name] - found[name]) for name in expected]))  # NaN where any is


def write_quantised(
    net: Any,
    out: Path,
    calibration: Calibration,
    size: tuple[int, int] | None,
    metadata: Mapping[str, Any],
    finish: Callable[[Path], None] | None,
    make: type[Quantiser] | type[NncfQuantiser] = Quantiser,
) -> str:
    """Write a network in 8 bits, of which no prediction scores worse than in float by more than was allowed.

    Where it does, the layers that lose most are kept in float.

    Args:
        net: As `export.save` takes it.
        out: The file.
        calibration: The data.
        size: As `export.save` takes it.
        metadata: Likewise.
        finish: What is done to the file before it takes its place; nothing if not given.
        make: What quantises, see `Format.quantiser`.

    Returns:
        How it was quantised and what was scored, for people.

    Raises:
        ExportError: The network cannot be exported or quantised, or loses more than was allowed.
        DataError: It cannot take a sample.
        OSError: The file cannot be written.
    """
    with workplace(out) as place:
        plain, file = place / "float.onnx", place / out.name
        export.save(net, plain, size=size, metadata=metadata)
        quantiser = make(plain, calibration.inputs(calibration.images), place)
        session = export.Session(plain)
        expected = calibration.scored(session, session.outputs, "float")
        kept: Sequence[str] = ()
        beside = quantiser.write(file)
        found = calibration.scored(quantiser.opened(file), session.outputs, "int8")
        first = found
        if not calibration.lost(found, expected) <= calibration.max_drop:
            worst = quantiser.by_sensitivity([*calibration.inputs(min(LOOKED_AT, calibration.images))])
            for count in takewhile(lambda count: count < len(worst), KEPT):
                kept = worst[:count]
                quantiser.write(file, kept)
                found = calibration.scored(quantiser.opened(file), session.outputs, f"int8, {count} in float")
                if calibration.lost(found, expected) <= calibration.max_drop:
                    break
            else:
                tried = f"and with {len(kept)} of {len(worst)} layers in float"
                raise ExportError(
                    f"int8: in 8 bits the {calibration.score.name} is {_listed(first, expected, calibration.score)}, "
                    f"{f'{tried} {_listed(found, expected, calibration.score)}, ' if kept else ''}"
                    f"where {calibration.max_drop:g} less is allowed. "
                    "Nothing was written. Calibrate with more images (--images), allow more (--max-drop), or export it "
                    "in float."
                )
        if finish is not None:
            finish(file)
        publish(place, *beside, out.name)
    said = (
        f"in 8 bits ({quantiser.weight_bits} of the weights), ranges of {calibration.images} images; "
        f"{calibration.score.name} on {calibration.data.val_split}, float to int8: "
        f"{_listed(found, expected, calibration.score)}"
    )
    return f"{said}; in float: {', '.join(kept)}" if kept else said


def _listed(found: Mapping[str, float], expected: Mapping[str, float], score: Score) -> str:
    """Both scores of every prediction, with a digit more than is worth printing alone."""
    digits = score.digits + 1
    return ", ".join(f"{name} {expected[name]:.{digits}f} to {found[name]:.{digits}f}" for name in expected)
