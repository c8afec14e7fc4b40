"""Controls for comparisons: a modality that is noise, or a copy of another one.

What a second network stream gains without a second sensor is what a real second sensor has to beat.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from polymodal.data.inputs import InputSpec
from polymodal.errors import ConfigError

NOISE = "noise"


def check_substitute(substitute: Mapping[str, str], modalities: Sequence[str]) -> dict[str, str]:
    """The substitutes, once it is clear that every one can be made.

    Args:
        substitute: For a modality, `"noise"` or the modality that it copies.
        modalities: All that a sample has.

    Raises:
        ConfigError: When a modality is unknown, or a copied one is itself a substitute.
    """
    for name, source in substitute.items():
        if name not in modalities:
            raise ConfigError(f"data.substitute: unknown modality {name!r}; known are {', '.join(modalities)}.")
        real = [other for other in modalities if other not in substitute]
        if source not in (NOISE, *real):
            raise ConfigError(
                f"data.substitute: expected {NOISE!r} or a modality that is read ({', '.join(real) or 'none is'}) for "
                f"{name!r}, got {source!r}."
            )
        if not real:
            raise ConfigError("data.substitute: at least one modality must be read; all are substituted.")
    return dict(substitute)


def substituted_specs(
    specs: Mapping[str, InputSpec], substitute: Mapping[str, str], modalities: Sequence[str]
) -> dict[str, InputSpec]:
    """What each modality's values mean: a copy means what its source does, noise is as wide as what it replaces."""
    sources = {name: substitute.get(name, name) for name in modalities}
    return {name: specs[name if source == NOISE else source] for name, source in sources.items()}


def substituted(
    images: Mapping[str, Tensor],
    valid: Mapping[str, Tensor],
    substitute: Mapping[str, str],
    specs: Mapping[str, InputSpec],
    seed: int,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """All modalities of a sample, those that were read and their substitutes, and where each has a measurement.

    Args:
        images: What was read, (C_m, H, W) by modality, normalised.
        valid: Where something was measured, bool (1, H, W), of what was read; noise is everywhere.
        substitute: As `check_substitute` returns it.
        specs: What every modality is, in the order wanted.
        seed: Of the noise, standard normal like a normalised image.
    """
    generator = torch.Generator().manual_seed(seed)
    size = next(iter(images.values())).shape[-2:]
    found, known = {}, {}
    for name, spec in specs.items():
        source = substitute.get(name, name)
        if source == NOISE:
            found[name] = torch.randn(spec.channels, *size, generator=generator)
            known[name] = torch.ones(1, *size, dtype=torch.bool)
        else:
            found[name], known[name] = images[source], valid[source]
    return found, known
