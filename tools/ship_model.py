"""Put a trained run among the models that come with the package, src/polymodal/zoo/NAME, with weights of 16 bits.

    python tools/ship_model.py runs/nyudv2-39 nyudv2-39 --invalid depth=0
    polymodal validate nyudv2-39 --root DIR --subsets all      # the scores of what is shipped, for docs/models.md

Refused where the model predicts otherwise than the run: a class that changes at more than one pixel of a thousand of
random images.
"""

import argparse
from pathlib import Path

import torch

import polymodal
from polymodal import checkpoint

ZOO = Path(polymodal.__file__).with_name("zoo")
CHANGED = 1e-3


def ship(run: Path, name: str, invalid: dict[str, float]) -> Path:
    """Write the model.

    Args:
        run: The run folder.
        name: What it is loaded by.
        invalid: By modality, the number of pixels without a measurement, where the training's files had none.
    """
    net, config = polymodal.load(run), checkpoint.read_config(run)
    metadata = config["metadata"]
    for modality, number in invalid.items():
        metadata["inputs"][modality]["invalid"] = number
    folder = checkpoint.save(net, ZOO / name, network=config["network"], metadata=metadata, half=True)
    generator = torch.Generator().manual_seed(0)
    images = {
        modality: torch.randn(4, channels, 96, 128, generator=generator) for modality, channels in net.channels.items()
    }
    small = polymodal.load(folder)
    with torch.inference_mode():
        before, after = (one(images).ensemble.argmax(1) for one in (net, small))
    changed = float((before != after).float().mean())
    print(f"{folder}: {sum(file.stat().st_size for file in folder.iterdir()) / 2**20:.1f} MiB, {changed:.2%} changed")
    if changed > CHANGED:
        raise SystemExit(f"{name}: 16 bits change {changed:.2%} of the pixels; ship it with 32 instead")
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--invalid", nargs="*", default=[], metavar="MODALITY=NUMBER")
    parsed = parser.parse_args()
    ship(parsed.run, parsed.name, {word.split("=")[0]: float(word.split("=")[1]) for word in parsed.invalid})
