"""From a plain network to a multimodal one: every layer shared, the norms private, a fusion at its sites."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from polymodal import preconditions
from polymodal.anatomy import Anatomy, ByShapes, ghost
from polymodal.anatomy.listed import check_listed
from polymodal.errors import FusionError, PolymodalError
from polymodal.fusion import Fusion, Plan, Sites, make_fusion
from polymodal.multimodal import Multimodal
from polymodal.nn import LowRankConv2d, PrivateConv, PrivateLayer, Roster, Stem
from polymodal.nn.make_private import make_private
from polymodal.nn.slot import replace_modules
from polymodal.settings import FuseSettings
from polymodal.ties import COPIES, check_ties


def fuse(
    model: nn.Module,
    modalities: Sequence[str] | Mapping[str, int | None],
    fusion: Fusion | str | None = "exchange",
    *,
    sites: Sites = "auto",
    stems: str | Mapping[str, str] = "repeat",
    norms: str = "private",
    convolutions: str | Mapping[str, Any] = "shared",
    statistics: str | Sequence[str] = "batch",
    inplace: bool = False,
) -> "Multimodal":
    """Make a plain network multimodal (CEN sec. 3).

    All modalities share every layer but the norms, of which each modality has its own, started from the
    network's values. Everything is checked before anything is changed, by running copies without values if need be.

    Statistics over several processes: convert the network by `torch.nn.SyncBatchNorm.convert_sync_batchnorm` before it
    is fused; afterwards that is refused. Only one forward pass of a network may run at a time.

    Private norms have parameters of their own, also with `inplace`: make the optimiser, and averages of the weights, of
    what is returned. See `Multimodal.no_weight_decay` for groups without weight decay.

    Args:
        model: A network that takes one image `(B, C, H, W)` and returns a tensor, or a list or dict of tensors, whose
            first axis is the batch. It is left as it is unless `inplace`.
        modalities: The names, in order; or the names with the channels of each, such as `{"rgb": 3, "depth": 1}`. Names
            alone, or None for the channels, mean images with the channels that the network takes.
        fusion: How modalities meet: a `Fusion`, the name of one with its defaults, or None for not at all.
        sites: Where they meet: `"auto"`, a pattern of dotted layer names such as `"*.bn2"`, several, or a predicate
            of name and module.
        stems: How a modality with other channels enters: `"repeat"` tiles them, `"private"` gives it a first
            convolution of its own that starts from the network's; for all modalities, or by name.
        norms: `"private"`, or `"shared"` for one set of norms that all modalities use.
        convolutions: `"shared"`, or `"private"` for independent networks: every modality has a copy of every layer.
            Where the fusion makes one stream of the modalities, the layers after it exist once. Or `{"rank": r}` for
            shared convolutions with a private part of low rank, see `LowRankConv2d`: all of one group and at least r
            channels, or those that `"sites"` names.
        statistics: What norms normalise by in training: `"batch"`, the statistics of the batch; `"frozen"`, the
            running ones, never updated; or patterns of the norms to freeze, the others using the batch.
        inplace: Change and keep `model` itself instead of a copy.

    Returns:
        The multimodal network, in the same mode, dtype and device.

    Raises:
        FusionError: When the network or a setting does not allow it; the message names the layer and the remedy, and
            nothing was changed.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))
        >>> net = fuse(network, ["rgb", "depth"], sites="1")
        >>> net({"rgb": torch.zeros(1, 3, 9, 9), "depth": torch.zeros(1, 3, 9, 9)}).ensemble.shape
        torch.Size([1, 2, 7, 7])
    """
    method = fusion if isinstance(fusion, Fusion) else make_fusion(fusion or "none")
    method.as_config()  # refused now if it cannot be saved, not after a training
    channels = preconditions.checked_channels(modalities)
    if not isinstance(model, nn.Module):
        raise FusionError(f"model: expected a network, an nn.Module, got a {type(model).__name__}.")
    if not inplace:
        preconditions.check_copies(model)
    anatomy = Anatomy(model)
    preconditions.check_norms(anatomy)
    frozen = preconditions.frozen_norms(anatomy, statistics)
    width = anatomy.entrance.channels
    private_stems = preconditions.private_modalities(stems, channels, anatomy)
    preconditions.check_rows(anatomy, anatomy.norms)
    if private_stems or any(channels.values()):
        # Beside a modality with other channels the network cannot say any more what it takes.
        channels = {name: count or width for name, count in channels.items()}
    places = method.find_sites(model, sites)
    plan = method.plan(anatomy, places)
    if isinstance(convolutions, Mapping):
        convolutions = preconditions.low_rank_sites(anatomy, convolutions, plan.merged, bool(private_stems))
    ways = {name: "private" if name in private_stems else "repeat" for name in channels}
    settings = FuseSettings(channels, method, places, ways, norms, convolutions, frozen or "batch")
    if method.needs_private_norms and norms == "shared":
        raise FusionError(
            f"norms: a fusion by {method.name!r} acts at private norms, which shared norms are not. "
            'Use norms="private" or fusion=None.'
        )
    if convolutions == "private":
        preconditions.check_layers(anatomy)
    surgery = _Surgery(anatomy, settings, plan)
    private = surgery.replaced_layers()
    check_listed(model, private)
    if convolutions != "shared":
        preconditions.check_rows(anatomy, {name: model.get_submodule(name) for name in private})
    check_ties(model, surgery.kinds())
    surgery.rehearse()
    if inplace:
        surgery.try_out()
    return surgery.carry_out(model if inplace else _copied(model))


@dataclass(frozen=True)
class _Surgery:
    """What is to be done to a network, all of it checked: `fuse` explains the settings."""

    anatomy: Anatomy
    settings: FuseSettings
    plan: Plan

    def carry_out(self, network: nn.Module) -> "Multimodal":
        """Change the network, or a copy of it."""
        settings = self.settings
        roster = Roster(tuple(settings.modalities))
        # What was made of a tensor, so that layers which share one go on sharing what becomes of it.
        made: dict[int, Tensor] = {}
        copied: dict[str, dict[int, Any]] = {name: {} for name in roster.names}
        way_in = self.anatomy.entrance
        stem = Stem(roster, settings.modalities, way_in.channels, settings.private_stems, way_in.axes)
        replaced: dict[int, nn.Module] = {}
        for name in self.anatomy.norms:
            norm = network.get_submodule(name)
            own = roster if self._has_own_norm(name) else None
            replaced[id(norm)] = make_private(norm, own, name=name, memo=made, frozen=name in settings.frozen)
        if settings.private_stems:
            conv: Any = network.get_submodule(way_in.name)
            replaced[id(conv)] = PrivateConv(conv, roster, self._stem_channels(), stem.width, copied)
        for layer in map(network.get_submodule, self._copied_layers()):
            if id(layer) not in replaced:
                replaced[id(layer)] = PrivateLayer(layer, roster, list(copied.values()))
        rank, thin = settings.low_rank
        for conv in map(network.get_submodule, thin):
            assert isinstance(conv, nn.Conv2d)
            replaced[id(conv)] = LowRankConv2d(conv, roster, rank)
        network = replace_modules(network, replaced)
        _layer_by_layer(network)
        self.plan.install(network, roster)
        return Multimodal(network, stem, settings)

    def kinds(self) -> dict[int, str]:
        """What becomes of the layers that are replaced, by their ids."""
        conv, anatomy = self.anatomy.entrance.conv, self.anatomy
        kinds = {id(anatomy.layers[name]): COPIES for name in self._copied_layers()}
        alike = set(self._stem_channels().values()) == {conv.in_channels}
        if self.settings.private_stems and not (alike and self.settings.convolutions == "private"):
            kinds[id(conv)] = "a first convolution of its own for some modalities"
        for name, norm in anatomy.norms.items():
            own = self._has_own_norm(name)
            kinds[id(norm)] = "a norm of each modality" if own else "a norm of all modalities together"
        return kinds

    def replaced_layers(self) -> list[str]:
        """The layers beside norms that others take the place of."""
        stem = [self.anatomy.entrance.name] if self.settings.private_stems else []
        return [*stem, *self._copied_layers(), *self.settings.low_rank[1]]

    def rehearse(self) -> None:
        """Refuse a change after which a network would not run, where tensors without values can show it.

        A private norm takes and returns what the plain one did. Private layers stand where the network may look for
        something else, and one stream is what only its decoder must see.
        """
        settings, model = self.settings, self.anatomy.network
        if not (settings.private_stems or settings.convolutions != "shared" or settings.fusion.merges):
            return
        if self.anatomy.run.problem is not None:  # it may take images of another size alone, or none without values
            return
        way_in, size = self.anatomy.entrance, self.anatomy.run.size
        images = {name: way_in.image(size, count) for name, count in settings.modalities.items()}
        try:
            changed = self.carry_out(ghost(model))
            with ByShapes():
                changed(images)
        except PolymodalError:
            raise
        except NotImplementedError:  # of an operation without values, nothing is known
            return
        except Exception as error:
            kind, reason = type(model).__name__, str(error).partition("\n")[0]
            raise FusionError(
                f"The network {kind} would not run with other layers in the place of its own: {reason}. "
                'Use stems="repeat", convolutions="shared", and a fusion that keeps one stream a modality.'
            ) from error

    def try_out(self) -> None:
        """Let what still refuses the change, such as a user's own fusion, do so before the network itself is changed.

        What fails for the lack of values tells nothing.
        """
        with suppress(NotImplementedError, RuntimeError):
            self.carry_out(ghost(self.anatomy.network))

    def _has_own_norm(self, name: str) -> bool:
        """Whether every modality has a norm of its own there."""
        return self.settings.norms == "private" and name not in self.plan.merged

    def _copied_layers(self) -> list[str]:
        """The layers of which every modality has a copy."""
        private = self.settings.convolutions == "private"
        return [name for name in self.anatomy.layers if name not in self.plan.merged] if private else []

    def _stem_channels(self) -> dict[str, int]:
        """The channels of the modalities that get a first convolution of their own."""
        width, settings = self.anatomy.entrance.conv.in_channels, self.settings
        return {
            name: (count if name in settings.private_stems else None) or width
            for name, count in settings.modalities.items()
            if name in settings.private_stems or settings.convolutions == "private"
        }


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever a network keeps that cannot be copied
        raise FusionError(
            f"The network {type(model).__name__} cannot be copied ({error}). Use inplace=True to change it itself."
        ) from error


def _layer_by_layer(network: nn.Module) -> None:
    """Let PyTorch's own transformer layers call their norms.

    In eval mode without gradients they compute all of a layer in one kernel, from the weights of the norms, and would
    pass over whatever stands in the place of these or behind them.
    """
    for module in network.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
