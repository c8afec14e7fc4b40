"""Two translations on the embedded rooms, each from two modalities at once and from each of them alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polymodal.names import ENSEMBLE
from polymodal.report.render import count, duration, fixed
from polymodal.runs.console import print_table
from polymodal.runs.demo import train_and_show
from polymodal.scores import headlines, known_scores

TRANSLATIONS: dict[str, tuple[str, str]] = {
    "daylight": ("reshading", "texture_edge"),
    "depth": ("daylight", "occlusion_edge"),
}
"""What is predicted, and from what: the papers' shade + texture to colours, and colours + edge to depth."""

SHORT = ("--trainer.max_epochs", "7", "--trainer.limit_val_batches", "0")
"""Fewer epochs than the recipe's, scored once, when they are over: six trainings are to fit into minutes."""

NOTES = """
Of each target three networks are trained from the same seed on the same scenes, for the same number of epochs: one that
takes both modalities, with the papers' exchange of channels between them, and one of each modality alone.

What this shows: what is predicted from both, above all by the ensemble, beside what is predicted from one: how near it
is to the truth (MAE), and how much it looks like the true images (FID). Each target has a table of its own, as colours
and depth have scales of their own; a network of one modality has the same figures as its ensemble. "daylight" is the
room in the materials that things usually have: shading tells what stands there and texture edges what lies and hangs
there, so neither is enough alone. Of depth, occlusion edges tell where it breaks off and colours what lies between.

What this does not show: what exchanging channels adds, as no network here has both modalities without it (three in ten
of the channels that may be exchanged are). Nor how good such networks become: the papers' have seventy times the
parameters and are trained for six hundred times as many steps, on photographs; these enlarge before a convolution,
where the papers' transposed convolutions leave a grid in so short a training. One seed was run, the scenes are
rendered, and 150 of them are few for an FID, whose extractor here is EfficientNet-Lite0: it cannot be held against a
published FID. More seeds and more domains are in docs/results.md.
"""


def run_translation_demo(out: Path, seed: int, overrides: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Train all networks; write the runs, the page that compares them, a summary.

    Args:
        out: The folder of it all; an earlier demo in it is replaced.
        seed: Of all trainings.
        overrides: Further arguments of `polymodal fit` for all of them.

    Returns:
        The summary: the scores on the test scenes by prediction, for each run.

    Raises:
        ConfigError: The folder holds something that no demo made.
        PolymodalError: A training failed; with its last lines.
    """
    runs = {
        f"{target}-from-{'-'.join(given)}": (target, given)
        for target, inputs in TRANSLATIONS.items()
        for given in (inputs, *((name,) for name in inputs))
    }
    settings = {name: (*SHORT, *_settings(*run), *overrides) for name, run in runs.items()}
    # Two modalities take twice as long as one: begun last, they would leave cores idle at the end.
    order = sorted(runs, key=lambda name: len(runs[name][1]), reverse=True)
    return train_and_show(
        out, "rooms-translation", seed, settings, NOTES, _show, lambda scored: scored["predictions"], order
    )


def _settings(target: str, inputs: Sequence[str]) -> list[str]:
    """What a run adds to the recipe."""
    alone = ("--model.fusion", "null") if len(inputs) == 1 else ()
    return ["--data.target", target, "--data.modalities", f"[{','.join(inputs)}]", *alone]


def _show(scores: dict[str, dict[str, Any]]) -> None:
    samples = next(iter(scores.values()))["samples"]
    shown = headlines(known_scores(figures for scored in scores.values() for figures in scored["predictions"].values()))
    rows = []
    for name, scored in scores.items():
        alone = len(scored["modalities"]) == 1
        for number, (prediction, figures) in enumerate(scored["predictions"].items()):
            if alone and prediction == ENSEMBLE:  # the only modality again
                continue
            facts = (count(scored["parameters"]), duration(scored["seconds"])) if number == 0 else ("", "")
            values = (fixed(figures.get(score.key), score.digits) for score in shown)
            rows.append([name if number == 0 else "", prediction, *values, *facts])
    columns = ["run", "prediction", *(score.name for score in shown), "parameters", "time"]
    print_table(f"on {samples} test scenes", columns, rows, left=2)
