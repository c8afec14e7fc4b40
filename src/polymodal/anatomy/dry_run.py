"""What runs when in a network, and what its encoder returns: found by one pass without any arithmetic."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from polymodal.anatomy.blocks import encoder_of
from polymodal.anatomy.entrance import Entrance
from polymodal.anatomy.meta import sizes_of, watched


@dataclass(frozen=True)
class Call:
    """One call of a module: the shapes of its first tensor and of the first that it returned, None for none.

    Attributes:
        name: The module's dotted name.
    """

    name: str
    given: torch.Size | None
    returned: torch.Size | None

    @property
    def parent(self) -> str:
        """The dotted name of the module that holds it."""
        return self.name.rpartition(".")[0]

    @property
    def layer(self) -> str:
        """What it is called there."""
        return self.name.rpartition(".")[2]


@dataclass
class DryRun:
    """One forward pass of a plain network.

    Attributes:
        image: The image that the network was given; some encoders return it, too.
        entered: The layers that hold no others, and the convolutions, in the order in which they ran, each with what it
            was given.
        calls: All that ran, in the order in which they finished.
        finished: For every module that ran, by dotted name, the moment at which it last finished.
        outputs: The tensors that a module returned, where it returned one tensor.
        encoder: The name of the encoder; empty when the network has none.
        features: The tensors that the encoder returned, in order.
        output: What the network returned.
        problem: What ended the pass before its end; None when nothing did.
    """

    image: Tensor
    encoder: str = ""
    entered: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    finished: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    features: list[Tensor] = field(default_factory=list)
    output: Any = None
    problem: Exception | None = None
    _aliases: list[Tensor] = field(default_factory=list)

    @property
    def size(self) -> torch.Size:
        """Height and width of the image."""
        return self.image.shape[2:]

    def shape_of(self, name: str) -> torch.Size | None:
        """Of what a module returned; None where it was not one tensor, or the module did not run."""
        made = self.outputs.get(name)
        return None if made is None else made.shape

    def origins(self, tensor: Tensor) -> list[str]:
        """The modules that returned this very tensor, innermost first; none when it came from elsewhere."""
        return [name for name, output in self.outputs.items() if output is tensor]

    def beside(self, first: str) -> list[str]:
        """The layers that read what a layer reads, by dotted name, as far as they can be seen."""
        names = [name for name, _ in self.entered]
        if first not in names:
            return []
        place = names.index(first)
        read, later = self.entered[place][1][:1], self.entered[place + 1 :]
        return list(dict.fromkeys(name for name, given in later if any(value is read[0] for value in given if read)))

    @cached_property
    def read(self) -> frozenset[int]:
        """The indices of the encoder's features that the network's output depends on."""
        ends = [end for end in tree_leaves(self.output) if isinstance(end, Tensor) and end.requires_grad]
        starts = {index: alias for index, alias in enumerate(self._aliases) if alias.requires_grad}
        if not ends or not starts:
            return frozenset()
        with torch.inference_mode(False), torch.enable_grad():  # whatever mode a user fuses or loads in
            total = torch.stack([end.sum() for end in ends]).sum()
            found = torch.autograd.grad(total, list(starts.values()), allow_unused=True)
        return frozenset(index for index, gradient in zip(starts, found, strict=True) if gradient is not None)

    @property
    def maps(self) -> dict[int, Tensor]:
        """The encoder's features of which `read` says that the network's output depends on them, by index."""
        return {index: self.features[index] for index in sorted(self.read)}


def dry_run(network: nn.Module, way_in: Entrance) -> DryRun:
    """Run a network on the meta device, where tensors have shapes and no values, at the first size that it takes.

    Args:
        network: A plain network. It is not changed.
        way_in: Where images enter it.

    Returns:
        What was seen, with the problem if it runs at no size.
    """
    for size in sizes_of(network, way_in.axes):
        run = _run(network, way_in.image(size))
        if run.problem is None:
            break
    return run


def _run(network: nn.Module, image: Tensor) -> DryRun:
    encoder = encoder_of(network)
    found = DryRun(image, encoder)

    def after(name: str, given: tuple[Any, ...], output: Any) -> Any:
        found.finished[name] = len(found.calls)
        found.calls.append(Call(name, _shape(given), _shape(output)))
        if isinstance(output, Tensor):
            found.outputs[name] = output
        if not name or name != encoder:
            return None
        leaves, form = tree_flatten(output)
        found.features = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        # The encoder's next stage reads the feature itself, so only a decoder's gradient comes by its alias.
        found._aliases = [x.view_as(x) if x.requires_grad else x for x in found.features]
        aliases = iter(found._aliases)
        return tree_unflatten([next(aliases) if isinstance(leaf, Tensor) else leaf for leaf in leaves], form)

    try:
        with torch.inference_mode(False), torch.enable_grad():
            # Gradients tell what is read; no leaf, as a network may change its image in place.
            found.image = image.clone().requires_grad_().clone()
            found.output = watched(network, found.image, lambda *layer: found.entered.append(layer), after)
    except Exception as error:  # whatever a network does on such an image
        found.problem = error
    return found


def _shape(values: Any) -> torch.Size | None:
    """That of the first tensor."""
    return next((value.shape for value in tree_leaves(values) if isinstance(value, Tensor)), None)
