"""What theorem 1 speaks of, measured in a network: the gradient of each penalised scale where that scale is 0."""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from polymodal import Multimodal
from polymodal.functional import unfold
from theorems.training import Batch, loss_of

PENALTIES = (1e-3, 2e-3, 4e-3)  # λ about the size of the slopes, so that some scales go to zero and some do not


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
