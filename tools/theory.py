"""Makes the figures and the numbers of docs/theory.md: theorem 1 and corollary 1 of CEN, and where they break.

    python tools/theory.py --out docs/theory                               # everything, some minutes on one core
    python tools/theory.py --out docs/theory --parts theorem frozen        # some of it
    python tools/theory.py --out elsewhere --seeds 7 8                     # other seeds

Every part writes PART.png and PART.json into the folder. It uses one thread, and the seeds decide everything else: the
same machine and library versions give the same numbers. The data are the embedded rooms, colour and depth, made small.

Source: Wang et al., "Deep Multimodal Fusion by Channel Exchanging", NeurIPS 2020 (arXiv 2011.05005).
"""

import argparse
import copy
import io
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from polymodal import Exchange, Multimodal, Prediction, fuse
from polymodal.data import Augment, FolderData
from polymodal.functional import unfold, zero_probability
from polymodal.models.unet import RoomsUNet
from polymodal.nn import PrivateLayer
from polymodal.tasks import Optimiser

mpl.use("agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#2a64c9", "#d9631e", "#2e8b57", "#777777"

SMALLEST = 1e-12  # a θ below which nothing but exact zeros lies
SWEEP = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)  # θ; that of the released code is 2e-2
TOY_PENALTY = 1e-2
PENALTIES = (1e-3, 2e-3, 4e-3)  # λ about the size of the slopes, so that some scales go to zero and some do not

Batch = tuple[dict[str, Tensor], Tensor]
Numbers = dict[str, Any]


# --- Data, loss, training: common to all parts.


class Rooms:
    """Training scenes of the embedded set, colour and depth, held in memory.

    Args:
        size: Height and width.
        scenes: How many, drawn once for all seeds.
    """

    def __init__(self, size: tuple[int, int], scenes: int = 600) -> None:
        as_it_is = Augment(scale=(1.0, 1.0), flip=False, photometric=0.0)
        data = FolderData("rooms", ["rgb", "depth"], size=size, augment=as_it_is, batch_size=scenes)
        data.setup("fit")
        torch.manual_seed(0)
        batch = next(iter(data.train_dataloader()))
        self.inputs: dict[str, Tensor] = batch["inputs"]
        self.target: Tensor = batch["target"]
        self.channels, self.classes = data.channels, data.num_classes

    @property
    def all(self) -> Batch:
        """All scenes as one batch."""
        return self.inputs, self.target

    def batches(self, epochs: int, seed: int) -> Iterator[Batch]:
        """Batches of 8 scenes, shuffled in every epoch."""
        generator = torch.Generator().manual_seed(seed)
        for _ in range(epochs):
            for index in torch.randperm(len(self.target), generator=generator).split(8):
                yield {name: image[index] for name, image in self.inputs.items()}, self.target[index]


def small_unet(rooms: Rooms, modalities: dict[str, int], fusion: Exchange | None, **settings: Any) -> Multimodal:
    """The network of the rooms at half its width."""
    plain = RoomsUNet(rooms.classes, stem=8, widths=(16, 32, 32), decoder=16)
    return fuse(plain, modalities, fusion, **settings)


def loss_of(prediction: Prediction, target: Tensor) -> Tensor:
    """Σ_m CE(prediction_m) + CE(ensemble): the loss L of the theorem, without the penalty."""
    logits = [*prediction.per_modality.values(), prediction.ensemble]
    return torch.stack([F.cross_entropy(each, target, ignore_index=255) for each in logits]).sum()


def train(
    net: Multimodal,
    batches: Iterable[Batch],
    steps: int,
    *,
    rate: float = 4e-3,
    schedule: Literal["cosine", "constant"] = "cosine",
    hold_scales: bool = False,
) -> Iterator[float]:
    """Minimise L + λ Σ|γ̂|, one step for each batch; yields every step's L.

    AdamW moves all weights but the fusion's scales, which take proximal steps: the only way to exact zeros.

    Args:
        net: The network; λ is that of its fusion.
        batches: One for each step.
        steps: How many there are.
        rate: AdamW's learning rate.
        schedule: How it falls.
        hold_scales: Leave the scales as they are.
    """
    optimiser, scheduler = Optimiser(lr=rate, schedule=schedule).build(net, steps)
    for group in optimiser.param_groups:
        if group["name"] == "scales":
            group["params"].clear()
    parts = {site: state.part for site, state in net.exchange_state().items()}
    for inputs, target in batches:
        loss = loss_of(net(inputs), target)
        net.zero_grad()
        loss.backward()
        optimiser.step()
        scheduler.step()
        for site, scale in () if hold_scales else net.scales().items():
            proximal_step(scale, parts[site], net.fusion.penalty)
        yield loss.item()


