"""The examples do what they say; if not, the first thing that a newcomer runs fails."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_a_plain_loop_trains_what_neither_modality_could_alone():
    accuracy = runpy.run_path(str(EXAMPLES / "train.py"))["train"](60)
    assert accuracy.keys() == {"rgb", "depth", "ensemble"}
    assert min(accuracy.values()) > 95  # without exchange, a square's class can only be guessed: 88 per cent


@pytest.mark.slow
def test_volumes_of_four_sequences_are_segmented_also_without_one_of_them():
    example = runpy.run_path(str(EXAMPLES / "mri.py"))
    before = example["dice"](example["train"](0))
    assert max(before.values()) < 20  # of a network that was not trained
    trained = example["train"](20)
    for missing in (None, "t1", "t1ce", "t2", "flair"):
        assert min(example["dice"](trained, missing).values()) > 60, missing
