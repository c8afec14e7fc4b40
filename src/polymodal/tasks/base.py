"""What training a fused network is, whatever it predicts."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from lightning.pytorch import LightningModule
from torch import Tensor

from polymodal.errors import CheckpointError, PolymodalError
from polymodal.nn import Prediction
from polymodal.surgery import Multimodal

ENSEMBLE = "ensemble"
"""What the prediction of all modalities together is called beside theirs."""


class Task(LightningModule):
    """A fused network and how it is trained.

    Attributes:
        chosen_by: The validation score of the ensemble by which the best checkpoint is chosen, `val/<score>/ensemble`.
        chosen_mode: Whether it is the largest or the smallest one.
        network: Name of the plain network, see `polymodal.models.create`.
        arguments: All of its arguments, once the network is built.
        scoring: Settings of the scores, which a trained model keeps with it.
        net: The fused network; None until a trainer starts.
    """

    chosen_by: ClassVar[str]
    chosen_mode: ClassVar[Literal["min", "max"]]

    network: str
    arguments: dict[str, Any]
    scoring: dict[str, Any]
    net: Multimodal | None

    @property
    def fused(self) -> Multimodal:
        """The fused network, once `configure_model` has built it."""
        assert self.net is not None, "the network is built when a trainer starts"
        return self.net

    def forward(self, inputs: Mapping[str, Tensor]) -> Prediction:
        """Predict from every modality, each (B, C_m, H, W)."""
        return self.fused(inputs)

    def check_finite(self, loss: Tensor, batch: Mapping[str, Any]) -> None:
        """Stop a training whose loss is no number any more.

        Raises:
            PolymodalError: With the samples of the batch.
        """
        if not loss.isfinite().all():
            raise PolymodalError(
                f"the loss is {loss.sum().item()} in epoch {self.current_epoch + 1}, step {self.global_step}, for the "
                f"samples {', '.join(batch['key'])}. Look at these files (polymodal data check), or lower "
                "--model.optimiser.lr; the last good checkpoint is kept."
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another model, before any of it is taken over.

        Raises:
            CheckpointError: Its tensors are not those of this model.
        """
        given, wanted = checkpoint["state_dict"], self.state_dict()
        fits = [name for name in wanted if name in given and given[name].shape == wanted[name].shape]
        others = sorted(given.keys() ^ wanted.keys()) or [name for name in wanted if name not in fits]
        if others:
            raise CheckpointError(
                f"{self.trainer.ckpt_path} belongs to another model: {len(fits)} of {len(wanted)} tensors fit; the "
                f"first that do not: {', '.join(others[:3])}. Continue with the recipe that it was trained with, the "
                "config.yaml of its run."
            )