@torch.no_grad()
def proximal_step(scale: nn.Parameter, part: Tensor, penalty: float, rate: float = 10.0) -> None:
    """γ ← γ - η ∂L/∂γ, then towards 0 by ηλ and no further, in the penalised part.

    Args:
        scale: γ `(M, C)` with its gradient.
        part: Boolean `(M, C)`.
        penalty: λ.
        rate: η. Gradients of scales are of the size of 1e-3; a scale must come from 1 to 0 in a few hundred steps.
    """
    moved = scale - rate * scale.grad
    shrunk = moved.sign() * (moved.abs() - rate * penalty).clamp(min=0)
    scale.copy_(torch.where(part, shrunk, moved))


# --- Theorem 1: what is measured in a network.


@dataclass
class Channels:
    """The penalised channels of a network, N of them, each on K batches with its own γ set to 0.

    Attributes:
        norm: ‖g‖₂ `(N, K)`, g = ∂L/∂x' over the samples and positions of a batch; without its mean where x̂ has none.
        slope: ∂L/∂γ = Σ_i g_i x̂_i `(N, K)`.
        mismatched: The root mean square of Σ_i g_i x̂_i `(N, K)` where g is that of one scene and x̂ of another: the
            standard deviation of the slope if g and x̂ were independent, but neighbouring pixels as alike as they are.
        moments: Mean, standard deviation and kurtosis of x̂ `(N, K, 3)`.
        modality: The index of the modality `(N,)`.
        bias: β `(N,)`.
    """

    norm: Tensor
    slope: Tensor
    mismatched: Tensor
    moments: Tensor
    modality: Tensor
    bias: Tensor


def measure(net: Multimodal, batches: list[Batch]) -> Channels:
    """Set the penalised scales to 0, one at a time in each modality, and look at the gradient there.

    The modalities share no activations, so one scale of each can be measured in the same pass. The network is in
    training mode, its weights stay as they are.
    """
    rows: list[tuple[Any, ...]] = []
    for site, state in net.exchange_state().items():
        scale, norm = net.scales()[site], net.network.get_submodule(site)
        kept = scale.detach().clone()
        columns = [row.nonzero().flatten().tolist() for row in state.part]
        for channels in zip(*columns, strict=True):
            chosen = list(enumerate(channels))
            with torch.no_grad():
                for m, c in chosen:
                    scale[m, c] = 0
            seen = [_at_site(net, norm, batch, chosen) for batch in batches]
            for index, (m, c) in enumerate(chosen):
                rows.append((m, norm.bias[m, c].item(), [each[index] for each in seen]))
            with torch.no_grad():
                scale.copy_(kept)
    net.zero_grad()
    values = torch.tensor([seen for _, _, seen in rows], dtype=torch.float64)
    modality, bias = torch.tensor([m for m, _, _ in rows]), torch.tensor([b for _, b, _ in rows])
    return Channels(values[..., 0], values[..., 1], values[..., 2], values[..., 3:], modality, bias)


def _at_site(net: Multimodal, norm: nn.Module, batch: Batch, chosen: list[tuple[int, int]]) -> list[tuple[float, ...]]:
    """For every chosen (modality, channel): norm, slope, mismatched slope and the moments of x̂ on one batch."""
    caught: dict[str, Tensor] = {}

    def catch(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        # A hook sees the gradient before an activation that works in place, but not through a view.
        own = output.clone()
        own.register_hook(lambda gradient: caught.update(g=gradient))
        caught["x"] = inputs[0].detach()
        return own

    with norm.register_forward_hook(catch):
        loss = loss_of(net(batch[0]), batch[1])
    net.zero_grad()
    loss.backward()
    modalities = len(net.modalities)
    x, g = (unfold(caught[key], modalities).double() for key in ("x", "g"))
    found = []
    for m, c in chosen:
        one, gradient = x[:, m, c].flatten(1), g[:, m, c].flatten(1)
        if norm.frozen:
            mean, variance = norm.running_mean[m, c].double(), norm.running_var[m, c].double()
            length = gradient.norm()
        else:
            mean, variance = one.mean(), one.var(correction=0)
            length = (gradient - gradient.mean()).norm()
        normalised = (one - mean) / (variance + norm.eps).sqrt()
        products = gradient @ normalised.T  # scene by scene
        turned = torch.stack([products.roll(k, 1).trace() for k in range(1, len(products))])
        deviation = normalised.std(correction=0)
        kurtosis = ((normalised - normalised.mean()) / deviation).pow(4).mean()
        values = (length, products.trace(), turned.square().mean().sqrt(), normalised.mean(), deviation, kurtosis)
        found.append(tuple(value.item() for value in values))
    return found


# --- Corollary 1: exchange switched on without a change of the loss.

# Where the toy network exchanges, and the convolution that reads the exchanged channels.
FOLLOWING = {"1": "3", "4": "6"}


def toy(classes: int, width: int = 16) -> nn.Sequential:
    """Three convolutions in a chain, as the corollary needs it.

    Nothing but a ReLU lies between a norm and the next convolution, so that a constant channel can move into a bias;
    and images continue at their border instead of ending in zeros, so that a constant channel stays constant.
    """

    def convolution(inputs: int, outputs: int) -> nn.Conv2d:
        return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="replicate")

    return nn.Sequential(
        *(convolution(3, width), nn.BatchNorm2d(width), nn.ReLU()),
        *(convolution(width, width), nn.BatchNorm2d(width), nn.ReLU()),
        convolution(width, classes),
    )


