"""What of a network is trained: all of it, or what is each modality's own."""

from collections.abc import Iterator
from typing import Literal

from torch import nn

from polymodal.errors import ConfigError
from polymodal.multimodal import Multimodal
from polymodal.nn import PrivateNorm
from polymodal.transfer import parts_of, text_of

Learns = Literal["all", "private"]


def check_learns(learns: Learns, start_from: str | None) -> None:
    """Refuse to keep what nothing has trained.

    Raises:
        ConfigError: There is no model to start from.
    """
    if learns == "private" and start_from is None:
        raise ConfigError(
            "learns: private keeps what the modalities share as it was trained, and there is no model that it was "
            "trained in. Give --model.start_from, too, or leave it out."
        )


def keep_shared(net: Multimodal) -> None:
    """Let a network that started from a trained one learn what is each modality's own, and nothing else.

    These are private norms, private layers and parts of low rank, whatever else of a fusion has an entry for every
    modality, and the weights of the ensemble.

    Args:
        net: The network, after `take_over`; what it may not learn needs no gradient any more.

    Raises:
        ConfigError: Something that all modalities share starts anew, or its norms would take statistics of the new
            batches: it could not stay as it was.
    """
    shared = {text_of(part) for part in parts_of(net) if part[1] is None}
    anew = {} if net.taken_over is None else net.taken_over.anew
    untrained = [name for name in anew if name in shared]
    if untrained:
        raise ConfigError(
            f"learns: private keeps what the modalities share, and {untrained[0]} starts anew "
            f"({anew[untrained[0]]}): it would stay untrained. Leave it out, so that all is trained."
        )
    moving = [
        name
        for name, module in net.network.named_modules()
        if isinstance(module, PrivateNorm) and module.roster is None and not (module.kind.per_sample or module.frozen)
    ]
    if moving:
        raise ConfigError(
            f"learns: private keeps what the modalities share, and the norm {moving[0]!r}, which all of them share, "
            f"takes statistics of the batch, as {len(moving)} in all do. Freeze them by --model.statistics."
        )
    own = {id(parameter) for parameter in own_parameters(net)}
    for parameter in net.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in own)


def own_parameters(net: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that have an entry for every modality."""
    for module in net.modules():
        for key in getattr(module, "per_modality", ()):
            value = getattr(module, key, None)
            if isinstance(value, nn.Module):
                yield from value.parameters()
            elif isinstance(value, nn.Parameter) and getattr(module, "roster", None) is not None:
                yield value
