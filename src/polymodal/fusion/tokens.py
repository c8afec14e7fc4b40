"""Token exchanging (TokenFusion): a token with a low score is replaced by the other modalities' token at its place.

Source: Wang et al., "Multimodal Token Fusion for Vision Transformers", CVPR 2022 (arXiv 2204.08721), sec. 3, and its
    released code for segmentation, which it follows where the two differ. The scorer is that of Rao et al.,
    "DynamicViT", NeurIPS 2021.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polymodal import functional
from polymodal.anatomy import Anatomy
from polymodal.errors import FusionError
from polymodal.fusion.base import AtSite, Fusion, Plan, Sites, select
from polymodal.limits import FROM_0, Limit, check
from polymodal.nn import Roster, behind, stand_behind
from polymodal.nn.static import Joint, Mark

_LIMITS = {"threshold": Limit(FROM_0.holds, "θ ≥ 0"), "penalty": Limit(FROM_0.holds, "λ ≥ 0")}


@dataclass(frozen=True)
class TokenExchange(Fusion):
    """Exchange tokens between modalities behind the attention of a transformer's blocks (TokenFusion eq. 4 to 6).

    In every block a small scorer of each modality gives a token a score s in 0..1. What attention makes of the token is
    multiplied by s; where s < θ, the mean of the other modalities' at the same place stands in for it. It is then added
    to the modality's own token, which keeps its position. Scorers are shared by the blocks of a stage. With M = 1
    nothing is exchanged, and scores still weigh.

    Args:
        threshold: θ. A token is exchanged where s < θ; 0 exchanges nothing.
        penalty: λ, the weight in the loss of Σ_l Σ_m |s|₁, summed over the tokens of an image and averaged over the
            images of a batch. The released code sums over the batch, too: its λ of 1e-6 with batches of 6 is 6e-6 here.

    Raises:
        FusionError: When a value is out of its range.
    """

    name: ClassVar[str] = "token-exchange"
    takes_gaps: ClassVar[bool] = True  # a token alone at its place stays

    threshold: float = 2e-2
    penalty: float = 0.0

    def __post_init__(self) -> None:
        check(vars(self), _LIMITS, kind=FusionError)

    def find_sites(self, network: nn.Module, sites: Sites) -> tuple[str, ...]:
        """The layers behind which tokens are exchanged: the attention of each block, or what puts its windows together.

        `"auto"` means all of them; a pattern or a predicate chooses by their names.

        Raises:
            FusionError: When the network has no such block, or a layout of tokens that cannot be read.
        """
        seen = Anatomy(network).mixings
        if not seen.found:
            why = next(iter(seen.obstacles.values()), "its encoder has no block with an attention and norms beside it")
            raise FusionError(
                f"Tokens cannot be exchanged in this {type(network).__name__}: {why}. Choose a transformer such as "
                "ViT, Swin or MiT, or another fusion."
            )
        places = {place: network.get_submodule(place) for place in seen.found}
        if sites != "auto":
            return tuple(select(places, sites))
        if seen.obstacles:
            raise FusionError(
                f"Tokens cannot be exchanged in every block of this {type(network).__name__}: "
                f"{next(iter(seen.obstacles.values()))}. Name others as sites, such as {', '.join(list(places)[:3])}."
            )
        return tuple(places)

    def plan(self, anatomy: Anatomy, sites: Sequence[str]) -> Plan:
        """Scorers of each stage, which see the tokens before attention; the exchange behind it."""
        chosen = [anatomy.mixings.found[site] for site in sites]

        def install(network: nn.Module, roster: Roster) -> None:
            like = next(network.parameters())
            scorers: dict[tuple[str, int], nn.ModuleList] = {}
            for mixing in chosen:
                key = anatomy.stage_of.get(mixing.block, mixing.block), mixing.channels
                if key not in scorers:
                    scorers[key] = nn.ModuleList(scorer(mixing.channels) for _ in roster.names).to(like)
                meeting = TokenMeeting(self, roster, scorers[key], mixing.axis, mixing.place)
                stand_behind(network, mixing.place, meeting)
                network.get_submodule(mixing.reads).register_forward_pre_hook(meeting.note)

        return Plan(install)

    def loss(self, network: nn.Module, sites: Sequence[str]) -> Tensor:
        """λ Σ_l Σ_m |s|₁ of the last forward pass (TokenFusion eq. 5), a scalar; 0 if it was no training."""
        total = super().loss(network, sites)
        for site in sites:
            for scores in behind(network, site).seen:
                total = total + scores.flatten(1).sum(1).mean()
        return self.penalty * total


def scorer(channels: int) -> nn.Sequential:
    """A scorer of tokens `(..., C)`: two numbers `(..., 2)`, the first of whose softmax is the score."""
    widths = [channels, channels, max(1, channels // 2), max(1, channels // 4), 2]
    layers: list[nn.Module] = [nn.LayerNorm(channels)]
    for width, wider in zip(widths[1:], widths, strict=False):
        layers += [nn.Linear(wider, width), nn.GELU()]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers[:-1])


def scores_of(net: nn.Module, tokens: Tensor, axis: int) -> Tensor:
    """The scores of tokens `(B, ..., C)` or `(B, C, ...)`, with one channel, in 0..1."""
    scores: Tensor = net(tokens.movedim(axis, -1)).softmax(-1)[..., :1]
    return scores.movedim(-1, axis)


class TokenMeeting(AtSite):
    """The exchange behind one attention.

    Args:
        scorers: One of each modality; other places of the stage hold the same.
        axis: Where the channels of tokens are, -1 or 1.
        name: Where it stands, for error messages.

    Attributes:
        seen: The scores of each present modality in the last forward pass, for the loss; none where it was no training.
    """

    per_modality: ClassVar[tuple[str, ...]] = ("scorers",)
    rule: TokenExchange

    def __init__(self, rule: TokenExchange, roster: Roster, scorers: nn.ModuleList, axis: int, name: str) -> None:
        super().__init__(rule, roster)
        self.scorers = scorers
        self.axis = axis
        self.name = name
        self.seen: list[Tensor] = []
        self._scores: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Scores belong to a graph, which can be neither copied nor saved.
        return {**super().__getstate__(), "seen": [], "_scores": None}

    def note(self, _: nn.Module, given: tuple[Tensor, ...]) -> None:
        """Score the tokens before attention, `(B*K, ..., C)` or `(B*K, C, ...)`, of the K present modalities."""
        self.seen, self._scores = [], None
        if not self.roster.fusing:
            return
        streams = self.roster.apart(given[0])
        scores = [
            scores_of(self.scorers[m], stream, self.axis)
            for m, stream in zip(self.roster.present, streams, strict=True)
        ]
        self._scores = self.roster.together(scores)
        if self.training and torch.is_grad_enabled():
            self.seen = scores

    def forward(self, made: Any) -> Any:
        """What attention made of the tokens, weighed and exchanged: a tensor in their layout, or first of a tuple.

        Raises:
            FusionError: When it is in another layout.
        """
        scores, self._scores = self._scores, None  # held no longer than the block runs
        if scores is None:
            return made
        if isinstance(made, tuple | list):
            return type(made)([self._exchanged(made[0], scores), *made[1:]])
        return self._exchanged(made, scores)

    def static(self, mark: Mark) -> "_StaticMeeting":
        """All streams meet as they do in the network."""
        chosen = nn.ModuleList(self.scorers[m] for m in self.roster.present)
        meet = _Streams(chosen, self.rule.threshold, self.axis)
        return _StaticMeeting(mark(Joint(meet)) if self.roster.fusing else None)

    def _exchanged(self, made: Tensor, scores: Tensor) -> Tensor:
        expected = list(scores.shape)
        expected[self.axis] = made.shape[self.axis]
        if list(made.shape) != expected:
            raise FusionError(
                f"The tokens before '{self.name}' have scores of the shape {tuple(scores.shape)}, and it returns them "
                f"as {tuple(made.shape)}, so it is not known which is which. Give images of another size, or leave the "
                "layer out of the sites."
            )
        weighed = made * scores.to(made.dtype)
        return functional.exchange_tokens(weighed, self.roster.each(self._others, weighed), scores, self.rule.threshold)

    def _others(self, x: Tensor) -> Tensor:
        """What stands in for folded tokens `(B*K, ...)`: the others' mean, and of one modality alone its own."""
        streams = self.roster.streams(x)
        return x if streams.shape[1] == 1 else functional.mean_of_others(streams).flatten(0, 1)


