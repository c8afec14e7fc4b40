"""Comparing methods: the table says what was measured, and neither a kill nor a failure changes or hides anything."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fixtures_data import make_folder
from polymodal.cli import main
from polymodal.data import FolderData
from polymodal.errors import ConfigError, PolymodalError
from polymodal.locks import LOCK, locked
from polymodal.report.comparison import Comparison, Row, mean_and_deviation, table
from polymodal.report.comparison_page import to_csv, to_html, to_markdown
from polymodal.runs import children
from polymodal.runs.compare import compare
from polymodal.runs.comparison_folder import record_of
from polymodal.runs.engine import usable_gpus
from polymodal.runs.files import write_json
from polymodal.runs.methods import methods
from polymodal.runs.overrides import differing
from polymodal.runs.training import fit, recipe

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI.s args", "ignore:no channel is exchanged")


def scores(rgb=None, depth=None, ensemble=None, **more):
    given = {"rgb": rgb, "depth": depth, "ensemble": ensemble}
    predictions = {name: {"mean_iou": value} for name, value in given.items() if value is not None}
    facts = {"predictions": predictions, "exchanged": {}, "parameters": 375_839, "seconds": 80.0, "epochs": 2}
    return facts | more


def compared(*rows):
    return Comparison("rooms", "val", ["rgb", "depth"], rows, {"epochs": "2"}, "trainer: {max_epochs: 2}\n")


def texts(comparison):
    headings, lines = table(comparison)
    return [dict(zip(headings, (cell.text for cell in cells), strict=True)) for cells in lines]


def best(comparison, heading):
    headings, lines = table(comparison)
    index = headings.index(heading)
    return [row.name for row, cells in zip(comparison.rows, lines, strict=True) if cells[index].best]


@given(st.lists(st.floats(0, 100), min_size=2, max_size=9))
def test_the_deviation_is_that_of_a_sample(values):
    """Divided by n instead of n - 1, three seeds would look a fifth steadier than they are."""
    mean, deviation = mean_and_deviation(values)
    assert mean == pytest.approx(np.mean(values), abs=1e-9)
    assert deviation == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    assert mean_and_deviation(values[:1]) == (values[0], None)


def test_a_row_says_mean_deviation_and_costs():
    exchanged = {"rgb": 0.8, "depth": 0.6}
    row = Row("a", "A", "", {0: scores(60, 50, 61, exchanged=exchanged, macs=1.24e9), 1: scores(62, 54, 62.5)})
    assert texts(compared(row)) == [
        {
            "seeds": "2",
            "rgb": "61.0 ± 1.4",
            "depth": "52.0 ± 2.8",
            "ensemble": "61.8 ± 1.1",
            "exchanged": "rgb 80 %, depth 60 %",
            "parameters": "376 k",
            "MACs": "1.24 G",
            "time": "1 min 20 s",
        }
    ]


def test_a_mean_over_fewer_seeds_than_asked_for_says_so_and_is_never_the_best():
    """A lucky seed must not win against three."""
    lucky = Row("lucky", "L", "", {0: scores(90, 90, 90), 1: None, 2: None}, frozenset({2}))
    steady = Row("steady", "S", "", {seed: scores(60, 60, 60) for seed in range(3)})
    both = compared(lucky, steady)
    assert [row["seeds"] for row in texts(both)] == ["1 of 3, 1 failed", "3"]
    assert best(both, "ensemble") == ["steady"]
    assert "| L | 1 of 3, 1 failed | 90.0 |" in to_markdown(both)
    assert "**60.0 ± 0.0**" in to_markdown(both)


def test_a_score_that_some_seeds_lack_says_over_how_many_it_is():
    row = Row("a", "A", "", {0: scores(60, 50, 61), 1: scores(None, 50, 61)})
    assert texts(compared(row))[0]["rgb"] == "60.0 (1 of 2)"


def test_what_is_missing_or_failed_is_no_number():
    waiting, failed = Row("w", "W", "", {0: None}), Row("f", "F", "", {0: None}, frozenset({0}))
    one_output = Row("o", "O", "", {0: scores(ensemble=55)})
    shown = texts(compared(waiting, failed, one_output))
    assert [row["ensemble"] for row in shown] == ["–", "failed", "55.0"]
    assert [row["MACs"] for row in shown] == ["–", "–", "–"]
    assert shown[1]["seeds"] == "0 of 1, 1 failed"
    assert texts(compared(waiting)) == [
        {"seeds": "0 of 1", "exchanged": "–", "parameters": "–", "MACs": "–", "time": "–"}
    ]


def test_equal_as_printed_is_equally_good():
    rows = [
        Row(name, name, "", dict.fromkeys((0, 1), scores(ensemble=value)))
        for name, value in (("a", 50.04), ("b", 50.0), ("c", 49.9))
    ]
    assert best(compared(*rows), "ensemble") == ["a", "b"]


def test_one_seed_has_no_best():
    """If this breaks, whoever had the luckier seed is printed as the winner."""
    rows = [Row(name, name, "", {0: scores(ensemble=value)}) for name, value in (("a", 60.0), ("b", 50.0))]
    assert best(compared(*rows), "ensemble") == []
    assert "**" not in to_markdown(compared(*rows))


@pytest.mark.parametrize("key", ["MAE", "MAE[stretched]"])
def test_translations_are_compared_by_their_error_and_less_is_better(key):
    """If this breaks, a comparison of translations ends without a table, or marks the worst method as the best."""
    rows = [
        Row(
            name,
            name,
            "",
            {n: {"predictions": {"ensemble": {key: value, "PSNR": 12.0}}, "exchanged": {}} for n in (0, 1)},
        )
        for name, value in (("a", 0.25), ("b", 0.125))
    ]
    assert best(compared(*rows), "ensemble") == ["b"]
    assert [row["ensemble"] for row in texts(compared(*rows))] == ["0.2500 ± 0.0000", "0.1250 ± 0.0000"]
    assert f"{key} in parts of the target's range on val, lower is better" in to_markdown(compared(*rows))


def test_the_other_scores_stand_beside_the_one_that_counts():
    """If this breaks, a method that is nearer in L1 and far worse in FID, or in pixel accuracy, looks better."""
    found = {"a": {"PSNR": 12.0, "MAE": 0.25, "FID[lite0]": 30.25}, "b": {"PSNR": 13.0, "MAE": 0.5, "FID[lite0]": 20.0}}
    rows = [
        Row(name, name, "", {n: {"predictions": {"ensemble": figures}, "exchanged": {}} for n in (0, 1)})
        for name, figures in found.items()
    ]
    comparison = compared(*rows)
    assert [score.key for score in comparison.scores] == ["MAE", "PSNR", "FID[lite0]"]
    text = to_markdown(comparison)
    places = [
        text.index(head)
        for head in ("| **0.2500 ± 0.0000** |", "## PSNR in dB, higher is better", "## FID[lite0], lower")
    ]
    assert places == sorted(places)
    assert "| b | **20.0 ± 0.0** |" in text[places[2] :]
    lines = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    assert [line["FID[lite0]/ensemble"] for line in lines if line["seed"] == "0"] == ["30.25", "20.0"]
    page = to_html(comparison)
    assert page.count("<h3>") == 2
    assert '<td class="n best">13.00 ± 0.00</td>' in page


def test_the_csv_has_every_seed_and_what_the_table_is_made_of():
    rows = [Row("a", "A, the first", "", {0: scores(60, 50, 61.25), 1: scores(62, 54, 62.5), 2: None}, frozenset({2}))]
    lines = list(csv.DictReader(io.StringIO(to_csv(compared(*rows)))))
    assert [line["seed"] for line in lines] == ["0", "1", "2", "mean", "std"]
    assert [line["state"] for line in lines] == ["finished", "finished", "failed", "2 of 3 seeds", "2 of 3 seeds"]
    assert lines[0]["title"] == "A, the first"
    values = [float(line["mean_iou/ensemble"]) for line in lines if line["mean_iou/ensemble"]]
    assert values == pytest.approx([61.25, 62.5, 61.875, np.std([61.25, 62.5], ddof=1)])


def test_the_page_is_escaped_and_needs_nothing_from_elsewhere():
    row = Row("a", "<b>A</b>", "", {0: scores(60, 50, 61)}, pages={0: "a/seed-0/report.html"})
    page = to_html(compared(row))
    assert "<b>A</b>" not in page
    assert page.count("&lt;b&gt;A&lt;/b&gt;") >= 3
    assert re.findall(r"(?:src|href)=\"([^\"]*)\"", page) == ["data:,", "a/seed-0/report.html"]
    assert len(re.findall(r'<circle [^>]*r="3.6"', page)) == 3
    assert "No run has finished yet" in to_html(compared(Row("a", "A", "", {0: None})))


def test_long_titles_are_not_cut_off_the_chart():
    """If this breaks, controls whose titles end alike cannot be told apart."""
    title = "exchange, depth and normals and near-infrared replaced by noise"
    page = to_html(compared(Row("a", title, "", {0: scores(60, 50, 61)})))
    (end,) = re.findall(rf'<text x="([\d.]+)" [^>]*>{title}</text>', page)
    assert float(end) > 6.0 * len(title)  # letters at 11 px take 6.0


# From here on whole comparisons, mostly of processes that only pretend to train.

PRETEND = """
import json, pathlib, sys
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder, seed = pathlib.Path(words["--trainer.default_root_dir"]), int(words["--seed_everything"])
print("epoch 1/1: train/loss 1", flush=True)
if (folder.parents[1] / "break").exists() and folder.parent.name == "penalty":
    sys.exit("no more memory")
