"""How sure a model may be of itself: a temperature for each of its predictions, fitted on the validation split."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from torch import Generator, Tensor
from torch.nn import functional as F
from torch.optim import LBFGS

from polymodal import checkpoint
from polymodal.errors import ConfigError, DataError
from polymodal.locks import locked
from polymodal.metrics.certainty import log_probabilities
from polymodal.names import ENSEMBLE
from polymodal.run_folder import TEMPERATURES
from polymodal.runs.console import print_table
from polymodal.runs.tested import Scored, Tested
from polymodal.runs.validate import model_and_data, scenes_of
from polymodal.sources import require_own
from polymodal.tasks.protocol import Protocol

KEPT = 2**25
"""Logits that are kept in memory, of all predictions together: 128 MiB. One number is fitted to each prediction."""

LARGEST = 20.0
"""The largest temperature, and the inverse of the smallest: beyond, a network is sure of nothing, or of everything."""


def calibrate(run: Path, root: str | None = None) -> dict[str, float]:
    """Fit the temperatures of a run's model on the validation split and keep them in the model's config.json.

    Each minimises the negative log likelihood of the labelled pixels (Guo et al., ICML 2017, section 4.2); of more than
    fit into memory, as many are drawn from every scene, by its key. A training that goes on writes the model anew,
    without them.

    Args:
        run: The run folder; or a model folder when `root` is given.
        root: The data set; that of the run when not given.

    Returns:
        The temperatures, by prediction.

    Raises:
        ConfigError: The model predicts no classes, or several targets, its validation split has no labelled pixel, or
            as for `validate`.
        DataError: A prediction holds NaN.
        PolymodalError: The model or the data set cannot be used.
    """
    require_own(run, "Give a folder of this machine.")
    model, settings = model_and_data(run, root)
    with locked(run):
        data, elsewhere = scenes_of(run, model, settings, "val", root, Protocol())
        tested = Tested(model, data, "val", elsewhere=elsewhere)
        names = [*tested.net.branches, ENSEMBLE]
        if len(data.targets) > 1:
            raise ConfigError(
                f"{run}: its model predicts {', '.join(data.targets)}, and temperatures are fitted to a model of one "
                "target alone."
            )
        if tested.reliability(names, {}) is None:
            raise ConfigError(f"{run}: its model predicts no classes, so there is no confidence to calibrate.")
        logits, target = _pixels(tested, names, data)
        if not len(target):
            raise ConfigError(f"{data.root}: no pixel of {data.val_split} has a label, so nothing can be fitted.")
        temperatures = {name: fitted_temperature(values, target) for name, values in logits.items()}
        checkpoint.annotate(model, **{TEMPERATURES: temperatures})
    _show(tested, logits, target, temperatures, f"{data.description.name}/{data.val_split}")
    print(f"kept with {model}; measure it where it was not fitted: polymodal validate {run} --split test")
    if settings:
        print(f"the run's page shows what is measured: polymodal report {run}")
    return temperatures


def fitted_temperature(logits: Tensor, target: Tensor) -> float:
    """The temperature of the least negative log likelihood, within 1 / LARGEST and LARGEST.

    Args:
        logits: (N, classes).
        target: The true classes (N,).
    """
    place = torch.zeros((), dtype=torch.float64, device=logits.device, requires_grad=True)
    optimiser = LBFGS([place], max_iter=50, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.nll_loss(log_probabilities(logits, _temperature(place)), target)
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    return _temperature(place.detach()).item()


def _temperature(place: Tensor) -> Tensor:
    """Any number as a temperature between the bounds, 0 as 1."""
    return (math.log(LARGEST) * place.tanh()).exp()


def _pixels(tested: Tested, names: list[str], data: Any) -> tuple[dict[str, Tensor], Tensor]:
    """Logits (N, classes) by prediction and true classes (N,) of labelled pixels, as many of each scene as are kept."""
    scenes = len(data.val_dataloader().dataset)
    share = max(1, KEPT // (len(names) * len(data.target.classes) * scenes))
    logits: dict[str, list[Tensor]] = {name: [] for name in names}
    targets: list[Tensor] = []

    def keep(batch: Scored) -> None:
        (target,) = batch.truth
        predictions = tested.predict(batch.inputs, batch)
        for name, values in predictions.items():
            if values.isnan().any():
                raise DataError(f"{name}: the prediction holds NaN, to which no temperature can be fitted.")
        for i, key in enumerate(batch.keys):
            chosen = _drawn((target[i].flatten() != data.target.ignore).nonzero()[:, 0], share, key)
            targets.append(target[i].flatten()[chosen])
            for name, values in predictions.items():
                logits[name].append(values[i].flatten(1)[:, chosen].T)

    tested.each_batch(keep)
    return {name: torch.cat(values) for name, values in logits.items()}, torch.cat(targets)


def _drawn(labelled: Tensor, most: int, key: str) -> Tensor:
    if len(labelled) <= most:
        return labelled
    order = torch.randperm(len(labelled), generator=Generator().manual_seed(crc32(key.encode())))
    return labelled[order[:most].to(labelled.device)]


def _show(
    tested: Tested, logits: Mapping[str, Tensor], target: Tensor, temperatures: Mapping[str, float], where: str
) -> None:
    rows: dict[str, list[str]] = {name: [name, f"{temperatures[name]:.3f}"] for name in logits}
    for used in ({}, temperatures):
        counts = tested.reliability(list(logits), used)
        assert counts is not None
        counts.update({name: values.T[None, :, :, None] for name, values in logits.items()}, target[None, :, None])
        for name, figures in counts.compute().items():
            loss = F.nll_loss(log_probabilities(logits[name], used.get(name, 1.0)), target)
            rows[name] += [f"{loss.item():.4f}", f"{figures['ece']:.2f}"]
    print_table(
        f"{len(target)} labelled pixels of {where}: negative log likelihood and expected calibration error in per cent",
        ["prediction", "temperature", "NLL before", "ECE before", "NLL after", "ECE after"],
        rows.values(),
    )
    for name, temperature in temperatures.items():
        if max(temperature, 1 / temperature) > 0.99 * LARGEST:
            print(f"{name}: the temperature came to its bound; its predictions there are all right, or worth nothing")
