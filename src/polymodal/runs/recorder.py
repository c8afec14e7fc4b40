"""What a training leaves behind after every epoch: metrics.csv, scales.npz, and once, environment.json."""

import csv
import platform
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from polymodal.files import complete_file
from polymodal.fusion import SiteState
from polymodal.multimodal import Multimodal
from polymodal.run_folder import ENVIRONMENT, EXCHANGED, KEEP, METRICS, PART, PENALTY, SCALE, SCALES, START, VAL, WEIGHT
from polymodal.runs.files import write_arrays, write_json
from polymodal.taken_over import TakenOver


class Recorder(Callback):
    """Writes a run folder epoch by epoch, from a state that is kept in the checkpoints, too.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, float]] = []
        self.scales: dict[str, list[torch.Tensor]] = {}
        self.seconds = 0.0
        self._validation: dict[str, float] = {}
        self._since = 0.0

    @property
    def began(self) -> bool:
        """Whether the training has begun."""
        return self._since > 0

    def state_dict(self) -> dict[str, Any]:
        """Everything recorded so far."""
        seconds = self.seconds + (time.monotonic() - self._since if self._since else 0.0)
        return {"rows": self.rows, "scales": self.scales, "seconds": seconds, "validation": self._validation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue a recording."""
        self.rows, self.scales, self.seconds = (state_dict[key] for key in ("rows", "scales", "seconds"))
        self._validation = state_dict.get("validation", {})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the versions and what the training starts from, and start the clock."""
        started: TakenOver | None = pl_module.fused.taken_over  # type: ignore[assignment, union-attr]
        if trainer.is_global_zero:
            write_json(self.folder / ENVIRONMENT, environment(trainer.strategy.root_device))
            if started is not None:
                write_json(self.folder / START, started.as_dict())
                if trainer.ckpt_path is None:
                    print(started, flush=True)
        self._since = time.monotonic()

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        """Note the scores, which Lightning would go on reporting in epochs without a validation."""
        if trainer.sanity_checking:  # scores of the untrained network belong to no epoch
            return
        self._validation = _floats(trainer.callback_metrics, VAL)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the epoch, counted from 1 as on the terminal, to metrics.csv and scales.npz."""
        net: Multimodal = pl_module.fused  # type: ignore[assignment]
        now = time.monotonic()
        self.seconds += now - self._since
        self._since = now
        states = net.exchange_state()
        facts = {EXCHANGED + name: share for name, share in exchanged_shares(states, net.modalities).items()}
        facts |= {WEIGHT + name: weight for name, weight in net.weights().items()}
        pl_module.log_dict(facts)
        row = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        measured = _floats(trainer.callback_metrics, "train/") | _floats(trainer.callback_metrics, PENALTY)
        self.rows.append(row | measured | self._validation | facts)
        self._validation = {}
        for site, state in states.items():
            self.scales.setdefault(site, []).append(state.scale)
        if trainer.is_global_zero:
            self._write_metrics()
            self.write_scales(net)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what the fusion remarks of itself, such as that it exchanges nothing."""
        net: Multimodal = pl_module.fused  # type: ignore[assignment]
        if trainer.is_global_zero and (remark := net.fusion.remark(net.exchange_state())):
            print(f"polymodal: warning: {remark}", file=sys.stderr)

    def epochs_since_validation(self) -> int:
        """How many epochs were trained after the last one that was validated; all of them if none was."""
        validated = [any(column.startswith(VAL) for column in row) for row in self.rows]
        return validated[::-1].index(True) if True in validated else len(validated)

    def write_scales(self, net: Multimodal) -> None:
        """Write scales.npz: |γ| after every epoch and what a network keeps; nothing without sites or epochs."""
        states = net.exchange_state()
        if not states or not self.rows:
            return
        arrays = {
            "epochs": np.array([row["epoch"] for row in self.rows]),
            "modalities": np.array(net.modalities),
            "sites": np.array(list(states)),
        }
        arrays |= {name: np.array(value) for name, value in net.fusion.cutoff().items()}
        for site, state in states.items():
            arrays[SCALE + site] = torch.stack(self.scales[site]).float().numpy()
            arrays[KEEP + site] = state.keep.numpy()
            arrays[PART + site] = state.part.numpy()
        write_arrays(self.folder / SCALES, arrays)

    def _write_metrics(self) -> None:
        columns = list(dict.fromkeys(column for row in self.rows for column in row))
        with complete_file(self.folder / METRICS) as file, file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            writer.writerows(self.rows)


def exchanged_shares(states: Mapping[str, SiteState], modalities: tuple[str, ...]) -> dict[str, float]:
    """For each modality the exchanged share, in 0..1, of the channels that it may exchange at all sites together.

    Empty without sites.
    """
    if not states:
        return {}
    exchanged = torch.stack([(~state.keep).sum(1) for state in states.values()]).sum(0)
    allowed = torch.stack([state.allowed.sum(1) for state in states.values()]).sum(0)
    return dict(zip(modalities, (exchanged / allowed.clamp(min=1)).tolist(), strict=True))


def environment(device: torch.device) -> dict[str, str]:
    """Versions and machine, for the record."""
    packages = ("torch", "polymodal", "lightning", "timm", "numpy", "torchvision", "segmentation-models-pytorch")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "python": sys.version.split()[0],
        **{package: version(package) for package in packages},
        "platform": platform.platform(),
        "device": f"{device.type} ({name})",
    }


def _floats(metrics: Mapping[str, torch.Tensor], prefix: str) -> dict[str, float]:
    return {key: float(value) for key, value in metrics.items() if key.startswith(prefix)}
