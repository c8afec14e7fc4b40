"""Theorem 1 against drawn activations."""

from pathlib import Path

import torch
from matplotlib import pyplot as plt
from torch import Tensor
from torch.nn import functional as F

from polymodal.functional import zero_probability
from theorems.figures import BLUE, GREEN, GREY, ORANGE, save
from theorems.summary import Numbers, rms


def monte_carlo(out: Path, seeds: list[int]) -> Numbers:
    """The formula against drawn activations: one value, an independent map, a map of pixels like their neighbours."""
    generator = torch.Generator().manual_seed(seeds[0])
    draws, side = 40_000, 16
    ratios = torch.logspace(-1.5, 1, 11, dtype=torch.float64)
    one = torch.ones((), dtype=torch.float64)

    def maps(count: int, *, alike: bool) -> Tensor:
        noise = torch.randn(count, 1, side, side, generator=generator, dtype=torch.float64)
        # The sum over 5×5 pixels, around the border too, divided by 5: the variance stays 1.
        return (F.avg_pool2d(F.pad(noise, (2, 2, 2, 2), mode="circular"), 5, 1) * 5 if alike else noise).flatten(1)

    def slopes(*, alike: bool) -> Tensor:
        gradient = maps(1, alike=alike)[0]
        return torch.cat([maps(1000, alike=alike) @ gradient for _ in range(draws // 1000)]) / gradient.norm()

    drawn = {
        "one value": torch.randn(draws, generator=generator, dtype=torch.float64),
        "16×16 map, independent pixels": slopes(alike=False),
        "16×16 map, pixels like their neighbours": slopes(alike=True),
    }
    shares = {name: [(z.abs() < r).double().mean().item() for r in ratios] for name, z in drawn.items()}
    formula = zero_probability(one, ratios).tolist()

    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    fine = torch.logspace(-1.6, 1.1, 200, dtype=torch.float64)
    axis.plot(fine, zero_probability(one, fine), color=GREY, label="2Φ(λ/‖g‖) - 1")
    for (name, share), marker, colour in zip(shares.items(), "oxs", (BLUE, GREEN, ORANGE), strict=True):
        axis.plot(ratios, share, marker, color=colour, label=f"drawn: {name}")
    axis.set(xscale="log", xlabel="λ / ‖g‖", ylabel="share with |∂L/∂γ| < λ")
    axis.legend(frameon=False, fontsize=8)
    save(figure, out / "monte_carlo.png")
    return {
        "draws": draws,
        "λ/‖g‖": ratios.tolist(),
        "formula": formula,
        "shares": shares,
        "largest difference": {
            name: max(abs(a - b) for a, b in zip(share, formula, strict=True)) for name, share in shares.items()
        },
        "standard deviation of slope/‖g‖": {name: rms(z) for name, z in drawn.items()},
    }
