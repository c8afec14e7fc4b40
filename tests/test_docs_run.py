"""The documentation is run: its notebooks, its Python and its commands, on tiny data.

A command that would train for hours, or needs a cluster or a file that is not at hand, is held against what it sets:
the recipe with all settings of the line, and the names of methods. `tests/test_docs.py` holds the rest of it against
the command line's parser, and `tests/test_own_fusion.py` runs the file of docs/own-fusion.md.
"""

import shutil
import sys
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
import segmentation_models_pytorch
import torch
from PIL import Image

import polymodal
from docs_tools import PAGES, ROOT, blocks, commands, own
from fixtures_data import make_folder
from polymodal import load, models
from polymodal.cli import main
from polymodal.data import DatasetSpec
from polymodal.fusion import TokenExchange
from polymodal.runs.methods import choose, methods
from polymodal.runs.space import read_space
from polymodal.yaml_documents import parse_yaml

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.py"))
TINY = [
    *("--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1", "--trainer.limit_train_batches=1"),
    *("--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1", "--trainer.accelerator=cpu"),
    *("--trainer.precision=32-true", "--data.batch_size=2", "--data.augment.crop=[16,16]", "--data.root=DIR"),
]
RUN = ("README", "missing-sensors", "deployment", "own-task")
"""The pages whose commands are run."""
SET = ("bench", "compare", "demo", "tune")
"""Commands that are not: they measure or train many networks."""

pytestmark = pytest.mark.docs


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_runs(notebook, tmp_path, monkeypatch):
    """If this breaks, whoever opens it is left with a traceback."""
    jupytext = pytest.importorskip("jupytext", reason="jupytext is not installed: pip install 'polymodal[docs]'")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mpl.use("agg")
    names = {"__name__": "__main__"}
    for cell in jupytext.read(notebook).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, notebook.name, "exec"), names)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What the pages take for granted: data, pictures, a run."""
    folder = tmp_path_factory.mktemp("pages")
    modalities = ["rgb", "depth", "normal"]
    root = make_folder(folder / "DIR", size=(32, 32), splits={"train": 4, "val": 2, "test": 2}, modalities=modalities)
    described = (root / "dataset.yaml").read_text().replace("scale: 0.001", "scale: 0.001\n    range: [0, 10]")
    (root / "dataset.yaml").write_text(described)
    pictures = {"rgb": ("a.jpg", "scene.jpg", "RGB"), "depth": ("a_depth.png", "DEPTH"), "normal": ("normal.png",)}
    for name, places in pictures.items():
        file = next((root / name).iterdir())
        for place in places:
            if place.isupper():
                shutil.copytree(root / name, folder / place)
            else:
                shutil.copy(file, folder / place)
    words = ["fit", "--config", str(ROOT / "recipes/folder.yaml"), *TINY[:-1], f"--data.root={root}"]
    assert main([*words, "--data.modalities=[rgb,depth]", f"--trainer.default_root_dir={folder / 'runs/mine'}"]) == 0
    (folder / "recipes").symlink_to(ROOT / "recipes")
    return folder


@pytest.fixture
def stage(made, tmp_path, monkeypatch):
    """A copy of that to work in, where modules of the page are found."""
    folder = tmp_path / "work"
    shutil.copytree(made, folder, symlinks=True)
    shutil.copytree(made / "runs/mine", folder / "runs/demo/exchange")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem in RUN], ids=lambda page: page.stem)
def test_commands_run(page, stage):
    """If this breaks, a reader's copy of a line does not."""
    for block in blocks(page):
        if block.title:
            Path(block.title).write_text(block.code, encoding="utf-8")
        for words in commands(block) if block.language == "bash" else ():
            mine = own(words)
            if mine and mine[0] not in SET and not needs_more(mine):
                assert main(prepared(mine, stage)) == 0, (block.where, words)


def prepared(words, stage):
    """A command on what is there: tiny, and where it would write what is there already, without that."""
    if words[:2] == ["data", "init"]:
        for folder in ("splits", "normal"):
            shutil.rmtree(stage / "DIR" / folder)
        (stage / "DIR" / "dataset.yaml").unlink()
    if words[0] != "fit":
        return words
    run = next((words[i + 1] for i, word in enumerate(words) if word == "--trainer.default_root_dir"), "runs/none")
    shutil.rmtree(run, ignore_errors=True)
    return [*words, *TINY]


def needs_more(words):
    """Whether it needs a package that is no part of the tests' own, or a network that has learned something."""
    return ("openvino" in words and find_spec("openvino") is None) or "--int8" in words


GIVEN = {
    "README": dict,
    "decode-once": lambda: {
        "network": models.create("smp/FPN", encoder_name="resnet18", classes=2),
        "images": {"rgb": torch.rand(2, 3, 64, 64), "depth": torch.rand(2, 1, 64, 64)},
        "rgb": torch.rand(2, 3, 64, 64),
    },
    "deployment": lambda: {
        "frame": np.array(Image.open("a.jpg")),
        "depth": np.array(Image.open("a_depth.png")),
        "read_depth": lambda: np.array(Image.open("a_depth.png")),
        "net": load("runs/mine"),
        "cv2": camera(),
    },
    "coming-from": dict,
    "fusing": lambda: {
        "polymodal": polymodal,
        "smp": SimpleNamespace(Segformer=partial(segmentation_models_pytorch.Segformer, encoder_weights=None)),
        "TokenExchange": TokenExchange,
    },
    "own-task": dict,
}
"""What the Python of a page takes for granted, by page."""


