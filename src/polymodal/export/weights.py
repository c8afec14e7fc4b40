"""A norm with fixed statistics, absorbed into the convolution before it."""

import torch
from torch import Tensor

from polymodal.nn import PrivateRunningNorm


def weights(
    weight: Tensor,
    bias: Tensor | None,
    norm: PrivateRunningNorm | None,
    m: int,
    rows: list[int],
    columns: list[int] | None,
    transposed: bool,
) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a convolution with the norm behind it in them, computed in float64, see `absorb`.

    Args:
        weight: Of the convolution, and `bias` likewise.
        bias: None where it has none.
        norm: With running statistics; None where there is none to absorb.
        m: The modality, among those present.
        rows: The output channels that there are.
        columns: The input channels that there are, in the order of the image's; None for all.
        transposed: Whether the convolution is, so that the weight has input channels first.
    """
    by_row = weight.transpose(0, 1) if transposed else weight
    if norm is not None:
        scale, shift = _affine(norm, m)
        by_row = (by_row.double() * scale.view(-1, 1, 1, 1)).to(weight.dtype)
        bias = (shift if bias is None else shift + bias.double() * scale).to(weight.dtype)
    if len(rows) < len(by_row):
        by_row, bias = by_row[rows], None if bias is None else bias[rows]
    if columns is not None:
        by_row = by_row[:, columns]
    return by_row.transpose(0, 1) if transposed else by_row, bias


def own_row(norm: PrivateRunningNorm, per_modality: Tensor, m: int) -> Tensor:
    """The m-th present modality's row of a tensor `(M, C)`, or the one that all share."""
    return per_modality[0 if norm.roster is None else norm.roster.present[m]].detach()


def _affine(norm: PrivateRunningNorm, m: int) -> tuple[Tensor, Tensor]:
    """What a norm multiplies a modality's channels with, and adds, in float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, var = own_row(norm, norm.running_mean, m).double(), own_row(norm, norm.running_var, m).double()
    scale = torch.rsqrt(var + norm.eps)
    if norm.weight is not None:
        scale = scale * own_row(norm, norm.weight, m).double()
    shift = -mean * scale
    return scale, shift if norm.bias is None else shift + own_row(norm, norm.bias, m).double()
