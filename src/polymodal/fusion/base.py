"""What every fusion is: settings, the places where it acts, what it puts there, and what it adds to the loss."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from torch import Tensor, nn

from polymodal.anatomy import Anatomy
from polymodal.errors import FusionError
from polymodal.nn.roster import Roster

Sites = str | Sequence[str] | Callable[[str, nn.Module], bool]
"""Where a fusion acts: `"auto"`, a pattern of dotted names (`"*.bn2"`), several, or a predicate of name and module."""


@dataclass
class SiteState:
    """What a fusion that selects channels does at one site, at this moment.

    Attributes:
        scale: |γ|, `(M, C)`.
        keep: Boolean `(M, C)`, True where a modality keeps its own channel.
        part: Boolean `(M, C)`, True for the channels on which the modality's scales are penalised.
        allowed: Boolean `(M, C)`, True where exchanging is allowed at all.
    """

    scale: Tensor
    keep: Tensor
    part: Tensor
    allowed: Tensor

    def share(self) -> list[float]:
        """For each modality, the exchanged share in 0..1 of the channels that it may exchange."""
        exchanged, allowed = (~self.keep).sum(1), self.allowed.sum(1).clamp(min=1)
        return (exchanged / allowed).tolist()


@dataclass(frozen=True)
class Plan:
    """What a fusion will do to a network.

    Attributes:
        install: Puts the fusion's modules into a copy of the network whose norms are private already.
        merged: The names of the plain network's layers that will see one stream of all modalities, not one for each.
    """

    install: Callable[[nn.Module, Roster], None]
    merged: frozenset[str] = frozenset()


_KNOWN: WeakValueDictionary[str, type["Fusion"]] = WeakValueDictionary()
"""By their paths. A class that was refused is not among them, as it would be among `__subclasses__` for a while."""


class Fusion(ABC):
    """One way for modalities to meet inside a network.

    A fusion holds settings alone, so that it can be written to a file and used for many networks. Its state lives in
    the modules that it installs. It sees a network as a plain tree of modules whose names it is given, never a
    particular model.

    A subclass is known by existing. One of your own, outside of this package, is saved with the path of its class;
    loading imports nothing, so whoever loads imports its module first. Without a `name` it is called like its class.
    """

    name: ClassVar[str]
    merges: ClassVar[bool] = False
    """Whether the modalities become one stream inside the network, with one prediction."""
    branches: ClassVar[bool] = False
    """Whether, though they merge, each modality's own prediction can be asked for."""

    @property
    def needs_private_norms(self) -> bool:
        """Whether it acts at private norms, and so cannot work with shared ones."""
        return False

    @property
    def needs_all(self) -> str:
        """Why it cannot work on some of the modalities, in a sentence without its end; empty where it can."""
        return ""

    @property
    def takes_gaps(self) -> bool:
        """Whether the samples of a batch may differ in the modalities that they have.

        Its modules then see folded features through `Roster.each`, `merged`, `apart` and `together` alone. What stands
        behind private norms is called for the samples of one pattern at a time, and needs nothing.
        """
        return False

    @abstractmethod
    def find_sites(self, network: nn.Module, sites: Sites) -> tuple[str, ...]:
        """The dotted names of the modules of a plain network at which this fusion would act.

        Args:
            network: The plain network, before anything is changed.
            sites: As `fuse` was given them; see `select` for names and predicates.

        Raises:
            FusionError: When nothing matches; the message lists the candidates.
        """

    def plan(self, anatomy: Anatomy, sites: Sequence[str]) -> "Plan":
        """What this fusion will do to a network, found before anything is changed: by default, what `install` does.

        Args:
            anatomy: The plain network, and what can be asked of it: its stages, blocks, and how it runs.
            sites: What `find_sites` returned.

        Raises:
            FusionError: When the network does not allow it.
        """
        del anatomy
        if type(self).install is Fusion.install:
            raise FusionError(f"{class_path(type(self))}: expected a method `install`, got none.")
        return Plan(lambda network, roster: self.install(network, sites, roster))

    def install(self, network: nn.Module, sites: Sequence[str], roster: Roster) -> None:
        """Put this fusion's modules at the sites.

        Args:
            network: The network to change, whose norms are private already.
            sites: What `find_sites` returned.
            roster: Knows which modalities are present; every module that tells them apart keeps it.
        """
        raise NotImplementedError

    def loss(self, network: nn.Module, sites: Sequence[str]) -> Tensor:
        """What this fusion adds to the training loss, weighted: a scalar, 0 for most."""
        del sites
        return next(network.parameters()).new_zeros(())

    def scales(self, network: nn.Module, sites: Sequence[str]) -> dict[str, nn.Parameter]:
        """The scales γ `(M, C)` by which this fusion chooses channels, by site; empty for most."""
        del network, sites
        return {}

    def state(self, network: nn.Module, sites: Sequence[str]) -> dict[str, SiteState]:
        """What is exchanged now, by site, on the CPU; empty for a fusion that selects no channels."""
        del network, sites
        return {}

    def cutoff(self) -> dict[str, float]:
        """What its scales are held against, by its name in records, `threshold` or `share`; empty for most."""
        return {}

    def remark(self, states: Mapping[str, SiteState]) -> str:
        """What somebody who trained with this fusion should know of what it does at its sites; empty when nothing."""
        del states
        return ""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if is_own(cls):
            if "name" not in vars(cls):
                cls.name = cls.__name__.lower()
            taken = next((known for known in known_fusions() if known.name == cls.name and not is_own(known)), None)
            if taken is not None:
                raise FusionError(
                    f"{class_path(cls)}: the name {cls.name!r} is that of {class_path(taken)}; give the class another "
                    '`name`, such as name: ClassVar[str] = "mine".'
                )
        if hasattr(cls, "name"):
            _KNOWN[class_path(cls)] = cls

    def as_config(self) -> dict[str, Any]:
        """The settings as a plain dict, with the fusion's `name`, and its `class_path` where the class is your own.

        Raises:
            FusionError: When the settings cannot be written to a file.
        """
        own = {"class_path": class_path(type(self))} if is_own(type(self)) else {}
        if not is_dataclass(self):
            if vars(self):
                raise FusionError(
                    f"{class_path(type(self))}: its settings ({', '.join(vars(self))}) cannot be saved, as they are no "
                    "fields of a dataclass. Write @dataclass(frozen=True) above the class and declare them as fields."
                )
            return {"name": self.name, **own}
        settings = {
            known.name: getattr(self, known.name)
            for known in fields(self)
            if known.init and not (known.metadata.get("later") and getattr(self, known.name) == known.default)
        }
        plain = {name: value.as_config() if isinstance(value, Fusion) else value for name, value in settings.items()}
        try:
            json.dumps(plain)
        except (TypeError, ValueError) as error:
            raise FusionError(
                f"{class_path(type(self))}: its settings cannot be saved ({error}). Let them be numbers, texts, lists "
                "and dicts."
            ) from error
        for name, value in settings.items():
            if (isinstance(value, Mapping) and "name" in value) or not _has_texts_for_keys(value):
                raise FusionError(
                    f"{class_path(type(self))}: its setting {name!r} would not come back from a file as it is. Let the "
                    "keys of dicts be texts, and none of its own 'name', by which a fusion is told."
                )
        return {"name": self.name, **own, **plain}


