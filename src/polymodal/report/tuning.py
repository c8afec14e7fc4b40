"""The page of a search: Optuna's own plots of it in one file that needs nothing from elsewhere."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from polymodal.report.render import render

PLOTS = {
    "plot_optimization_history": "What each trial reached",
    "plot_intermediate_values": "Epoch by epoch",
    "plot_param_importances": "What each setting matters",
    "plot_slice": "Each setting",
    "plot_parallel_coordinate": "All settings together",
}
"""Functions of `optuna.visualization`, each with its heading."""


def tuning_page(study: Any, score: str, best: Mapping[str, Any], recipe: str) -> str:
    """The page.

    Args:
        study: Optuna's, with a trial that has ended well.
        score: What a trial is worth.
        best: The settings of the best one.
        recipe: Its recipe, as text.
    """
    from optuna import visualization

    plots: list[tuple[str, Markup]] = []
    for function, heading in PLOTS.items():
        try:
            figure = getattr(visualization, function)(study)
        except (RuntimeError, ValueError):  # importances need two trials or more that differ
            continue
        figure.update_layout(title=None)
        script = not plots  # the library once, within the page
        plots.append((heading, Markup(figure.to_html(full_html=False, include_plotlyjs=script))))
    states = [trial.state.name for trial in study.get_trials(deepcopy=False)]
    counts = {"finished": "COMPLETE", "ended early": "PRUNED", "failed": "FAIL", "unfinished": "RUNNING"}
    return render(
        "tuning.html.jinja",
        score=score,
        value=study.best_value,
        number=study.best_trial.number,
        best=best,
        counts={name: states.count(state) for name, state in counts.items() if state in states},
        plots=plots,
        recipe=recipe,
    )
