"""What FID[lite0] sees: the rooms' true pictures by day, altered by hand, and the predictions of a run, blurred.

    python tools/fid_sensitivity.py                                   # the table of docs/results.md
    python tools/fid_sensitivity.py --run runs/rooms-translation      # and what blurring does to a run's ensemble

Scores by `polymodal.metrics.ImageScores` on the 150 test scenes, with the colours of the training images' mean where a
mean is needed. One to three minutes on one core.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from polymodal import checkpoint
from polymodal.data import FolderDataset
from polymodal.metrics import ImageScores, feature_extractor

BATCH = 10
SCORES = ("MAE", "FID[lite0]")


def main() -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run of the recipe rooms-translation, to daylight")
    parsed = parser.parse_args()

    test = images("test", ["reshading"])
    altered = by_hand(test["target"], test["reshading"], images("train", [])["target"])
    if parsed.run is not None:
        altered |= {f"{parsed.run.name}: {name}": image for name, image in predicted(parsed.run).items()}
    scores = ImageScores(list(altered), feature_extractor("lite0"))
    for name, pictures in altered.items():
        for some, true, valid in zip(*(x.split(BATCH) for x in (pictures, test["target"], test["valid"])), strict=True):
            scores.update(name, some, true, valid)
    print("| pictures | MAE | FID[lite0] |\n|---|---|---|")
    for name, figures in scores.compute().items():
        mae, fid = (figures[score] for score in SCORES)
        print(f"| {name} | {mae:.4f} | {fid:.0f} |")


def by_hand(true: Tensor, reshading: Tensor, others: Tensor) -> dict[str, Tensor]:
    """Pictures that no network made, as many as there are true ones.

    Args:
        true: Test pictures, (N, 3, H, W) from -1 to 1.
        reshading: Of the same scenes, (N, C, H, W).
        others: Training pictures, N or more.
    """
    mean = others.mean((0, 2, 3))[:, None, None]
    shading = reshading[:, :1] - reshading[:, :1].mean((1, 2, 3), keepdim=True)
    return {
        "other scenes, true pictures": others[: len(true)],
        "half the contrast": mean + (true - mean) / 2,
        "a tenth of the contrast": mean + (true - mean) / 10,
        "without colour": true.mean(1, keepdim=True).expand_as(true),
        **{f"blurred by {pixels}": blurred(true, pixels) for pixels in (1, 3, 8)},
        "the mean colour": mean.expand_as(true),
        "the mean colour and a tenth of the reshading": mean + 0.1 * shading / reshading.std(),
    }


def predicted(run: Path) -> dict[str, Tensor]:
    """The ensemble of a run on the test scenes, as it is and blurred."""
    names = json.loads((run / "scores.test.json").read_text(encoding="utf-8"))["modalities"]
    net = checkpoint.load(run / "model").eval()
    given = images("test", names)
    batches = zip(*(given[name].split(BATCH) for name in names), strict=True)
    with torch.inference_mode():
        ensemble = torch.cat([net(dict(zip(names, batch, strict=True))).ensemble for batch in batches])
    return {"ensemble": ensemble, "ensemble, blurred by 1": blurred(ensemble, 1)}


def images(split: str, modalities: list[str]) -> dict[str, Tensor]:
    """Modalities, "target" and "valid" of all scenes of a split of the rooms."""
    dataset = FolderDataset("rooms", split, modalities or ["reshading"], target="daylight")
    scenes = [dataset[index] for index in range(len(dataset))]
    stacked = {name: torch.stack([scene["inputs"][name] for scene in scenes]) for name in modalities}
    stacked["target"] = torch.stack([scene["targets"]["daylight"] for scene in scenes])
    stacked["valid"] = torch.stack([scene["targets_valid"]["daylight"] for scene in scenes])
    return stacked


def blurred(image: Tensor, pixels: float) -> Tensor:
    """An image (N, C, H, W) under a Gaussian of that standard deviation, mirrored at its edges."""
    reach = int(4 * pixels) // 2
    line = torch.arange(-reach, reach + 1)
    weights = torch.exp(-(line**2) / (2 * pixels**2))
    kernel = (weights / weights.sum()).expand(image.shape[1], 1, -1)
    padded = F.pad(image, [reach] * 4, mode="reflect")
    rows = F.conv2d(padded, kernel[:, :, :, None], groups=image.shape[1])
    return F.conv2d(rows, kernel[:, :, None, :], groups=image.shape[1])


if __name__ == "__main__":
    main()
