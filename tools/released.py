"""The released code of CEN beside ours: its own network and its own training step, in a folder that the user names.

Nothing of that code is here; what it is called with is from reading it (github.com/yikaiw/CEN).
"""

import importlib
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymodal.bench.case import Case, Networks
from polymodal.bench.variants import LR
from polymodal.errors import ConfigError
from polymodal.names import ENSEMBLE
from polymodal.runs.import_cen import RELEASED_EXCHANGE, released_names
from polymodal.runs.released import IGNORE, INPUTS

MODULE = Path("models", "model.py")
SEGMENTATION = "semantic_segmentation"
_NEEDED = f"the released code (git clone https://github.com/yikaiw/CEN), {SEGMENTATION}/{MODULE} with its refinenet()"

PENALTY = RELEASED_EXCHANGE.penalty / 3
"""λ as the released code has it, which adds the term once for each of its three predictions."""


class Peer:
    """The released network with the values of ours, and what the released loops do with it.

    Args:
        code: The folder of that code.
        networks: Ours.
        lr: Learning rate of its two optimisers.

    Raises:
        ConfigError: The case is none that the released code knows, or the folder does not hold it.
    """

    def __init__(self, code: Path, networks: Networks, lr: float = LR) -> None:
        case = networks.case
        folder, depth = check_peer(code, case)
        self.net = released_network(folder, depth, case.classes, RELEASED_EXCHANGE.threshold)
        self._take_over(networks, folder)
        self.net.to(case.device)
        self.statistics = case.statistics
        self.images = [image.contiguous() for image in networks.tiled().values()]
        self.target = networks.target
        groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, parameter in self.net.named_parameters():
            groups[any(part in name for part in ("conv1", "bn1", "layer"))].append(parameter)
        self.optimisers = [
            torch.optim.SGD(group, lr, momentum=0.9, weight_decay=1e-5) for group in groups.values() if group
        ]
        scales = [p for name, p in self.net.named_parameters() if name.endswith("weight") and "bn2" in name]
        # Those of the two modalities take turns; each is penalised on its half.
        self.penalised = [
            scale[len(scale) // 2 :] if m % 2 else scale[: len(scale) // 2] for m, scale in enumerate(scales)
        ]

    def train(self, training: bool) -> None:
        """Set the mode; in training the released loop leaves the norms in that of evaluation."""
        self.net.train(training)
        if self.statistics == "frozen":
            for module in self.net.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    def predict(self) -> dict[str, Tensor]:
        """The logits of both modalities and of the ensemble, each (B, classes, H / 4, W / 4)."""
        with torch.no_grad():
            outputs = self._outputs()
        return dict(zip((*INPUTS, ENSEMBLE), outputs, strict=True))

    def step(self) -> None:
        """What the released loop does with a batch."""
        outputs = self._outputs()
        loss: Any = 0
        for output in outputs:
            logits = F.interpolate(output, size=self.target.shape[1:], mode="bilinear", align_corners=False)
            loss = loss + F.nll_loss(F.log_softmax(logits, 1), self.target, ignore_index=IGNORE)
            loss = loss + PENALTY * sum(scale.abs().sum() for scale in self.penalised)
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        loss.backward()
        for optimiser in self.optimisers:
            optimiser.step()
        # The loop keeps a mean of the losses.
        loss.item()

    def _outputs(self) -> list[Tensor]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Implicit dimension choice")
            outputs, _ = self.net(self.images)
        return outputs

    def _take_over(self, networks: Networks, folder: Path) -> None:
        state: dict[str, Tensor] = {}
        for name, value in networks.exchange.state_dict().items():
            names = released_names(name)
            private = len(names) > 1 and not name.endswith("num_batches_tracked")
            state |= dict(zip(names, value if private else [value] * len(names), strict=True))
        try:
            self.net.load_state_dict(state)
        except RuntimeError as error:
            raise ConfigError(f"{folder} holds another network than the released one: {error}") from error


def check_peer(code: Path, case: Case) -> tuple[Path, int]:
    """Whether a case can be run by the released code.

    Args:
        code: The folder that it was cloned to, or the one for segmentation in it.
        case: What is measured.

    Returns:
        The folder with models/model.py, and the depth of the ResNet.

    Raises:
        ConfigError: There is no such folder, or the released code does not know the case's network.
    """
    folder = next((folder for folder in (code, code / SEGMENTATION) if (folder / MODULE).is_file()), None)
    if folder is None:
        raise ConfigError(f"there is no {MODULE} in {code} or its {SEGMENTATION}; expected {_NEEDED}.")
    depths = {f"resnet{depth}": depth for depth in (50, 101, 152)}
    encoder = case.arguments.get("encoder_name", "resnet101")
    if (
        case.network != "refinenet"
        or encoder not in depths
        or case.arguments.keys() - {"encoder_name"}
        or case.modalities != 2
    ):
        given = ", ".join(f"{key}={value}" for key, value in case.arguments.items())
        raise ConfigError(
            f"peer: the released code knows --network refinenet with encoder_name={' or '.join(depths)} and "
            f"--modalities 2 alone; got {case.network} with {given or 'its defaults'} and {case.modalities} modalities."
        )
    return folder, depths[encoder]


def released_network(code: Path, depth: int, classes: int, threshold: float | None) -> nn.Module:
    """The released RefineNet of two modalities; its helpers for downloads and pictures are not loaded.

    Args:
        code: The folder with models/model.py of CEN or AsymFusion. The code in it is run.
        depth: Of the ResNet: 50, 101 or 152.
        classes: Number of classes.
        threshold: θ of CEN; None for AsymFusion, which has none.

    Raises:
        ConfigError: The folder does not hold that code, or the code breaks.
    """
    arguments = {} if threshold is None else {"bn_threshold": threshold}
    helpers = types.ModuleType("utils.helpers")
    helpers.maybe_download = None  # type: ignore[attr-defined]
    with importable(code, {"utils": types.ModuleType("utils"), "utils.helpers": helpers}):
        try:
            network = importlib.import_module("models.model").refinenet(depth, classes, 2, **arguments)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            raise ConfigError(f"{code / MODULE} cannot be used: {why}; expected {_NEEDED}.") from error
    assert isinstance(network, nn.Module)
    return network


@contextmanager
def importable(code: Path, stand_ins: Mapping[str, types.ModuleType]) -> Iterator[None]:
    """Within the context, the modules of a released code can be imported; later ones of that name are others.

    Args:
        code: The folder with its `models`.
        stand_ins: Modules that it imports and that are not needed, by name.
    """
    theirs = {"models", "utils", *(name.partition(".")[0] for name in stand_ins)}
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in theirs}
    for name in before:
        del sys.modules[name]
    sys.modules |= stand_ins
    sys.path.insert(0, str(code))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(code))
        for name in [name for name in sys.modules if name.partition(".")[0] in theirs]:
            del sys.modules[name]
        sys.modules |= before