class _StaticMeeting(nn.Module):
    """`TokenMeeting` in the graph of one modality.

    Args:
        meet: A mark for what all do together; None where they do not meet.
    """

    def __init__(self, meet: nn.Module | None) -> None:
        super().__init__()
        self.meet = meet
        self._tokens: Tensor | None = None

    def note(self, _: nn.Module, given: tuple[Tensor, ...]) -> None:
        """See `TokenMeeting`."""
        self._tokens = given[0]

    def forward(self, made: Any) -> Any:
        """See `TokenMeeting`."""
        tokens, self._tokens = self._tokens, None
        if self.meet is None:
            return made
        if isinstance(made, tuple | list):
            return type(made)([self.meet(made[0], tokens), *made[1:]])
        return self.meet(made, tokens)


class _Streams(nn.Module):
    """The exchange of tokens, of a list of streams.

    Args:
        scorers: One of each stream.
        threshold: θ.
        axis: Where the channels of tokens are, -1 or 1.
    """

    def __init__(self, scorers: nn.ModuleList, threshold: float, axis: int) -> None:
        super().__init__()
        self.scorers = scorers
        self.threshold = threshold
        self.axis = axis

    def forward(self, made: Sequence[Tensor], tokens: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What attention made of each stream's tokens, and the tokens before, to what goes on."""
        scores = torch.stack([scores_of(self.scorers[m], x, self.axis) for m, x in enumerate(tokens)], 1)
        weighed = torch.stack(tuple(made), 1) * scores
        others = weighed if len(made) == 1 else functional.mean_of_others(weighed)
        return functional.exchange_tokens(weighed, others, scores, self.threshold).unbind(1)
