"""The multimodal network: one network, several modalities, a prediction from each and from all of them together."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError, DataError, FusionError
from polymodal.fusion import Fusion, SiteState
from polymodal.given import check_inputs, check_tensors
from polymodal.nn import Ensemble, OneStream, Prediction, Stem
from polymodal.nn.roster import Pattern, patterns_of
from polymodal.settings import FuseSettings
from polymodal.taken_over import TakenOver


class Multimodal(nn.Module):
    """A network that several modalities share, as `fuse` makes it.

    Attributes:
        network: The plain network with private norms and fusion modules; it takes and returns folded tensors.
        settings: How it was made of the plain network.
        roster: The modalities, and which of them are present.
        taken_over: What it has of the trained network that it started from; None if it started from none.
    """

    taken_over: TakenOver | None = None

    def __init__(self, network: nn.Module, stem: Stem, settings: FuseSettings) -> None:
        super().__init__()
        self.roster = stem.roster
        self.stem = stem
        self.network = network
        merged = settings.fusion.merges
        self.ensemble: Ensemble | OneStream = OneStream(self.roster) if merged else Ensemble(self.roster)
        self.settings = settings
        # A hook, so that it is known wherever the network is called from, and when layers run again for their gradient.
        network.register_forward_pre_hook(self.roster.count)
        like = next(p for p in network.parameters() if p.is_floating_point())
        self.ensemble.to(device=like.device, dtype=like.dtype)
        # Each submodule keeps its own mode: parts of the network may stand in eval mode on purpose.
        self.training = self.stem.training = self.ensemble.training = network.training

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names of the modalities, in order."""
        return self.roster.names

    @property
    def fusion(self) -> Fusion:
        """The fusion's settings."""
        return self.settings.fusion

    @property
    def sites(self) -> tuple[str, ...]:
        """The names of the layers of `network` at which the fusion acts."""
        return self.settings.sites

    @property
    def outputs(self) -> tuple[str, ...]:
        """The modalities whose prediction costs nothing more: all, or none where the fusion merges them."""
        return () if self.fusion.merges else self.modalities

    @property
    def branches(self) -> tuple[str, ...]:
        """The modalities that have a prediction of their own, if it is asked for."""
        return self.modalities if self.fusion.branches or not self.fusion.merges else ()

    def weights(self) -> dict[str, float]:
        """The ensemble's weights α by modality, summing to one; empty where there is one prediction alone."""
        if isinstance(self.ensemble, OneStream):
            return {}
        return dict(zip(self.modalities, self.ensemble.alpha.detach().softmax(0).tolist(), strict=True))

    @property
    def channels(self) -> dict[str, int | None]:
        """The channels that each modality has; None where `fuse` was not told."""
        return dict(self.settings.modalities)

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        *,
        subset: bool = False,
        per_modality: bool | None = None,
        present: Mapping[str, Tensor] | None = None,
    ) -> Prediction:
        """Predict from every modality, and from all of them together.

        Args:
            inputs: An image `(B, C_m, H, W)` for every modality, all of the same B, H and W; `(B, C_m, D, H, W)` where
                the network takes volumes, `(B, C_m, L)` where it takes signals.
            subset: Allow some of the modalities to be absent. An absent one exchanges nothing, and the others' ensemble
                weights are scaled to sum to one. Train on a subset without gradient checkpointing, which runs layers
                again when all modalities are present again.
            per_modality: Whether to predict from every modality by itself, too, where the fusion makes one stream and
                this costs more (`DecodeOnce`); None does so in training alone, whose loss needs it.
            present: Which samples have a modality, boolean `(B,)`, by modality; all have those that it does not name.
                The image of a sample without it is not looked at. Each sample gives what it would in a batch of those
                that have the same modalities; only statistics that norms take of a batch are those of all samples
                together that have the modality.

        Returns:
            The predictions of the modalities that are present, their ensemble and its weights.

        Raises:
            DataError: When a modality is unknown or missing, an image does not fit, or a sample has no modality; the
                message names it.
            FusionError: When the fusion cannot do without a modality that is absent, or with samples that differ in
                theirs.
        """
        if not isinstance(subset, bool):
            raise DataError(
                f"subset: expected True or False, got {subset!r}. To predict from some modalities, give their images "
                "alone, and True."
            )
        given = check_inputs(inputs, self.settings.modalities, subset=subset, axes=self.stem.axes)
        if len(given) < len(self.modalities) and self.fusion.needs_all:
            absent = ", ".join(name for name in self.modalities if name not in inputs)
            raise FusionError(
                f"Missing modality {absent}: the fusion {self.fusion.name!r} needs every modality, as "
                f"{self.fusion.needs_all}. Give an image for each."
            )
        if not torch.compiler.is_compiling():
            check_tensors(inputs, self.network)
        patterns = () if present is None else self._patterns(inputs, given, present)
        if len(patterns) == 1:  # all samples have the same: the others cost nothing
            given, patterns = patterns[0].present, ()
        elif patterns:
            given = tuple(sorted({m for pattern in patterns for m in pattern.present}))
        branching = self.fusion.branches and (self.training if per_modality is None else per_modality)
        if len(given) == len(self.modalities) and not branching and not patterns:
            return self.ensemble(self.network(self.stem(inputs)))
        with self.roster.only(given, branching=branching, patterns=patterns):
            return self.ensemble(self.network(self.stem(inputs)))

    def _patterns(
        self, inputs: Mapping[str, Tensor], given: Sequence[int], present: Mapping[str, Tensor]
    ) -> tuple[Pattern, ...]:
        """How the samples differ in their modalities; one pattern where they do not."""
        if not isinstance(present, Mapping):
            raise DataError(
                f"present: expected a dict of boolean tensors by modality, one value for each sample, got a "
                f"{type(present).__name__}."
            )
        names = [self.modalities[m] for m in given]
        first = inputs[names[0]]
        flags = torch.zeros(len(first), len(self.modalities), dtype=torch.bool)
        flags[:, list(given)] = True
        for name, has in present.items():
            if name not in names:
                raise DataError(f"present: {name!r} is none of the modalities that were given, {', '.join(names)}.")
            if not isinstance(has, Tensor) or has.dtype != torch.bool or has.shape != first.shape[:1]:
                got = f"{has.dtype} {tuple(has.shape)}" if isinstance(has, Tensor) else repr(has)
                raise DataError(
                    f"present: expected for {name!r} a boolean tensor ({len(first)},), one for each sample, got {got}."
                )
            flags[:, self.modalities.index(name)] = has.cpu()
        if not flags.any(1).all():
            sample = int(flags.any(1).logical_not().nonzero()[0])
            raise DataError(f"present: sample {sample} has no modality. Leave it out of the batch.")
        patterns = tuple(patterns_of(flags))
        if not flags.all() and self.fusion.needs_all:
            raise FusionError(f"present: samples lack modalities, and {self.fusion.needs_all}.")
        if len(patterns) > 1 and not self.fusion.takes_gaps:
            raise FusionError(
                f"present: the samples differ in their modalities, and the fusion {self.fusion.name!r} does not say "
                "that it can work on such a batch (`takes_gaps`). Give samples with the same modalities at a time."
            )
        return tuple(Pattern(p.present, p.samples.to(first.device)) for p in patterns)

    def fusion_loss(self) -> Tensor:
        """What the fusion adds to the loss of the last forward pass, weighted: a scalar (CEN eq. 4).

        Ask for it before the network runs again: what looks at features, such as `Alignment` and `TokenExchange`, has
        those of the last pass alone, and none of a pass without gradients or in eval mode, when it adds 0.
        """
        return self.fusion.loss(self.network, self.sites)

    def scales(self) -> dict[str, nn.Parameter]:
        """The scales γ `(M, C)` by which the fusion chooses channels, by site."""
        return self.fusion.scales(self.network, self.sites)

    def exchange_state(self) -> dict[str, SiteState]:
        """Which channels are exchanged now, by site; empty for a fusion that selects none."""
        return self.fusion.state(self.network, self.sites)

    def exchanged(self) -> dict[str, dict[str, float]]:
        """By site and modality, the share in 0..1 of the channels that may be exchanged and now are."""
        return {
            site: dict(zip(self.modalities, state.share(), strict=True))
            for site, state in self.exchange_state().items()
        }

    @contextmanager
    def fusion_disabled(self) -> Iterator[None]:
        """Within the context the modalities do not meet before the ensemble.

        Raises:
            FusionError: When the fusion makes one stream of the modalities, which has no form without it.
        """
        if self.fusion.merges and not self.fusion.branches:
            raise FusionError(
                f"A fusion by {self.fusion.name!r} makes one stream of the modalities: without it there is no network."
            )
        with self.roster.without_fusion():
            yield

    def no_weight_decay(self) -> set[str]:
        """The names of the parameters that a rule by shape would let decay, though those of plain networks do not.

        A scale of each modality, `(M, C)`, is no matrix: weight decay would press all scales to 0, which to an exchange
        says to give up every channel. What the plain network names itself, as timm's do, is among them. The optimisers
        of timm ask for it.
        """
        said = getattr(self.network, "no_weight_decay", ())
        own: Iterable[str] = said() if callable(said) else said
        names = {f"network.{name}" for name in own}
        for path, module in self.named_modules():
            for key in getattr(module, "per_modality", ()):
                parameter = module._parameters.get(key)
                if parameter is not None and parameter.dim() <= 2:
                    names.add(f"{path}.{key}")
        return names

    def _replicate_for_data_parallel(self) -> Any:
        """Refused: replicas would run at the same time, and they share who is there.

        Raises:
            FusionError: Always, with the remedy.
        """
        raise FusionError(
            "DataParallel runs a network on several devices at once, in threads of one process, where the modalities "
            "of one batch would be taken for those of another. Use torch.nn.parallel.DistributedDataParallel."
        )

    def config(self) -> dict[str, Any]:
        """The arguments of `fuse` that make this network again from the plain one, in types that JSON knows."""
        return self.settings.as_config()


def is_fused(net: object) -> TypeGuard[Multimodal]:
    """Whether `fuse` has made it; a wrapper that hands its attributes on, as of torch.compile, is as good."""
    return isinstance(getattr(net, "settings", None), FuseSettings)


def require_fused(net: object) -> None:
    """Refuse what `fuse` has not made, see `is_fused`.

    Raises:
        ConfigError: With what it is.
    """
    if not is_fused(net):
        raise ConfigError(
            f"net: expected what `fuse` returned, got a {type(net).__name__}. Fuse it first, polymodal.fuse(network, "
            "modalities); of a wrapper, such as DistributedDataParallel, give the network within, net.module."
        )