@torch.no_grad()
def compensate(net: Multimodal) -> None:
    """Make the toy ready for the exchange: the next layer forgets every exchanged channel and absorbs its β.

    Where γ = 0 a channel is max(β, 0) everywhere behind the ReLU. The same modality's next convolution gets weights 0
    for it, and its bias what the old ones made of that constant (proof of the corollary).
    """
    for site, following in FOLLOWING.items():
        exchanged = ~net.exchange_state()[site].keep
        constant = net.network.get_submodule(site).bias.relu()
        for m, convolution in enumerate(_of_each_modality(net, following)):
            channels = exchanged[m]
            convolution.bias += convolution.weight[:, channels].sum((2, 3)) @ constant[m, channels]
            convolution.weight[:, channels] = 0


def _of_each_modality(net: Multimodal, name: str) -> list[nn.Conv2d]:
    layer = net.network.get_submodule(name)
    private = isinstance(layer, PrivateLayer)
    return list(layer.layers) if private else [layer] * len(net.modalities)


def exact_loss(net: Multimodal, batch: Batch, *, exchange: bool, compensated: bool = False) -> float:
    """L in float64 and training mode: with the exchange or without, with the compensation or without."""
    twin = copy.deepcopy(net).double().train()
    if compensated:
        compensate(twin)
    inputs = {name: image.double() for name, image in batch[0].items()}
    with torch.no_grad(), nullcontext() if exchange else twin.fusion_disabled():
        return loss_of(twin(inputs), batch[1]).item()


def fused_toy(rooms: Rooms, convolutions: str, fusion: Exchange) -> Multimodal:
    """The toy with two modalities, from the generator's state."""
    return fuse(toy(rooms.classes), rooms.channels, fusion, sites=list(FOLLOWING), convolutions=convolutions)


def switch_on(net: Multimodal, batch: Batch, steps: int) -> Numbers:
    """What the exchange does to a network trained without it: at once, and after more training with the scales held."""
    before = exact_loss(net, batch, exchange=False)
    plain, exchanging = copy.deepcopy(net), copy.deepcopy(net)
    compensate(exchanging)
    with plain.fusion_disabled():
        without = list(train(plain, itertools.repeat(batch, steps), steps, rate=1e-3, hold_scales=True))
    return {
        "exchanged share": [state.share() for state in net.exchange_state().values()],
        "before": before,
        "jump": exact_loss(net, batch, exchange=True) - before,
        "jump compensated": exact_loss(net, batch, exchange=True, compensated=True) - before,
        "without": without,
        "with": list(train(exchanging, itertools.repeat(batch, steps), steps, rate=1e-3, hold_scales=True)),
        "after without": exact_loss(plain, batch, exchange=False),
        "after with": exact_loss(exchanging, batch, exchange=True),
    }


def jump_at_threshold(net: Multimodal, batch: Batch, convolutions: str, rooms: Rooms, threshold: float) -> float:
    """How the loss changes, compensated, where scales are drawn from -θ to θ instead of being 0."""
    generator = torch.Generator().manual_seed(0)
    other = fused_toy(rooms, convolutions, replace(net.fusion, threshold=threshold))
    other.load_state_dict(net.state_dict())
    with torch.no_grad():
        for scale in other.scales().values():
            drawn = threshold * (2 * torch.rand(scale.shape, generator=generator) - 1)
            scale.copy_(scale.where(scale != 0, drawn))
    before = exact_loss(other, batch, exchange=False)
    return exact_loss(other, batch, exchange=True, compensated=True) - before


# --- How measurements are summed up.


def penalised_scales(net: Multimodal) -> Tensor:
    """γ of the penalised channels, in the order of `measure`."""
    values = []
    for site, state in net.exchange_state().items():
        rows = [row[part] for row, part in zip(net.scales()[site].detach(), state.part, strict=True)]
        values.append(torch.stack(rows, dim=1).flatten())
    return torch.cat(values)


def joined(channels: list[Channels]) -> Channels:
    """The channels of several networks as one."""
    return Channels(*(torch.cat([getattr(each, field.name) for each in channels]) for field in fields(Channels)))


