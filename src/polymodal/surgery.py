"""From a plain network to a multimodal one: every layer shared, the norms private, a fusion at its sites."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from polymodal.errors import FusionError, PolymodalError
from polymodal.fusion import Fusion, Sites, make_fusion
from polymodal.multimodal import Multimodal
from polymodal.nn import PrivateConv2d, PrivateLayer, Roster, Stem
from polymodal.nn.entrance import SIZES, Entrance, entrance, ghost
from polymodal.nn.norm import make_private
from polymodal.preconditions import (
    check_layers,
    check_norms,
    checked_channels,
    checked_names,
    frozen_norms,
    named_layers,
    named_norms,
    private_modalities,
)
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
    convolutions: str = "shared",
    statistics: str | Sequence[str] = "batch",
    inplace: bool = False,
) -> "Multimodal":
    """Make a plain network multimodal (CEN sec. 3).

    All modalities share every layer but the norms, of which each modality has its own, started from the
    network's values. Everything is checked before anything is changed, by running copies without values if need be.

    Statistics over several processes: convert the network by `torch.nn.SyncBatchNorm.convert_sync_batchnorm` before it
    is fused; afterwards that is refused. Only one forward pass of a network may run at a time.

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
            Where the fusion makes one stream of the modalities, the layers after it exist once.
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
    names = checked_names(modalities)
    if not isinstance(model, nn.Module):
        raise FusionError(f"model: expected a network, an nn.Module, got a {type(model).__name__}.")
    check_norms(model)
    frozen = frozen_norms(model, statistics)
    way_in = entrance(model)
    channels = checked_channels(modalities, names)
    private_stems = private_modalities(stems, channels, model, way_in)
    if private_stems or any(channels.values()):
        # Beside a modality with other channels the network cannot say any more what it takes.
        channels = {name: count or way_in.channels for name, count in channels.items()}
    settings = FuseSettings(
        channels,
        method,
        method.find_sites(model, sites),
        {name: "private" if name in private_stems else "repeat" for name in names},
        norms,
        convolutions,
        frozen or "batch",
    )
    if method.needs_private_norms and norms == "shared":
        raise FusionError(
            f"norms: a fusion by {method.name!r} acts at private norms, which shared norms are not. "
            'Use norms="private" or fusion=None.'
        )
    if convolutions == "private":
        check_layers(model)
    plan = _Plan(settings, way_in, method.merged(model, settings.sites))
    check_ties(model, plan.kinds(model))
    plan.rehearse(model)
    return plan.carry_out(model if inplace else _copied(model))


@dataclass(frozen=True)
class _Plan:
    """What is to be done to a network, all of it checked: `fuse` explains the settings."""

    settings: FuseSettings
    way_in: Entrance
    merged: frozenset[str]

    def carry_out(self, network: nn.Module) -> "Multimodal":
        """Change the network."""
        settings = self.settings
        roster = Roster(tuple(settings.modalities))
        # What was made of a tensor, so that layers which share one go on sharing what becomes of it.
        made: dict[int, Tensor] = {}
        copied: dict[str, dict[int, Any]] = {name: {} for name in roster.names}
        stem = Stem(roster, settings.modalities, self.way_in.channels, settings.private_stems)
        replaced: dict[int, nn.Module] = {
            id(norm): make_private(
                norm,
                roster if settings.norms == "private" and name not in self.merged else None,
                name=name,
                memo=made,
                frozen=name in settings.frozen,
            )
            for name, norm in named_norms(network)
        }
        if settings.private_stems:
            conv = network.get_submodule(self.way_in.name)
            assert isinstance(conv, nn.Conv2d)
            replaced[id(conv)] = PrivateConv2d(conv, roster, self._stem_channels(), stem.width, copied)
        if settings.convolutions == "private":
            for name, layer in named_layers(network):
                if name not in self.merged and id(layer) not in replaced:
                    replaced[id(layer)] = PrivateLayer(layer, roster, list(copied.values()))
        network = _replace(network, replaced)
        settings.fusion.install(network, settings.sites, roster)
        return Multimodal(network, stem, settings)

    def kinds(self, network: nn.Module) -> dict[int, str]:
        """What becomes of the layers that are replaced, by their ids."""
        kinds: dict[int, str] = {}
        if self.settings.convolutions == "private":
            kinds |= {id(layer): COPIES for name, layer in named_layers(network) if name not in self.merged}
        alike = set(self._stem_channels().values()) == {self.way_in.conv.in_channels}
        if self.settings.private_stems and not (alike and self.settings.convolutions == "private"):
            kinds[id(self.way_in.conv)] = "a first convolution of its own for some modalities"
        for name, norm in named_norms(network):
            shared = self.settings.norms == "shared" or name in self.merged
            kinds[id(norm)] = "a norm of all modalities together" if shared else "a norm of each modality"
        return kinds

    def _stem_channels(self) -> dict[str, int]:
        """The channels of the modalities that get a first convolution of their own."""
        return {
            name: (self.settings.modalities[name] if name in self.settings.private_stems else None)
            or self.way_in.conv.in_channels
            for name in self.settings.modalities
            if name in self.settings.private_stems or self.settings.convolutions == "private"
        }

    def rehearse(self, model: nn.Module) -> None:
        """Refuse a change after which a network would not run, where tensors without values can show it.

        A private norm takes and returns what the plain one did. Private layers stand where the network may look for
        something else, and one stream is what only its decoder must see.
        """
        if not (self.settings.private_stems or self.settings.convolutions == "private" or self.settings.fusion.merges):
            return
        like = next(p for p in model.parameters() if p.is_floating_point()).detach()
        for size in SIZES:
            image = like.new_empty(1, self.way_in.channels, size, size, device="meta")
            images = {
                name: like.new_empty(1, count or self.way_in.channels, size, size, device="meta")
                for name, count in self.settings.modalities.items()
            }
            try:
                ghost(model)(image)
            except Exception:  # it may take images of another size alone, or none without values
                continue
            try:
                self.carry_out(ghost(model))(images)
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
            return


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever a network keeps that cannot be copied
        raise FusionError(
            f"The network {type(model).__name__} cannot be copied ({error}). Use inplace=True to change it itself."
        ) from error


def _replace(root: nn.Module, replaced: Mapping[int, nn.Module]) -> nn.Module:
    """Put new modules where the old ones stand, wherever and however often that is."""
    for parent in list(root.modules()):
        for name, child in parent._modules.items():  # named_children() would show a shared module once
            if id(child) in replaced:
                setattr(parent, name, replaced[id(child)])
    return replaced.get(id(root), root)
