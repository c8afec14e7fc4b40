"""From a plain network to a multimodal one: every layer shared, the norms private, a fusion at its sites."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence, ValuesView
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrize import is_parametrized

from polymodal.errors import DataError, FusionError, PolymodalError
from polymodal.fusion import Fusion, Sites, SiteState, make_fusion
from polymodal.nn import (
    Ensemble,
    OneStream,
    Prediction,
    PrivateConv2d,
    PrivateLayer,
    PrivateNorm2d,
    Roster,
    Stem,
)
from polymodal.nn.entrance import SIZES, Entrance, entrance, ghost, other_readers
from polymodal.nn.norm import PlainNorm, can_be_private, make_private

_PER_SAMPLE_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)


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
    is fused; afterwards that finds no norm. Only one forward pass of a network may run at a time.

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
    names = _checked_names(modalities)
    if not isinstance(model, nn.Module):
        raise FusionError(f"model: expected a network, an nn.Module, got a {type(model).__name__}.")
    check_norms(model)
    for setting, value in (("norms", norms), ("convolutions", convolutions)):
        if value not in ("private", "shared"):
            raise FusionError(f'{setting}: expected "private" or "shared", got {value!r}.')
    frozen = _frozen(model, statistics)
    way_in = entrance(model)
    channels = _checked_channels(modalities, names)
    private_stems = _private_stems(stems, channels, model, way_in)
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
        _check_layers(model)
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
        stem = Stem(roster, self.channels, self.way_in.channels, self.private_stems)
        replaced: dict[int, nn.Module] = {
            id(norm): make_private(
                norm,
                roster if self.norms == "private" and name not in self.merged else None,
                name=name,
                frozen=name in self.frozen,
            )
            for name, norm in _named_norms(network)
        }
        if self.private_stems:
            conv = network.get_submodule(self.way_in.name)
            assert isinstance(conv, nn.Conv2d)
            own = {
                name: (self.channels[name] if name in self.private_stems else None) or conv.in_channels
                for name in self.names
                if name in self.private_stems or self.convolutions == "private"
            }
            replaced[id(conv)] = PrivateConv2d(conv, roster, own, stem.width)
        if self.convolutions == "private":
            for name, layer in _named_layers(network):
                if name not in self.merged and id(layer) not in replaced:
                    replaced[id(layer)] = PrivateLayer(layer, roster)
        network = _replace(network, replaced)
        self.method.install(network, self.places, roster)
        return Multimodal(network, stem, self.method, self.places)

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


class Multimodal(nn.Module):
    """A network that several modalities share, as `fuse` makes it.

    Attributes:
        network: The plain network with private norms and fusion modules; it takes and returns folded tensors.
        fusion: The fusion's settings.
        sites: The names of the layers of `network` at which it acts.
        roster: The modalities, and which of them are present.
    """

    def __init__(self, network: nn.Module, stem: Stem, fusion: Fusion, sites: tuple[str, ...]) -> None:
        super().__init__()
        self.roster = stem.roster
        self.stem = stem
        self.network = network
        self.ensemble: Ensemble | OneStream = OneStream() if fusion.merges else Ensemble(self.roster)
        self.fusion = fusion
        self.sites = sites
        like = next(p for p in network.parameters() if p.is_floating_point())
        self.ensemble.to(device=like.device, dtype=like.dtype)
        # Each submodule keeps its own mode: parts of the network may stand in eval mode on purpose.
        self.training = self.stem.training = self.ensemble.training = network.training

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names of the modalities, in order."""
        return self.roster.names

    @property
    def outputs(self) -> tuple[str, ...]:
        """The modalities that have a prediction of their own: all, or none where the fusion makes one stream."""
        return () if self.fusion.merges else self.modalities

    def weights(self) -> dict[str, float]:
        """The ensemble's weights α by modality, summing to one; empty where there is one prediction alone."""
        if isinstance(self.ensemble, OneStream):
            return {}
        return dict(zip(self.modalities, self.ensemble.alpha.detach().softmax(0).tolist(), strict=True))

    @property
    def channels(self) -> dict[str, int | None]:
        """The channels that each modality has; None where `fuse` was not told."""
        return dict(self.stem.channels)

    def forward(self, inputs: Mapping[str, Tensor], *, subset: bool = False) -> Prediction:
        """Predict from every modality, and from all of them together.

        Args:
            inputs: An image `(B, C_m, H, W)` for every modality, all of the same B, H and W.
            subset: Allow some of the modalities to be absent. An absent one exchanges nothing, and the others' ensemble
                weights are scaled to sum to one. Train on a subset without gradient checkpointing, which runs layers
                again when all modalities are present again.

        Returns:
            The predictions of the modalities that are present, their ensemble and its weights.

        Raises:
            DataError: When a modality is unknown or missing, or an image does not fit; the message names it.
        """
        present = check_inputs(inputs, self.stem.channels, subset=subset)
        if len(present) == len(self.modalities):
            return self.ensemble(self.network(self.stem(inputs)))
        with self.roster.only(present):
            return self.ensemble(self.network(self.stem(inputs)))

    def fusion_loss(self) -> Tensor:
        """What the fusion adds to the loss of the last forward pass in training, weighted: a scalar (CEN eq. 4)."""
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
        if self.fusion.merges:
            raise FusionError(
                f"A fusion by {self.fusion.name!r} makes one stream of the modalities: without it there is no network."
            )
        with self.roster.without_fusion():
            yield

    def config(self) -> dict[str, Any]:
        """The arguments of `fuse` that make this network again from the plain one, in types that JSON knows."""
        norms = [norm for norm in self.network.modules() if isinstance(norm, PrivateNorm2d)]
        return {
            "modalities": self.channels,
            "fusion": self.fusion.as_config(),
            "sites": list(self.sites),
            "stems": {name: "private" if name in self.stem.private else "repeat" for name in self.modalities},
            "norms": "private" if any(norm.roster is not None for norm in norms) else "shared",
            "convolutions": "private" if any(isinstance(m, PrivateLayer) for m in self.network.modules()) else "shared",
            # By the names of the plain network: what a fusion put around a layer is in those of this one.
            "statistics": [norm.name for norm in norms if norm.frozen] or "batch",
        }


