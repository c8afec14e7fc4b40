"""A search over settings: what it tries is what was asked for, and neither a kill nor a failure changes it."""

import json
import sys

import pytest
import yaml

from fixtures_data import make_folder
from polymodal.cli import main
from polymodal.data import FolderData
from polymodal.errors import ConfigError, PolymodalError
from polymodal.files import write_file
from polymodal.runs import children
from polymodal.runs.engine import SeededRun
from polymodal.runs.files import write_json
from polymodal.runs.space import Dimension, read_space
from polymodal.runs.training import recipe
from polymodal.runs.tune import _is_last, _Search, tune

pytest.importorskip("optuna", reason="optuna is not installed: pip install 'polymodal[tune]'")
pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI.s args", "ignore:no channel is exchanged")

# A training that only pretends: three epochs, the better the nearer its rate is to 0.01.
PRETEND = """
import json, math, pathlib, select, sys, yaml
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder = pathlib.Path(words["--trainer.default_root_dir"])
settings = yaml.safe_load(open(words["--config"]))["model"]["init_args"]
rate = settings["optimiser"]["lr"]
value = 50 - 10 * abs(math.log10(rate / 0.01)) + settings["network_args"]["decoder"]
with (folder.parents[1] / "order").open("a") as order:
    order.write(f"{folder.parent.name} {rate} {settings['network_args']['widths']}\\n")
if (folder.parents[1] / "break").exists() and folder.parent.name == "trial-001":
    sys.exit("no more memory")
folder.mkdir(parents=True, exist_ok=True)
rows = "epoch,val/mean_iou/ensemble\\n"
for epoch in (1, 2, 3):
    rows += f"{epoch},{value if epoch > 1 else ''}\\n"
    (folder / "metrics.csv").write_text(rows)
    print(f"epoch {epoch}/3: train/loss 1", flush=True)
    if epoch == 2 and select.select([sys.stdin], [], [], 0.5)[0]:
        sys.exit()  # as a training does when nobody follows it any more
scores = {"predictions": {"ensemble": {"mean_iou": value}}}
(folder / "scores.val.json").write_text(json.dumps(scores))
"""
SPACE = """
model.optimiser.lr: {low: 1.0e-4, high: 1.0e-1, log: true}
model.network_args.decoder: {low: 4, high: 6}
model.network_args.widths: {choices: [[4, 4], [4, 6]]}
"""


@pytest.fixture
def words(tmp_path):
    data = make_folder(tmp_path / "set", size=(16, 24), splits={"train": 4, "val": 2}, modalities=("rgb", "grey"))
    return [
        *(f"--data.root={data}", "--data.batch_size=2", "--trainer.accelerator=cpu", "--trainer.max_epochs=3"),
        "--model.network_args={stem: 4, widths: [4, 4], decoder: 4}",
    ]


@pytest.fixture
def pretend(monkeypatch):
    monkeypatch.setattr(children, "fit_command", lambda words: [sys.executable, "-c", PRETEND, *words])


def search(tmp_path, words, trials, out="out", space=SPACE):
    write_file(tmp_path / "space.yaml", space.encode())
    return tune(recipe("folder"), tmp_path / "space.yaml", trials, tmp_path / out, overrides=words)


def order(tmp_path, out="out"):
    return (tmp_path / out / "order").read_text().splitlines()


@pytest.mark.slow
def test_a_search_goes_on_where_it_was_and_its_best_recipe_can_be_trained(words, pretend, tmp_path, capsys):
    """If this breaks, a search that was interrupted tries the same twice, or its file says what was not trained."""
    (tmp_path / "whole").mkdir()
    search(tmp_path, words, 7, "whole")
    search(tmp_path, words, 1)
    (tmp_path / "out" / "break").touch()
    search(tmp_path, words, 2)
    assert "'trial-001, seed 0' ended with status 1" in capsys.readouterr().out
    best = search(tmp_path, words, 7)
    assert order(tmp_path) == order(tmp_path, "whole")
    assert len(order(tmp_path)) == 7
    assert len({line.split()[1] for line in order(tmp_path)}) == 7
    found = yaml.safe_load(best.read_text())
    args = found["model"]["init_args"]
    assert found["seed_everything"] == 0
    assert args["network_args"]["widths"] in ([4, 4], [4, 6])
    number = max(range(7), key=lambda n: _value(tmp_path / "out" / f"trial-{n:03}"))
    assert (
        args
        == yaml.safe_load((tmp_path / "out" / f"trial-{number:03}" / "recipe.yaml").read_text())["model"]["init_args"]
    )
    assert len(list((tmp_path / "whole").glob("trial-*/seed-0/scores.val.json"))) < 7, (
        "none was ended early, so nothing was shown of that"
    )
    page = (tmp_path / "out" / "report.html").read_text()
    assert "What each setting matters" in page
    assert 'src="http' not in page
    search(tmp_path, words, 5)
    shown = capsys.readouterr().out
    assert "all 5 trials are finished already" in shown
    assert "the best of 7 trials is number" in shown
    with pytest.raises(ConfigError, match=r"belongs to another search: space.model.optimiser.lr.high is 0.1 there"):
        search(tmp_path, words, 7, space=SPACE.replace("1.0e-1", "1.0"))