def test_every_page_with_python_is_run():
    """If this breaks, the code of a new page is run by nobody: say here what it takes for granted."""
    assert {page.stem for page in PAGES if blocks(page, "python")} - {"own-fusion"} == set(GIVEN)


@pytest.mark.parametrize("name", GIVEN)
def test_python_runs(name, stage):
    """If this breaks, a reader who copies a page's code gets a traceback."""
    if name == "deployment":
        assert main(["export", "runs/mine", "net.onnx"]) == 0
    names = {"__name__": "__main__", **GIVEN[name]()}
    for block in blocks(next(page for page in PAGES if page.stem == name), "python"):
        if block.title:
            Path(block.title).write_text(block.code, encoding="utf-8")  # what a later one imports
        code = block.code.replace("pretrained=True", "pretrained=False")  # no weights are downloaded here
        if "onnxruntime" in code:
            names |= {"rgb": np.zeros((3, 32, 32)), "depth": np.ones((1, 32, 32))}
        exec(compile(code, block.where, "exec"), names)


def camera():
    """A camera of two frames, for the loop with OpenCV."""
    frames = iter([(True, np.zeros((32, 32, 3), np.uint8))] * 2 + [(False, None)])
    read = SimpleNamespace(read=lambda: next(frames))
    return SimpleNamespace(VideoCapture=lambda _: read, imshow=lambda *_: None, waitKey=lambda _: 0)


def test_dataset_yaml_of_the_page_is_read(tmp_path):
    """If this breaks, the example that everybody begins with is refused."""
    [block] = blocks(ROOT / "docs/own-data.md", "yaml")
    (tmp_path / "dataset.yaml").write_text(block.code, encoding="utf-8")
    for split in parse_yaml(block.code)["splits"].values():
        (tmp_path / split).write_text("0001\n")
    spec = DatasetSpec.load(tmp_path)
    assert list(spec.modalities) == ["rgb", "thermal", "depth"]
    assert spec.target.classes == ("background", "person")


def test_settings_of_every_line_are_those_of_its_recipe(stage, capsys):
    """If this breaks, a line of the results names a setting that is refused."""
    for page in [page for page in PAGES if page.stem != "own-fusion"]:
        written = {block.title: block.code for block in blocks(page) if block.title}
        for block in blocks(page, "bash"):
            for words in filter(None, map(own, commands(block))):
                if words[0] in ("fit", "compare") and "--list-methods" not in words:
                    for file, code in written.items():
                        Path(file).write_text(code, encoding="utf-8")
                    settings_known(words, block.where, capsys)


def settings_known(words, where, capsys):
    settings, rest = [], iter(words[1:])
    for word in rest:
        if word == "--methods":
            assert choose(next(rest).split(","), methods(("rgb", "depth"))), where
        elif word in ("--config", "--model", "--seed_everything") or (word.startswith("--") and "." in word):
            settings += [word, next(rest)]
        else:
            assert words[0] == "compare", f"{where}: {word}"
    if "runs/tune/best.yaml" in settings:
        return  # what a search has written
    with pytest.raises(SystemExit) as ended:
        main(["fit", *settings, "--print_config"])
    assert ended.value.code in (0, None), (where, capsys.readouterr().err)


def test_a_space_of_the_page_is_searched(stage, capsys):
    """If this breaks, the space that a reader copies is refused."""
    [block] = blocks(ROOT / "docs/comparing.md", "yaml")
    Path("space.yaml").write_text(block.code, encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["fit", "--config", "recipes/rooms.yaml", "--print_config"])
    recipe = parse_yaml(capsys.readouterr().out)
    assert set(read_space(Path("space.yaml"), recipe)) == set(parse_yaml(block.code))


def test_parts_of_recipes_are_taken(stage, capsys):
    """If this breaks, a part of a recipe that a page shows is refused where a reader puts it."""
    [block] = blocks(ROOT / "docs/decode-once.md", "yaml")
    Path("part.yaml").write_text(block.code, encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["fit", "--config", "recipes/rooms.yaml", "--config", "part.yaml", "--print_config"])
    fusion = parse_yaml(capsys.readouterr().out)["model"]["init_args"]["fusion"]
    assert fusion["class_path"].endswith("DecodeOnce")
    assert fusion["init_args"]["within"]["class_path"].endswith("Exchange")


def test_loggers_of_the_page_take_what_they_are_given():
    """If this breaks, a training of days ends at its first line."""
    [block] = blocks(ROOT / "docs/training-at-scale.md", "yaml")
    for logger in parse_yaml(block.code)["trainer"]["logger"]:
        module, _, name = logger["class_path"].rpartition(".")
        signature(getattr(import_module(module), name)).bind_partial(**logger["init_args"])


def test_methods_are_listed(capsys):
    """If this breaks, nobody learns what can be compared."""
    with pytest.raises(SystemExit):
        main(["compare", "--list-methods"])
    assert "decode-once" in capsys.readouterr().out
