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
    for setting, value in (("norms", norms), ("convolutions", convolutions)):
        if value not in ("private", "shared"):
            raise FusionError(f'{setting}: expected "private" or "shared", got {value!r}.')
    frozen = frozen_norms(model, statistics)
    way_in = entrance(model)
    channels = checked_channels(modalities, names)
    private_stems = private_modalities(stems, channels, model, way_in)
    if private_stems or any(channels.values()):
        # Beside a modality with other channels the network cannot say any more what it takes.
        channels = {name: count or way_in.channels for name, count in channels.items()}
    places = method.find_sites(model, sites)
    if method.needs_private_norms and norms == "shared":
        raise FusionError(
            f"norms: a fusion by {method.name!r} acts at private norms, which shared norms are not. "
            'Use norms="private" or fusion=None.'
        )
    if convolutions == "private":
        check_layers(model)
    plan = _Plan(
        names,
        channels,
        way_in,
        private_stems,
        method,
        places,
        method.merged(model, places),
        frozen,
        norms,
        convolutions,
    )
    check_ties(model, plan.kinds(model))
    plan.rehearse(model)
    return plan.carry_out(model if inplace else _copied(model))


@dataclass(frozen=True)
class _Plan:
    """What is to be done to a network, all of it checked: `fuse` explains the settings."""

    names: Sequence[str]
    channels: Mapping[str, int | None]
    way_in: Entrance
    private_stems: frozenset[str]
    method: Fusion
    places: tuple[str, ...]
    merged: frozenset[str]
    frozen: set[str]
    norms: str
    convolutions: str

    def carry_out(self, network: nn.Module) -> "Multimodal":
        """Change the network."""
        roster = Roster(self.names)
        # What was made of a tensor, so that layers which share one go on sharing what becomes of it.
        made: dict[int, Tensor] = {}
        copied: dict[str, dict[int, Any]] = {name: {} for name in self.names}
        stem = Stem(roster, self.channels, self.way_in.channels, self.private_stems)
        replaced: dict[int, nn.Module] = {
            id(norm): make_private(
                norm,
                roster if self.norms == "private" and name not in self.merged else None,
                name=name,
                memo=made,
                frozen=name in self.frozen,
            )
            for name, norm in named_norms(network)
        }
        if self.private_stems:
            conv = network.get_submodule(self.way_in.name)
            assert isinstance(conv, nn.Conv2d)
            replaced[id(conv)] = PrivateConv2d(conv, roster, self._stem_channels(), stem.width, copied)
        if self.convolutions == "private":
            for name, layer in named_layers(network):
                if name not in self.merged and id(layer) not in replaced:
                    replaced[id(layer)] = PrivateLayer(layer, roster, list(copied.values()))
        network = _replace(network, replaced)
        self.method.install(network, self.places, roster)
        return Multimodal(network, stem, self.method, self.places)

    def kinds(self, network: nn.Module) -> dict[int, str]:
        """What becomes of the layers that are replaced, by their ids."""
        kinds: dict[int, str] = {}
        if self.convolutions == "private":
            kinds |= {id(layer): COPIES for name, layer in named_layers(network) if name not in self.merged}
        alike = set(self._stem_channels().values()) == {self.way_in.conv.in_channels}
        if self.private_stems and not (alike and self.convolutions == "private"):
            kinds[id(self.way_in.conv)] = "a first convolution of its own for some modalities"
        for name, norm in named_norms(network):
            shared = self.norms == "shared" or name in self.merged
            kinds[id(norm)] = "a norm of all modalities together" if shared else "a norm of each modality"
        return kinds

    def _stem_channels(self) -> dict[str, int]:
        """The channels of the modalities that get a first convolution of their own."""
        return {
            name: (self.channels[name] if name in self.private_stems else None) or self.way_in.conv.in_channels
            for name in self.names
            if name in self.private_stems or self.convolutions == "private"
        }

    def rehearse(self, model: nn.Module) -> None:
        """Refuse a change after which a network would not run, where tensors without values can show it.

        A private norm takes and returns what the plain one did. Private layers stand where the network may look for
        something else, and one stream is what only its decoder must see.
        """
        if not (self.private_stems or self.convolutions == "private" or self.method.merges):
            return
        like = next(p for p in model.parameters() if p.is_floating_point()).detach()
        for size in SIZES:
            image = like.new_empty(1, self.way_in.channels, size, size, device="meta")
            images = {
                name: like.new_empty(1, count or self.way_in.channels, size, size, device="meta")
                for name, count in self.channels.items()
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
