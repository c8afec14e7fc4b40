"""Modality dropout: training samples lose modalities at random, so that a network learns to do without them.

Neverova et al., "ModDrop: adaptive multi-modal gesture recognition", TPAMI 2016 (arXiv 1501.00102), dropped each
channel by a draw of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from polymodal.errors import ConfigError
from polymodal.limits import SHARE, at_least, check, each


@dataclass(frozen=True)
class ModalityDropout:
    """How often training samples lose each modality.

    Each modality of each sample is drawn by itself; a draw that would leave a sample without any is made again. So a
    modality m is absent with the probability (p_m - P) / (1 - P), where P is the product of all p.

    Args:
        probability: p by modality, from 0 up to but not 1; 0 for those that are not named.
        rise: Over how many epochs the probabilities rise from 0 to p in equal steps; 0 for p from the start.

    Raises:
        ConfigError: When a value is out of its range.
    """

    probability: dict[str, float] = field(default_factory=dict)
    rise: int = 0

    def __post_init__(self) -> None:
        limits = {"probability": each(SHARE, "a probability from 0 up to but not 1 for each"), "rise": at_least(0)}
        check(vars(self), limits, "dropout.")
        always = [name for name, p in self.probability.items() if p == 1]
        if always:
            raise ConfigError(
                f"dropout.probability: {always[0]!r} would be absent from every sample. Give a probability below 1, or "
                "leave the modality out of data.modalities."
            )

    def __bool__(self) -> bool:
        """Whether anything is ever dropped."""
        return any(self.probability.values())

    def check_names(self, modalities: Sequence[str]) -> None:
        """Refuse names of no modality.

        Raises:
            ConfigError: With the name.
        """
        unknown = [name for name in self.probability if name not in modalities]
        if unknown:
            raise ConfigError(
                f"data.dropout.probability: unknown modality {unknown[0]!r}; those that are read are "
                f"{', '.join(modalities)}."
            )

    def draw(self, there: Mapping[str, bool], epoch: int, seed: int) -> dict[str, bool]:
        """Which modalities a sample keeps.

        Args:
            there: Which it has, one at least.
            epoch: Counted from 0.
            seed: Of the sample in this epoch; what augmentation draws from it is not changed.
        """
        share = 1.0 if self.rise == 0 else min(1.0, epoch / self.rise)
        probability = torch.tensor([share * self.probability.get(name, 0.0) for name in there])
        has = torch.tensor(list(there.values()))
        generator = torch.Generator().manual_seed((seed + _OWN) % 2**63)
        kept = torch.zeros_like(has)
        while not kept.any():
            kept = has & (torch.rand(len(has), generator=generator) >= probability)
        return dict(zip(there, kept.tolist(), strict=True))


_OWN = 0x6D6F6464726F70
"""Keeps the draws apart from those of augmentation, which begin at the same seed."""