def check_inputs(
    inputs: Mapping[str, Any], channels: Mapping[str, int | None], *, subset: bool = False
) -> tuple[int, ...]:
    """Refuse images that a network cannot take.

    Args:
        inputs: Images by modality, tensors or arrays.
        channels: The network's modalities with the channels of each; None where they were never said.
        subset: Whether modalities may be absent.

    Returns:
        The indices of the modalities that the inputs hold.

    Raises:
        DataError: When a modality is unknown or missing, or an image does not fit; the message names it.
    """
    modalities = list(channels)
    if not isinstance(inputs, Mapping):
        raise DataError(
            f"Expected a dict of images by modality ({', '.join(modalities)}), got a {type(inputs).__name__}."
        )
    unknown = [name for name in inputs if name not in modalities]
    if unknown:
        raise DataError(f"Unknown modality {unknown[0]!r}: this network knows {', '.join(modalities)}.")
    present = tuple(m for m, name in enumerate(modalities) if name in inputs)
    missing = [name for name in modalities if name not in inputs]
    if missing and not (subset and present):
        raise DataError(
            f"Missing modality {', '.join(missing)}: give an image for each of {', '.join(modalities)}, or "
            "allow some to be absent with subset=True."
        )
    shapes = {name: inputs[name].shape for name in inputs}
    open_ended = next((shape for name, shape in shapes.items() if channels[name] is None), None)
    for name, shape in shapes.items():
        # Modalities whose channels were never said all have those of the network, so at least each other's.
        count = channels[name] or (open_ended[1] if open_ended and len(open_ended) == 4 else None)
        if len(shape) != 4 or count not in (None, shape[1]):
            raise DataError(
                f"Modality {name!r}: expected an image (batch, {count or 'channels'}, height, width), got shape "
                f"{tuple(shape)}."
            )
    first = modalities[present[0]]
    for name, shape in shapes.items():
        if shape[0] != shapes[first][0] or shape[2:] != shapes[first][2:]:
            raise DataError(
                f"Modalities {first!r} and {name!r} do not fit together: shapes {tuple(shapes[first])} and "
                f"{tuple(shape)}. Batch, height and width must agree; resize or align the images first."
            )
    return present


