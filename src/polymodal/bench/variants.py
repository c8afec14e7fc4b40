"""The ways to run the same modalities that are measured against each other, by name."""

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymodal import export
from polymodal.anatomy.norms import is_batch_norm
from polymodal.bench.case import Case, Networks
from polymodal.bench.end_to_end import from_files
from polymodal.bench.timing import Step
from polymodal.data import TargetSpec
from polymodal.errors import ConfigError
from polymodal.export import Session
from polymodal.export.quantiser import Quantiser
from polymodal.files import workplace
from polymodal.functional import fold, unfold
from polymodal.multimodal import Multimodal
from polymodal.runs.released import IGNORE
from polymodal.speed import Speed, accelerate
from polymodal.tasks.base import named_outputs, output_at
from polymodal.tasks.optim import Optimiser
from polymodal.tasks.segmentation import Segmentation

Mode = Literal["inference", "training"]
MODES: tuple[Mode, ...] = ("inference", "training")

LR = 1e-6
"""So small that a network stays what it is: one that diverges is timed on infinities."""


@dataclass(frozen=True)
class Base:
    """A network, before anything makes it faster.

    Attributes:
        about: What it is.
        modifiers: What can make it faster.
        like: The base whose eager network in float32 it should predict like.
        file: Whether it is an exported file, which runs on the CPU and cannot be trained.
        check: Of one that a tool adds to `BASES`, refuses a case that it cannot be built of.
        build: Likewise, builds it with the values of our networks.
    """

    about: str
    modifiers: tuple[str, ...] = ("auto", "compile", "amp")
    like: str = "no-exchange"
    file: bool = False
    check: Callable[[Case], object] | None = None
    build: Callable[[Networks], "Own"] | None = None


class Own(Protocol):
    """A network with a training step of its own."""

    def train(self, training: bool) -> None:
        """Set the mode."""

    def predict(self) -> dict[str, Tensor]:
        """Logits by name."""

    def step(self) -> None:
        """Train on a batch."""


_EAGER = ("absorb", "auto", "compile", "amp", "files")
_EXPORTED = ("absorb", "int8", "files")
BASES = {
    "plain": Base("a plain network on the images of all modalities in one batch, as if they were one"),
    "apart": Base("a plain network for each modality, one after the other"),
    "no-exchange": Base("all modalities in one network with private norms, without exchange"),
    "exchange": Base("all modalities in one network with private norms and channel exchange", _EAGER, like="exchange"),
    "decode-once": Base(
        "all modalities in one network with private norms, channel exchange in the encoder, and one decoder for all",
        _EAGER,
        like="decode-once",
    ),
    "exported": Base(
        "the network with exchange as an ONNX file, run by ONNX Runtime", _EXPORTED, like="exchange", file=True
    ),
    "exported-decode-once": Base(
        "the network that decodes once as an ONNX file, run by ONNX Runtime", _EXPORTED, like="decode-once", file=True
    ),
}
MODIFIERS = {
    "absorb": "norms absorbed into convolutions, and nothing computed that nobody reads (polymodal.export.absorb)",
    "int8": "with 8 bits, its ranges taken from the images that it is timed on",
    "auto": "the fast path without compilation (polymodal.accelerate)",
    "compile": "the fast path with torch.compile",
    "amp": "automatic mixed precision in bf16",
    "files": "end to end, from files of 8 and 16 bits, which are read anew, to the file of the class map",
}


