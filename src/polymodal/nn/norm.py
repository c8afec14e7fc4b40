"""Private norms: every modality keeps statistics and scales of its own, all other layers are shared."""

import copy
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from polymodal.anatomy.norms import Kind, axes_of, has_activation, kind_of
from polymodal.errors import FusionError
from polymodal.nn.roster import Pattern, Roster


class PrivateNorm(nn.Module, ABC):
    """A norm with statistics, γ and β of its own for every modality (CEN eq. 5), made from a plain one.

    Every modality starts from the plain norm's values. `weight`, `bias`, `running_mean` and `running_var`, as far as
    the plain norm has them, have the shape `(M, C)`, or `(M, ...)` for γ and β over several axes. A fusion may put a
    module into `fusion`; it is called with the normalised features `(B*K, C, ...)` and γ, after the norm and before the
    activation. `drop` and `act` are those of timm's norms, and pass everything on elsewhere.

    The channel axis is the norm's, the modalities are in the batch. Where the network laid more into it than samples,
    such as the windows or patches of an image, these count as further samples.

    Args:
        norm: The plain norm, one that `can_be_private` accepts. It is not changed.
        roster: The network's modalities; None makes a norm that all of them share (M = 1 in the shapes above).
        name: Where the norm stands in the network, for error messages.
        memo: What was made of other norms' tensors, by the ids of these, as `copy.deepcopy` takes it: norms that share
            a tensor go on sharing what becomes of it.

    Attributes:
        kind: What it computes.
        frozen: Whether it normalises by the running statistics in training, too, and never updates them.
    """

    frozen: ClassVar[bool] = False
    per_modality: ClassVar[tuple[str, ...]] = ("weight", "bias", "running_mean", "running_var")
    _kept: ClassVar[tuple[str, ...]] = ()  # the names of its buffers, which are the plain norm's
    _settings: ClassVar[tuple[str, ...]] = ()  # what else it has of the plain norm, as far as that says it

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, norm: Any, roster: Roster | None, *, name: str, memo: dict[int, Tensor] | None = None) -> None:
        nn.Module.__init__(self)  # PyTorch's norms would make parameters (C,)
        kind = kind_of(norm)
        assert kind is not None
        self.kind: Kind = kind
        self.roster = roster
        self.name = name
        self.eps = norm.eps
        for key in self._settings:
            if hasattr(norm, key):
                setattr(self, key, getattr(norm, key))
        self.axes = axes_of(norm)
        copies = 1 if roster is None else len(roster.names)
        memo = {} if memo is None else memo
        for key in ("weight", "bias", *self._kept):
            rows = _rows(getattr(norm, key, None), copies, memo)
            if key in self._kept or (isinstance(rows, Tensor) and not isinstance(rows, nn.Parameter)):
                self.register_buffer(key, rows)
            else:
                self.register_parameter(key, rows)
        self.fusion: nn.Module | None = None
        self.drop = getattr(norm, "drop", nn.Identity()) if has_activation(norm) else nn.Identity()
        self.act = getattr(norm, "act", nn.Identity()) if has_activation(norm) else nn.Identity()
        self.train(norm.training)

    @property
    @abstractmethod
    def from_input(self) -> bool:
        """Whether it normalises by statistics of its input, in the mode that it is in."""

    @abstractmethod
    def normalise(self, x: Tensor, modalities: int) -> Tensor:
        """Folded features `(B*K, ...)` of the K present modalities, normalised and scaled."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, fuse, drop, activate: folded features to features of the same shape.

        Raises:
            FusionError: When statistics are to be taken from a single value per channel, or the input has another form.
        """
        if x.dim() < 2 or (self.axes and x.dim() not in self.axes):
            wanted = " or ".join(map(str, self.axes)) or "two or more"
            raise FusionError(
                f"The norm '{self.name}' takes features of {wanted} axes, batch and channels among them, and was given "
                f"the shape {tuple(x.shape)}. Give the network images of the form that it was made for."
            )
        inner = 1 if self.roster is None else self.roster.inner(x, f"The norm '{self.name}'")
        modalities = 1 if self.roster is None else len(self.roster.present)
        if self.roster is not None and self.roster.patterns:
            y = self.normalise_apart(x, self.roster)
            y = y if self.fusion is None else self.roster.each(self._met, y)
        elif inner == 1:
            y = self._met(self.normalise(x, modalities))
        else:  # what the network laid into the batch as further samples: (B*K*inner, ...) as (B*inner*K, ...)
            samples = x.unflatten(0, (-1, modalities, inner)).transpose(1, 2).flatten(0, 2)
            y = self._met(self.normalise(samples, modalities))
            y = y.unflatten(0, (-1, inner, modalities)).transpose(1, 2).flatten(0, 2)
        return self.act(self.drop(y))

    def alone(self, m: int) -> Self:
        """The norm of the m-th present modality by itself, without fusion, for a network of that modality alone."""
        own = copy.copy(self)
        own._parameters, own._buffers, own._modules = {}, {}, {"drop": nn.Identity(), "act": nn.Identity()}
        row = m if self.roster is None else self.roster.present[m]
        for key, value in self._parameters.items():
            own._parameters[key] = None if value is None else nn.Parameter(value.detach()[row : row + 1].clone())
        for key, kept in self._buffers.items():
            own._buffers[key] = kept if kept is None or not kept.dim() else kept[row : row + 1].clone()
        own.roster, own.fusion = None, None
        return own

    def extra_repr(self) -> str:
        """The settings that `print(model)` shows."""
        copies = "shared" if self.roster is None else ", ".join(self.roster.names)
        size = "no scales" if self.weight is None else ", ".join(map(str, self.weight.shape[1:]))
        return f"{size}, {copies}" + (", frozen" if self.frozen else "")

    def normalise_apart(self, x: Tensor, roster: Roster) -> Tensor:
        """As `normalise`, where samples differ in their modalities: each modality's rows by themselves."""
        made = []
        for m, stream in zip(roster.present, roster.apart(x), strict=True):
            with roster.at(Pattern((m,), roster.samples_of(m)), stream):
                made.append(self.normalise(stream, 1))
        return roster.together(made)

    def _met(self, y: Tensor) -> Tensor:
        """What the fusion makes of normalised features."""
        if self.fusion is None:
            return y
        if self.kind.axis_in(y) == 1:
            return self.fusion(y, self._present(self.weight))
        return self.fusion(y.movedim(-1, 1), self._present(self.weight)).movedim(1, -1)

    def _present(self, per_modality: Tensor | None) -> Tensor | None:
        return per_modality if per_modality is None or self.roster is None else self.roster.select(per_modality)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        """As any module, without what PyTorch's norms add to states from before they counted batches."""
        nn.Module._load_from_state_dict(self, *arguments)


def _rows(value: Any, copies: int, memo: dict[int, Tensor]) -> Any:
    """`(C,)` to `(copies, C)` in memory of its own, a parameter to a parameter; a count stays one number."""
    if value is None:
        return None
    if id(value) not in memo:
        own = value.detach().clone()
        if value.dim():
            own = own.expand(copies, *value.shape).clone()
        memo[id(value)] = nn.Parameter(own, value.requires_grad) if isinstance(value, nn.Parameter) else own
    return memo[id(value)]
