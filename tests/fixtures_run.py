"""A tiny but complete run folder, made without training: smooth curves, shapes as scenes, scales that split at θ."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

CLASSES = ("wall", "floor", "rug", "picture", "table", "chair", "cabinet", "ball")
COLORS = ((190, 186, 173), (139, 112, 84), (178, 58, 72), (238, 180, 34), (34, 102, 141), (88, 164, 176),
          (96, 108, 56), (233, 116, 81))  # fmt: skip
SITES = {f"encoder.stage{s}.{b}.norm1": width for s, width in enumerate((32, 64, 64)) for b in range(2)}
THRESHOLD = 2e-2


def write_run(
    folder: Path,
    *,
    modalities: Sequence[str] = ("rgb", "depth"),
    classes: Sequence[str] = CLASSES,
    sites: Mapping[str, int] = SITES,
    exchanging: bool = True,
    splits: Sequence[str] = ("val", "test"),
    epochs: int = 16,
    scenes: int = 6,
    size: tuple[int, int] = (96, 128),
    seed: int = 0,
) -> Path:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    final = {m: (54.0 - i if exchanging else 32.0 + 12 * (i % 2)) for i, m in enumerate(modalities)}
    final["ensemble"] = max(final.values()) + 1.4
    exchanged = dict.fromkeys(modalities, 0.0)
    if exchanging:
        exchanged = _scales(folder / "scales.npz", modalities, sites, epochs, rng)
    weights = {m: float(w) for m, w in zip(modalities, _softmax(0.3 * np.arange(len(modalities))), strict=True)}
    for i, split in enumerate(splits):
        scores = {
            "split": split,
            "samples": 150,
            "modalities": list(modalities),
            "classes": list(classes),
            "predictions": {p: _scores(v - 0.7 * i, len(classes), rng) for p, v in final.items()},
            "weights": weights,
            "exchanged": exchanged,
            "parameters": 351_213,
            "seconds": 77.4,
            "epochs": epochs,
            "seed": seed,
            "network": "rooms-unet",
            "fusion": "exchange" if exchanging else "none",
        }
        (folder / f"scores.{split}.json").write_text(json.dumps(scores))
    (folder / "config.yaml").write_text(_config(modalities, epochs, seed))
    environment = {"python": "3.11.9", "torch": "2.15.0", "polymodal": "0.1.0", "device": "cpu"}
    (folder / "environment.json").write_text(json.dumps(environment))
    _metrics(folder / "metrics.csv", final, exchanged, weights, epochs, rng)
    _samples(folder / "samples.npz", final, modalities, classes, scenes, size, rng)
    return folder


def _softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum()


def _scores(mean: float, classes: int, rng: np.random.Generator) -> dict:
    noise = rng.normal(0, 4, classes)
    iou = np.clip(mean + np.linspace(30, -30, classes) + noise - noise.mean(), 2, 98)
    return {
        "pixel_accuracy": mean + 28,
        "mean_accuracy": mean + 12,
        "mean_iou": float(iou.mean()),
        "frequency_weighted_iou": mean + 17,
        "iou": [*iou[:-1].tolist(), None] if classes > 2 else iou.tolist(),
    }


def _config(modalities: Sequence[str], epochs: int, seed: int) -> str:
    return (
        f"seed_everything: {seed}\ntrainer:\n  max_epochs: {epochs}\nmodel:\n  network: rooms-unet\n  fusion:\n"
        "    class_path: polymodal.fusion.Exchange\n    init_args: {threshold: 0.02, penalty: 0.001}\n"
        f"data:\n  root: rooms\n  modalities: [{', '.join(modalities)}]\n  batch_size: 8\n"
    )


def _metrics(file: Path, final: dict, exchanged: dict, weights: dict, epochs: int, rng: np.random.Generator) -> None:
    rows = []
    for epoch in range(epochs):
        t = (epoch + 1) / epochs
        rows.append({"epoch": epoch + 1, "step": 75 * epoch + 50, "train/loss": 1.2 + 5 * np.exp(-3 * t)})
        loss = 1.6 + 4.6 * np.exp(-3 * t) + rng.normal(0, 0.05)
        row = {"epoch": epoch + 1, "step": 75 * epoch + 74, "val/loss": loss}
        for p, value in final.items():
            row[f"val/mean_iou/{p}"] = value * (1 - np.exp(-3.5 * t)) / (1 - np.exp(-3.5)) + rng.normal(0, 0.6)
            row[f"val/pixel_accuracy/{p}"] = row[f"val/mean_iou/{p}"] + 28
        for m in exchanged:
            row[f"exchanged/{m}"] = exchanged[m] / (1 + np.exp(-14 * (t - 0.35)))
            row[f"weight/{m}"] = 1 / len(weights) + t * (weights[m] - 1 / len(weights))
        row["penalty"] = 0.25 * np.exp(-2 * t)
        rows.append(row)
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(dict.fromkeys(k for row in rows for k in row)))
        writer.writeheader()
        writer.writerows(rows)


def _scales(file: Path, modalities: Sequence[str], sites: Mapping[str, int], epochs: int, rng) -> dict[str, float]:
    arrays: dict[str, np.ndarray] = {
        "epochs": np.arange(epochs) + 1,
        "modalities": np.array(modalities),
        "sites": np.array(list(sites)),
        "threshold": np.array(THRESHOLD),
    }
    count = len(modalities)
    for depth, (name, channels) in enumerate(sites.items()):
        part = np.stack([np.arange(channels) * count // channels == m for m in range(count)])
        shrinks = part & (rng.random(part.shape) < 0.4 + 0.55 * (depth + 1) / len(sites))
        end = np.where(shrinks, 10 ** rng.normal(-2.9, 0.4, part.shape), rng.lognormal(-0.25, 0.35, part.shape))
        end = np.where(shrinks, np.minimum(end, THRESHOLD * 0.9), end)
        start = rng.normal(0.97, 0.03, part.shape)
        steps = np.linspace(0, 1, epochs)[:, None, None]
        arrays[f"scale:{name}"] = (start ** (1 - steps) * end**steps).astype(np.float32)
        arrays[f"keep:{name}"] = (arrays[f"scale:{name}"][-1] >= THRESHOLD) | ~part
        arrays[f"part:{name}"] = part
    np.savez_compressed(file, **arrays)
    shares = {}
    for m, modality in enumerate(modalities):
        kept = np.concatenate([arrays[f"keep:{name}"][m][arrays[f"part:{name}"][m]] for name in sites] or [[True]])
        shares[modality] = float(1 - kept.mean())
    return shares


def _samples(
    file: Path, final: dict, modalities: Sequence[str], classes: Sequence[str], scenes: int, size, rng
) -> None:
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    colors = np.array([COLORS[i % len(COLORS)] for i in range(len(classes))], np.uint8)
    targets = []
    for _ in range(scenes):
        target = np.where(rows > height * rng.uniform(0.55, 0.7), 1, 0)
        for _ in range(9):
            label = int(rng.integers(2, len(classes))) if len(classes) > 2 else 1
            y, x = rng.uniform(0.15, 0.95) * height, rng.uniform(0, 1) * width
            h, w = rng.uniform(0.06, 0.2, 2) * height
            inside = ((rows - y) / h) ** 2 + ((columns - x) / w) ** 2 < 1
            if label % 2 == 0:
                inside = (abs(rows - y) < h) & (abs(columns - x) < w)
            target[inside] = label
        target[:2], target[-2:], target[:, :2], target[:, -2:] = (255,) * 4
        targets.append(target.astype(np.uint8))
    target = np.stack(targets)
    known = np.where(target == 255, 0, target)
    shading = 0.6 + 0.4 * rows / height
    noise = rng.normal(0, 9, (*target.shape, 3))
    pictures = {
        "rgb": np.clip(colors[known] * shading[..., None] * 0.9 + noise, 0, 255),
        "other": np.repeat(np.clip((rows / height * 160 + 11 * known)[..., None] + noise[..., :1], 0, 255), 3, axis=-1),
    }
    arrays: dict[str, np.ndarray] = {
        f"input:{m}": pictures["rgb" if m == "rgb" else "other"].astype(np.uint8) for m in modalities
    }
    for p, value in final.items():
        # Whole patches take a neighbour's label, the more the worse the score.
        shift = max(1, int((100 - value) / 10 * height / 96))
        patches = rng.random((scenes, -(-height // 8), -(-width // 8))) < (100 - value) / 100
        wrong = patches.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
        arrays[f"prediction:{p}"] = np.where(wrong, np.roll(known, (shift, -shift), axis=(1, 2)), known).astype(
            np.uint8
        )
    np.savez_compressed(
        file,
        keys=np.array([f"test/{i:04d}" for i in range(scenes)]),
        target=target,
        colors=colors,
        classes=np.array(classes),
        ignore=np.array(255),
        **arrays,
    )