@dataclass(frozen=True)
class Variant:
    """A base and what makes it faster: `exchange`, `exchange+amp`, `exchange+compile+amp`.

    Attributes:
        base: One of `BASES`.
        modifiers: Of `MODIFIERS`.
    """

    base: str
    modifiers: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return "+".join([self.base, *(name for name in MODIFIERS if name in self.modifiers)])

    @property
    def trains(self) -> bool:
        """Whether it can be trained; what is made for inference cannot."""
        return not BASES[self.base].file and not {"absorb", "files"} & self.modifiers

    @classmethod
    def parse(cls, word: str) -> "Variant":
        """The variant that a word names.

        Raises:
            ConfigError: There is none; the message lists them.
        """
        base, *modifiers = word.split("+")
        if base not in BASES or not set(modifiers) <= set(BASES[base].modifiers) or {"auto", "compile"} <= {*modifiers}:
            known = ", ".join("".join([name, *(f"[+{m}]" for m in about.modifiers)]) for name, about in BASES.items())
            raise ConfigError(f"there is no variant {word!r}; there are {known}, where +compile includes +auto.")
        return cls(base, frozenset(modifiers))


def check_variant(variant: Variant, case: Case) -> None:
    """Refuse a variant that cannot be built of a case, before anything is.

    Raises:
        ConfigError: The case is none for it, or the variant does not run on its device.
    """
    if check := BASES[variant.base].check:
        check(case)
    if BASES[variant.base].file and torch.device(case.device).type != "cpu":
        raise ConfigError(f"the variant {str(variant)!r} runs on the CPU alone; choose another, or use --device cpu.")


Predict = Callable[[], dict[str, Tensor]]
"""Returns logits by name: of modalities, and of the ensemble where there is one."""


def prepare(variant: Variant, networks: Networks, task: Mode) -> Callable[[], Any]:
    """Build a variant.

    Returns:
        What is timed: predicts and returns the logits, or does one training step; it ends when the device has done it.

    Raises:
        PolymodalError: The case does not allow it.
    """
    run = predictor(variant, networks) if task == "inference" else _trainer(variant, networks)
    device = networks.case.device
    if torch.device(device).type != "cuda":
        return run

    def synchronised() -> Any:
        found = run()
        torch.cuda.synchronize(device)
        return found

    return synchronised


def predictor(variant: Variant, networks: Networks) -> Predict:
    """What predicts in eval mode.

    Raises:
        PolymodalError: The case does not allow it.
    """
    if build := BASES[variant.base].build:
        own = build(networks)
        own.train(False)
        return own.predict
    case, autocast = networks.case, _precision(variant, networks)
    if BASES[variant.base].file or variant.base in ("no-exchange", "exchange", "decode-once"):
        run = _of_images(variant, networks)
        return from_files(run, networks) if "files" in variant.modifiers else partial(run, networks.inputs)

    images = networks.tiled()
    if variant.base == "plain":
        name, count = next(iter(images)), len(images)
        plain, folded = _fast(variant, networks.first, case, training=False), fold(list(images.values()))

        def predict_together() -> dict[str, Tensor]:
            with torch.inference_mode(), autocast():
                # Only the first modality's norms are those of this network.
                return {name: unfold(output_at(plain(folded), None), count)[:, 0]}

        return predict_together

    nets = [_fast(variant, net, case, training=False) for net in networks.unimodal]

    def predict_apart() -> dict[str, Tensor]:
        with torch.inference_mode(), autocast():
            return {name: output_at(net(image), None) for net, (name, image) in zip(nets, images.items(), strict=True)}

    return predict_apart


