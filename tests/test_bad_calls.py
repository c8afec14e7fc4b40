"""Every bad call of the table ends with status 2 and one line, and leaves nothing behind."""

import shlex
from pathlib import Path

import pytest

from fixtures_data import make_folder
from polymodal.cli import main

EVERY = {"fit": 30, "translate": 15, "": 3}
"""One of so many calls is tried without being asked: a training's parser of all settings takes a third of a second."""

SMALL = "--data.batch_size=2 --data.eval_batch_size=1 --trainer.max_epochs=1 --trainer.accelerator=cpu"
OF_ALL = {
    "fit": "--config={recipes}/folder.yaml --data.root=own --model.network_args={stem: 4, widths: [4, 4], decoder: 4}",
    "translate": "--config={recipes}/rooms-translation.yaml --data.root=three --data.modalities=[depth,grey] "
    "--data.target=rgb --data.augment.crop=[32,32] --model.network_args={filters: 2} --model.extractor=null",
}
"""What a line of the table is added to, by section; a line of another one is a whole call."""


def table():
    section, number = "", 0
    for line in (Path(__file__).parent / "bad_calls.txt").read_text(encoding="utf-8").splitlines():
        if line in ("[fit]", "[translate]", "[]"):
            section, number = line[1:-1], 0
            continue
        number += 1
        slow = [pytest.mark.slow] if number % EVERY[section] != 2 else []
        yield pytest.param(section, line, marks=slow, id=f"{section or 'call'}: {line}")


CALLS = list(table())


def words(section: str, line: str) -> list[str]:
    if not section:
        return shlex.split(line)
    given = f"{OF_ALL[section]} {SMALL} --trainer.default_root_dir=run"
    given = given.replace("{recipes}", str(Path(__file__).parents[1] / "recipes"))
    settings = f" {given} {line}" if line.startswith("--") else f" {given}"
    split = [f"--{word}" for word in settings.split(" --")[1:]]  # values of several words have no quotes
    return ["fit", *split, *([] if line.startswith("--") else [line])]


def listing(root: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data sets, files that are none, folders that are taken, and recipes that are broken."""
    root = tmp_path_factory.mktemp("calls")
    splits = {"train": 4, "val": 3, "test": 3}
    make_folder(root / "own", size=(16, 24), splits=splits, modalities=("rgb", "grey"))
    make_folder(root / "three", size=(32, 32), splits=splits, modalities=("rgb", "depth", "grey"))
    for name, content in {
        "text.txt": b"some words\n",
        "text.pth": b"some words\n",
        "list.yaml": b"- 1\n",
        "broken.yaml": b"a: [1\n",
        "binary.yaml": b"\xff\xfe\x00\x01",
        "nul.yaml": b"a: \x00\n",
        "twice.yaml": b"trainer: {max_epochs: 1}\ntrainer: {max_steps: 2}\n",
        "taken/config.yaml": b"mine: 1\n",
        "taken/report.html": b"mine",
    }.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)
    (root / "empty").mkdir()
    return root, listing(root)


def test_the_table_is_as_long_as_it_says():
    assert len(CALLS) >= 400


@pytest.mark.parametrize(("section", "line"), CALLS)
def test_a_bad_call_ends_in_one_line_and_leaves_nothing(section, line, folder, monkeypatch, capfd):
    """If this breaks, a wrong value ends in a screen of traceback, is accepted, or leaves a folder half made."""
    root, before = folder
    monkeypatch.chdir(root)
    status = main(words(section, line))
    said = capfd.readouterr().err
    assert status == 2, said
    assert said.startswith("polymodal: "), said
    assert said.count("\n") == 1, said
    assert listing(root) == before