def rms(values: Tensor) -> float:
    """Root mean square."""
    return values.square().mean().sqrt().item()


def described(channels: Channels, chosen: Tensor) -> Numbers:
    """How far the chosen channels are from what the theorem assumes."""
    norm, slope, mismatched = (each[chosen] for each in (channels.norm, channels.slope, channels.mismatched))
    mean, deviation, kurtosis = channels.moments[chosen].unbind(-1)
    return {
        "channels": int(chosen.sum()),
        "median ‖g‖": norm.median().item(),
        "rms of slope/‖g‖": rms(slope / norm),
        "rms of mismatched slope/‖g‖": rms(mismatched / norm),
        "rms of slope/mismatched slope": rms(slope / mismatched),
        "x̂: rms of the channels' means": rms(mean),
        "x̂: median standard deviation": deviation.median().item(),
        "x̂: 5 % and 95 % of the standard deviations": deviation.quantile(
            torch.tensor([0.05, 0.95], dtype=deviation.dtype)
        ).tolist(),
        "x̂: median kurtosis (Gaussian: 3)": kurtosis.median().item(),
    }


def shares(channels: Channels, chosen: Tensor, penalty: float) -> Numbers:
    """The share of chosen channels and batches in which γ = 0 is a minimum, as predicted and as it is."""
    return {
        "formula": zero_probability(channels.norm[chosen], penalty).mean().item(),
        "formula, mismatched": zero_probability(channels.mismatched[chosen], penalty).mean().item(),
        "observed": (channels.slope[chosen].abs() < penalty).double().mean().item(),
    }


def scenes_together(channels: Channels, chosen: Tensor, penalty: float) -> Numbers:
    """The same when the K batches count as one: ‖g‖ falls with the number of scenes, the slope tends to its mean."""
    norm, slope = channels.norm[chosen], channels.slope[chosen]
    together = norm.square().sum(1).sqrt() / norm.shape[1]
    return {
        "scenes": 8 * norm.shape[1],
        "formula": zero_probability(together, penalty).mean().item(),
        "observed": (slope.mean(1).abs() < penalty).double().mean().item(),
    }


def binned(predicted: Tensor, observed: Tensor, bins: int = 5) -> list[tuple[float, float, int]]:
    """Mean prediction, observed share and count in bins of equally many scales, by rising prediction."""
    order = predicted.argsort().tensor_split(bins)
    return [(predicted[i].mean().item(), observed[i].double().mean().item(), len(i)) for i in order]


def ranked_right(score: Tensor, observed: Tensor) -> float:
    """How often a scale that went to zero has a higher score than one that did not (AUC): 0.5 is chance."""
    zero, other = score[observed], score[~observed]
    higher = (zero[:, None] > other).double() + 0.5 * (zero[:, None] == other).double()
    return higher.mean().item()


# --- Figures.


def draw_shares(axis: Axes, channels: Channels, grid: list[float]) -> None:
    """Predicted and observed share over λ, of the channels whose gradient is not exactly 0."""
    live = channels.norm.amin(1) > 0
    curves = [shares(channels, live, penalty) for penalty in grid]
    for key, label, style in (
        ("formula", "formula with ‖g‖", {"color": BLUE}),
        ("formula, mismatched", "with the mismatched slope's size", {"color": ORANGE}),
        ("observed", "observed", {"color": "black", "ls": "", "marker": "o", "ms": 3.5}),
    ):
        axis.plot(grid, [curve[key] for curve in curves], label=label, **style)
    axis.set(xscale="log", xlabel="λ", ylabel="share", ylim=(-0.03, 1.03))
    axis.legend(frameon=False, fontsize=8)


def points_and_errors(points: list[tuple[float, float, int]]) -> tuple[list[float], list[float], list[float]]:
    """x, y and the binomial standard error of y."""
    return (
        [x for x, _, _ in points],
        [y for _, y, _ in points],
        [(y * (1 - y) / count) ** 0.5 for _, y, count in points],
    )


def save(figure: Figure, path: Path) -> None:
    """A PNG of 64 colours, small enough for a repository."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    Image.open(buffer).convert("RGB").quantize(64).save(path, optimize=True)
    plt.close(figure)


# --- The parts: each draws its figure and returns its numbers.


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


PARTS: dict[str, Callable[[Path, list[int]], Numbers]] = {
    "monte_carlo": monte_carlo,
    "theorem": theorem,
    "corollary": corollary,
    "frozen": frozen,
}


def rounded(value: Any) -> Any:
    """Numbers to four significant digits, in whatever holds them."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures and numbers")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for part in arguments.parts:
        start = time.monotonic()
        numbers = {"seeds": arguments.seeds, **rounded(PARTS[part](arguments.out, arguments.seeds))}
        (arguments.out / f"{part}.json").write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n")
        print(f"{part}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
