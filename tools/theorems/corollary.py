"""Corollary 1 against toy networks."""

import itertools
from pathlib import Path

import torch
from matplotlib import pyplot as plt

from polymodal import Exchange
from theorems.figures import BLUE, GREY, ORANGE, save
from theorems.summary import Numbers
from theorems.switching import fused_toy, jump_at_threshold, switch_on
from theorems.training import Rooms, train

SMALLEST = 1e-12  # a θ below which nothing but exact zeros lies
SWEEP = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)  # θ; that of the released code is 2e-2
TOY_PENALTY = 1e-2


def corollary(out: Path, seeds: list[int]) -> Numbers:
    """Corollary 1 where its assumptions hold, and with shared convolutions or scales that are small instead of 0."""
    rooms = Rooms((24, 32), scenes=8)
    batch, steps, more = (rooms.inputs, rooms.target), 120, 60
    runs: dict[str, list[Numbers]] = {"private": [], "shared": []}
    for (convolutions, found), seed in itertools.product(runs.items(), seeds):
        torch.manual_seed(seed)
        net = fused_toy(rooms, convolutions, Exchange(threshold=SMALLEST, penalty=TOY_PENALTY))
        with net.fusion_disabled():
            trained = list(train(net, itertools.repeat(batch, steps), steps, schedule="constant"))
        jumps = {threshold: jump_at_threshold(net, batch, convolutions, rooms, threshold) for threshold in SWEEP}
        found.append(switch_on(net, batch, more) | {"trained": trained, "jump compensated by θ": jumps})
        print(f"corollary: {convolutions}, seed {seed}: jump {found[-1]['jump compensated']:+.1e}", flush=True)

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.5), layout="constrained")
    after = range(steps, steps + more)
    for one, first in zip(runs["private"], itertools.chain([True], itertools.repeat(False)), strict=False):
        axes[0].plot([*one["trained"], *one["without"]], color=GREY, lw=1, label="without exchange" if first else None)
        axes[0].plot(after, one["with"], color=BLUE, lw=1, label="with exchange, compensated" if first else None)
    axes[0].axvline(steps, color="black", lw=0.8, ls=":")
    axes[0].set(xlabel="step", ylabel="training loss L", yscale="log")
    axes[0].set_title("private convolutions, γ exactly 0", fontsize=10)
    for (convolutions, found), colour in zip(runs.items(), (BLUE, ORANGE), strict=True):
        for one, first in zip(found, itertools.chain([True], itertools.repeat(False)), strict=False):
            label = f"{convolutions} convolutions" if first else None
            gap = [a - b for a, b in zip(one["with"], one["without"], strict=True)]
            axes[1].plot(gap, color=colour, lw=1, label=label)
            heights = [max(abs(jump), 1e-16) for jump in one["jump compensated by θ"].values()]
            axes[2].plot(SWEEP, heights, "o-", ms=3, lw=0.8, color=colour, label=label)
            exact = max(abs(one["jump compensated"]), 1e-16)
            axes[2].plot(min(SWEEP) / 3, exact, "o", ms=5, mfc="none", color=colour)
    axes[1].axhline(0, color="black", lw=0.8)
    axes[1].set(xlabel="steps since the exchange is on", ylabel="L with exchange - L without")
    axes[1].set_yscale("symlog", linthresh=0.1)
    axes[1].set_title("further training", fontsize=10)
    axes[2].set(xscale="log", yscale="log", xlabel="θ (open circles: γ exactly 0)", ylabel="|jump of L|, compensated")
    axes[2].set_title("at the moment of switching on", fontsize=10)
    for axis in axes:
        axis.legend(frameon=False, fontsize=8)
    save(figure, out / "corollary.png")

    curves = ("trained", "with", "without")
    return {
        "settings": {"λ": TOY_PENALTY, "steps": [steps, more], "scenes": len(rooms.target)},
        **{
            convolutions: [{key: one[key] for key in one if key not in curves} for one in found]
            for convolutions, found in runs.items()
        },
    }
