"""Fusions that act after private norms and before the activation: where they stand, and what a user's own needs."""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from polymodal.anatomy import Anatomy
from polymodal.errors import FusionError
from polymodal.fusion.base import AtSite, Fusion, Sites, describe_candidates, select
from polymodal.nn import Roster, stand_behind
from polymodal.nn.static import Mark, joint


class NormFusion(Fusion):
    """What modalities do with each other's features after private norms and before the activation.

    A fusion of your own is a frozen dataclass with its settings and the method `meet`.

    Example:
        >>> @dataclass(frozen=True)
        ... class Blend(NormFusion):
        ...     share: float = 0.1
        ...
        ...     def meet(self, x):
        ...         return x.lerp(x.mean(1, keepdim=True), self.share)
    """

    needs_private_norms: ClassVar[bool] = True
    takes_gaps: ClassVar[bool] = True

    def __new__(cls, *settings: Any, **named: Any) -> Self:
        """Refuse a fusion that says nowhere what it does.

        Raises:
            FusionError: The class has neither `meet` nor an `install` of its own.
        """
        del settings, named
        if cls.meet is NormFusion.meet and cls.install is NormFusion.install:
            raise FusionError(f"{cls.__name__}: expected a method `meet`, or an `install` of its own, got neither.")
        return super().__new__(cls)

    def find_sites(self, network: nn.Module, sites: Sites) -> tuple[str, ...]:
        """The norms after which modalities meet: those chosen among all that have scales.

        `"auto"` means the norm after the spatial convolution of every residual block of the encoder, and those before
        attention and MLP in the blocks of transformers, see `polymodal.anatomy.blocks.sites`.

        Raises:
            FusionError: When nothing matches; the message lists the candidates.
        """
        anatomy = Anatomy(network)
        candidates = anatomy.scaled_norms
        chosen = anatomy.sites if sites == "auto" else select(candidates, sites)
        if not chosen:
            raise FusionError(
                'sites="auto" found no residual block or transformer block in the encoder: say where to exchange.'
                + describe_candidates(candidates)
            )
        return tuple(chosen)

    def meet(self, x: Tensor) -> Tensor:
        """What the modalities have after they met.

        Args:
            x: Normalised features `(B, K, C, ...)` of the K modalities that are present, channels first whatever the
                norm's layout; not to be changed in place.

        Returns:
            A tensor of the same shape.
        """
        raise NotImplementedError

    def install(self, network: nn.Module, sites: Sequence[str], roster: Roster) -> None:
        """Let the private norms at the sites call `meet`."""
        for name in sites:
            stand_behind(network, name, Meet(self, roster))


class Meet(AtSite):
    """Calls `NormFusion.meet` at one site."""

    rule: NormFusion

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """Normalised features, folded, `(B*K, C, ...)`, to a tensor like it.

        Raises:
            FusionError: When `meet` returns something else.
        """
        del scale
        if not self.roster.fusing:
            return x
        before = self.roster.streams(x)
        after = self.rule.meet(before)
        if not isinstance(after, Tensor) or after.shape != before.shape:
            got = f"shape {tuple(after.shape)}" if isinstance(after, Tensor) else f"a {type(after).__name__}"
            raise FusionError(
                f"{type(self.rule).__name__}.meet: expected a tensor of shape {tuple(before.shape)} (samples, "
                f"modalities, channels, ...) as it was given, got {got}."
            )
        return after.flatten(0, 1)

    def static(self, mark: Mark) -> nn.Module:
        """All streams meet as they do in the network."""
        return mark(joint(self)) if self.roster.fusing else nn.Identity()