def _of_images(variant: Variant, networks: Networks) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """A network of all modalities, or its file, as a function of their images."""
    if BASES[variant.base].file:
        network = Variant(variant.base, variant.modifiers - {"files"})
        session = Session(_exported(network, networks), threads=torch.get_num_threads())
        return lambda images: {name: torch.from_numpy(logits) for name, logits in session(images).items()}
    autocast = _precision(variant, networks)
    net = _fast(variant, _shared(variant, networks), networks.case, training=False)

    def predict(images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.inference_mode(), autocast():
            return named_outputs(net(images))

    return predict


def _trainer(variant: Variant, networks: Networks) -> Step:
    """What does one training step in training mode."""
    if build := BASES[variant.base].build:
        own = build(networks)
        own.train(True)
        return own.step
    case, target, images = networks.case, networks.target, networks.tiled()
    losses: list[tuple[nn.Module, Callable[[], Tensor]]]
    if variant.base in ("no-exchange", "exchange", "decode-once"):
        net = _fast(variant, _shared(variant, networks), case, training=True)
        task = _Quiet(net, case.classes).to(case.device)
        batch = {"inputs": networks.inputs, "targets": {task.target.name: target}, "key": list(range(case.batch))}
        losses = [(net, lambda: task.training_step(batch, 0))]
    elif variant.base == "plain":
        plain, folded = _fast(variant, networks.first, case, training=True), fold(list(images.values()))
        losses = [(plain, partial(_loss, plain, folded, target.repeat_interleave(case.modalities, 0)))]
    else:
        nets = [_fast(variant, net, case, training=True) for net in networks.unimodal]
        losses = [(net, partial(_loss, net, image, target)) for net, image in zip(nets, images.values(), strict=True)]
    steps = [(networks.optimiser(net, _optimiser), loss) for net, loss in losses]
    autocast = _precision(variant, networks)

    def step() -> None:
        for optimiser, compute in steps:
            optimiser.zero_grad()
            with autocast():
                loss = compute()
            loss.backward()
            optimiser.step()

    return step


def _loss(net: nn.Module, image: Tensor, target: Tensor) -> Tensor:
    """That of a plain network."""
    logits = output_at(net(image), target.shape[-2:])
    return F.cross_entropy(logits.float(), target, ignore_index=IGNORE)


class _Quiet(Segmentation):
    """The training step of `polymodal fit` around a network that is there already.

    Args:
        net: The network.
        classes: Number of classes.
    """

    def __init__(self, net: Multimodal, classes: int) -> None:
        super().__init__()
        self.net = net
        self.target = TargetSpec("label", "", ignore=IGNORE)
        self.register_buffer("class_weight", torch.ones(classes), persistent=False)

    def log(self, *args: Any, **kwargs: Any) -> None:
        """No trainer reads it."""


def _shared(variant: Variant, networks: Networks) -> Any:
    """The network of all modalities."""
    like = BASES[variant.base].like
    return networks.static(like) if "absorb" in variant.modifiers else networks.named(like)


def _fast(variant: Variant, net: Any, case: Case, *, training: bool) -> Any:
    """The network in its mode, or an accelerated copy of it."""
    net.train(training)
    if case.statistics == "frozen":
        for module in net.modules():
            if is_batch_norm(module):
                module.eval()
    speed: Speed = "compile" if "compile" in variant.modifiers else "auto" if "auto" in variant.modifiers else "off"
    return net if speed == "off" else accelerate(copy.deepcopy(net), speed)


def _exported(variant: Variant, networks: Networks) -> Path:
    """The file of a variant, written when it is first asked for."""
    file = networks.exports / f"{variant}.onnx"
    if file.is_file():
        return file
    if "int8" in variant.modifiers:
        plain = _exported(Variant(variant.base, variant.modifiers - {"int8"}), networks)
        images = [
            {name: image[i : i + 1].numpy() for name, image in networks.inputs.items()}
            for i in range(networks.case.batch)
        ]
        with workplace(file) as place:
            Quantiser(plain, images, place).write(file)
    else:
        export.save(_shared(variant, networks).eval(), file)
    return file


def _precision(variant: Variant, networks: Networks) -> Callable[[], AbstractContextManager[Any]]:
    kind = torch.device(networks.case.device).type
    return lambda: torch.autocast(kind, torch.bfloat16, enabled="amp" in variant.modifiers)


def _optimiser(net: nn.Module) -> torch.optim.Optimizer:
    """That of the papers' recipes."""
    settings = Optimiser("sgd", LR, scales_factor=1.0, weight_decay=1e-5, decay="all", schedule="constant")
    return settings.build(net, steps=1)[0]
