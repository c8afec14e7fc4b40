"""Norms that take the statistics of all processes' batches together: what `trainer.sync_batchnorm` asks for."""

from lightning.pytorch.plugins import LayerSync
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from polymodal.errors import ConfigError
from polymodal.nn import PrivateBatchNorm


class SynchronisedNorms(LayerSync):
    """Synchronises private batch norms, in the place of Lightning's own, which makes plain norms of them."""

    def apply(self, model: nn.Module) -> nn.Module:
        """Synchronise them.

        Raises:
            ConfigError: There is a batch norm that fusing did not make.
        """
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm) and not isinstance(module, PrivateBatchNorm):
                raise ConfigError(
                    "--trainer.sync_batchnorm true: the norms that fusing makes are synchronised, and "
                    f"'{name}' is not one. Leave it out."
                )
        return self._set(model, True)

    def revert(self, model: nn.Module) -> nn.Module:
        """Let each process take its own again."""
        return self._set(model, False)

    def _set(self, model: nn.Module, synchronised: bool) -> nn.Module:
        for module in model.modules():
            if isinstance(module, PrivateBatchNorm):
                module.synchronised = synchronised
        return model
