"""The command line as its users meet it: exit status, what is printed where, and that nothing is left half-written."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import polymodal
from fixtures_data import edit, make_archive, make_folder
from polymodal import fuse, load
from polymodal.checkpoint import annotate
from polymodal.cli import main, models
from polymodal.cli.parser import make_parser
from polymodal.data import DatasetSpec, FolderData
from polymodal.errors import ConfigError, PolymodalError
from polymodal.models import create
from polymodal.runs import demo
from polymodal.runs.evaluation import save_model
from polymodal.runs.training import fit, recipe

TINY = [
    *("--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1", "--trainer.precision", "32-true"),
    *("--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1", "--trainer.accelerator", "cpu"),
    *("--data.batch_size", "2", "--data.augment.crop", "[16,16]"),
]


@pytest.fixture
def root(tmp_path):
    return make_folder(
        tmp_path / "set", size=(16, 24), splits={"train": 4, "val": 2, "test": 2}, modalities=["rgb", "depth"]
    )


@pytest.fixture
def run(root, tmp_path):
    """A run folder as `fit` leaves it, as far as `validate` and `inspect` read it."""
    data = FolderData(str(root), modalities=["rgb", "depth"])
    data.setup()
    net = fuse(create("rooms-unet", classes=2), data.channels).eval()
    folder = tmp_path / "run"
    facts = {"seconds": 1.0, "epochs": 1, "seed": 0, "data_set": root.name, "selected_on": None}
    save_model(net, "rooms-unet", {"classes": data.num_classes}, data, facts, folder / "model")
    settings = {"class_path": "polymodal.data.FolderData", "init_args": {"root": str(root), "eval_batch_size": 2}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": settings}))
    return folder


def refused(capsys, *words):
    """The message of a command that must end with status 2 and no traceback."""
    assert main([str(word) for word in words]) == 2
    message = capsys.readouterr().err
    assert message.startswith("polymodal: ")
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize("words", [[], ["fit"], ["predict"], ["data", "check"]])
def test_help_comes_at_once_because_torch_is_not_loaded(words):
    code = (
        "import sys, atexit; from polymodal.cli import main; "
        "atexit.register(lambda: print('torch' in sys.modules, sum(__import__('os').times()[:2]))); "
        f"main({[*words, '--help']!r})"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    torch_loaded, seconds = shown.splitlines()[-1].split()
    assert "usage: polymodal" in shown
    assert torch_loaded == "False"
    assert float(seconds) < 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fitt"], "there is no 'fitt'; did you mean fit?"),
        (["data", "chek", "rooms"], "there is no 'chek'; did you mean check?"),
        (["predict"], "the following arguments are required: --model"),
        (["predict", "--modle", "run"], "there is no option --modle; did you mean --model?"),
        (["validate", "run", "--splt=val"], "there is no option --splt; did you mean --split?"),
        (["validate", "run", "--split", "vall"], "there is no 'vall'; did you mean val?"),
        (["bench", "scaling", "--sizee", "3"], "there is no option --sizee; did you mean --size?"),
        (
            ["compare", "--config", "r.yaml", "--method", "exchange"],
            "there is no option --method; did you mean --methods?",
        ),
        (["demo", "--seed", "x"], "--seed: invalid int value: 'x'"),
        (["data", "rooms", "here", "there"], "'there' is one word too many"),
        (["compare", "--config", "a", "--methods", "exchange", "--config=b"], "--config is given twice"),
    ],
)
def test_what_cannot_be_parsed_is_told_in_one_line_with_what_was_meant(words, said, capsys):
    """If this breaks, the reason of a misspelt flag stands below a screen of usage."""
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


def test_inputs_may_be_given_one_by_one():
    """If this breaks, `--input rgb=a.jpg --input depth=b.png --subset` predicts from depth alone, without a word."""
    words = [
        "predict",
        "--model",
        "m",
        "--out",
        "o",
        "--input",
        "rgb=a.jpg",
        "--scale",
        "depth=1",
        "--input",
        "depth=b",
    ]
    assert make_parser().parse_args(words).input == ["rgb=a.jpg", "depth=b"]
    assert make_parser().parse_args([*words, "--scale", "height=2"]).scale == ["depth=1", "height=2"]
    assert make_parser().parse_args(words).scale == ["depth=1"]


def test_no_command_lists_the_commands_and_ends_with_status_2(capsys):
    assert main([]) == 2
    shown = capsys.readouterr().err
    assert "usage: polymodal" in shown
    assert "compare" in shown


def test_the_version_and_the_methods_are_told_without_anything_else(capsys):
    for words, said in ((["--version"], polymodal.__version__), (["compare", "--list-methods"], "exchange (")):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 0
        assert said in capsys.readouterr().out


def test_a_bug_shows_its_traceback_and_ends_with_status_1_a_mistake_ends_with_2(monkeypatch, capsys):
    def break_(error):
        def run(parsed):
            raise error

        monkeypatch.setattr(models, "_report", run)
        return main(["report", "x"]), capsys.readouterr().err

    status, message = break_(ValueError("a bug"))
    assert status == 1
    assert "Traceback" in message
    assert break_(PermissionError(13, "Permission denied", "a/b")) == (2, "polymodal: a/b: Permission denied\n")
    assert break_(OSError(28, "No space left on device", "a")) == (2, "polymodal: a: No space left on device\n")
    assert break_(pickle.UnpicklingError("refused")) == (2, "polymodal: refused\n")
    monkeypatch.setattr(models, "_report", lambda parsed: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["report", "x"]) == 130


def test_output_that_nobody_reads_any_more_is_no_success():
    """If this breaks, `polymodal fit ... | tee LOG` on a full disk breaks the training off and passes for finished."""
    code = (
        "import sys; from polymodal.cli import main, models\n"
        "def run(parsed): raise BrokenPipeError\n"
        "models._report = run\n"
        "sys.exit(main(['report', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (141, "")


def test_traceback_is_shown_when_asked_for(capsys, tmp_path):
    assert main(["data", "check", str(tmp_path), "--traceback"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_data_check_says_what_is_wrong_by_its_status(root, capsys):
    assert main(["data", "check", str(root)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("classes in per cent")
    assert "note" not in shown
    assert shown.endswith("\n0 defects\n")
    label = Image.open(root / "label" / "0001.png")
    label.putpixel((3, 3), 7)
    label.save(root / "label" / "0001.png")
    assert main(["data", "check", str(root)]) == 1
    shown = capsys.readouterr().out
    assert "label/0001.png: expected labels from 0 to 1" in shown
    assert shown.endswith("1 defect\n")


def test_data_check_of_a_wrong_description_is_a_mistake_not_a_defect(root, capsys):
    edit(root, lambda content: content["modalities"]["depth"].update(scal=2))
    assert "unknown key 'scal'" in refused(capsys, "data", "check", root)
    (root / "splits" / "val.txt").write_text("\n")
    edit(root, lambda content: content["modalities"]["depth"].pop("scal"))
    assert "the split 'val' is empty" in refused(capsys, "data", "check", root)


def test_data_stats_writes_and_shows_them(root, tmp_path, capsys):
    assert main(["data", "stats", str(root)]) == 0
    assert json.loads((root / "statistics.json").read_text()).keys() == {"rgb", "depth"}
    assert "depth: mean " in capsys.readouterr().out
    assert main(["data", "stats", str(root), "--output", str(tmp_path / "other.json")]) == 0
    assert (tmp_path / "other.json").read_text() == (root / "statistics.json").read_text()
    assert main(["data", "stats", str(root), "--output", str(tmp_path / "new/other.json")]) == 0
    assert (tmp_path / "new/other.json").read_text() == (root / "statistics.json").read_text()


def test_data_stats_knows_before_it_measures_where_to_write(root, tmp_path, monkeypatch, capsys):
    """Measuring a large set takes an hour."""
    monkeypatch.setattr("polymodal.data.statistics.compute", lambda *_: pytest.fail("it has measured"))
    archive = make_archive(root)
    assert "--output" in refused(capsys, "data", "stats", archive)
    for blocked in (archive / "below" / "a.json", tmp_path):
        assert "--output" in refused(capsys, "data", "stats", archive, "--output", blocked)


def test_data_rooms_unpacks_all_of_it_into_an_empty_folder_only(tmp_path, capsys):
    out = tmp_path / "rooms"
    out.mkdir()
    assert main(["data", "rooms", str(out)]) == 0
    assert DatasetSpec.load(out).splits == DatasetSpec.load("rooms").splits
    assert (out / "rgb" / "0000.jpg").is_file()
    assert "is not empty" in refused(capsys, "data", "rooms", out)
    assert "dataset.yaml" in refused(capsys, "data", "rooms", out / "dataset.yaml" / "below")
    assert [file.name for file in tmp_path.iterdir()] == ["rooms"]  # no scratch folder is left
    assert len(list(out.iterdir())) == 10


def test_data_rooms_unpacks_into_the_folder_one_stands_in(root, tmp_path, monkeypatch):
    """Nor may that folder be replaced by another: the shell would stand in one that is gone."""
    archive, here = make_archive(root), tmp_path / "here"  # of a few files: all of them are unpacked above
    monkeypatch.setattr("polymodal.data.files._embedded_rooms", lambda: archive)
    here.mkdir()
    monkeypatch.chdir(here)
    before = here.stat().st_ino
    assert main(["data", "rooms", "."]) == 0
    assert len(DatasetSpec.load(here).splits) == 3
    assert here.stat().st_ino == before


def test_a_calibrated_model_that_is_trained_on_says_that_it_is_calibrated_no_more(run, root, capsys):
    """If this breaks, `predict` and exported files are as sure of themselves as before `calibrate`, without a word."""
    data = FolderData(str(root), modalities=["rgb", "depth"])
    data.setup()
    model = run / "model"
    annotate(model, temperatures={"ensemble": 2.0})
    for said in (True, False):
        save_model(load(model), "rooms-unet", {"classes": 2}, data, {}, model)
        assert ("was calibrated before this training" in capsys.readouterr().out) is said


def test_inspect_shows_a_network_by_name_and_the_model_of_a_run(run, capsys):
    assert main(["inspect", "rooms-unet", "--arguments", "classes=5"]) == 0
    assert 'sites="auto" would exchange' in capsys.readouterr().out
    for folder in (run, run / "model"):
        assert main(["inspect", str(folder)]) == 0
        assert "modalities: rgb, depth" in capsys.readouterr().out
    assert "smp/Unet" in refused(capsys, "inspect", "no-such-network")
    assert "unexpected argument 'colour'" in refused(capsys, "inspect", "rooms-unet", "--arguments", "colour=3")


def test_validate_scores_a_run_on_its_data_or_on_another_copy(run, root, tmp_path, capsys):
    assert main(["validate", str(run), "--split", "test"]) == 0
    shown = capsys.readouterr().out
    assert "ensemble" in shown
    scores = json.loads((run / "scores.test.json").read_text())
    assert scores["samples"] == 2
    root.rename(tmp_path / "moved")
    assert "no such data set" in refused(capsys, "validate", run)
    assert not (run / "scores.val.json").exists()
    assert main(["validate", str(run), "--root", str(tmp_path / "moved")]) == 0
    own = (run / "scores.val.json").read_bytes()
    assert json.loads(own)["split"] == "val"

    # The same depth in tenths of a millimetre, in a data set of another name.
    other = shutil.copytree(tmp_path / "moved", tmp_path / "other")
    edit(other, lambda content: content.update(name="an other"))
    edit(other, lambda content: content["modalities"]["depth"].update(scale=0.0001))
    for file in (other / "depth").iterdir():
        Image.fromarray(10 * np.asarray(Image.open(file))).save(file)
    assert main(["validate", str(run), "--root", str(other)]) == 0
    (elsewhere,) = run.glob("scores.val.an-other-*.json")
    assert json.loads(elsewhere.read_text())["predictions"] == json.loads(own)["predictions"]
    assert (run / "scores.val.json").read_bytes() == own
    edit(other, lambda content: content["modalities"]["depth"].update(unit="mm"))
    assert "depth: its unit is 'mm'" in refused(capsys, "validate", run, "--root", other)


def test_validate_refuses_what_is_no_run_and_other_classes(run, root, tmp_path, capsys):
    assert "no run folder" in refused(capsys, "validate", tmp_path)
    edit(root, lambda content: content["target"].update(classes=["wall", "floor"]))
    assert "has the classes wall, floor" in refused(capsys, "validate", run)
    (run / "config.yaml").write_text("data: 3")
    assert "does not say which data" in refused(capsys, "validate", run)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["--data.batch_size", "1"], "batch size 1"),
        (["--model.sites", "nothing*"], "nothing*"),
        (["--data.modalities", "[]"], "at least one"),
        (["--data.modalities", "[rgb, rgb]"], "different names"),
        (["--data.modalities", "[rgb, thermal]"], "no modality 'thermal'"),
    ],
)
def test_fit_with_a_setting_that_cannot_work(settings, expected, root, tmp_path, capsys):
    words = ["fit", "--config", recipe("rooms"), *TINY, "--data.root", root, *settings]
    message = refused(capsys, *words, "--trainer.default_root_dir", tmp_path / "out")
    assert expected in message
    assert not (tmp_path / "out" / "model").exists()
    assert not (tmp_path / "out" / "metrics.csv").exists()


class Hostile:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_fit_executes_nothing_of_a_checkpoint(root, tmp_path, capsys):
    torch.save({"state_dict": Hostile(tmp_path / "executed")}, tmp_path / "hostile.ckpt")
    words = ["fit", "--config", recipe("rooms"), *TINY, "--data.root", root]
    refused(capsys, *words, "--trainer.default_root_dir", tmp_path / "out", "--ckpt_path", tmp_path / "hostile.ckpt")
    assert not (tmp_path / "executed").exists()


def test_fit_with_an_unknown_setting_names_it(tmp_path, capsys):
    message = refused(capsys, "fit", "--config", recipe("rooms"), "--data.colour", "3")
    assert "--data.colour: there is no such setting" in message
    assert message.count("\n") == 1


def train_here(commands):
    for command in commands.values():
        fit(command[command.index("fit") + 1 :])


@pytest.mark.parametrize("apart", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_demo_trains_both_and_leaves_a_summary_and_a_page(apart, root, tmp_path, capsys, monkeypatch):
    """In processes of their own as a user sees it; in this one for what they leave behind."""
    if not apart:
        monkeypatch.setattr(demo, "train_all", train_here)
    out = tmp_path / "demo"
    summary = demo.run_demo(out, 0, [*TINY, "--data.root", str(root), "--data.eval_batch_size", "2"])
    shown = capsys.readouterr().out
    assert json.loads((out / "summary.json").read_text()) == summary
    assert summary.keys() == {"exchange", "none"}
    assert all(scores.keys() == {"rgb", "depth", "ensemble", "exchanged"} for scores in summary.values())
    assert summary["none"]["exchanged"] == 0.0
    assert "docs/results.md" in (out / "report.html").read_text(encoding="utf-8")
    assert "exchange  epoch 1/1" in shown or not apart
    assert "mean IoU in per cent on 2 test scenes" in shown


@pytest.mark.slow
def test_the_translation_demo_sets_both_modalities_beside_each_alone(tmp_path, capsys, monkeypatch):
    """If this breaks, the demo no longer shows what a second modality adds to a translation."""
    from polymodal.runs import demo_translation

    data = make_folder(
        tmp_path / "set",
        size=(32, 32),
        splits={"train": 2, "val": 2, "test": 2},
        modalities=["rgb", "depth", "grey", "normal"],
    )
    out, small = tmp_path / "demo", ["--model.network_args={filters: 2}", "--model.extractor=null"]

    # In this process: that trainings of their own are started and followed is tested above.
    monkeypatch.setattr(demo, "train_all", train_here)
    monkeypatch.setattr(demo_translation, "TRANSLATIONS", {"rgb": ("grey", "normal")})
    settings = [*TINY, "--data.augment.crop", "[32,32]", "--data.root", str(data), *small]
    summary = demo_translation.run_translation_demo(out, 0, settings)
    assert list(summary) == ["rgb-from-grey-normal", "rgb-from-grey", "rgb-from-normal"]
    assert set(summary["rgb-from-grey-normal"]) == {"grey", "normal", "ensemble"}
    shown = capsys.readouterr().out
    assert "on 2 test scenes" in shown
    assert "FID" not in shown
    assert (out / "report.html").is_file()


def test_the_translation_demo_names_the_extractor_of_its_fid(capsys):
    """If this breaks, a FID by other features can be taken for the published kind."""
    from polymodal.runs import demo_translation

    figures = {"MAE": 0.25, "FID[lite0]": 12.34}
    scored = {"samples": 2, "modalities": ["grey"], "predictions": {"grey": figures}, "parameters": 9, "seconds": 1.0}
    demo_translation._show({"rgb-from-grey": scored})
    heading, row = capsys.readouterr().out.splitlines()[1:]
    assert heading.split()[:4] == ["run", "prediction", "MAE", "FID[lite0]"]
    assert row.split()[:4] == ["rgb-from-grey", "grey", "0.2500", "12.3"]


def test_demo_replaces_only_a_demo_and_shows_why_a_training_failed(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert "no demo made" in refused(capsys, "demo", "--out", tmp_path / "mine")
    (tmp_path / "demo" / "exchange").mkdir(parents=True)
    (tmp_path / "demo" / "demo.json").touch()
    assert "--seed: expected 0 to" in refused(capsys, "demo", "--out", tmp_path / "demo", "--seed", "-1")
    assert (tmp_path / "demo" / "exchange").is_dir(), "an earlier demo is cleared away for one that can run"
    out = tmp_path / "demo"
    with demo.room(out, list(demo.RUNS)):
        pass
    (out / "exchange").mkdir()
    (out / "exchange" / "metrics.csv").write_text("")
    with demo.room(out, list(demo.RUNS)):
        pass
    assert [file.name for file in out.iterdir()] == [demo.MADE_BY_DEMO]
    failing = [sys.executable, "-c", "print('all is lost'); raise SystemExit(3)"]
    waiting = [sys.executable, "-c", "import time; time.sleep(600)"]
    with pytest.raises(PolymodalError, match=r"(?s)'exchange' ended with status 3.*all is lost"):
        demo.train_all({"exchange": failing, "none": waiting})


def test_recipes_by_name_are_those_of_the_package():
    with pytest.raises(ConfigError, match="no recipe 'nothing'"):
        recipe("nothing")


def test_a_message_is_one_line_of_some_length_whatever_it_quotes(capsys):
    """If this breaks, a name with a line break or a colour code in it writes on the terminal what it likes."""
    for word in ("x" * 5000, "a\nb\x1b[31mc"):
        assert main(["data", "check", word]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert len(said) < 1000
        assert "\x1b" not in said
