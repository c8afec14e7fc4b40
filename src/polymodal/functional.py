"""Pure tensor functions of multimodal fusion: one formula each, with its source.

Shapes use B samples, M modalities, C channels. *Folded* tensors are `(B*M, C, ...)` in memory order (B, M);
*unfolded* ones are `(B, M, C, ...)`. Both are views of the same memory.

Sources: CEN is Wang et al., "Deep Multimodal Fusion by Channel Exchanging", NeurIPS 2020 (arXiv 2011.05005);
    AsymFusion is Wang et al., "Learning Deep Multimodal Feature Representation with Asymmetric Multi-layer Fusion",
    ACM Multimedia 2020 (arXiv 2108.05009); TokenFusion is Wang et al., "Multimodal Token Fusion for Vision
    Transformers", CVPR 2022 (arXiv 2204.08721); Changer is Fang et al., "Changer: Feature Interaction is What You Need
    for Change Detection", TGRS 2023 (arXiv 2209.08290).
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def fold(images: Sequence[Tensor]) -> Tensor:
    """Lay M equally shaped tensors side by side in the batch axis.

    Args:
        images: M tensors `(B, C, ...)`.

    Returns:
        The folded tensor `(B*M, C, ...)`; row `b*M + m` is sample b of modality m.
    """
    return torch.stack(tuple(images), dim=1).flatten(0, 1)


def unfold(x: Tensor, modalities: int) -> Tensor:
    """See a folded tensor `(B*M, ...)` as `(B, M, ...)`, without copying.

    Args:
        x: A folded tensor.
        modalities: M.

    Returns:
        A view `(B, M, ...)`.
    """
    return x.unflatten(0, (-1, modalities))


def refold(x: Tensor) -> Tensor:
    """Fold a tensor `(B, M, ...)` that was just computed and that nobody else reads, without copying.

    For autograd the result is no view, unlike that of `flatten`. Activations and additions in place, which CNNs do
    behind every norm, would otherwise copy all of it twice in the backward pass, and in contiguous memory.

    Args:
        x: `(B, M, ...)`, with samples and modalities next to each other in memory.

    Returns:
        The folded tensor `(B*M, ...)`.
    """
    return torch.ops.aten._unsafe_view(x, (x.shape[0] * x.shape[1], *x.shape[2:]))


def own_parts(modalities: int, channels: int, *, device: torch.device | str | None = None) -> Tensor:
    """Divide C channels into M disjoint parts, the m-th belonging to modality m (CEN sec. 3.3).

    Part m is the channels from ⌊mC/M⌋ up to, not including, ⌊(m+1)C/M⌋: contiguous, disjoint and complete for every C
    and M.

    Args:
        modalities: M.
        channels: C.
        device: Where to make the mask.

    Returns:
        A boolean mask `(M, C)`, True where channel c belongs to modality m. Every column has exactly one True.
    """
    bounds = torch.tensor([m * channels // modalities for m in range(modalities + 1)], device=device)
    index = torch.arange(channels, device=device)
    return (index >= bounds[:-1, None]) & (index < bounds[1:, None])


def keep_over_threshold(scale: Tensor, threshold: float, part: Tensor | None = None) -> Tensor:
    """Which channels stay: those whose scale reaches the threshold (CEN eq. 6).

    Args:
        scale: γ, `(M, C)`.
        threshold: θ ≥ 0. A channel is exchanged where |γ| < θ, so 0 exchanges nothing.
        part: Boolean `(M, C)`: where exchanging is allowed (the paper's disjoint parts); None allows it everywhere (the
            rule of the released code).

    Returns:
        A boolean mask `(M, C)`, True where the modality keeps its own channel.
    """
    keep = scale.detach().abs() >= threshold
    return keep if part is None else keep | ~part


def keep_over_share(scale: Tensor, share: float, part: Tensor | None = None) -> Tensor:
    """Which channels stay when each modality gives up a fixed share of its channels, those with the smallest |γ|.

    Args:
        scale: γ, `(M, C)`.
        share: The share in 0..1 of the allowed channels that is exchanged, rounded down to whole channels.
        part: Boolean `(M, C)`: where exchanging is allowed; None allows it everywhere.

    Returns:
        A boolean mask `(M, C)`, True where the modality keeps its own channel.
    """
    size = scale.detach().abs()
    if part is None:
        part = torch.ones_like(size, dtype=torch.bool)
    rank = size.masked_fill(~part, torch.inf).argsort(dim=1, stable=True).argsort(dim=1)
    # The small addend keeps 0.3 * 10 from being floored to 2.
    given_up = (share * part.sum(dim=1, keepdim=True) + 1e-6).floor()
    return rank >= given_up


def mean_of_others(x: Tensor) -> Tensor:
    """For each modality, the mean over all the others: 1/(M-1) Σ_{m'≠m} x_{m'} (CEN eq. 6, second case).

    Sums rolled copies instead of subtracting from the total, so that nothing of the modality itself leaks in by
    rounding.

    Args:
        x: `(B, M, ...)` with M ≥ 2.

    Returns:
        A tensor of the same shape.
    """
    modalities = x.shape[1]
    if modalities == 2:
        return x.flip(1)  # the same as a roll by one, but it keeps the order of memory
    return reduce(torch.add, (x.roll(step, dims=1) for step in range(1, modalities))) / (modalities - 1)


def max_of_others(x: Tensor) -> Tensor:
    """For each modality, the largest value of all the others: max_{m'≠m} x_{m'}. Of two it is the other's.

    Args:
        x: `(B, M, ...)` with M ≥ 2.

    Returns:
        A tensor of the same shape.
    """
    return reduce(torch.maximum, (x.roll(step, dims=1) for step in range(1, x.shape[1])))


Others = Literal["mean", "max"]
"""What of the other modalities stands in for what a modality gives up."""

_OTHERS: dict[Others, Callable[[Tensor], Tensor]] = {"mean": mean_of_others, "max": max_of_others}


def exchange(x: Tensor, keep: Tensor, others: Others = "mean") -> Tensor:
    """Replace every channel that is not kept by the mean of the others' channel of the same index (CEN eq. 6).

    Args:
        x: Normalised features before the activation, `(B, M, C, ...)`, finite.
        keep: Boolean `(M, C)`, True where a modality keeps its own channel.
        others: `"max"` for the largest instead of the mean of the others' values.

    Returns:
        A tensor of the same shape; with M = 1 it is `x` itself, since there is nothing to exchange with.
    """
    if x.shape[1] == 1:
        return x
    keep = keep.reshape(*keep.shape, *(1,) * (x.dim() - 3))
    # Exact for the weights 0 and 1; on a CPU its backward pass takes half the time of a selection's.
    return torch.lerp(_OTHERS[others](x), x, keep.to(x.dtype))


def exchange_columns(x: Tensor, keep: Tensor, others: Others = "mean") -> Tensor:
    """Replace every column that is not kept by that of the others (the spatial exchange of Fang et al., Changer, 2022).

    Args:
        x: Feature maps, `(B, M, C, ..., H, W)`, finite.
        keep: Boolean `(W,)`, True where modalities keep their own column.
        others: See `exchange`.

    Returns:
        A tensor of the same shape; with M = 1 it is `x` itself.
    """
    return x if x.shape[1] == 1 else torch.lerp(_OTHERS[others](x), x, keep.to(x.dtype))


def keep_but_every(count: int, period: int, *, device: torch.device | str | None = None) -> Tensor:
    """Which of so many channels or columns stay where every p-th is exchanged, from the first on (Changer).

    Args:
        count: Their number.
        period: p ≥ 1; 1 keeps none.
        device: Where to make the mask.

    Returns:
        A boolean mask `(count,)`.
    """
    return torch.arange(count, device=device) % period != 0


def exchange_tokens(x: Tensor, others: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Replace every token whose score is below the threshold by the others' at the same place (TokenFusion eq. 6).

    Args:
        x: Tokens of one modality or of several, `(..., C)`.
        others: What stands in for each of them, of the same shape.
        scores: s, of the shape of `x` but for one channel.
        threshold: θ ≥ 0. A token is exchanged where s < θ, so 0 exchanges nothing.

    Returns:
        A tensor like `x`.
    """
    return torch.where(scores >= threshold, x, others)


