"""What is left of a run without some of its modalities, row by row."""

from collections.abc import Sequence
from dataclasses import dataclass

from polymodal.report.load import Scores
from polymodal.report.render import fixed, hue, listed, number
from polymodal.run_folder import WITH


@dataclass(frozen=True)
class SubsetRow:
    """The ensemble of the modalities that are there.

    Attributes:
        name: Of the set.
        hues: Of its modalities.
        missing: The others, in words.
        value: The score that counts.
        texts: Every score.
        behind: How far the first of them is from the best of all sets.
    """

    name: str
    hues: Sequence[str]
    missing: str
    value: float | None
    texts: Sequence[str]
    behind: str


def subset_rows(scored: Scores) -> list[SubsetRow]:
    """A row for every set, in the order of the file."""
    main = scored.known[0]
    values = {name: number(figures.get(main.key)) for name, figures in scored.predictions.items()}
    known = [value for value in values.values() if value is not None]
    best = main.better(known) if known else None
    rows = []
    for name, figures in scored.predictions.items():
        present, value = name.split(WITH), values[name]
        rows.append(
            SubsetRow(
                name,
                [hue(modality, scored.modalities) for modality in present],
                listed(modality for modality in scored.modalities if modality not in present) or "–",
                value,
                [fixed(number(figures.get(score.key)), score.digits) for score in scored.known],
                "–" if value is None or best is None else fixed(value - best, main.digits),
            )
        )
    return rows
