"""The network of the page "Try it in the browser", from a run: an absorbed file for each set of modalities.

    python tools/browser_model.py rooms     # writes docs/browser/*.onnx and docs/browser/model.json

`rooms` comes with the package, see docs/models.md. A minute on one core.
"""

import argparse
import json
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from polymodal import checkpoint, export
from polymodal.data import FolderData
from polymodal.metrics import SegmentationScores

PLACE = Path(__file__).parents[1] / "docs" / "browser"


def main() -> None:
    """Write the files and what the page must know of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="rooms, or a run of the recipe rooms that chose its checkpoint on val")
    folder = checkpoint.model_folder(parser.parse_args().run)
    net = checkpoint.load(folder)
    metadata: Any = checkpoint.read_config(folder)["metadata"]
    data = FolderData("rooms", modalities=list(net.modalities), eval_batch_size=10)
    data.setup("test")
    files = {}
    for names in subsets(net.modalities):
        file = PLACE / f"{'-'.join(names)}.onnx"
        export.save(export.absorb(net, names), file, weights="fp16", metadata=metadata)
        files["+".join(names)] = {"file": file.name, "mean_iou": scored(file, data)}
        print(file.name, f"{file.stat().st_size / 1e6:.2f} MB", files["+".join(names)]["mean_iou"])
    known = next(iter(data.test_dataloader()))["targets"][data.target.name].shape[-2:]
    about = {
        "inputs": metadata["inputs"],
        "target": metadata["target"],
        "size": list(known),
        "training": {key: metadata["training"][key] for key in ("epochs", "seed", "selected_on")},
        "scored_on": f"rooms/{data.test_split}",
        "files": files,
    }
    (PLACE / "model.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def subsets(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Every set of modalities that is not empty, in the network's order."""
    return [some for count in range(len(names), 0, -1) for some in combinations(names, count)]


def scored(file: Path, data: FolderData) -> Mapping[str, float]:
    """Mean IoU of every prediction of a file on the test split, in per cent."""
    session = export.Session(file)
    scores = SegmentationScores(session.outputs, data.num_classes)
    for batch in data.test_dataloader():
        found = session({name: batch["inputs"][name] for name in session.modalities})
        for name, logits in found.items():
            scores.update(name, torch.from_numpy(logits), batch["targets"][data.target.name])
    return {name: round(float(figures["mean_iou"]), 2) for name, figures in scores.compute().items()}


if __name__ == "__main__":
    main()