def scale_penalty(scale: Tensor, part: Tensor) -> Tensor:
    """The sparsity penalty of one layer on the disjoint parts, Σ_m |γ̂_m|₁ (CEN eq. 4).

    Args:
        scale: γ, `(M, C)`.
        part: Boolean `(M, C)` from `own_parts`.

    Returns:
        A scalar, not yet multiplied by λ.
    """
    return (scale.abs() * part).sum()


def channel_shuffle(x: Tensor, *, reverse: bool = False) -> Tensor:
    """Let the last C - 4⌊C/5⌋ channels, about a fifth, change places between the modalities (AsymFusion).

    Two modalities swap them, as in the paper. Of more, modality m receives those of modality m + 1, the last one those
    of the first; in reverse it receives those of m - 1, so that a second, reversed shuffle takes every channel back to
    the modality it came from. Channels keep their index, and nothing is added or lost. With M = 1 nothing moves.

    Args:
        x: `(B, M, C, ...)`.
        reverse: Receive from the modality before instead of the one after.

    Returns:
        A tensor of the same shape and dtype.
    """
    if x.shape[1] == 1:
        return x
    own, moved = x.tensor_split([4 * (x.shape[2] // 5)], dim=2)
    return torch.cat([own, moved.roll(1 if reverse else -1, dims=1)], dim=2)


def pixel_shift(x: Tensor) -> Tensor:
    """What each modality is given of another one's first 4⌊C/5⌋ channels, moved by one pixel (AsymFusion).

    The channels form four equal groups: the first moves down, the second to the right, the third to the left, the
    fourth up. Zeros come in at the border, and the last C - 4⌊C/5⌋ channels are zero. Two modalities are given each
    other's channels, as in the paper; of more, modality m is given those of modality m + 1, the last one those of the
    first. With M = 1 all is zero: adding it changes nothing.

    Args:
        x: Features before a spatial convolution, `(B, M, C, H, W)`.

    Returns:
        A tensor of the same shape and dtype, to be added to the features after the convolution.
    """
    if x.shape[1] == 1:
        return torch.zeros_like(x)
    size = x.shape[2] // 5
    *groups, rest = x.split([size] * 4 + [x.shape[2] - 4 * size], dim=2)
    # What is padded at one side and cut at the other: (left, right, top, bottom).
    moves = ((0, 0, 1, -1), (1, -1, 0, 0), (-1, 1, 0, 0), (0, 0, -1, 1))
    moved = [F.pad(group, move) for group, move in zip(groups, moves, strict=True)]
    return torch.cat([*moved, torch.zeros_like(rest)], dim=2).roll(-1, dims=1)


def weighted_mean(x: Tensor, weights: Tensor) -> Tensor:
    """The modalities' features as one map, each channel weighed by modality: F_c = Σ_m w_{m,c} x_{m,c}.

    Args:
        x: `(B, M, C, ...)`.
        weights: w, `(M, C)`, every column summing to one.

    Returns:
        `(B, C, ...)`, of the dtype of `x`.
    """
    return (x * weights.to(x.dtype).reshape(*weights.shape, *(1,) * (x.dim() - 3))).sum(dim=1)


def ensemble(predictions: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of the modalities' predictions, Σ_m α_m f_m(x_m) (CEN eq. 4).

    The predictions are detached, as in the released code: a loss on the ensemble trains the weights alone.

    Args:
        predictions: `(B, M, ...)`.
        weights: α, `(M,)`, summing to one.

    Returns:
        `(B, ...)`.
    """
    # One modality after the other: a sum over their axis takes several times as long, most in channels-last memory.
    streams = zip(predictions.detach().unbind(1), weights.unbind(), strict=True)
    return reduce(torch.add, (stream * weight for stream, weight in streams))


def zero_probability(gradient_norm: Tensor, penalty: Tensor | float) -> Tensor:
    """How probable it is that a scale γ is attracted to 0, 2Φ(λ/|∂L/∂x'|) - 1 (CEN theorem 1).

    γ = 0 is a local minimum of L + λ|γ| where |∂L/∂γ| < λ. With x' = γx̂ + β the derivative is Σ_i g_i x̂_i over all
    samples and positions i, g = ∂L/∂x'. If the x̂_i are independent standard Gaussians and independent of g, it is
    Gaussian with standard deviation ‖g‖₂: this is the norm that a map needs, and |g| for a single value. Where x̂ has
    exactly mean 0, as batch statistics give it, the constant part of g drops out: take ‖g - mean(g)‖₂.

    Args:
        gradient_norm: |g| or ‖g‖₂ at γ = 0, non-negative, of any shape.
        penalty: λ ≥ 0, a number or a tensor that broadcasts.

    Returns:
        A probability for each norm, computed as erf(λ/(√2 ‖g‖)), which keeps its relative precision where it is small;
        1 where the norm is 0, whatever λ is.
    """
    probability = torch.erf(penalty / (gradient_norm * 2**0.5))
    return probability.masked_fill(gradient_norm == 0, 1.0)


def mmd(x: Tensor, y: Tensor, kernels: int = 5) -> Tensor:
    """The squared maximum mean discrepancy of two samples, mean k(x, x') + mean k(y, y') - 2 mean k(x, y).

    Gretton et al., JMLR 2012, eq. 5 (the biased estimate, never negative), with the mean of Gaussian kernels
    exp(-‖a - b‖² / s) of which each s is twice the one before and the middle one is the mean squared distance between
    two values of both samples together (Long et al., ICML 2015). No gradient flows through s.

    Args:
        x: `(N, D)`.
        y: `(N', D)`.
        kernels: Number of kernels.

    Returns:
        A scalar, 0 for equal samples.
    """
    both = torch.cat([x, y])
    squares = both.square().sum(1)
    distances = (squares[:, None] + squares - 2 * both @ both.mT).clamp(min=0)
    count = both.shape[0]
    middle = (distances.detach().sum() / (count * count - count)).clamp(min=torch.finfo(x.dtype).tiny)
    kernel = torch.stack([(-distances / (middle * 2.0 ** (k - kernels // 2))).exp() for k in range(kernels)]).mean(0)
    within_x, within_y = kernel[: len(x), : len(x)].mean(), kernel[len(x) :, len(x) :].mean()
    return within_x + within_y - 2 * kernel[: len(x), len(x) :].mean()
