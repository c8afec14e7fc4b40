"""Private norms that normalise each sample by itself and keep nothing: only γ and β tell the modalities apart."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from polymodal.nn.norm import PrivateNorm
from polymodal.normalisation import private_group_norm, private_scales


class PrivatePlaceNorm(PrivateNorm):
    """A `PrivateNorm` that normalises every place of a sample over its channels."""

    from_input = True
    _settings = ("normalized_shape", "elementwise_affine")

    @abstractmethod
    def plain(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """What one plain norm makes of features whose last axes are the channels."""

    def unscaled(self, x: Tensor) -> Tensor:
        """As `plain`, with γ = 1 and β = 0."""
        return self.plain(x, None, None)

    def normalise(self, x: Tensor, modalities: int) -> Tensor:
        """Folded features `(B*K, ...)`, the streams of all modalities in one call, then γ and β of each."""
        weight, bias = self._present(self.weight), self._present(self.bias)
        axis = self.kind.axis_in(x)
        y = x if axis == -1 else x.movedim(1, -1)
        if self.kind.float32:
            y = y.float()
            weight, bias = (None if t is None else t.float() for t in (weight, bias))
        if modalities == 1:
            y = self.plain(y, *(None if t is None else t[0] for t in (weight, bias)))
        else:
            y = private_scales(self.unscaled(y), modalities, weight, bias)
        y = y.to(x.dtype) if self.kind.float32 else y
        return y if axis == -1 else y.movedim(-1, 1)


class PrivateLayerNorm(PrivatePlaceNorm, nn.LayerNorm):  # type: ignore[misc]
    """A private layer norm (Ba et al. 2016, arXiv 1607.06450), of channels wherever they are."""

    def plain(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """What one plain layer norm makes of features whose last axes are the channels."""
        return torch.nn.functional.layer_norm(x, self.normalized_shape, weight, bias, self.eps)

    def unscaled(self, x: Tensor) -> Tensor:
        """As `plain`, with a γ of 1: on the CPU, PyTorch takes half as long again without one."""
        return self.plain(x, x.new_ones(self.normalized_shape), None)


class PrivateRMSNorm(PrivatePlaceNorm, nn.RMSNorm):
    """A private norm by the root mean square (Zhang and Sennrich 2019, arXiv 1910.07467); it has no β."""

    def plain(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """What one plain norm makes of features whose last axes are the channels."""
        del bias
        return torch.nn.functional.rms_norm(x, self.normalized_shape, weight, self.eps)


class PrivateGroupNorm(PrivateNorm, nn.GroupNorm):  # type: ignore[misc]
    """A private group norm (Wu and He 2018, arXiv 1803.08494)."""

    from_input = True
    _settings = ("num_groups", "num_channels", "affine")

    def normalise(self, x: Tensor, modalities: int) -> Tensor:
        """Folded features `(B*K, C, ...)`, all modalities in one call."""
        weight, bias = self._present(self.weight), self._present(self.bias)
        return private_group_norm(x, modalities, self.num_groups, weight, bias, eps=self.eps)