LATER = {"later": True}
"""The metadata of a setting that came after models were saved without it: it is written unless it is the default."""


def _has_texts_for_keys(setting: Any) -> bool:
    """Whether all keys of a setting's dicts are such, as JSON makes texts of others."""
    if isinstance(setting, Mapping):
        return all(isinstance(key, str) and _has_texts_for_keys(value) for key, value in setting.items())
    return not isinstance(setting, list | tuple) or all(map(_has_texts_for_keys, setting))


def is_own(fusion: type[Fusion]) -> bool:
    """Whether a class of fusions is a user's, not one of this package's."""
    return fusion.__module__.partition(".")[0] != __name__.partition(".")[0]


def class_path(fusion: type[Fusion]) -> str:
    """The module and the name of a class of fusions, with a dot between."""
    return f"{fusion.__module__}.{fusion.__qualname__}"


def known_fusions() -> list[type[Fusion]]:
    """Every class of fusions with a name; of those that were defined again, as in a notebook, the last one."""
    return list(_KNOWN.values())


def select(candidates: Mapping[str, nn.Module], sites: Sites) -> list[str]:
    """Choose among candidate modules by name patterns or by a predicate.

    Args:
        candidates: The modules that could be sites, by dotted name.
        sites: A shell-style pattern of dotted names, several, or a predicate of name and module.

    Returns:
        The names that match, in the network's order.

    Raises:
        FusionError: When a pattern matches nothing, or the predicate accepts nothing.
    """
    if callable(sites):
        chosen = [name for name, module in candidates.items() if sites(name, module)]
        unmatched = [] if chosen else ["the predicate"]
    elif not isinstance(sites, str | Sequence):
        raise FusionError(
            f'sites: expected "auto", a pattern of layer names, a list of them, or a predicate, got {sites!r}.'
        )
    else:
        patterns = [sites] if isinstance(sites, str) else list(sites)
        if other := [pattern for pattern in patterns if not isinstance(pattern, str)]:
            raise FusionError(f"sites: expected patterns of layer names, got {other[0]!r}.")
        chosen = [name for name in candidates if any(fnmatchcase(name, pattern) for pattern in patterns)]
        unmatched = [repr(p) for p in patterns if not any(fnmatchcase(name, p) for name in candidates)]
        unmatched = unmatched if patterns else ["an empty list of patterns"]
    if unmatched:
        raise FusionError(f"sites: {', '.join(unmatched)} matches no layer.{describe_candidates(candidates)}")
    return chosen


def describe_candidates(candidates: Mapping[str, nn.Module]) -> str:
    """A sentence that lists the layers a user can choose from, as much of it as a screen can hold."""
    names = list(candidates)
    if not names:
        return " The network has no layer that could be a site."
    shown = ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")
    return f" Layers to choose from, by name or pattern: {shown}."


class AtSite(nn.Module):
    """What a fusion puts at a site.

    Args:
        rule: The fusion's settings.
        roster: The network's modalities.
    """

    def __init__(self, rule: Fusion, roster: Roster) -> None:
        super().__init__()
        self.rule = rule
        self.roster = roster

    def extra_repr(self) -> str:
        """The rule, for `print(model)`."""
        return str(self.rule)


@dataclass(frozen=True)
class NoFusion(Fusion):
    """Modalities share what is shared and never meet before the ensemble."""

    name: ClassVar[str] = "none"
    takes_gaps: ClassVar[bool] = True

    def find_sites(self, network: nn.Module, sites: Sites) -> tuple[str, ...]:
        """Nowhere."""
        del network, sites
        return ()

    def install(self, network: nn.Module, sites: Sequence[str], roster: Roster) -> None:
        """Put nothing anywhere."""
