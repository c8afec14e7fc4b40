"""Files damaged at random, of every kind that is read: each is refused in one line, or read as what it now says.

If this breaks, one damaged file of a data set, a run or a model ends in a traceback, a crash or a hang.
"""

import faulthandler
import io
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image

from fixtures_data import make_folder
from fixtures_run import write_run
from fuzz_tools import Damage, damaged_archive, damaged_bytes, damaged_document, damaged_json, damaged_png
from polymodal.data import DatasetSpec, FolderDataset, check
from polymodal.data.content import FileSpec
from polymodal.data.reading import decode
from polymodal.data.statistics import compute, write
from polymodal.errors import PolymodalError
from polymodal.report import write_report
from polymodal.runs.predict import predict

SAVED = Path(__file__).parent / "saved"
PATIENCE = 20
"""Seconds for one file, on a machine that does other things, too."""

SHARE = 34
"""One of so many inputs is tried without being asked."""


class Target(NamedTuple):
    """A file that is damaged, and what reads it.

    Args:
        number: How many inputs are tried.
        files: The sound ones, in turn.
        damage: What is done to them.
        read: Reads the content of a damaged one, in a folder of its own.
    """

    number: int
    files: list[bytes]
    damage: Damage
    read: Callable[[bytes], object]


def picture(form: str, array: np.ndarray, mode: str | None = None, **options) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(stream, form, **options)
    return stream.getvalue()


def tiff(array: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (12, 16, 3), np.uint8)
GREY, DEEP = COLORS[..., 0], COLORS[..., 0].astype(np.uint16) * 257
TURNED = Image.Exif()
TURNED[274] = 6

PNGS = [
    picture("PNG", COLORS),
    picture("PNG", GREY),
    picture("PNG", DEEP),
    picture("PNG", GREY, "P"),
    picture("PNG", COLORS, "RGBA", exif=TURNED),
    picture("PNG", GREY, "1"),
    picture("PNG", GREY, transparency=3),
    picture("PNG", COLORS, "P", bits=4),
]
JPEGS = [
    picture("JPEG", COLORS),
    picture("JPEG", GREY, progressive=True),
    picture("JPEG", COLORS, "CMYK"),
    picture("JPEG", COLORS, exif=TURNED),
]
TIFFS = [
    tiff(COLORS, photometric="rgb"),
    tiff(DEEP, compression="zlib", predictor=True, tile=(16, 16), extratags=[(42113, "s", 2, "0", True)]),
    tiff(GREY, photometric="miniswhite", compression="lzw"),
    tiff(COLORS.astype(np.float32), photometric="rgb", planarconfig="separate", byteorder=">"),
    tiff(np.stack([GREY, GREY]), photometric="minisblack"),
    tiff(GREY, photometric="palette", colormap=np.zeros((3, 256), np.uint16)),
    tiff(COLORS, photometric="ycbcr", compression="jpeg"),
    tiff(DEEP, bigtiff=True, resolution=(1, 1), metadata=None),
    picture("TIFF", COLORS, "CMYK"),
]
ARRAYS = [
    npy(COLORS),
    npy(DEEP),
    npy(np.moveaxis(COLORS, 2, 0).astype(">f4")),
    npy(GREY > 99),
    npy(COLORS[..., :2] / 9),
]
READINGS = [FileSpec(kind, pages=pages) for kind in ("image", "label", "depth", "raw") for pages in (None, "bands")]


