"""What a model is worth without some of its modalities: its scores by every set of those that are there."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from polymodal.errors import ConfigError
from polymodal.names import ENSEMBLE
from polymodal.run_folder import WITH, subsets_file
from polymodal.runs.files import write_json
from polymodal.runs.tested import Scored, Tested
from polymodal.scores import Score, entire_missing

EVERY = "all"

Subset = tuple[str, ...]


def chosen_subsets(given: str, modalities: Sequence[str]) -> list[Subset]:
    """The sets of modalities that are meant, each in the model's order, the smallest first.

    Args:
        given: "all" for every one that is not empty, or sets with + between their modalities and commas between them.
        modalities: The model's.

    Raises:
        ConfigError: A modality is unknown, or a set is named twice.
    """
    if given == EVERY:
        return [subset for size in range(1, len(modalities) + 1) for subset in combinations(modalities, size)]
    subsets = []
    for words in given.split(","):
        named = words.split("+")
        if unknown := [name for name in named if name not in modalities]:
            raise ConfigError(
                f"--subsets: the model has no modality {unknown[0]!r}; it has {', '.join(modalities)}. Expected "
                f"{EVERY!r}, or sets such as {modalities[0]},{'+'.join(modalities[:2])}."
            )
        subset = tuple(name for name in modalities if name in named)
        if len(subset) < len(named) or subset in subsets:
            raise ConfigError(f"--subsets: {words!r} is named twice.")
        subsets.append(subset)
    return sorted(subsets, key=len)


def score_subsets(tested: Tested, folder: Path, subsets: Sequence[Subset]) -> dict[str, Any]:
    """Score the ensemble of every set of modalities on a split and write `scores.<split>.subsets.json`.

    The others are absent: nothing is exchanged with them, and the weights of those that are there sum to one.

    Args:
        tested: The model, and the split.
        folder: The run folder that the scores are written to.
        subsets: As `chosen_subsets` returns them.

    Returns:
        What was written: a file of scores, whose predictions are called by their modalities with `WITH` between
        them, and under "entire_missing" what `entire_missing` makes of the score that counts.

    Raises:
        FusionError: The fusion cannot do without one of its modalities.
        DataError: A sample cannot be predicted or scored; with its key.
    """
    named = {WITH.join(subset): subset for subset in subsets}
    counts = tested.scores(list(named))

    def score(batch: Scored) -> None:
        for name, subset in named.items():
            present = {modality: batch.inputs[modality] for modality in subset}
            predictions = tested.predict(present, batch, subset=True, per_modality=False)
            counts.update(name, predictions[ENSEMBLE], *batch.truth)

    keys = tested.each_batch(score)
    facts = {**tested.facts(keys, counts), "subsets": {name: list(subset) for name, subset in named.items()}}
    main = counts.scored[0].key
    values = {subset: facts["predictions"][name][main] for name, subset in named.items()}
    facts["entire_missing"] = entire_missing(values, len(tested.net.modalities))
    write_json(folder / subsets_file(tested.file), facts)
    return facts


def show_entire_missing(expected: Mapping[str, float], score: Score) -> None:
    """Print what is left of a score on the mean, where every set was scored."""
    if expected:
        said = ", ".join(f"{what} {score.text(value)}" for what, value in expected.items())
        print(f"{score.name} with modalities entirely missing, each with probability p (Liao et al. 2025): {said}")
