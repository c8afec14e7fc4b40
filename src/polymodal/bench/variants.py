"""The ways to run the same modalities that are measured against each other, by name."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymodal.bench.case import Networks
from polymodal.bench.peer import Peer
from polymodal.bench.timing import Step
from polymodal.data import TargetSpec
from polymodal.errors import ConfigError
from polymodal.functional import fold, unfold
from polymodal.nn import Prediction
from polymodal.nn.norm import is_batch_norm_2d
from polymodal.surgery import Multimodal
from polymodal.tasks.import_cen import IGNORE
from polymodal.tasks.optim import Optimiser
from polymodal.tasks.segmentation import Segmentation, logits_of, named_logits

Task = Literal["inference", "training"]
TASKS: tuple[Task, ...] = ("inference", "training")

LR = 1e-6
"""So small that a network stays what it is: one that diverges is timed on infinities."""


@dataclass(frozen=True)
class Base:
    """A network, before anything makes it faster.

    Attributes:
        about: What it is.
        exchanges: Whether it predicts what the network with exchange predicts; else what that without does.
        modifiers: What can make it faster.
    """

    about: str
    exchanges: bool
    modifiers: tuple[str, ...] = ("amp", "compile")


BASES = {
    "peer": Base("the released code of CEN in the folder --peer, eager, float32", exchanges=True, modifiers=()),
    "plain": Base("a plain network on the images of all modalities in one batch, as if they were one", exchanges=False),
    "apart": Base("a plain network for each modality, one after the other", exchanges=False),
    "folded": Base("all modalities in one network with private norms, which do not meet", exchanges=False),
    "exchange": Base("the same with channel exchange", exchanges=True),
}
MODIFIERS = {"amp": "automatic mixed precision in bf16", "compile": "torch.compile"}


@dataclass(frozen=True)
class Variant:
    """A base and what makes it faster: `exchange`, `exchange+amp`, `exchange+amp+compile`.

    Attributes:
        base: One of `BASES`.
        modifiers: Of `MODIFIERS`, in the order of that.
    """

    base: str
    modifiers: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return "+".join([self.base, *(name for name in MODIFIERS if name in self.modifiers)])

    @classmethod
    def parse(cls, word: str) -> "Variant":
        """The variant that a word names.

        Raises:
            ConfigError: There is none; the message lists them.
        """
        base, *modifiers = word.split("+")
        if base not in BASES or not set(modifiers) <= set(BASES[base].modifiers):
            known = ", ".join("".join([name, *(f"[+{m}]" for m in about.modifiers)]) for name, about in BASES.items())
            raise ConfigError(f"--variants: there is no variant {word!r}; there are {known}.")
        return cls(base, frozenset(modifiers))

    @classmethod
    def parse_all(cls, words: Sequence[str]) -> list["Variant"]:
        """The variants that words name.

        Raises:
            ConfigError: There is none of a name, or one is named twice.
        """
        variants = [cls.parse(word) for word in words]
        doubled = next((variant for variant in variants if variants.count(variant) > 1), None)
        if doubled is not None:
            raise ConfigError(f"--variants: {str(doubled)!r} is named twice.")
        return variants


@dataclass(frozen=True)
class Candidate:
    """A variant that is ready to run.

    Attributes:
        predict: Returns logits by name, those of modalities and of the ensemble where there are such.
        step: One training step.
        train: Sets the mode.
    """

    predict: Callable[[], dict[str, Tensor]]
    step: Callable[[], None]
    train: Callable[[bool], object]

    def ready(self, task: Task, device: str) -> Step:
        """What is to be timed, in its mode; it returns when the device has done it."""
        self.train(task == "training")
        run = self.step if task == "training" else self.predict
        if torch.device(device).type != "cuda":
            return run

        def synchronised() -> None:
            run()
            torch.cuda.synchronize(device)

        return synchronised


def candidate(variant: Variant, networks: Networks) -> Candidate:
    """Build a variant of a case's networks; variants of one base share its parameters.

    Raises:
        PolymodalError: The case does not allow it.
    """
    if variant.base == "peer":
        peer = Peer(networks, LR)
        return Candidate(peer.predict, peer.step, peer.train)
    builders = {"plain": _plain, "apart": _apart, "folded": _fused, "exchange": _fused}
    return builders[variant.base](variant, networks)


def _fused(variant: Variant, networks: Networks) -> Candidate:
    net: Multimodal = getattr(networks, variant.base)
    case, inputs, autocast = networks.case, networks.inputs, _precision(variant, networks)
    task = _Task(net, _faster(variant, net), case.classes).to(case.device)
    batch = {"inputs": inputs, "target": networks.target, "key": list(range(case.batch))}
    optimiser = networks.optimiser(net, _optimiser)

    def predict() -> dict[str, Tensor]:
        with torch.no_grad(), autocast():
            return named_logits(task(inputs))

    def step() -> None:
        optimiser.zero_grad()
        with autocast():
            loss = task.training_step(batch, 0)
        loss.backward()
        optimiser.step()

    return Candidate(predict, step, net.train)


def _plain(variant: Variant, networks: Networks) -> Candidate:
    names = list(networks.inputs)
    folded = fold(list(networks.tiled().values()))
    target = networks.target.repeat_interleave(len(names), 0)
    run = _Unimodal(networks.first, variant, networks)
    # Only the first modality's norms are those of this network.
    return Candidate(
        predict=lambda: {names[0]: unfold(run.predict(folded), len(names))[:, 0]},
        step=lambda: run.step(folded, target),
        train=run.train,
    )


def _apart(variant: Variant, networks: Networks) -> Candidate:
    images = networks.tiled()
    runs = [_Unimodal(net, variant, networks) for net in networks.unimodal]

    def step() -> None:
        for run, image in zip(runs, images.values(), strict=True):
            run.step(image, networks.target)

    def train(training: bool) -> None:
        for run in runs:
            run.train(training)

    return Candidate(
        predict=lambda: {name: run.predict(image) for run, (name, image) in zip(runs, images.items(), strict=True)},
        step=step,
        train=train,
    )


class _Unimodal:
    """A plain network, run and trained as it is."""

    def __init__(self, net: nn.Module, variant: Variant, networks: Networks) -> None:
        self.net = net
        self.forward = _faster(variant, net)
        self.autocast = _precision(variant, networks)
        self.optimiser = networks.optimiser(net, _optimiser)
        self.frozen = networks.case.statistics == "frozen"

    def train(self, training: bool) -> None:
        self.net.train(training)
        for module in self.net.modules():
            if self.frozen and is_batch_norm_2d(module):
                module.eval()

    def predict(self, image: Tensor) -> Tensor:
        with torch.no_grad(), self.autocast():
            return logits_of(self.forward(image), None)

    def step(self, image: Tensor, target: Tensor) -> None:
        self.optimiser.zero_grad()
        with self.autocast():
            logits = logits_of(self.forward(image), target.shape[-2:])
            loss = F.cross_entropy(logits.float(), target, ignore_index=IGNORE)
        loss.backward()
        self.optimiser.step()


class _Task(Segmentation):
    """The training step of `polymodal fit` around a network that is there already.

    Args:
        net: The network.
        forward: What runs in its place, such as its compiled form.
        classes: Number of classes.
    """

    def __init__(self, net: Multimodal, forward: nn.Module, classes: int) -> None:
        super().__init__()
        self.net = net
        self.run = forward
        self.target = TargetSpec("label", "", ignore=IGNORE)
        self.register_buffer("class_weight", torch.ones(classes), persistent=False)

    def forward(self, inputs: Mapping[str, Tensor]) -> Prediction:
        return self.run(inputs)

    def log(self, *args: Any, **kwargs: Any) -> None:
        """There is nobody to tell."""


def _faster(variant: Variant, net: nn.Module) -> Any:
    return torch.compile(net) if "compile" in variant.modifiers else net


def _precision(variant: Variant, networks: Networks) -> Callable[[], AbstractContextManager[Any]]:
    kind = torch.device(networks.case.device).type
    return lambda: torch.autocast(kind, torch.bfloat16, enabled="amp" in variant.modifiers)


def _optimiser(net: nn.Module) -> torch.optim.Optimizer:
    """That of the papers' recipes."""
    settings = Optimiser("sgd", LR, scales_factor=1.0, weight_decay=1e-5, decay="all", schedule="constant")
    return settings.build(net, steps=1)[0]