def _value(folder):
    file = folder / "seed-0" / "scores.val.json"
    return json.loads(file.read_text())["predictions"]["ensemble"]["mean_iou"] if file.exists() else 0


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ("", "expected settings, such as model.optimiser.lr: {low: 1.0e-4, high: 1.0e-2, log: true}, got nothing"),
        ("[1]", r"got \[1\]"),
        ("model.optimiser.rate: {low: 1, high: 2}", "the recipe has no such setting"),
        ("model.optimizer.lr: {low: 1, high: 2}", r"no such setting; did you mean model.optimiser.lr\?"),
        ("model.optimiser: {choices: [1]}", "expected a single setting"),
        ("seed_everything: {low: 1, high: 2}", "no such setting"),
        ("model.optimiser.lr: 3", "expected {low, high}"),
        ("model.optimiser.lr: {low: 1}", "expected {low, high}"),
        ("model.optimiser.lr: {choices: []}", "expected {low, high}"),
        ("model.optimiser.lr: {low: 2, high: 1}", "low below high"),
        ("model.optimiser.lr: {low: a, high: 1}", "two numbers"),
        ("model.optimiser.lr: {low: 1e-4, high: 1e-2}", r"two numbers, .* has a point, too: 1.0e-3\), got 1e-4"),
        ("model.optimiser.lr: {low: 0, high: 1, log: true}", "a low above 0"),
        ("model.optimiser.lr: {choices: [1.0e-3, 1.0e-3]}", "twice"),
        ("model.optimiser.lr: {choices: [1, true]}", "twice; true counts as 1"),
        ("model.optimiser.lr: {choices: [[1], '[1]']}", "twice"),
        ("data.val_split: {choices: [a, b]}", "scored on other scenes than one another"),
        ("model.optimiser.lr: {low: 1, high: 2}\nmodel.optimiser.lr: {low: 1, high: 3}", "there twice"),
    ],
)
def test_a_space_that_says_nothing_of_use_is_refused_with_the_setting(space, expected, tmp_path):
    (tmp_path / "space.yaml").write_text(space)
    settings = {
        "model": {"class_path": "A", "init_args": {"optimiser": {"lr": 0.1, "name": "sgd"}}},
        "data": {"val_split": "a"},
    }
    with pytest.raises(ConfigError, match=rf"^--space: .*space.yaml.*{expected}"):
        read_space(tmp_path / "space.yaml", settings)


def test_a_search_on_data_that_have_changed_is_not_gone_on_with(words, pretend, tmp_path):
    """Else who mends labels and adds trials is given the best of two data sets, which is the one that was easier."""
    search(tmp_path, words, 1)
    own = FolderData(str(tmp_path / "set"))
    own.setup("validate")
    file = tmp_path / "out" / "trial-000" / "seed-0" / "scores.val.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"identity": own.identity("val")}))
    (tmp_path / "set" / "splits" / "val.txt").write_text("0005\n")
    with pytest.raises(ConfigError, match=r"trial-000/seed-0 was scored on other samples .* with another --out\."):
        search(tmp_path, words, 2)
    assert len(order(tmp_path)) == 1


def test_sizes_at_which_images_are_scored_are_not_searched(tmp_path):
    """Else the smallest images win, whose errors are the smallest."""
    (tmp_path / "space.yaml").write_text("data.size: {choices: [[48, 64], [96, 128]]}")
    with pytest.raises(ConfigError, match=r"data\.size: images are scored at the size of the inputs"):
        tune(recipe("rooms-translation"), tmp_path / "space.yaml", 1, tmp_path / "out")


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_trial_without_a_value_of_its_score_has_failed(value, tmp_path):
    """Else one trial that diverged ends the search, in words of Python."""
    write_json(tmp_path / "scores.val.json", {"predictions": {"ensemble": {"mean_iou": value}}})
    with pytest.raises(PolymodalError, match="'trial-000, seed 0' ended without a value of mean_iou"):
        _Search(None, tmp_path, {}, {}, 0, "", "mean_iou")._value(SeededRun("trial-000", 0, tmp_path))


def test_an_epoch_is_the_last_only_where_it_is_known_to_be():
    """If this breaks, no trial of a recipe that says steps alone is ever ended early."""
    lines = ("epoch 2/3: loss 1", "epoch 3/3: loss 1", "epoch 3/-1: loss 1", "scores on val, batches: 0 of 1")
    assert [_is_last(line) for line in lines] == [False, True, False, True]


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_no_training_can_have_is_refused(seed, tmp_path):
    """If this breaks, all trials fail one after the other, or the search ends in numpy's words."""
    with pytest.raises(ConfigError, match=rf"--seed: expected 0 to 4294967295, got {seed}"):
        tune(recipe("folder"), tmp_path / "space.yaml", 1, tmp_path / "out", seed=seed)


def test_whole_bounds_of_a_fraction_are_fractions(tmp_path):
    (tmp_path / "s.yaml").write_text("a.lr: {low: 0, high: 1}\na.size: {low: 1, high: 9}\n")
    assert read_space(tmp_path / "s.yaml", {"a": {"lr": 0.5, "size": 3}}) == {
        "a.lr": Dimension(0.0, 1.0),
        "a.size": Dimension(1, 9),
    }


def test_values_that_a_setting_cannot_have_are_refused_before_anything_trains(words, pretend, tmp_path, capsys):
    """Else half of the trials of a night fail."""
    spaces = {"model.optimiser.lr: {choices: [fast, 0.1]}": "'fast'", "data.batch_size: {low: 2, high: 64}": "64"}
    for space, value in spaces.items():
        (tmp_path / "space.yaml").write_text(space)
        given = ["tune", str(recipe("folder")), "--space", str(tmp_path / "space.yaml"), "--out", str(tmp_path / "out")]
        assert main([*given, *words]) == 2
        assert f"{space.partition(':')[0]}: {value} cannot be used" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.*"))