folder.mkdir(parents=True, exist_ok=True)
value = 50 + seed + len(folder.parent.name)
scores = {"predictions": {"ensemble": {"mean_iou": value}}, "exchanged": {}, "seconds": 1.0, "epochs": 1}
scores |= {"selected_on": "set/val", "scored_on": "set/val"}
(folder / "scores.val.json").write_text(json.dumps(scores))
(folder / "report.html").touch()
with (folder.parents[1] / "order").open("a") as order:
    order.write(f"{folder.parent.name}-{seed} ")
"""


@pytest.fixture
def data(tmp_path):
    return make_folder(tmp_path / "set", size=(16, 24), splits={"train": 4, "val": 2}, modalities=("rgb", "grey"))


@pytest.fixture
def words(data):
    return [
        *(f"--data.root={data}", "--data.batch_size=2", "--data.eval_batch_size=2", "--trainer.accelerator=cpu"),
        *("--model.network_args={stem: 4, widths: [4, 4], decoder: 4}", "--trainer.max_epochs=12"),
        "--trainer.check_val_every_n_epoch=3",
    ]


@pytest.fixture
def pretend(monkeypatch):
    monkeypatch.setattr(children, "fit_command", lambda words: [sys.executable, "-c", PRETEND, *words])


@pytest.fixture
def unbuilt(monkeypatch):
    """Networks are not built before anything trains, which takes most of a comparison that only pretends to."""
    monkeypatch.setattr("polymodal.runs.compare._check_networks", lambda recipes, **how: [])


def run(words, out, methods="penalty,exchange", seeds=(0, 1), **more):
    return compare(recipe("folder"), methods.split(","), seeds, out, overrides=words, **more)


def test_every_method_can_be_written_down_and_taken_up_again(tmp_path):
    """If this breaks, a comparison with some method ends before its first run, or is not taken up again."""
    known = methods(["rgb", "depth"])
    command, settings = ["polymodal", "compare"], {"data": {}}
    write_json(tmp_path / "comparison.json", record_of(tmp_path, command, settings, known, [0]))
    record = record_of(tmp_path, command, settings, known, [1])
    assert [record["methods"][name]["seeds"] for name in known] == [[0, 1]] * len(known)


def trained(out):
    return (out / "order").read_text().split() if (out / "order").exists() else []


@pytest.mark.parametrize(("changed", "done"), [("0004", "scored on .* in 'val'"), ("0001", "trained on .* in 'train'")])
def test_runs_on_data_that_have_changed_are_not_taken_up(words, data, pretend, unbuilt, tmp_path, changed, done):
    """Else who mends a label and adds seeds reads one table of two data sets."""
    out = tmp_path / "out"
    run(words, out, "rgb-alone,noise,exchange", seeds=(0,))
    for method, read in (("rgb-alone", ["rgb"]), ("noise", ["rgb"]), ("exchange", None)):
        file = out / method / "seed-0" / "scores.val.json"
        own = FolderData(str(data))
        own.setup("validate")
        known = {"identity": own.identity("val", read), "identities": {"train": own.identity("train", read)}}
        file.write_text(json.dumps(json.loads(file.read_text()) | known))
    run(words, out, "exchange", seeds=(1,))
    label = np.array(Image.open(data / f"label/{changed}.png"))
    Image.fromarray(1 - label.clip(0, 1)).save(data / f"label/{changed}.png")
    with pytest.raises(ConfigError, match=rf"rgb-alone/seed-0 was {done}"):
        run(words, out, "exchange", seeds=(2,))
    assert trained(out)[-1] == "exchange-1"


def test_runs_go_seed_by_seed_and_only_once(words, pretend, tmp_path, capsys):
    out = tmp_path / "out"
    run(words, out)
    assert trained(out) == ["penalty-0", "exchange-0", "penalty-1", "exchange-1"]
    shown = capsys.readouterr().out
    assert "[1/4] penalty, seed 0  epoch 1/1" in shown
    assert re.search(r"\[2/4\] exchange, seed 0  finished after .* \(about .* left\)", shown)
    assert "58.5 ± 0.7" in (out / "table.md").read_text()
    assert "- checkpoint: the best on set/val, where it is also scored: this flatters" in (out / "table.md").read_text()
    run(words, out, "exchange,independent", (0, 2))
    assert trained(out)[4:] == ["independent-0", "independent-2", "exchange-2"]
    assert {row["method"] for row in csv.DictReader((out / "table.csv").open())} == {
        "independent",
        "penalty",
        "exchange",
    }
    record = json.loads((out / "comparison.json").read_text())
    # Held against the recipe as it stands, not whatever is the first; a run that pretends does not say enough for it.
    assert record["differences"]["reference"] == "exchange"
    assert "seed 0 does not say what each image adds" in record["differences"]["lacking"]["penalty"]
    run(words, out, "exchange,independent", (0, 2), reference="penalty")
    assert "all 4 runs are finished already" in capsys.readouterr().out
    record = json.loads((out / "comparison.json").read_text())
    assert record["differences"]["reference"] == "penalty"
    assert "--reference penalty" in record["command"]


def test_a_failed_run_stops_no_other_is_named_and_tried_again(words, pretend, unbuilt, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / LOCK).touch()
    run(words, out, seeds=(5,))
    (out / "break").touch()
    with pytest.raises(PolymodalError, match=r"(?s)2 of 4 runs failed.*'penalty, seed 0' ended with.*no more memory"):
        run(words, out, seeds=(0, 1))
    assert trained(out)[2:] == ["exchange-0", "exchange-1"]
    assert "1 of 3, 2 failed" in (out / "table.md").read_text()
    (out / "break").unlink()
    run(words, out)
    assert sorted(trained(out)[4:]) == ["penalty-0", "penalty-1"]
    assert "| 3 |" in (out / "table.md").read_text().splitlines()[4]


def test_a_folder_of_another_recipe_is_refused_before_anything_trains(words, pretend, unbuilt, tmp_path):
    """Else two settings are averaged into one row."""
    out = tmp_path / "out"
    run(words, out, "exchange", (0,))
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file() and file.name != LOCK}
    with pytest.raises(ConfigError, match=r"another recipe: trainer.max_epochs is 12 there and 3 here.*--out"):
        run([*words, "--trainer.max_epochs=3"], out, "exchange,penalty", (0, 1))
    with pytest.raises(
        ConfigError, match=r"compares at the cost that each method has, not at macs of exchange, within"
    ):
        run(words, out, "exchange", (0,), match="macs")
    with pytest.raises(ConfigError, match=r"model.fusion.penalty is 0.001 there and 0.5 here"):
        run([*words, "--model.fusion.penalty=0.5"], out, "exchange", (0,))
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file() and file.name != LOCK} == before
    record = json.loads((out / "comparison.json").read_text())
    unknown = {**record["methods"], "mine": record["methods"]["exchange"]}
    (out / "comparison.json").write_text(json.dumps({**record, "methods": unknown}))
    with pytest.raises(ConfigError, match=r"has runs of mine, no method .* --import MODULE"):
        run(words, out, "exchange", (0,))
    record["methods"]["exchange"]["overrides"]["model.fusion.within"] = "all"
    (out / "comparison.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"exchange meant something else"):
        run(words, out, "exchange", (0,))
    (out / "comparison.json").write_text("{")
    with pytest.raises(ConfigError, match=r"comparison.json is damaged"):
        run(words, out, "exchange", (0,))


def test_a_folder_of_something_else_or_in_use_is_refused(words, pretend, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="no comparison made"):
        run(words, tmp_path / "thesis")
    (tmp_path / "used").mkdir()
    with locked(tmp_path / "used"), pytest.raises(ConfigError, match="another command that still runs"):
        run(words, tmp_path / "used")
    assert not trained(tmp_path / "used")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--methods", "exchange,magic"], "'magic'. There are rgb-alone, grey-alone"),
        (["--methods", ","], "--methods: expected at least one"),
        (["--seeds", ""], "--seeds: expected different numbers from 0 on"),
        (["--seeds", "0,1,0"], "got 0,1,0"),
        (["--seeds", "0,-1"], "got 0,-1"),
        (["--seeds", "0,4294967296"], "up to 4294967295, such as 0,1,2, got 0,4294967296"),
        (["--seeds", "one"], "got 'one'"),
        (["--jobs", "0"], "--jobs: expected 1 or more"),
        (["--split", "test"], "--split: expected one that is scored (val)"),
        (["--seed_everything", "3"], "--seed_everything: a comparison sets it"),
        (["--reference", "exchang"], "--reference: there is no method 'exchang'; did you mean exchange?"),
        (["--reference", "penalty"], "--reference: penalty is no method of this table; name it in --methods, too."),
        (["--model.sites", "[nowhere*]"], "the method 'exchange' cannot be used with this recipe"),
        (["--model.fusion", "null"], "the recipe's exchange"),
        (["--data.modalities", "[rgb]"], "expected two or more"),
        (
            ["--trainer.callbacks={class_path: EarlyStopping, init_args: {monitor: val/mean_iou/ensemble}}"],
            "more of val/mean_iou/ensemble is better, and its mode is 'min'",
        ),
    ],
)
def test_what_cannot_work_ends_with_status_2_before_anything_trains(more, expected, words, pretend, tmp_path, capsys):
    out = tmp_path / "out"
    methods = [] if "--methods" in [*words, *more] else ["--methods", "exchange"]  # an option is given once
    given = ["compare", "--config", str(recipe("folder")), *methods, "--out", str(out), *words]
    assert main([*given, *more]) == 2
    assert expected in capsys.readouterr().err
    assert not trained(out)
    assert not (out / "comparison.json").exists()


def test_other_commands_still_refuse_what_they_do_not_know(capsys):
    assert main(["demo", "--trainer.max_epochs", "3"]) == 2
    assert "there is no option --trainer.max_epochs" in capsys.readouterr().err


def test_every_run_has_a_gpu_of_its_own_unless_the_recipe_says_otherwise(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert usable_gpus({"accelerator": "auto", "devices": "auto"}) == ["0", "1"]
    assert usable_gpus({"accelerator": "cpu", "devices": "auto"}) == []
    assert usable_gpus({"accelerator": "gpu", "devices": 2}) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert usable_gpus({"accelerator": "gpu", "devices": 1}) == ["3", "5"]


def test_a_training_ends_when_the_command_that_started_it_is_gone():
    """Else it writes on into a folder that the next command takes for its own."""
    code = (
        "import threading, time; from polymodal import child; print('up', flush=True); "
        "threading.Thread(target=child._end_with_parent, daemon=True).start(); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        process.stdin.close()
        assert process.wait(timeout=10) == 1


def in_this_process(name, command, environment, started, on_epoch):
    """`children.follow` without the seconds that a new Python needs to import everything."""
    fit(command[command.index("fit") + 1 :])


def without_times(out):
    rows = list(csv.DictReader((out / "table.csv").open()))
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.mark.slow
def test_a_comparison_killed_half_way_ends_in_the_table_of_an_undisturbed_one(words, tmp_path, monkeypatch):
    """The promise of the command: no result depends on how often the machine went down."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    code = "from polymodal.runs import children; children.cores = lambda: 1; from polymodal.cli import main; main()"
    given = ["compare", "--config", str(recipe("folder")), "--methods", "penalty,exchange", "--seeds", "0"]
    command = [sys.executable, "-c", code, *given, "--out", str(out), *words]
    first = out / "penalty" / "seed-0"
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
        deadline = time.monotonic() + 300
        while not (first / "checkpoints" / "last.ckpt").exists():
            assert process.poll() is None, (tmp_path / "said").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (first / "scores.val.json").exists()
    epochs = len((first / "metrics.csv").read_text().splitlines()) - 1
    assert 0 < epochs < 12

    monkeypatch.setattr(children, "follow", in_this_process)
    broken = out / "exchange" / "seed-0"
    (broken / "checkpoints").mkdir(parents=True)
    (broken / "checkpoints" / "last.ckpt").write_bytes(b"half written")
    (broken / "metrics.csv").write_text("epoch\n0\n")
    for folder in (out, whole):
        run(words, folder, seeds=(0,))
    assert without_times(out) == without_times(whole)
    assert len(without_times(out)) == 6
    metrics = [(folder / "penalty" / "seed-0" / "metrics.csv").read_text() for folder in (out, whole)]
    assert metrics[0] == metrics[1]