def decoded(ending: str, data: bytes) -> None:
    """Read one picture in every way; what is no picture is refused, and what is one is numbers in three axes."""
    said = []
    for reading in READINGS:
        try:
            content = decode(data, f"file{ending}", reading)
        except PolymodalError as error:
            said.append(str(error))
        else:
            assert content.array.ndim == 3
            assert content.array.size
            assert content.array.dtype.kind in "buif"
            assert content.array.dtype.isnative
            content.channels(None, "file")
    assert not any("\n" in text for text in said)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data set, a run, a model, an exported file, and pictures to predict with both."""
    root = tmp_path_factory.mktemp("fuzz")
    data = make_folder(root / "data", size=(12, 16), splits={"train": 2, "val": 1}, modalities=("rgb", "depth", "grey"))
    write(compute(shutil.copytree(data, root / "measured")), root / "measured")
    write_run(root / "run", classes=("a", "b"), sites={"one": 4, "two": 3}, epochs=2, scenes=1, size=(8, 8))
    shutil.copytree(SAVED / "run" / "model", root / "model")
    return root


def targets(root: Path) -> dict[str, Target]:
    data, measured, run, model = (root / name for name in ("data", "measured", "run", "model"))
    damaged_yaml = damaged_document(partial(yaml.safe_dump, allow_unicode=True), yaml.safe_load)

    def of_data(content: bytes, *, file: Path) -> None:
        root = measured if measured in file.parents else data
        with replaced(file, content):
            check(root)
            spec = DatasetSpec.load(root)
            for split in spec.splits:
                FolderDataset(spec, split)[0]

    def of_run(content: bytes, *, file: Path) -> None:
        with replaced(file, content):
            write_report([run], root / "report.html")

    def of_model(content: bytes) -> None:
        with replaced(model / "config.json", content):
            predicted(model)

    def predicted(source: Path) -> None:
        files = {name: data / name / ("0000.jpg" if name == "rgb" else "0000.png") for name in ("rgb", "grey", "depth")}
        shutil.rmtree(root / "out", ignore_errors=True)
        chosen = ("grey", "depth") if source == model else ("rgb", "depth")
        predict(source, {name: files[name] for name in chosen}, root / "out")

    exported = SAVED / "folded.onnx"
    metadata = json.loads((model / "config.json").read_text())["metadata"]
    grey, depth = metadata["inputs"].values()
    colors = grey | {"channels": 3, "mean": [0.5] * 3, "std": [0.2] * 3}
    classes = metadata["target"] | {"classes": ["a", "b", "c"], "colors": [[0, 0, 0], [255, 0, 0], [0, 0, 255]]}
    said = metadata | {"inputs": {"rgb": colors, "depth": depth}, "target": classes}
    description = {
        "format": 2, "modalities": {"rgb": 3, "depth": 1}, "outputs": ["rgb", "depth", "ensemble"], "step": 1,
        "size": None, "folded": True, "metadata": said,
    }  # fmt: skip

    def of_export(content: bytes) -> None:
        import onnx

        graph = onnx.load(exported)
        try:
            graph.metadata_props[0].value = content.decode()
        except UnicodeDecodeError:
            return  # protobuf has no such text
        (root / "net.onnx").write_bytes(graph.SerializeToString())
        predicted(root / "net.onnx")

    def target(number: int, file: Path, damage: Damage, read: Callable[..., object]) -> Target:
        return Target(number, [file.read_bytes()], damage, partial(read, file=file))

    return {
        "PNG": Target(1800, PNGS, damaged_png, partial(decoded, ".png")),
        "JPEG": Target(1500, JPEGS, damaged_bytes, partial(decoded, ".jpg")),
        "TIFF": Target(1700, TIFFS, damaged_bytes, partial(decoded, ".tif")),
        "npy": Target(1500, ARRAYS, damaged_bytes, partial(decoded, ".npy")),
        "dataset.yaml": target(800, data / "dataset.yaml", damaged_yaml, of_data),
        "statistics.json": target(400, measured / "statistics.json", damaged_json, of_data),
        "split": target(300, data / "splits/train.txt", damaged_bytes, of_data),
        "metrics.csv": target(350, run / "metrics.csv", damaged_bytes, of_run),
        "scores": target(350, run / "scores.test.json", damaged_json, of_run),
        "scales.npz": target(300, run / "scales.npz", damaged_archive, of_run),
        "samples.npz": target(300, run / "samples.npz", damaged_archive, of_run),
        "config.yaml": target(150, run / "config.yaml", damaged_yaml, of_run),
        "environment.json": target(50, run / "environment.json", damaged_json, of_run),
        "config.json": Target(350, [(model / "config.json").read_bytes()], damaged_json, of_model),
        "description": Target(200, [json.dumps(description).encode()], damaged_json, of_export),
    }


@contextmanager
def replaced(file: Path, content: bytes) -> Iterator[None]:
    """A file that holds something else for a while."""
    kept = file.read_bytes()
    file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(kept)


KINDS = (
    "PNG", "JPEG", "TIFF", "npy", "dataset.yaml", "statistics.json", "split", "metrics.csv", "scores", "scales.npz",
    "samples.npz", "config.yaml", "environment.json", "config.json", "description",
)  # fmt: skip


@pytest.fixture
def stderr(capfd):
    """Where a hang is told even though it ends all tests."""
    with capfd.disabled():
        return os.dup(2)


def tried(kind: str, target: Target, numbers: range, stderr: int) -> list[str]:
    """What ended in another way than it should, with the number that makes it again."""
    found = []
    for number in numbers:
        rng = random.Random(f"{kind} {number}")
        content = target.damage(rng, target.files[number % len(target.files)])
        faulthandler.dump_traceback_later(PATIENCE, exit=True, file=stderr)
        try:
            target.read(content)
        except PolymodalError as error:
            if "\n" in str(error):
                found.append(f"{kind} {number}: more than one line: {error}")
        except Exception as error:
            found.append(f"{kind} {number}: {error!r} of {content[:200]!r}")
        finally:
            faulthandler.cancel_dump_traceback_later()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_refused_or_read(kind, root, stderr):
    target = targets(root)[kind]
    assert tried(kind, target, range(0, target.number, SHARE), stderr) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_files_are_refused_or_read(kind, root, stderr):
    target = targets(root)[kind]
    assert tried(kind, target, range(target.number), stderr) == []


def test_ten_thousand_are_tried_of_files_that_are_sound(root):
    """Else all are refused for a reason that is none of the damage."""
    found = targets(root)
    assert tuple(found) == KINDS
    assert sum(target.number for target in found.values()) >= 10_000
    for target in found.values():
        for content in target.files:
            target.read(content)
