"""Renders "rooms", the data set inside polymodal: procedural rooms that need both colour and depth to be understood.

    python tools/render_rooms.py src/polymodal/data/rooms.zip              # the embedded set, as it is
    python tools/render_rooms.py more.zip --train 5000 --seed 1 --workers 8
    python tools/render_rooms.py large.zip --size 320 240

Needs what `pip install polymodal[render]` brings: Mitsuba 3.9 or newer (a wheel, no GPU, no LLVM) and Pillow.

A room is drawn from the seed and its number alone, so scene 7 of seed 0 is the same room at any size and in any run.
The archive has the folder layout of every polymodal data set and can be used as it is or unpacked; the set is named
after the file, so that scores on two of them are kept apart. Same arguments and same library versions give the same
bytes.

What a scene tests: furniture wears random colours, sometimes the pattern of the wall or floor behind it, and sometimes
is only a poster of furniture: shape tells, colour does not. Rugs, pictures, doors and windows lie flat: colour tells,
shape does not. Some scenes are dark and noisy, and depth has holes, noise and steps as a structured-light camera gives.

What colours drawn by lot cannot test is their prediction, so every room is seen a second time by day, in the materials
that its things are usually made of: what shading and edges tell together is then enough to know most of it.
"""

import argparse
import io
import multiprocessing
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from rich.progress import track

from rooms import sensors
from rooms.daylight import by_day
from rooms.layout import CLASSES, furnish
from rooms.tracing import look

COLOURS = {
    "wall": (198, 205, 214),
    "floor": (140, 116, 92),
    "ceiling": (238, 236, 226),
    "rug": (201, 74, 110),
    "picture": (247, 148, 54),
    "door": (122, 72, 46),
    "window": (110, 190, 240),
    "table": (46, 139, 87),
    "chair": (250, 207, 64),
    "cabinet": (126, 92, 190),
    "bed": (42, 101, 196),
    "sofa": (30, 176, 170),
    "ball": (222, 48, 42),
}
FOLDERS: dict[str, dict[str, object]] = {
    "rgb": {"kind": "image"},
    "depth": {"kind": "depth", "scale": sensors.DEPTH_SCALE, "unit": "m", "invalid": 0},
    "normal": {"kind": "normal"},
    "reshading": {"kind": "image"},
    "texture_edge": {"kind": "image"},
    "occlusion_edge": {"kind": "image"},
    "daylight": {"kind": "image"},
}
QUALITY = {"rgb": 88, "reshading": 85, "texture_edge": 65, "daylight": 88}  # the modalities kept as JPEG


def description(name: str, splits: list[str]) -> str:
    """The text of `dataset.yaml`."""
    content = {
        "name": name,
        "modalities": {name: {"folder": name, **rest} for name, rest in FOLDERS.items()},
        "target": {
            "folder": "label",
            "kind": "label",
            "ignore": 255,
            "classes": list(CLASSES),
            "colors": [list(COLOURS[name]) for name in CLASSES],
        },
        "splits": {name: f"splits/{name}.txt" for name in splits},
    }
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120)


def render(number: int, seed: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """One scene.

    Args:
        number: Which.
        seed: The data set's seed.
        size: Width and height in pixels.

    Returns:
        8-bit images (H, W) or (H, W, 3) by modality, and "label".
    """
    room = furnish(np.random.default_rng([seed, number]))
    view = look(room, *size)
    clean = sensors.expose(view)
    camera = np.random.default_rng([seed, number, 1])
    day = by_day(np.random.default_rng([seed, number, 2]), room)
    return {
        "rgb": sensors.photograph(camera, clean),
        "depth": sensors.measure(camera, room, view),
        "normal": sensors.normals(view),
        "reshading": sensors.reshading(view),
        "texture_edge": sensors.texture_edge(clean),
        "occlusion_edge": sensors.occlusion_edge(view),
        "daylight": sensors.snapshot(sensors.expose(look(day, *size))),
        "label": sensors.labels(room, view),
    }


def encode(name: str, image: np.ndarray) -> tuple[str, bytes]:
    """The file of one image: its extension and content."""
    buffer = io.BytesIO()
    if name in QUALITY:
        Image.fromarray(image).save(buffer, "JPEG", quality=QUALITY[name], optimize=True)
        return "jpg", buffer.getvalue()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return "png", buffer.getvalue()


def files(number: int, seed: int, size: tuple[int, int]) -> list[tuple[str, bytes]]:
    """The files of one scene: path in the archive and content."""
    encoded = {name: encode(name, image) for name, image in render(number, seed, size).items()}
    return [(f"{name}/{number:04d}.{ending}", content) for name, (ending, content) in sorted(encoded.items())]


def contents(
    name: str, counts: dict[str, int], seed: int, size: tuple[int, int], workers: int
) -> Iterator[tuple[str, bytes]]:
    """All files of the archive, in order."""
    yield "dataset.yaml", description(name, list(counts)).encode()
    start = 0
    for split, count in counts.items():
        yield f"splits/{split}.txt", "".join(f"{n:04d}\n" for n in range(start, start + count)).encode()
        start += count
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        scenes = pool.imap(partial(files, seed=seed, size=size), range(start))
        for scene in track(scenes, "rendering", total=start):
            yield from scene


def write(path: Path, entries: Iterator[tuple[str, bytes]]) -> None:
    """Writes an archive without compression and without times, so that equal contents give equal bytes."""
    partial_path = path.with_suffix(".partial")
    try:
        with zipfile.ZipFile(partial_path, "w", zipfile.ZIP_STORED) as archive:
            for name, content in entries:
                archive.writestr(zipfile.ZipInfo(name), content)
        partial_path.replace(path)
    finally:
        partial_path.unlink(missing_ok=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("archive", type=Path, help="the .zip file to write")
    parser.add_argument("--train", type=int, default=600, help="training scenes (default: %(default)s)")
    parser.add_argument("--val", type=int, default=150, help="validation scenes (default: %(default)s)")
    parser.add_argument("--test", type=int, default=150, help="test scenes (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 96), metavar=("W", "H"), help="default: 128 96")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other rooms (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: %(default)s)")
    options = parser.parse_args()
    counts = {"train": options.train, "val": options.val, "test": options.test}
    write(options.archive, contents(options.archive.stem, counts, options.seed, tuple(options.size), options.workers))


if __name__ == "__main__":
    main()
