"""Two translations on the embedded rooms, each from two modalities at once and from each of them alone."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from polymodal.report import write_report
from polymodal.report.render import count, duration, fixed
from polymodal.report.scores import headlines, known_scores
from polymodal.tasks import children
from polymodal.tasks.demo import make_room, train_all
from polymodal.tasks.files import write_json
from polymodal.tasks.training import recipe

TRANSLATIONS: dict[str, tuple[str, str]] = {"daylight": ("reshading", "texture_edge"), "depth": ("rgb", "texture_edge")}
"""What is predicted, and from what."""

SHORT = ("--trainer.max_epochs", "6", "--trainer.check_val_every_n_epoch", "6")
"""Half of the recipe's epochs, scored once at their end: six trainings are to fit into minutes."""

NOTES = """
Of each target three networks are trained from the same seed on the same scenes, for the same number of epochs: one that
takes both modalities, with the papers' exchange of channels between them, and one of each modality alone.

What this shows: whether what is predicted from both, above all by the ensemble, is nearer to the truth (MAE) and looks
more like the true images (FID) than what is predicted from one. Each target has a table of its own, as colours and
depth have scales of their own; a network of one modality has the same figures as its ensemble. The colours of the rooms
are drawn by lot, so shading and edges tell little of them: what is predicted is grey, and a plain picture of their mean
colour, with an MAE of 0.192 and an FID[lite0] of 316, is nearly as good in the first and better in the second.

What this does not show: what exchanging channels adds, as no network here has both modalities without it (three in ten
of the channels that may be exchanged are). Nor what the discriminator adds, which in so few steps stays at chance. Nor
how good such networks become: the papers' have fifty times the parameters and are trained for five hundred times as
many steps, on photographs. So early, transposed convolutions leave a fine grid in every picture, and the FID sees it
before all else; a mean of two predictions has less of it, which is a part of what the ensemble gains (a fit
with --model.network_args.upsampling bilinear leaves none). One seed was run, the scenes are rendered, and 150 of them
are few for an FID, whose extractor here is EfficientNet-Lite0: it cannot be held against a published FID.
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
    make_room(out, list(runs))
    common = ("--config", str(recipe("rooms-translation")), "--seed_everything", str(seed), *SHORT)
    commands = {
        name: children.fit_command(
            [*common, "--trainer.default_root_dir", str(out / name), *_settings(*run), *overrides]
        )
        for name, run in runs.items()
    }
    # Two modalities take twice as long as one: begun last, they would leave cores idle at the end.
    train_all({name: commands[name] for name in sorted(runs, key=lambda name: len(runs[name][1]), reverse=True)})
    scores = {name: json.loads((out / name / "scores.test.json").read_text(encoding="utf-8")) for name in runs}
    _show(scores)
    summary = {name: scored["predictions"] for name, scored in scores.items()}
    write_json(out / "summary.json", summary)
    page = write_report([out / name for name in runs], out / "report.html", notes=NOTES)
    print(f"the page: {page.resolve()}")
    return summary


def _settings(target: str, inputs: Sequence[str]) -> list[str]:
    """What a run adds to the recipe."""
    alone = ("--model.fusion", "null") if len(inputs) == 1 else ()
    return ["--data.target", target, "--data.modalities", f"[{','.join(inputs)}]", *alone]


def _show(scores: dict[str, dict[str, Any]]) -> None:
    samples = next(iter(scores.values()))["samples"]
    shown = headlines(known_scores(figures for scored in scores.values() for figures in scored["predictions"].values()))
    table = Table(title=f"on {samples} test scenes", title_justify="left", box=None, padding=(0, 2))
    for column in ("run", "prediction", *(score.name for score in shown), "parameters", "time"):
        table.add_column(column, justify="left" if column in ("run", "prediction") else "right")
    for name, scored in scores.items():
        alone = len(scored["modalities"]) == 1
        for number, (prediction, figures) in enumerate(scored["predictions"].items()):
            if alone and prediction == "ensemble":  # the only modality again
                continue
            facts = (count(scored["parameters"]), duration(scored["seconds"])) if number == 0 else ("", "")
            table.add_row(
                name if number == 0 else "",
                prediction,
                *(fixed(figures.get(score.key), score.digits) for score in shown),
                *facts,
            )
    # Where no terminal says how wide it is, 80 columns would cut the headings short. As markup, "FID[lite0]" would be
    # shown without its extractor.
    Console(width=None if sys.stdout.isatty() else 110, markup=False).print(table)
