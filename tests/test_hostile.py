"""Files from a stranger, given to every command that reads them: each ends in one line, or in a right result.

Nothing in a file is executed, nothing outside of the folder is written, nothing is connected to, nothing ends the
process, and nothing takes 10 seconds or a gigabyte.
"""

import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import hostile_tools
from fixtures_data import edit, make_archive, make_folder
from fixtures_run import write_run
from hostile_exports import write_exported
from polymodal import checkpoint, models
from polymodal.data import InputSpec, TargetSpec
from polymodal.surgery import fuse

RECIPES = Path(__file__).parents[1] / "recipes"
FIT = (
    f"fit --config={RECIPES}/folder.yaml --data.root={{0}} --data.modalities=[rgb,depth] "
    "--data.batch_size=2 --data.eval_batch_size=1 --data.workers=0 --trainer.max_epochs=1 --trainer.accelerator=cpu "
    "'--model.network_args={{stem: 4, widths: [4, 4], decoder: 4}}' --trainer.default_root_dir=run"
)
OF_DATA = ("data check {0}", "data stats {0} --output s.json", "data derive {0} derived", FIT)
OF_MODEL = ("inspect {0}", "predict --model {0} --input rgb=good/rgb depth=good/depth --out out", "export {0} net.onnx")


class Payload:
    """What runs when its pickle is read."""

    def __reduce__(self):
        return open, ("executed", "w")


PICKLE = pickle.dumps(Payload())


def _saved(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def _array(content: object) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([[content]], object), allow_pickle=True)
    return stream.getvalue()


