"""The examples do what they say; if not, the first thing that a newcomer runs fails."""

import runpy
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_a_plain_loop_trains_what_neither_modality_could_alone():
    accuracy = runpy.run_path(str(EXAMPLES / "train.py"))["train"](60)
    assert accuracy.keys() == {"rgb", "depth", "ensemble"}
    assert min(accuracy.values()) > 95  # without exchange, a square's class can only be guessed: 88 per cent
