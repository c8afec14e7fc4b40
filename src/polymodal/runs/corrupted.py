"""What a model is worth when a sensor lies: its scores under every fault that the images of a modality can have."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polymodal.data.corruptions import Corruption
from polymodal.data.inputs import InputSpec
from polymodal.names import ENSEMBLE
from polymodal.run_folder import corruptions_file
from polymodal.runs.console import print_table
from polymodal.runs.files import write_json
from polymodal.runs.tested import Scored, Tested, best_device
from polymodal.scores import Score, leading, scores_in


def score_corruptions(tested: Tested, folder: Path, corruptions: Sequence[Corruption]) -> dict[str, Any]:
    """Score a model on a split with one modality corrupted at a time, and write `scores.<split>.corruptions.json`.

    Args:
        tested: The model, and the split.
        folder: The run folder that the scores are written to.
        corruptions: As `chosen_corruptions` returns them.

    Returns:
        What was written: "predictions" without any fault, and "corruptions", a list of the faults, each with its
        "modality", "name", "strength" and "predictions".

    Raises:
        DataError: A sample cannot be predicted or scored; with its key.
    """
    faults: list[Corruption | None] = [None, *corruptions]
    counts = [tested.scores([*tested.net.branches, ENSEMBLE]) for _ in faults]

    def score(batch: Scored) -> None:
        for fault, counted in zip(faults, counts, strict=True):
            inputs = batch.inputs if fault is None else _corrupted(batch, fault, tested.inputs)
            for name, prediction in tested.predict(inputs, batch).items():
                counted.update(name, prediction, *batch.truth)

    keys = tested.each_batch(score)
    found = [
        {**vars(fault), "predictions": counted.compute()}
        for fault, counted in zip(corruptions, counts[1:], strict=True)
    ]
    facts = {**tested.facts(keys, counts[0]), "corruptions": found}
    write_json(folder / corruptions_file(tested.file), facts)
    return facts


def show_corruptions(scores: Mapping[str, Any]) -> None:
    """Print the ensemble's score under every fault, and its share of that without one for every prediction."""
    for score in leading(scores_in(scores), scores.get("classes")):
        _show(scores, score)


def _show(scores: Mapping[str, Any], score: Score) -> None:
    clean = {name: figures[score.key] for name, figures in scores["predictions"].items()}
    faults: dict[str, list[Mapping[str, Any]]] = {}
    for fault in scores["corruptions"]:
        faults.setdefault(f"{fault['modality']}/{fault['name']}", []).append(fault)
    strengths = sorted({fault["strength"] for fault in scores["corruptions"]})
    rows = []
    for name, levels in faults.items():
        texts = {fault["strength"]: score.text(fault["predictions"][ENSEMBLE][score.key]) for fault in levels}
        means = {
            prediction: sum(fault["predictions"][prediction][score.key] for fault in levels) / len(levels)
            for prediction in clean
        }
        left = [f"{100 * means[name] / clean[name]:.0f} %" if clean[name] else "–" for name in clean]
        rows.append([name, *(texts.get(strength, "") for strength in strengths), score.text(means[ENSEMBLE]), *left])
    unit = f" in {score.unit}" if score.unit else ""
    print_table(
        f"{score.name}{unit} of the ensemble on {scores['samples']} scenes of {scores['split']} by strength, "
        f"{score.text(clean[ENSEMBLE])} without a fault;\ntheir mean, and each prediction's mean as a share of its "
        "score without a fault",
        ["fault", *map(str, strengths), "mean", *clean],
        rows,
    )


def _corrupted(batch: Scored, fault: Corruption, specs: Mapping[str, InputSpec]) -> dict[str, Tensor]:
    images = batch.loaded[fault.modality]
    lying = [
        fault(image, valid, specs[fault.modality], key)
        for image, valid, key in zip(images, batch.valid[fault.modality], batch.keys, strict=True)
    ]
    return {**batch.inputs, fault.modality: torch.stack(lying).to(best_device())}
