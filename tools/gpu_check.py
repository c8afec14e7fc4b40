"""What only a GPU can show, in one command of at most nine minutes: tests, speed, and a training on real images.

    python tools/gpu_check.py pack NYUDV2 build/gpu/nyudv2
    python tools/gpu_check.py run build/gpu/out --data build/gpu/nyudv2 --released CEN
    python tools/gpu_check.py run build/gpu/out --rehearse

`pack` writes a small copy of a folder of NYUDv2-39 that can travel. `run` does the parts one after the other, each in a
process of its own with a limit of time, and writes results.json and results.md after each; given again, it goes on with
what is missing. `--rehearse` takes the same way on the CPU, with tiny networks. See docs/performance.md.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from polymodal.data import DatasetSpec
from polymodal.data.spec import FILE
from polymodal.files import write_file
from polymodal.runs.files import write_json

ROOT = Path(__file__).parents[1]
SIZE = (320, 240)
"""Width and height of packed images."""

QUALITY = 90
"""Of packed JPEG files."""

RESERVE_S = 15.0
"""Of the time that is left, what a part must leave for the results."""


@dataclass(frozen=True)
class Part:
    """One measurement.

    Attributes:
        name: What it is called in results.
        limit_s: Seconds after which it is ended.
        words: The command behind the interpreter.
        page: The file below its folder whose text belongs into the results, if any.
    """

    name: str
    limit_s: float
    words: Sequence[str]
    page: str = ""


def parts(work: Path, data: Path | None, released: Path | None, *, rehearse: bool) -> list[Part]:
    """All parts that can be done, in the order of their worth.

    Args:
        work: Folder for what they write.
        data: A packed NYUDv2, for the loader and the training.
        released: The released code of CEN, which is measured beside ours.
        rehearse: Whether all is tiny and on the CPU.
    """
    tiny = ["--network", "rooms-unet", "--network-args", "stem=4", "widths=[4,4]", "decoder=4", "--classes", "3"]
    device, network = ("cpu", [*tiny, "--size", "32", "32"]) if rehearse else ("cuda", [])
    few = ["--repeats", "1", "--no-memory"] if rehearse else []
    bench = ["-m", "polymodal", "bench"]
    beside = [str(ROOT / "tools/bench_released.py"), str(released)] if released and not rehearse else bench
    peer = "peer," if released and not rehearse else ""

    def measured(name: str, limit_s: float, *words: str) -> Part:
        return Part(name, limit_s, [*words, "--device", device, "--out", str(work / name), *few], "bench.md")

    variants = ["exchange", "exchange+auto"] if rehearse else ["plain", "apart", "exchange"]
    amp = [] if rehearse else ["plain+auto+amp", "exchange+auto+amp", "exchange+compile+amp", "decode-once+auto+amp"]
    step = [*network, "--batch", "2"] if rehearse else ["--batch", "6", "--size", "500", "500"]
    light = network or ["--network-args", "encoder_name=resnet18", "light=true", "--size", "240", "320", "--batch", "4"]
    found = [
        Part("tests", 60, ["-m", "pytest", str(ROOT / "tests/test_cuda.py"), "-m", "cuda", "-p", "no:cacheprovider"]),
        measured(
            *("inference", 90, *beside, "--task", "inference", *network),
            *("--variants", peer + ",".join([*variants, *amp])),
        ),
        measured(
            *("training", 90, *beside, "--task", "training", *step),
            *("--variants", peer + ",".join([variants[-1], *amp[:3]])),
        ),
        measured("scaling", 60, *bench, "scaling", *light, *(["--modalities", "2"] if rehearse else [])),
    ]
    if data is not None:
        found += _on_images(work, data, rehearse=rehearse)
    return [replace(part, limit_s=10 * part.limit_s) for part in found] if rehearse else found


def _on_images(work: Path, data: Path, *, rehearse: bool) -> list[Part]:
    """The loader, and a training."""
    recipe = ROOT / "recipes" / ("folder.yaml" if rehearse else "nyudv2-39.yaml")
    settings = ["--config", str(recipe), "--data.root", str(data)]
    if rehearse:
        settings += ["--data.modalities=[rgb,depth]", "--data.batch_size=2", "--data.augment.crop=[32,32]"]
        settings += ["--model.network_args={stem: 4, widths: [4, 4], decoder: 4}", "--trainer.accelerator=cpu"]
    workers = "0" if rehearse else f"0,{max(1, (os.cpu_count() or 2) - 2)}"
    loader = [
        "-m",
        "polymodal",
        "bench",
        "data",
        *settings,
        "--workers",
        workers,
        "--repeats",
        "1",
        "--out",
        str(work / "loader"),
    ]
    length = ["--trainer.max_epochs=1"] if rehearse else ["--trainer.max_epochs=12", "--trainer.precision=bf16-mixed"]
    several = [] if rehearse else ["--data.workers=4", "--data.cache=true", "--jobs", "3"]
    learning = [
        "-m",
        "polymodal",
        "compare",
        *settings,
        "--methods",
        "exchange,private-norms,decode-once",
        "--seeds",
        "0",
    ]
    learning += ["--out", str(work / "learning"), "--trainer.check_val_every_n_epoch=1", *length, *several]
    return [Part("loader", 30, loader, "bench.md"), Part("learning", 180, learning, "table.md")]


def run(out: Path, work: Path, wanted: Sequence[Part], minutes: float, *, rehearse: bool) -> dict[str, Any]:
    """Do the parts that are missing, as far as time allows, and write the results after each.

    Args:
        out: Folder for results.json and results.md.
        work: The folder that the parts write to.
        wanted: All parts.
        minutes: For all of it.
        rehearse: Whether this is no measurement.

    Returns:
        What results.json holds.
    """
    end = time.monotonic() + 60 * minutes
    out.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    file = out / "results.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    results["machine"] = _machine(rehearse)
    done = results.setdefault("parts", {})
    environment = {**os.environ, **({"POLYMODAL_TEST_DEVICE": "cpu"} if rehearse else {})}
    for part in wanted:
        left = end - time.monotonic() - RESERVE_S
        if done.get(part.name, {}).get("status") == 0 or left < min(part.limit_s, 10):
            continue
        if part.page == "bench.md":  # of a part that was ended; a comparison goes on where it was
            shutil.rmtree(work / part.name, ignore_errors=True)
        print(f"{part.name}: at most {min(part.limit_s, left):.0f} s", flush=True)
        begin = time.monotonic()
        try:
            ended = subprocess.run(
                [sys.executable, *part.words],
                timeout=min(part.limit_s, left),
                env=environment,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            status, said = ended.returncode, ended.stdout
        except subprocess.TimeoutExpired as late:
            said = late.stdout or ""
            status, said = "out of time", said.decode() if isinstance(said, bytes) else said
        page = work / part.name / part.page
        done[part.name] = {
            "command": " ".join(part.words),
            "status": status,
            "seconds": round(time.monotonic() - begin, 1),
            "found": page.read_text() if part.page and page.is_file() else said[-4000:],
        }
        write_json(file, results)
        write_file(out / "results.md", _page(results).encode())
    return results


def _machine(rehearse: bool) -> dict[str, Any]:
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "card": f"{card}; a rehearsal on the CPU" if rehearse else card,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }


def _page(results: dict[str, Any]) -> str:
    machine = results["machine"]
    text = f"# GPU check\n\n{machine['card']}; torch {machine['torch']}, {machine['cores']} cores.\n"
    for name, part in results["parts"].items():
        ended = "" if part["status"] == 0 else f", ended with {part['status']}"
        text += f"\n## {name}\n\n`{part['command']}`, {part['seconds']:.0f} s{ended}\n\n"
        shown = part["found"].strip()
        text += f"{shown}\n" if shown.startswith(("|", "#")) else f"```\n{shown}\n```\n"
    return text


def pack(source: Path, out: Path) -> int:
    """Write a small copy of a folder data set: images of `SIZE`, colour as JPEG, the rest as PNG.

    Args:
        source: A folder with the layout of NYUDv2-39: dataset.yaml, `rgb`, `depth`, `label` and `splits`.
        out: A new folder.

    Returns:
        How many bytes it has.
    """
    spec = DatasetSpec.load(source)
    out.mkdir(parents=True)
    for name, part in {**spec.modalities, "target": spec.target}.items():
        (out / part.folder).mkdir(parents=True, exist_ok=True)
        for key in (key for keys in spec.splits.values() for key in keys):
            image = Image.open(source / spec.file(part, key))
            smooth = part.kind == "image" and name != "target"
            image = image.resize(SIZE, Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST)
            if smooth:
                image.save(out / part.folder / f"{key}.jpg", quality=QUALITY)
            else:
                image.save(out / part.folder / f"{key}.png", compress_level=9)
    for file in (FILE, *(str(file.relative_to(source)) for file in (source / "splits").iterdir())):
        (out / file).parent.mkdir(exist_ok=True)
        (out / file).write_bytes((source / file).read_bytes())
    return sum(file.stat().st_size for file in out.rglob("*") if file.is_file())


def main(words: Sequence[str] | None = None) -> int:
    """The command line; 0 when every part ended well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tools = parser.add_subparsers(required=True, dest="tool")
    packing = tools.add_parser("pack", help="a small copy of NYUDv2-39")
    packing.add_argument("source", type=Path)
    packing.add_argument("out", type=Path)
    running = tools.add_parser("run", help="all parts")
    running.add_argument("out", type=Path, help="folder for results.json and results.md")
    running.add_argument("--work", type=Path, default=ROOT / "build/gpu/work", help="folder for the rest")
    running.add_argument("--data", type=Path, help="a packed NYUDv2-39")
    running.add_argument("--released", type=Path, help="the released code of CEN")
    running.add_argument("--parts", help="some of them, with commas")
    running.add_argument("--minutes", type=float, default=9.0, help="for all of it (%(default)s)")
    running.add_argument("--rehearse", action="store_true", help="tiny, on the CPU")
    given = parser.parse_args(words)
    if given.tool == "pack":
        print(f"{given.out}: {pack(given.source, given.out) / 1e6:.1f} MB")
        return 0
    if not given.rehearse and not torch.cuda.is_available():
        parser.error("there is no GPU here; --rehearse takes the same way on the CPU")
    data = given.data and given.data.resolve()
    wanted = parts(given.work.resolve(), data, given.released and given.released.resolve(), rehearse=given.rehearse)
    if given.parts:
        named = given.parts.split(",")
        if unknown := [name for name in named if name not in {part.name for part in wanted}]:
            parser.error(f"--parts: no part {unknown[0]!r}; there are {', '.join(part.name for part in wanted)}")
        wanted = [part for part in wanted if part.name in named]
    results = run(given.out, given.work.resolve(), wanted, given.minutes, rehearse=given.rehearse)
    failed = [part.name for part in wanted if results["parts"].get(part.name, {}).get("status") != 0]
    print(f"{given.out / 'results.md'}" + (f"; not done: {', '.join(failed)}" if failed else ""))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
