"""Theorem 1 against a network whose norms have fixed statistics."""

import itertools
from pathlib import Path

import torch
from matplotlib import pyplot as plt

from polymodal import Exchange
from theorems.channels import PENALTIES, Channels, joined, measure
from theorems.figures import BLUE, ORANGE, draw_shares, save
from theorems.summary import Numbers, described, shares
from theorems.training import Rooms, small_unet, train


def frozen(out: Path, seeds: list[int]) -> Numbers:
    """The same moment with statistics frozen at those of colour images, as the released code freezes ImageNet's."""
    rooms = Rooms((24, 32))
    epoch = len(rooms.target) // 8
    found: dict[str, list[Channels]] = {"batch": [], "frozen": []}
    for seed in seeds:
        torch.manual_seed(seed)
        alone = small_unet(rooms, {"rgb": rooms.channels["rgb"]}, None)
        colour_alone = (({"rgb": inputs["rgb"]}, target) for inputs, target in rooms.batches(1, seed))
        list(train(alone, colour_alone, epoch))
        for statistics, channels in found.items():
            net = small_unet(rooms, rooms.channels, Exchange(threshold=0.0), statistics=statistics)
            pretrained = alone.network.state_dict()
            net.network.load_state_dict(
                {key: pretrained[key].expand_as(value) for key, value in net.network.state_dict().items()}
            )
            list(train(net, rooms.batches(1, 100 + seed), epoch, rate=1e-3, hold_scales=True))
            channels.append(measure(net, list(itertools.islice(rooms.batches(1, 1000 + seed), 2))))
            print(f"frozen: seed {seed}: {statistics} statistics measured", flush=True)
    both = {statistics: joined(channels) for statistics, channels in found.items()}
    grid = torch.logspace(-4, -1, 24, dtype=torch.float64).tolist()

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.5), layout="constrained")
    for m, (name, colour) in enumerate(zip(rooms.channels, (BLUE, ORANGE), strict=True)):
        moments = both["frozen"].moments[both["frozen"].modality == m].mean(1)
        axes[0].plot(moments[:, 0], moments[:, 1], ".", color=colour, alpha=0.6, label=name)
    axes[0].plot(0, 1, "k+", ms=12, label="assumed, and with batch statistics")
    axes[0].set(xlabel="mean of x̂", ylabel="standard deviation of x̂")
    axes[0].set_title("frozen statistics: x̂ by channel", fontsize=10)
    axes[0].legend(frameon=False, fontsize=8)
    for axis, (statistics, channels) in zip(axes[1:], both.items(), strict=True):
        draw_shares(axis, channels, grid)
        axis.set_title(f"{statistics} statistics: |∂L/∂γ| < λ at γ = 0", fontsize=10)
    save(figure, out / "frozen.png")

    numbers: Numbers = {}
    for statistics, channels in both.items():
        for m, name in enumerate(rooms.channels):
            live = (channels.norm.amin(1) > 0) & (channels.modality == m)
            numbers[f"{statistics}, {name}"] = described(channels, live) | {
                "now": {f"{penalty:g}": shares(channels, live, penalty) for penalty in PENALTIES}
            }
    return numbers