def _checked_names(modalities: Sequence[str] | Mapping[str, int | None]) -> list[str]:
    if isinstance(modalities, str):
        raise FusionError(
            f'modalities: expected a list of names, got the single string {modalities!r}; write ["{modalities}"].'
        )
    if not isinstance(modalities, Iterable) or isinstance(modalities, set | frozenset):  # these have no order
        raise FusionError(f"modalities: expected a list of names, or a dict of channels by name, got {modalities!r}.")
    names = list(modalities)
    if not names:
        raise FusionError("modalities: expected at least one name, got none.")
    for name in names:
        if not isinstance(name, str) or not name or "." in name:
            raise FusionError(f"modalities: expected names without a dot, got {name!r}.")
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise FusionError(f"modalities: {doubled!r} is named twice; every modality needs a name of its own.")
    return names


def _named_norms(model: nn.Module) -> list[tuple[str, PlainNorm]]:
    return [(name, module) for name, module in model.named_modules() if can_be_private(module)]


def check_norms(model: nn.Module) -> list[str]:
    """The names of the norms to make private.

    A norm over one sample (layer, group) is shared like a convolution, unless it is an instance norm with scales or
    running statistics; one over the batch that is not a known 2-D batch norm cannot be, because it would mix the
    modalities' statistics.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise FusionError(
            "A scripted network cannot be taken apart: fuse the Python network, then script or export it."
        )
    others: list[str] = []
    listed = _listed_modules(model)
    for name, module in model.named_modules():
        kind = type(module).__name__
        if isinstance(module, PrivateNorm2d | Multimodal):
            raise FusionError("The network is multimodal already: fuse the plain network.")
        if can_be_private(module):
            if module._forward_hooks or module._forward_pre_hooks:
                raise FusionError(
                    f"The norm '{name}' ({kind}) carries hooks, which would be lost with it: remove them before fusing."
                )
            if id(module) in listed:
                raise FusionError(
                    f"The norm '{name}' ({kind}) is also kept in a plain list or dict, where its replacement would not "
                    "be found: use ModuleList or ModuleDict."
                )
            if is_parametrized(module):
                raise FusionError(
                    f"The norm '{name}' ({kind}) computes its parameters, which would be lost with it: remove the "
                    "parametrizations before fusing."
                )
        elif isinstance(module, _NormBase) and (module.track_running_stats or "BatchNorm" in kind):
            raise FusionError(
                f"The norm '{name}' ({kind}) normalises over the batch in a way that cannot be made private: only "
                "BatchNorm2d, SyncBatchNorm, timm's BatchNormAct2d and InstanceNorm2d can. Replace it by one of them."
            )
        elif "running_var" in dict(module.named_buffers(recurse=False)):
            raise FusionError(
                f"The norm '{name}' ({kind}) keeps running statistics but is no norm that can be made private. "
                'Replace it by BatchNorm2d; for fixed statistics, fuse with statistics="frozen".'
            )
        elif isinstance(module, _PER_SAMPLE_NORMS) or "norm" in kind.lower():
            others.append(f"'{name}' ({kind})")
    private = [name for name, _ in _named_norms(model)]
    if not private:
        found = (
            f"its norms are {', '.join(others[:5])}{', ...' if len(others) > 5 else ''}" if others else "it has no norm"
        )
        raise FusionError(
            f"The network has no norm that could be made private: {found}. Choose a network with BatchNorm2d, or "
            "convert its norms first."
        )
    return private


def _listed_modules(model: nn.Module) -> set[int]:
    """The ids of the modules that a network keeps in lists, tuples and dicts of plain Python."""
    own = vars(nn.Module()).keys()
    kept = [value for module in model.modules() for key, value in vars(module).items() if key not in own]
    values = [value.values() if isinstance(value, dict) else value for value in kept]
    groups = (value for value in values if isinstance(value, list | tuple | ValuesView))
    return {id(item) for group in groups for item in group if isinstance(item, nn.Module)}


def _frozen(model: nn.Module, statistics: str | Sequence[str]) -> set[str]:
    """The names of the norms whose statistics are frozen."""
    if not isinstance(statistics, str | Sequence):
        raise FusionError(f'statistics: expected "batch", "frozen" or a list of norm patterns, got {statistics!r}.')
    if isinstance(statistics, str):
        if statistics not in ("batch", "frozen"):
            raise FusionError(f'statistics: expected "batch", "frozen" or a list of norm patterns, got {statistics!r}.')
        statistics = ["*"] if statistics == "frozen" else []
    norms = dict(_named_norms(model))
    for pattern in statistics:
        if not any(fnmatchcase(name, pattern) for name in norms):
            raise FusionError(
                f"statistics: {pattern!r} matches no norm; the first ones are {', '.join(list(norms)[:8])}."
            )
    frozen = {name for name in norms if any(fnmatchcase(name, pattern) for pattern in statistics)}
    for name in norms:
        if name in frozen and norms[name].running_mean is None:
            raise FusionError(
                f"statistics: '{name}' ({type(norms[name]).__name__}) keeps no running statistics to be frozen. "
                'Use "batch", or patterns of the norms that keep some.'
            )
    return frozen


def _named_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers with parameters that are no norms over the batch: what independent networks have copies of."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if any(p is not None for p in module._parameters.values()) and not can_be_private(module)
    ]


def _check_layers(model: nn.Module) -> None:
    for name, layer in _named_layers(model):
        if next(layer.children(), None) is not None:
            raise FusionError(
                f"convolutions: '{name}' ({type(layer).__name__}) holds parameters beside layers of its own, so the "
                'modalities cannot have copies of it layer by layer. Use convolutions="shared".'
            )


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever a network keeps that cannot be copied
        raise FusionError(
            f"The network {type(model).__name__} cannot be copied ({error}). Use inplace=True to change it itself."
        ) from error


def _checked_channels(
    modalities: Sequence[str] | Mapping[str, int | None], names: Sequence[str]
) -> dict[str, int | None]:
    if not isinstance(modalities, Mapping):
        return dict.fromkeys(names)
    for name, count in modalities.items():
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
            raise FusionError(f"modalities: expected a number of channels ≥ 1 for {name!r}, got {count!r}.")
    return dict(modalities)


def _private_stems(
    stems: str | Mapping[str, str], channels: Mapping[str, int | None], model: nn.Module, way_in: Entrance
) -> frozenset[str]:
    """The modalities that get a first convolution of their own."""
    if not isinstance(stems, str | Mapping):
        raise FusionError(f'stems: expected "repeat", "private" or a dict of them by modality, got {stems!r}.')
    ways = dict.fromkeys(channels, stems) if isinstance(stems, str) else dict.fromkeys(channels, "repeat") | dict(stems)
    for name, way in ways.items():
        if name not in channels:
            raise FusionError(f"stems: unknown modality {name!r}; the modalities are {', '.join(channels)}.")
        if way not in ("repeat", "private"):
            raise FusionError(f'stems: expected "repeat" or "private" for {name!r}, got {way!r}.')
        if way == "repeat" and way_in.channels % (channels[name] or 1):
            raise FusionError(
                f"stems: {name!r} has {channels[name]} channels, which cannot be tiled to the {way_in.channels} that "
                f"the network takes. {_remedy(name, _obstacle(model, way_in))}"
            )
    private = frozenset(name for name, way in ways.items() if way == "private")
    if private and (obstacle := _obstacle(model, way_in)):
        raise FusionError(f'stems: {obstacle}, so no modality can have one of its own. Use stems="repeat".')
    return private


def _obstacle(model: nn.Module, way_in: Entrance) -> str:
    """Why the first convolution cannot be a modality's own; empty when it can."""
    first = f"the network's first convolution '{way_in.name}'"
    if not way_in.direct:
        return f"{first} does not see the image's {way_in.channels} channels but others that are made of them"
    if way_in.conv.groups != 1:
        return f"{first} is grouped"
    if is_parametrized(way_in.conv):
        return f"{first} computes its weights (parametrized)"
    if others := other_readers(model, way_in):
        return f"what {first} reads is read by '{others[0]}', too"
    return ""


def _remedy(name: str, obstacle: str) -> str:
    if not obstacle:
        return f'Use stems={{"{name}": "private"}}.'
    return f"A private stem cannot help, as {obstacle}: give the modality another number of channels."


def _replace(root: nn.Module, replaced: Mapping[int, nn.Module]) -> nn.Module:
    """Put new modules where the old ones stand, wherever and however often that is."""
    for parent in list(root.modules()):
        for name, child in parent._modules.items():  # named_children() would show a shared module once
            if id(child) in replaced:
                setattr(parent, name, replaced[id(child)])
    return replaced.get(id(root), root)
