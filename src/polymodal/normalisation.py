"""Norms of M modalities in one call: each with statistics, γ and β of its own, all on the folded tensor.

Shapes as in `functional`: B samples, M modalities, C channels; *folded* tensors are `(B*M, C, ...)`.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from polymodal.functional import refold, unfold


def private_batch_norm(
    x: Tensor,
    modalities: int,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """Batch norm with statistics and scales of its own for each modality (CEN eq. 5), in one call for all modalities.

    Seen as `(B, M*C, ...)`, the folded tensor has one channel for every modality and channel. In channels-last memory
    there is no such view: training copies, and fixed statistics are one product and one sum, which keep the format.

    Args:
        x: Folded features `(B*M, C, ...)`.
        modalities: M.
        running_mean: `(M, C)`, contiguous, updated in place when training; None to use the batch's statistics always.
        running_var: As `running_mean`.
        weight: γ, `(M, C)`, or None.
        bias: β, `(M, C)`, or None.
        training: Normalise by the batch's statistics and update the running ones.
        momentum: Weight of the batch in the running statistics.
        eps: Added to the variance.

    Returns:
        The normalised features, folded, `(B*M, C, ...)`.
    """
    if modalities > 1 and not training and not x.is_contiguous() and running_mean is not None:
        assert running_var is not None
        if torch.is_grad_enabled() and x.device.type == "cpu" and not torch.compiler.is_compiling():
            return _fixed_norm_by_image(x, running_mean, running_var, weight, bias, eps)
        return refold(_fixed_norm(unfold(x, modalities), running_mean, running_var, weight, bias, eps))
    mean, var, gamma, beta = (None if t is None else t.flatten() for t in (running_mean, running_var, weight, bias))
    side_by_side = unfold(x, modalities).flatten(1, 2)
    y = F.batch_norm(side_by_side, mean, var, gamma, beta, training, momentum, eps)
    return refold(y.unflatten(1, (modalities, -1)))


def _fixed_norm(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """`(B, M, C, ...)` normalised by given statistics `(M, C)`, as x ↦ ax + b in their own precision."""
    scale = torch.rsqrt(var + eps) if weight is None else weight * torch.rsqrt(var + eps)
    shift = -mean * scale if bias is None else bias - mean * scale
    shift, scale = (t.view(*t.shape, *(1,) * (x.dim() - 3)) for t in (shift, scale))
    return torch.addcmul(shift, x, scale).to(x.dtype)


def _fixed_norm_by_image(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """As `_fixed_norm` of folded features `(B*M, C, ...)`."""
    normalised = []
    for n, image in enumerate(x.split(1)):
        m = n % len(mean)
        gamma, beta = (None if rows is None else rows[m] for rows in (weight, bias))
        normalised.append(F.batch_norm(image, mean[m], var[m], gamma, beta, eps=eps))
    return torch.cat(normalised)


def private_instance_norm(
    x: Tensor,
    modalities: int,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """Instance norm with running statistics and scales of its own for each modality, in one call for all modalities.

    Each sample and channel is normalised by itself (Ulyanov et al. 2016, arXiv 1607.08022), so only the running
    statistics, γ and β tell modalities apart. Arguments and result are those of `private_batch_norm`; the running
    statistics are updated by the mean over the samples.
    """
    mean, var, gamma, beta = (None if t is None else t.flatten() for t in (running_mean, running_var, weight, bias))
    side_by_side = unfold(x, modalities).flatten(1, 2)
    y = F.instance_norm(side_by_side, mean, var, gamma, beta, training, momentum, eps)
    return refold(y.unflatten(1, (modalities, -1)))


def private_group_norm(
    x: Tensor, modalities: int, groups: int, weight: Tensor | None, bias: Tensor | None, *, eps: float
) -> Tensor:
    """Group norm (Wu and He 2018, arXiv 1803.08494) with scales of its own for each modality.

    Args:
        x: Folded features `(B*M, C, ...)`.
        modalities: M.
        groups: Into how many groups the C channels fall, which are normalised together.
        weight: γ, `(M, C)`, or None.
        bias: β, `(M, C)`, or None.
        eps: Added to the variance.

    Returns:
        The normalised features, folded, `(B*M, C, ...)`.
    """
    gamma, beta = (None if t is None else t.flatten() for t in (weight, bias))
    y = F.group_norm(unfold(x, modalities).flatten(1, 2), modalities * groups, gamma, beta, eps)
    return refold(y.unflatten(1, (modalities, -1)))


def private_scales(x: Tensor, modalities: int, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """γ_m x + β_m for each modality m.

    Args:
        x: Normalised features, folded, `(B*M, ..., *S)` with channels of the shape S in the last axes.
        modalities: M.
        weight: γ, `(M, *S)`, or None.
        bias: β, `(M, *S)`, or None.

    Returns:
        A tensor of the same shape and dtype.
    """
    y = unfold(x, modalities)
    gamma, beta = (
        None if t is None else t.view(len(t), *(1,) * (y.dim() - 1 - t.dim()), *t.shape[1:]) for t in (weight, bias)
    )
    if gamma is not None:
        y = y * gamma if beta is None else torch.addcmul(beta, y, gamma)
    return refold(y.to(x.dtype))