def _png(width: int, height: int, held: int = 0) -> bytes:
    """A PNG file that claims a size, and holds so many zeros."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(held), 1))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def _flipped(path: Path) -> None:
    rng, content = np.random.default_rng(len(path.read_bytes())), bytearray(path.read_bytes())
    for position in rng.integers(0, len(content), 3):
        content[position] ^= 1 << int(rng.integers(0, 8))
    path.write_bytes(content)


def _link(path: Path, to: str) -> None:
    path.unlink()
    path.symlink_to(to)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _write(name: str, content: bytes | str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def _depth(name: str, content: bytes) -> Callable[[Path], object]:
    """The first depth file under another name and content."""

    def change(root: Path) -> None:
        (root / "depth/0000.png").unlink()
        (root / "depth" / name).write_bytes(content)

    return change


ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
DATA: dict[str, Callable[[Path], object]] = {
    "a tag": _write("dataset.yaml", "name: !!python/object/apply:builtins.open [executed, w]\n"),
    "aliases": _write("dataset.yaml", ALIASES),
    "an alias of itself": _write("dataset.yaml", "name: &a [*a]\n"),
    "deep": _write("dataset.yaml", "[" * 5000),
    "a long number": _write("dataset.yaml", f"name: {'9' * 5000}\n"),
    "no date": _write("dataset.yaml", "name: 2021-99-99\n"),
    "no text": _write("dataset.yaml", b"\xff\xfe\x00\x01"),
    "a pipe as description": lambda root: _pipe(root / "dataset.yaml"),
    "a device as description": lambda root: _link(root / "dataset.yaml", "/dev/zero"),
    "a folder outside": lambda root: edit(root, lambda d: d["modalities"]["rgb"].update(folder="../good/rgb")),
    "a split outside": lambda root: edit(root, lambda d: d["splits"].update(train="/etc/passwd")),
    "a split called outside": lambda root: edit(root, lambda d: d["splits"].update({"../x": "splits/train.txt"})),
    "a modality called outside": lambda root: edit(
        root, lambda d: d["modalities"].update({"../../x": d["modalities"].pop("rgb")})
    ),
    "a key outside": _write("splits/train.txt", "../../good/rgb/0000\n"),
    "a pipe as list": lambda root: _pipe(root / "splits/train.txt"),
    "a device as list": lambda root: _link(root / "splits/train.txt", "/dev/zero"),
    "a pipe as picture": lambda root: _pipe(root / "depth/0000.png"),
    "a device as picture": lambda root: _link(root / "depth/0000.png", "/dev/zero"),
    "a pickled array": _depth("0000.npy", _array(Payload())),
    "a pickle": _depth("0000.npy", PICKLE),
    "an array that lies": _depth(
        "0000.npy",
        b"\x93NUMPY\x01\x00v\x00"
        + f"{'{'}'descr':'<f4','fortran_order':False,'shape':({2**40},{2**40}){'}'}".ljust(117).encode()
        + b"\n",
    ),
    "a large picture": lambda root: (root / "depth/0000.png").write_bytes(_png(20000, 20000, 2**24)),
    "a larger picture than the others": lambda root: (root / "depth/0000.png").write_bytes(
        _png(11000, 11000, 121_011_000)
    ),
    "a larger label than the others": lambda root: (root / "label/0000.png").write_bytes(
        _png(11000, 11000, 121_011_000)
    ),
    "flipped pictures": lambda root: [_flipped(path) for path in root.rglob("*.[pj][np]g")],
    "flipped descriptions": lambda root: [_flipped(path) for path in root.rglob("*.[ty]*[tm]*l*")],
    "deep statistics": _write("statistics.json", "[" * 100_000),
    "statistics of nothing": _write("statistics.json", '{"depth": {"mean": [NaN], "std": [0]}}'),
    "a pickle as statistics": _write("statistics.json", PICKLE),
    "a pipe as statistics": lambda root: os.mkfifo(root / "statistics.json"),
}
"""What is changed in a sound data set of two modalities."""

QUICK = ("a tag", "aliases", "a folder outside", "a pipe as picture", "a pickled array", "a large picture")


def _member(name: str, **said: int) -> Callable[[zipfile.ZipFile], object]:
    def add(archive: zipfile.ZipFile) -> None:
        member = zipfile.ZipInfo(name)
        member.external_attr = said.get("mode", 0) << 16
        archive.writestr(member, b"/etc/passwd")

    return add


ARCHIVES: dict[str, Callable[[zipfile.ZipFile], object]] = {
    "a member outside": _member("../x.txt"),
    "a member from the root": _member("/tmp/x.txt"),
    "a link": _member("rgb/9.jpg", mode=0o120777),
    "a member twice": _member("dataset.yaml"),
    "a bomb": lambda archive: archive.writestr("depth/9.png", bytes(2**26), zipfile.ZIP_DEFLATED),
}


def _config(**changes: object) -> Callable[[Path], object]:
    def change(model: Path) -> None:
        content = json.loads((model / "config.json").read_text())
        for path, value in changes.items():
            *above, last = path.split("__")
            place = content
            for key in above:
                place = place[key]
            place[last] = value
        (model / "config.json").write_text(json.dumps(content))

    return change


SMP = {"name": "smp/Unet", "arguments": {"encoder_name": "resnet18", "classes": 2}}
MODELS: dict[str, Callable[[Path], object]] = {
    "a hub": _config(network=SMP | {"arguments": {"encoder_name": "tu-hf-hub:some/model", "classes": 2}}),
    "a checkpoint": _config(
        network={"name": "smp/Unet", "arguments": SMP["arguments"] | {"checkpoint_path": "weights.pt"}}
    ),
    "too much memory": _config(network__arguments__widths=[60000, 60000]),
    "too many layers": _config(network__arguments__widths=[1] * 60000),
    "too many modalities": _config(fuse__modalities={f"m{number}": 3 for number in range(50_000)}),
    "no modalities": _config(fuse__modalities=None),
    "an odd fusion": _config(fuse__fusion={"name": "../x", "class_path": "os.system"}),
    "odd sites": _config(fuse__sites=[{"a": 1}]),
    "an unknown key": _config(hook="x"),
    "an unknown key of fuse": _config(fuse__hook="x"),
    "odd metadata": _config(metadata=[1, 2]),
    "names outside": _config(metadata__inputs={"../../x": {}}),
    "deep": _write("config.json", "[" * 100_000),
    "a long number": _write("config.json", f'{{"format": {"9" * 5000}}}'),
    "a pickle as configuration": _write("config.json", PICKLE),
    "a pipe as configuration": lambda model: _pipe(model / "config.json"),
    "a pickle as weights": _write("model.safetensors", PICKLE),
    "a saved pickle as weights": _write("model.safetensors", _saved({"a": Payload()})),
    "weights that lie": _write(
        "model.safetensors",
        struct.pack("<Q", 70) + b'{"a": {"dtype": "F32", "shape": [99999999999], "data_offsets": [0, 4]}}'.ljust(70),
    ),
    "weights of 2^60 bytes": _write("model.safetensors", struct.pack("<Q", 2**60) + b"{}"),
    "a pipe as weights": lambda model: _pipe(model / "model.safetensors"),
    "flipped weights": lambda model: _flipped(model / "model.safetensors"),
    "a flipped configuration": lambda model: _flipped(model / "config.json"),
}


def _scores(**changes: object) -> Callable[[Path], object]:
    def change(run: Path) -> None:
        file = run / "scores.test.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def _objects(name: str) -> Callable[[Path], object]:
    return lambda run: np.savez(run / name, keys=np.array([Payload()], object), target=np.zeros(3))


def _bomb(run: Path) -> None:
    """Sixteen arrays of 128 MiB that are small as long as they are packed."""
    with zipfile.ZipFile(run / "samples.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        stream = io.BytesIO()
        np.save(stream, np.zeros(2**24, np.uint8))
        for number in range(80):
            archive.writestr(f"input:{number}.npy", stream.getvalue())


RUNS: dict[str, Callable[[Path], object]] = {
    "figures that are none": _scores(predictions={"ensemble": {"mean_iou": "<script>"}}),
    "a figure that is a list": _scores(predictions={"ensemble": {"mean_iou": 50.0, "iou": [[1]]}}),
    "weights that are none": _scores(weights={"rgb": "much", "depth": {}}),
    "shares that are none": _scores(exchanged={"rgb": []}),
    "names that are none": _scores(modalities=[1, {}]),
    "deep scores": _write("scores.test.json", "[" * 100_000),
    "a pipe as scores": lambda run: _pipe(run / "scores.test.json"),
    "a tag": _write("config.yaml", "data: !!python/object/apply:builtins.open [executed, w]\n"),
    "aliases": _write("config.yaml", ALIASES),
    "objects as scenes": _objects("samples.npz"),
    "objects as scales": _objects("scales.npz"),
    "a pickle as scenes": _write("samples.npz", PICKLE),
    "a bomb of scenes": _bomb,
    "a pipe as scales": lambda run: _pipe(run / "scales.npz"),
    "flipped scenes": lambda run: _flipped(run / "samples.npz"),
    "flipped scores": lambda run: _flipped(run / "scores.test.json"),
    "flipped rows": lambda run: _flipped(run / "metrics.csv"),
}

WEIGHTS = {
    "a.ckpt": PICKLE,
    "a.pt": _saved({"state_dict": {"a": Payload()}}),
    "a.pth.tar": _saved({"segmenter": Payload()}),
    "a.npz": PICKLE,
    "a.safetensors": PICKLE,
    "text.pt": b"some words",
    "empty.pt": b"",
    "list.pth.tar": _saved([1, 2]),
    "cut.pt": _saved({"a": torch.zeros(9)})[:-50],
}


def _good(box: Path) -> None:
    """A sound data set, model and run to copy."""
    make_folder(box / "good", size=(16, 24), modalities=("rgb", "depth"), splits={"train": 2, "val": 1})
    arguments = {"classes": 2, "stem": 4, "widths": [4, 4], "decoder": 4}
    inputs = {
        "rgb": InputSpec(kind="image", channels=3),
        "depth": InputSpec(kind="depth", channels=1, scale=0.001, unit="m", invalid=0.0),
    }
    target = TargetSpec(kind="label", folder="label", classes=("a", "b"), colors=((0, 0, 0), (255, 0, 0)))
    net = fuse(models.create("rooms-unet", **arguments), {"rgb": 3, "depth": 1})
    checkpoint.save(
        net,
        box / "model",
        network={"name": "rooms-unet", "arguments": arguments},
        metadata={
            "inputs": {name: spec.as_dict() for name, spec in inputs.items()},
            "target": target.as_dict(),
            "size": None,
            "training": {},
        },
    )
    write_run(box / "finished", size=(24, 32), scenes=2, epochs=2)


def _large(root: Path) -> None:
    """A sound data set of a picture as large as it may be."""
    make_folder(root, size=(16, 24), modalities=("depth",), splits={"train": 1})
    for folder in ("depth", "label"):
        (root / folder / "0000.png").write_bytes(_png(11585, 11585, 11585 * 11586))


def _copies(box: Path, kind: str, good: str, changes: dict[str, Callable[[Path], object]]) -> Iterator[str]:
    for number, change in enumerate(changes.values()):
        copy = box / f"{kind}{number}"
        shutil.copytree(box / good, copy)
        change(copy)
        yield copy.name


def _calls(box: Path) -> list[str]:
    """The corpus, written to a folder, and what is done with it."""
    _good(box)
    calls = [call.format("good") for call in OF_DATA[:1]]
    calls += [call.format(name) for name in _copies(box, "data", "good", DATA) for call in OF_DATA]
    for number, add in enumerate(ARCHIVES.values()):
        archive = shutil.copy(make_archive(box / "good"), box / f"archive{number}.zip")
        with zipfile.ZipFile(archive, "a") as opened:
            add(opened)
        calls += [call.format(Path(archive).name) for call in OF_DATA[:2]]
    _large(box / "large")
    calls += [call.format("large") for call in OF_DATA[:2]]
    (box / "cut.zip").write_bytes(make_archive(box / "good").read_bytes()[:-99])
    calls += ["data check cut.zip", "data check model/config.json"]
    for number in (16, 17, 18):  # a pipe, a device and a pickle among a stranger's pictures
        shutil.copytree(box / f"data{number}", box / f"raw{number}", symlinks=True, copy_function=_copied)
        (box / f"raw{number}/dataset.yaml").unlink()
        calls.append(f"data init raw{number}")
    calls += [f"data prepare {name} {source} prepared" for name in ("cen", "nyudv2") for source in ("good", "data16")]
    for what, name in zip(MODELS, _copies(box, "model-", "model", MODELS), strict=True):
        # Of odd names for its inputs the network is sound, and to export it takes half a minute.
        calls += [call.format(name) for call in OF_MODEL[: 2 if what == "names outside" else None]]
    calls += [f"predict --model {name} --input rgb=good/rgb depth=good/depth --out out" for name in write_exported(box)]
    calls += [f"report {name}" for name in _copies(box, "run-", "finished", RUNS)]
    calls += [f"validate {name}" for name in ("run-7", "run-8", "finished")]
    for name, content in WEIGHTS.items():
        (box / name).write_bytes(content)
        calls += [f"import-cen {name} imported", f"{FIT.format('good')} --model.weights={name}"]
        calls.append(f"{FIT.format('good')} --ckpt_path={name}")
    (box / "tag.yaml").write_text("model: !!python/object/apply:builtins.open [executed, w]\n")
    (box / "aliases.yaml").write_text(ALIASES)
    for name in ("tag.yaml", "aliases.yaml", "a.ckpt"):
        calls += [f"fit --config={name}", f"compare --config={name} --methods=all --out=compared"]
    return calls


def _copied(source: str, to: str) -> None:
    if Path(source).is_file() or Path(source).is_symlink():
        shutil.copy2(source, to, follow_symlinks=False)
    else:
        os.mkfifo(to)


def test_commands_on_a_strangers_data_end_in_one_line(tmp_path):
    """If this breaks, looking at a data set from elsewhere runs it, hangs, or fills the memory."""
    make_folder(tmp_path / "good", size=(16, 24), modalities=("rgb", "depth"), splits={"train": 2, "val": 1})
    for name in _copies(tmp_path, "data", "good", {key: DATA[key] for key in QUICK}):
        found = [hostile_tools.run(call.format(name), tmp_path) for call in OF_DATA[:2]]
        wrong = [(each["call"], hostile_tools.problems(each), each["said"]) for each in found]
        assert not any(problem for _, problem, _ in wrong), wrong
        assert any(each["status"] for each in found), name


@pytest.mark.slow
def test_every_command_on_every_hostile_file_ends_in_one_line(tmp_path):
    """If this breaks, a file from elsewhere runs code, writes where it likes, or ends or fills the process."""
    calls = _calls(tmp_path)
    (tmp_path / "calls.json").write_text(json.dumps(calls))
    ended = subprocess.run(
        [sys.executable, hostile_tools.__file__, str(tmp_path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=3600,
    )
    told = [json.loads(line) for line in ended.stdout.splitlines()]
    found = [each for each in told if "call" in each]
    wrong = [
        f"{each['call']}: {problem}: {each['said'][-400:]}"
        for each in found
        for problem in hostile_tools.problems(each)
    ]
    assert not wrong, "\n".join(wrong)
    assert [each["call"] for each in found] == calls, (told[-1], ended.stderr[-2000:])
    refused = [each for each in found if each["status"]]
    assert len(refused) > 0.7 * len(found)
