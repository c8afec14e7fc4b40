"""Theorem 1 against a network in training."""

import itertools
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from torch import Tensor

from polymodal import Exchange
from polymodal.functional import zero_probability
from theorems.channels import PENALTIES, Channels, joined, measure, penalised_scales
from theorems.figures import BLUE, GREEN, GREY, ORANGE, draw_shares, points_and_errors, save
from theorems.summary import Numbers, binned, described, ranked_right, scenes_together, shares
from theorems.training import Rooms, small_unet, train


def theorem(out: Path, seeds: list[int]) -> Numbers:
    """The formula against a network: at one moment of its training, and against the scales that went to zero later."""
    rooms, epochs = Rooms((24, 32)), 2
    steps = epochs * len(rooms.target) // 8
    starts: list[Channels] = []
    ends: list[Channels] = []
    went: dict[float, list[Tensor]] = {penalty: [] for penalty in PENALTIES}
    for seed in seeds:
        torch.manual_seed(seed)
        net = small_unet(rooms, rooms.channels, Exchange(threshold=0.0))
        losses = list(train(net, rooms.batches(epochs, seed), steps))
        probe = list(itertools.islice(rooms.batches(1, 1000 + seed), 2))
        starts.append(measure(net, probe))
        print(f"theorem: seed {seed}: L {losses[0]:.2f} -> {losses[-1]:.2f}, measured", flush=True)
        for penalty in PENALTIES:
            other = small_unet(rooms, rooms.channels, Exchange(threshold=0.0, penalty=penalty))
            other.load_state_dict(net.state_dict())
            at_zero = []
            for step, _ in enumerate(train(other, rooms.batches(epochs, 100 + seed), steps)):
                if step >= steps - steps // epochs:  # the last epoch
                    at_zero.append(penalised_scales(other) == 0)
            went[penalty].append(torch.stack(at_zero).double().mean(0) > 0.5)
            if penalty == PENALTIES[1]:
                ends.append(measure(other, probe))
            print(f"theorem: seed {seed}: λ {penalty:g}: {went[penalty][-1].double().mean():.0%} to zero", flush=True)
    start, end = joined(starts), joined(ends)
    observed = {penalty: torch.cat(each) for penalty, each in went.items()}
    grid = torch.logspace(-4, -1.7, 24, dtype=torch.float64).tolist()

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.5), layout="constrained")
    draw_shares(axes[0], start, grid)
    axes[0].set_title("now: |∂L/∂γ| < λ at γ = 0", fontsize=10)
    for axis, title, channels in ((axes[1], "later: before the penalty", start), (axes[2], "later: after it", end)):
        axis.plot([0, 1], [0, 1], color=GREY, lw=1)
        chosen = PENALTIES if channels is start else PENALTIES[1:2]
        for penalty, marker in zip(chosen, "o^s", strict=False):
            points = binned(zero_probability(channels.norm, penalty).mean(1), observed[penalty])
            label = f"λ = {penalty:g}"
            colour = {PENALTIES[0]: BLUE, PENALTIES[1]: ORANGE, PENALTIES[2]: GREEN}[penalty]
            axis.errorbar(*points_and_errors(points), fmt=marker, color=colour, ls="-", lw=0.8, label=label, capsize=2)
        axis.set(xlabel="2Φ(λ/‖g‖) - 1, measured " + title.split(": ")[1], ylabel="share of scales that went to zero")
        axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axis.legend(frameon=False, fontsize=8)
    axes[1].set_title("later: did γ go to zero?", fontsize=10)
    axes[2].set_title("looking back", fontsize=10)
    save(figure, out / "theorem.png")

    live = start.norm.amin(1) > 0
    return {
        "scales": len(live),
        "batches": start.norm.shape[1],
        "steps": [steps, steps],
        "gradient exactly 0": (~live).double().mean().item(),
        "β ≤ 0": (start.bias <= 0).double().mean().item(),
        "the others": described(start, live),
        "now": {
            f"{penalty:g}": shares(start, live, penalty) | {"scenes": scenes_together(start, live, penalty)}
            for penalty in PENALTIES
        },
        "later": {
            f"{penalty:g}": {
                "went to zero": observed[penalty].double().mean().item(),
                "of those with gradient 0": observed[penalty][~live].double().mean().item(),
                "of the others": observed[penalty][live].double().mean().item(),
                "formula": zero_probability(start.norm, penalty).mean().item(),
                "formula, mismatched": zero_probability(start.mismatched, penalty).mean().item(),
                "bins": binned(zero_probability(start.norm, penalty).mean(1), observed[penalty]),
                "ranked right": ranked_right(-start.norm.mean(1), observed[penalty]),
                "ranked right, gradient not 0": ranked_right(-start.norm.mean(1)[live], observed[penalty][live]),
            }
            for penalty in PENALTIES
        },
        "looking back": {
            "λ": PENALTIES[1],
            "gradient exactly 0": (end.norm.amax(1) == 0).double().mean().item(),
            "went to zero, of those": observed[PENALTIES[1]][end.norm.amax(1) == 0].double().mean().item(),
            "went to zero, of the others": observed[PENALTIES[1]][end.norm.amax(1) > 0].double().mean().item(),
            "bins": binned(zero_probability(end.norm, PENALTIES[1]).mean(1), observed[PENALTIES[1]]),
            "ranked right": ranked_right(-end.norm.mean(1), observed[PENALTIES[1]]),
        },
    }
