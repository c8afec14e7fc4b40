"""What `fuse` finds in a network, and what a multimodal network exchanges: tables to read before and after."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from polymodal.anatomy import Anatomy
from polymodal.errors import FusionError
from polymodal.fusion import SiteState
from polymodal.multimodal import is_fused
from polymodal.nn import PrivateNorm
from polymodal.preconditions import check_norms, check_rows


@dataclass
class Site:
    """One layer at which modalities meet, or could.

    Attributes:
        name: Its dotted name.
        channels: C; None where channels are not told apart.
        state: What is exchanged there now; None in a network that is not multimodal yet, or selects no channels.
    """

    name: str
    channels: int | None
    state: SiteState | None = None


@dataclass
class Inspection:
    """What was found in a network; `print` shows it as a table.

    Attributes:
        network: The class of the network.
        modalities: Their names; empty for a plain network.
        norms: The names of the norms that are, or would be, private.
        sites: Where modalities meet, or by default would exchange channels.
        candidates: The names of all layers that could be sites.
        parameters: The number of parameters.
        fusion: The fusion's settings; empty for a plain network.
        refusal: Why a plain network cannot be fused; None when it can.
    """

    network: str
    modalities: tuple[str, ...]
    norms: list[str]
    sites: list[Site]
    candidates: list[str]
    parameters: int
    fusion: str = ""
    refusal: str | None = None

    def __str__(self) -> str:
        lines = [f"{self.network}, {self.parameters / 1e6:.2f} M parameters"]
        if self.refusal is not None:
            return "\n".join([*lines, f"cannot be made multimodal: {self.refusal}"])
        if self.modalities:
            lines.append(f"modalities: {', '.join(self.modalities)}; private norms: {len(self.norms)}")
            lines.append(f"fusion: {self.fusion}; sites: {len(self.sites)}")
            if not any(site.state for site in self.sites):
                return "\n".join([*lines, *(f"  {site.name}" for site in self.sites)])
            lines.append("exchanged share of the channels that may be exchanged:")
        else:
            lines.append(
                f"norms that would be private: {len(self.norms)}; first '{self.norms[0]}', last '{self.norms[-1]}'"
            )
            lines.append(f'sites="auto" would exchange after {len(self.sites)} of {len(self.candidates)} norms:')
        width = max((len(site.name) for site in self.sites), default=4)
        columns = [*self.modalities, "smallest |γ|"] if self.modalities else []
        lines.append("  ".join([f"  {'site':<{width}}  channels", *(f"{name:>12}" for name in columns)]))
        for site in self.sites:
            cells = [f"  {site.name:<{width}}  {site.channels:>8}"]
            if site.state is not None:
                cells += [f"{share:>12.1%}" for share in site.state.share()]
                cells.append(f"{float(site.state.scale.min()):>12.2e}")
            lines.append("  ".join(cells))
        if not self.sites:
            lines.append(
                f"  none; candidates: {', '.join(self.candidates[:12])}{', ...' if len(self.candidates) > 12 else ''}"
            )
        return "\n".join(lines)


def inspect(network: nn.Module) -> Inspection:
    """Look at a plain network before `fuse`, or at a multimodal one after it or after training. Changes nothing.

    Args:
        network: Any network.

    Returns:
        What was found; `print` it.
    """
    parameters = sum(p.numel() for p in network.parameters())
    if is_fused(network):
        plain, states = network.network, network.exchange_state()
        norms = [m.name for m in plain.modules() if isinstance(m, PrivateNorm) and m.roster is not None]
        found = [(name, states.get(name)) for name in network.sites]
        sites = [Site(name, None if state is None else state.scale.shape[1], state) for name, state in found]
        fusion = repr(network.fusion)
        return Inspection(type(plain).__name__, network.modalities, norms, sites, norms, parameters, fusion)
    anatomy, refusal = Anatomy(network), None
    try:
        check_norms(anatomy)
        check_rows(anatomy, anatomy.norms)
    except FusionError as error:
        refusal = str(error)
    candidates: dict[str, Any] = dict(anatomy.scaled_norms)
    sites = [Site(name, candidates[name].weight.shape[0]) for name in anatomy.sites]
    kind, norms = type(network).__name__, list(anatomy.norms)
    return Inspection(kind, (), norms, sites, list(candidates), parameters, refusal=refusal)