@pytest.mark.slow
def test_a_run_killed_between_its_training_and_its_scores_is_only_scored(words, tmp_path, monkeypatch):
    monkeypatch.setattr(children, "follow", in_this_process)
    out = tmp_path / "out"
    few = [*words, "--trainer.max_epochs=2"]
    run(few, out, "exchange", (0,))
    before = without_times(out)
    (out / "exchange" / "seed-0" / "scores.val.json").unlink()
    written = (out / "exchange" / "seed-0" / "checkpoints" / "best.ckpt").stat().st_mtime_ns
    run(few, out, "exchange", (0,))
    assert without_times(out) == before
    assert (out / "exchange" / "seed-0" / "checkpoints" / "best.ckpt").stat().st_mtime_ns == written


@pytest.mark.parametrize(("asked", "has"), [(None, "4"), ("2", "2"), ("8", "4"), ("4,2", "4"), ("0", "4")])
def test_a_training_has_its_share_of_the_cores_and_no_more_than_the_user_asked_for(asked, has, monkeypatch):
    if asked is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert children.environment(4)["OMP_NUM_THREADS"] == has


def test_what_was_begun_before_a_setting_came_is_the_same_recipe():
    """If this breaks, every comparison and search of an earlier version is refused, by a setting that nobody gave."""
    task = {"class_path": "polymodal.tasks.Segmentation", "init_args": {"network": "rooms-unet"}}
    now = {"model": {**task, "init_args": {**task["init_args"], "learns": "all", "weights": None}}}
    assert differing({"model": task}, now) == []
    now["model"]["init_args"]["learns"] = "private"
    assert differing({"model": task}, now) == [("model.learns", "all", "private")]
