"""What a user sets of a training is obeyed or refused: in one line, before anything is trained."""

import contextlib
import csv
import inspect
import io
import json
import logging
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Trainer

from fixtures_data import make_folder
from polymodal.cli import main
from polymodal.data import track as tracking
from polymodal.errors import ConfigError, DataError, FusionError, PolymodalError
from polymodal.runs.prepared import Prepared
from polymodal.runs.refusals import while_made, while_trained
from polymodal.runs.training import RecipeCLI, fit, recipe

SMALL = [
    *("--data.batch_size=2", "--data.eval_batch_size=1", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"),
    "--model.network_args={stem: 4, widths: [4, 4], decoder: 4}",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "own"
    return make_folder(root, size=(16, 24), splits={"train": 4, "val": 3, "test": 3}, modalities=("rgb", "grey"))


def words(data: Path, run: Path, *more: str) -> list[str]:
    return [f"--config={recipe('folder')}", f"--data.root={data}", f"--trainer.default_root_dir={run}", *SMALL, *more]


def test_every_argument_of_the_trainer_is_known():
    """A new release of Lightning may bring one that a run cannot obey: then decide, and add it here."""
    assert set(inspect.signature(Trainer).parameters) == {
        "accelerator", "accumulate_grad_batches", "barebones", "benchmark", "callbacks", "check_val_every_n_epoch",
        "default_root_dir", "detect_anomaly", "deterministic", "devices", "enable_autolog_hparams",
        "enable_checkpointing", "enable_model_summary", "enable_progress_bar", "fast_dev_run",
        "gradient_clip_algorithm", "gradient_clip_val", "inference_mode", "limit_predict_batches", "limit_test_batches",
        "limit_train_batches", "limit_val_batches", "log_every_n_steps", "logger", "max_epochs", "max_steps",
        "max_time", "min_epochs", "min_steps", "model_registry", "num_nodes", "num_sanity_val_steps",
        "overfit_batches", "plugins", "precision", "profiler", "reload_dataloaders_every_n_epochs", "strategy",
        "sync_batchnorm", "use_distributed_sampler", "val_check_interval",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("--trainer.accelerator=gpu", "--trainer.accelerator gpu: "),
        ("--trainer.strategy=foo", "--trainer.strategy foo: "),
        ("--trainer.devices=0", "--trainer.devices 0: "),
        ("--trainer.num_nodes=0", "num_nodes: expected 1 or more, got 0"),
        ("--trainer.precision=foo", "--trainer.precision: expected .* or null, got foo"),
        ("--trainer.max_epochs=-5", "max_epochs: expected 1 or more, or -1"),
        ("--trainer.max_epochs=0", "max_epochs: expected 1 or more"),
        ("--trainer.max_epochs=1.5", "--trainer.max_epochs: expected int or null, got 1.5"),
        ("--trainer.max_steps=0", "max_steps: expected 1 or more"),
        ("--trainer.min_epochs=-1", "min_epochs: expected 0 or more"),
        ("--trainer.min_epochs=5", "min_epochs 5 is more than --trainer.max_epochs 1"),
        ("--trainer.min_steps=50", "--trainer.min_steps 50: the training has 2 steps"),
        ("--trainer.max_time=foo", "--trainer.max_time: expected a duration above 0, DD:HH:MM:SS.* got foo"),
        ("--trainer.accumulate_grad_batches=0", "accumulate_grad_batches: expected 1 or more"),
        ("--trainer.gradient_clip_val=-1", "gradient_clip_val: expected a number above 0"),
        ("--trainer.gradient_clip_val=.nan", "gradient_clip_val: .* got nan"),
        ("--trainer.gradient_clip_algorithm=foo", "--trainer.gradient_clip_algorithm foo: "),
        ("--trainer.limit_train_batches=0", "limit_train_batches: expected 1 batch or more"),
        ("--trainer.limit_val_batches=1.5", "limit_val_batches: expected a number of batches, or a share"),
        ("--trainer.limit_test_batches=.nan", "limit_test_batches: expected .* got nan"),
        ("--trainer.limit_predict_batches=1", "limit_predict_batches 1: a training predicts nothing"),
        ("--trainer.overfit_batches=-1", "overfit_batches: expected a number of batches"),
        ("--trainer.barebones=true", "--trainer.barebones true: "),
        ("--trainer.fast_dev_run=true", "--trainer.fast_dev_run true: it would leave no model. For a trial: "),
        ("--trainer.enable_checkpointing=false", "--trainer.enable_checkpointing false: "),
        ("--trainer.inference_mode=false", "--trainer.inference_mode false: "),
        ("--trainer.model_registry=foo", "--trainer.model_registry foo: "),
        ("--trainer.default_root_dir=null", "--trainer.default_root_dir null: a run is a folder"),
        ("--trainer.profiler=foo", "--trainer.profiler.*simple"),
        ("--trainer.plugins=foo", "--trainer.plugins: there is no class foo; there are AsyncCheckpointIO"),
        ("--trainer.num_sanity_val_steps=-3", "num_sanity_val_steps: expected -1 or more"),
        ("--trainer.check_val_every_n_epoch=0", "check_val_every_n_epoch: expected 1 or more"),
        ("--trainer.val_check_interval=0", "val_check_interval: expected 1 batch or more"),
        ("--trainer.val_check_interval=50", r"`val_check_interval` \(50\) must be less"),
        ("--trainer.reload_dataloaders_every_n_epochs=-1", "reload_dataloaders_every_n_epochs: expected 0 or more"),
        ("--trainer.log_every_n_steps=-1", "log_every_n_steps: expected 0 or more"),
        ("--seed_everything=-1", "--seed_everything: expected 0 to 4294967295"),
        ("--seed_everything=1099511627776", "--seed_everything: expected 0 to 4294967295"),
        ("--trainer.callbacks=BatchSizeFinder", "BatchSizeFinder would train with a value that config.yaml does not"),
        ("--trainer.callbacks={class_path: ModelCheckpoint, init_args: {save_last: true}}", "a dirpath of its own"),
        ("--trainer.callbacks={class_path: ModelCheckpoint, init_args: {filename: best}}", "a dirpath of its own"),
        ("--trainer.callbacks=EarlyStopping", "EarlyStopping: the following arguments are required: monitor"),
        (
            "--trainer.callbacks={class_path: EarlyStopping, init_args: {monitor: val/mean_iou/ensemble}}",
            "EarlyStopping: more of val/mean_iou/ensemble is better, and its mode is 'min'.* Give it the mode max",
        ),
        (
            "--trainer.callbacks={class_path: ModelCheckpoint, init_args: {monitor: val/loss, mode: max}}",
            "ModelCheckpoint: less of val/loss is better",
        ),
        ("--trainer.logger=CSVLogger", "--trainer.logger: CSVLogger: the following arguments are required: save_dir"),
        ("--trainer.logger=CSVLoger", "there is no class CSVLoger; did you mean CSVLogger"),
        ("--model.optimiser.lr=-1", "optimiser.lr: expected a finite number above 0, got -1.0"),
        ("--model.optimiser.schedule=foo", "--model.optimiser.schedule: expected 'constant', .*, got foo"),
        ("--model.fusion.threshold=.nan", "threshold: expected θ ≥ 0, got nan"),
        ("--model.fusion=Exchnge", "--model.fusion: there is no class Exchnge; did you mean Exchange"),
        ("--data.batch_size=0", "data.batch_size: expected 1 or more, got 0"),
        ("--data.augment.crop=foo", r"--data.augment.crop: expected tuple\[int, int\] or null, got foo"),
        ("--data.augment.crop=[0,0]", "augment.crop: expected a height and a width above 0"),
        ("--data.workers=-1", "data.workers: expected 0 or more"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_in_one_line(data, tmp_path, setting, expected):
    """Else a setting is dropped, or the reason is in the last of a hundred lines."""
    with pytest.raises((ConfigError, FusionError), match=expected) as refusal:
        fit(words(data, tmp_path / "run", setting))
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_dropout_that_would_drop_nothing_is_refused(data, tmp_path):
    """Lightning takes the samples of `overfit_batches` by their numbers, and no draw reaches them."""
    more = ("--trainer.overfit_batches=1", "--data.dropout.probability={grey: 0.5}")
    with pytest.raises(ConfigError, match=r"data.dropout: nothing would be dropped with --trainer.overfit_batches"):
        fit(words(data, tmp_path / "run", *more))
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--trainer.max_epoch=3", "--trainer.max_epochs"),  # not as an abbreviation, which `+=` or a file would not be
        ("--model.optimiser.nam=sgd", "--model.optimiser.name"),
        ("--model.fusion.thresold=1", "--model.fusion.threshold"),
        ("--data.augment.cropp=[2,2]", "--data.augment.crop"),
        ("--modle.network=smp/FPN", "--model.network"),
    ],
)
def test_a_misspelt_setting_is_told_with_the_one_that_is_meant(data, tmp_path, given, meant, capsys):
    assert main(["fit", *words(data, tmp_path / "run", given)]) == 2
    name = given.partition("=")[0]
    assert capsys.readouterr().err == f"polymodal: {name}: there is no such setting; did you mean {meant}?\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"trainer": {"max_epoch": 3}}, "--trainer.max_epoch: .* did you mean --trainer.max_epochs"),
        ({"data": {"class_path": "FolderData", "init_args": {"augment": {"crp": 1}}}}, "--data.augment.crop"),
        (
            {"trainer": {"callbacks": [{"class_path": "EarlyStopping", "init_args": {"monitor": "a", "patiense": 3}}]}},
            "--trainer.callbacks.patiense: .* did you mean --trainer.callbacks.patience",
        ),
        ({"trainer": {"callbacks": [{"class_path": "lightning.pytorch.callbacks.EarlyStoping"}]}}, "EarlyStopping"),
        ({"seed_everythng": 3}, "--seed_everythng: there is no such setting; did you mean --seed_everything"),
        (None, r"more.yaml: expected settings, those of model, data and trainer among them, got nothing"),
        (["norms"], r"more.yaml: expected settings, .* got '- norms'"),
    ],
)
def test_a_misspelt_setting_of_a_file_is_told_as_well(data, tmp_path, content, expected):
    file = tmp_path / "more.yaml"
    file.write_text("# to come" if content is None else yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=expected):
        fit(words(data, tmp_path / "run", f"--config={file}"))


def test_a_setting_twice_and_a_group_of_none_are_told(data, tmp_path):
    """Else the first half of a recipe that was put together is dropped in silence."""
    file = tmp_path / "twice.yaml"
    file.write_text("trainer:\n  max_epochs: 1\ntrainer:\n  max_steps: 2\n")
    for word, expected in (
        (f"--config={file}", "twice.yaml, line 3: 'trainer' is there twice"),
        (f"--data={file}", "'trainer' is there twice"),
        ("--data={root: a, root: b}", "'{root: a, root: b}': 'root' is there twice"),
        ("--model.network_args={widths: [4], stem: 4, stem: 5}", "'stem' is there twice"),
        ("--model.optimiser=null", "--model.optimiser: expected settings, such as --model.optimiser.name, got null"),
        ("--data.augment=null", "--data.augment: expected settings, such as --data.augment.scale, got null"),
        ("--trainer.max_time=00:00:00:00", "max_time: expected a duration above 0, .* got 00:00:00:00"),
    ):
        with pytest.raises(ConfigError, match=expected):
            fit(words(data, tmp_path / "run", word))


def test_words_that_are_no_settings_and_files_that_are_not_there_are_told(data, tmp_path):
    for word, expected in (
        ("more", "'more': expected settings as --NAME VALUE"),
        ("--config=nothing.yaml", "--config: there is no file .*nothing.yaml. The package has those in .*recipes"),
        ("--config=mine/rooms.yaml", "there is no file .*rooms.yaml. The package has .*recipes/rooms.yaml"),
        (f"--config={data}", f"--config: there is no file {data}"),
        ("--model.help=polymodal.tasks.Segmentatio", "there is no class Segmentatio"),
    ):
        with pytest.raises(ConfigError, match=expected):
            fit(words(data, tmp_path / "run", word))
    with pytest.raises(ConfigError, match=r"expected --config RECIPE.yaml, or the settings data, model"):
        fit([])


@pytest.mark.parametrize("command", [["compare", "--methods", "none"], ["bench", "data"]])
def test_commands_that_take_settings_of_a_recipe_say_the_same(command, data, tmp_path, capsys):
    """If this breaks, a comparison of many runs begins with a screen of usage."""
    given = ["--config", str(recipe("folder")), "--data.root", str(data), "--out", str(tmp_path / "out")]
    assert main([*command, *given, "--trainer.max_epoch", "3"]) == 2
    expected = "polymodal: --trainer.max_epoch: there is no such setting; did you mean --trainer.max_epochs?\n"
    assert capsys.readouterr().err == expected


def test_the_callbacks_of_a_user_are_kept_beside_ours(data, tmp_path):
    """As one, as a list; a checkpoint, an early stop, a record of rates and a progress bar of their own."""
    given = [
        {"class_path": "ModelCheckpoint", "init_args": {"filename": "mine"}},
        {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "patience": 1, "min_delta": 1e6}},
        {"class_path": "LearningRateMonitor"},
        {"class_path": "TQDMProgressBar"},
    ]
    run = fit(words(data, tmp_path / "run", "--trainer.max_epochs=5", f"--trainer.callbacks={yaml.safe_dump(given)}"))
    assert {file.name for file in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", "mine.ckpt"}
    assert len((run / "metrics.csv").read_text().splitlines()) == 3, "stopped after the second epoch"
    saved = yaml.safe_load((run / "config.yaml").read_text())["trainer"]["callbacks"]
    assert [callback["class_path"].rpartition(".")[2] for callback in saved] == [c["class_path"] for c in given]


def test_what_a_profiler_and_a_summary_say_is_shown(data, tmp_path, capsys):
    """Else they are asked for, cost time, and say nothing."""
    said: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("lightning.pytorch").addHandler(listener)
    try:
        fit(words(data, tmp_path / "run", "--trainer.profiler=simple", "--trainer.enable_model_summary=true"))
    finally:
        logging.getLogger("lightning.pytorch").removeHandler(listener)
    [report] = said
    assert "FIT Profiler Report" in report
    assert "Trainable params" in capsys.readouterr().out


@pytest.mark.parametrize("precision", ["bf16-true", pytest.param("64-true", marks=pytest.mark.slow)])
def test_a_network_of_another_precision_is_trained_scored_and_kept(data, tmp_path, precision):
    run = fit(words(data, tmp_path / "run", f"--trainer.precision={precision}"))
    assert (run / "scores.val.json").is_file()


def test_the_reason_at_the_root_is_what_is_said():
    """jsonargparse wraps what a class raises, sometimes twice."""
    wrapped = ValueError("Does not validate\nagainst anything")
    wrapped.__cause__ = DataError("the reason")
    with pytest.raises(DataError, match=r"^the reason$"), while_made():
        raise wrapped
    with pytest.raises(ConfigError, match=r"^here: two lines\.$"), while_made(lambda message: "here: "):
        raise ValueError("two\n  lines")


def test_an_error_that_is_not_lightnings_is_not_a_users():
    """If this breaks, a bug is told as if a setting were wrong, without its traceback."""
    with pytest.raises(RuntimeError, match="a bug"), while_trained():
        raise RuntimeError("a bug")
    with pytest.raises(PolymodalError, match="`max_epochs` must be"), while_trained():
        Trainer(max_epochs=-7, logger=False, accelerator="cpu")


def test_a_recipe_is_parsed_without_being_trained(data, tmp_path):
    """The trainer that is made has what was set."""

    class Untrained(RecipeCLI):
        def _run_subcommand(self, subcommand):
            pass

    more = ["--trainer.gradient_clip_val=0.5", "--trainer.num_sanity_val_steps=1", "--trainer.detect_anomaly=true"]
    trainer = Untrained(words(data, tmp_path / "run", *more, "--trainer.logger=false")).trainer
    assert (trainer.gradient_clip_val, trainer.num_sanity_val_steps, trainer._detect_anomaly) == (0.5, 1, True)
    assert trainer.loggers == []


def test_a_setting_overrides_the_recipe_wherever_it_stands(data):
    """If this breaks, `polymodal fit --data.root MINE --config RECIPE.yaml` trains on the recipe's data in silence."""
    before, after = [f"--data.root={data}", "--trainer.max_epochs=7"], ["--trainer.max_steps", "3"]
    settings = Prepared([*before, "--config", str(recipe("folder")), *after]).settings
    assert settings["data"]["init_args"]["root"] == str(data)
    assert (settings["trainer"]["max_epochs"], settings["trainer"]["max_steps"]) == (7, 3)


@pytest.fixture(scope="module")
def part(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that is scored on the first scene of val and on two thirds of test, and what it printed."""
    run = tmp_path_factory.mktemp("runs") / "part"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        fit(words(data, run, "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=0.7"))
    return run, said.getvalue()


def test_the_limits_of_batches_hold_for_the_scores_at_the_end(part):
    """If this breaks, a trial on one batch scores a large set for an hour; or figures of a part pass for all."""
    run, _ = part
    scores = {split: json.loads((run / f"scores.{split}.json").read_text()) for split in ("val", "test")}
    assert [(found["samples"], found["split_samples"]) for found in scores.values()] == [(1, 3), (2, 3)]
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    best = float(rows[0]["val/mean_iou/ensemble"])
    assert scores["val"]["predictions"]["ensemble"]["mean_iou"] == pytest.approx(best), "the same scene as in training"


def test_the_page_and_the_lines_say_that_only_a_part_was_scored(part):
    run, said = part
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "test, the first 2 of 3 scenes" in page
    assert "val, the first 1 of 3 scenes" in page
    assert said.index("epoch 1/1") < said.index("scores on val, batches: 0 of 1") < said.index("scores on test")


def test_the_whole_is_scored_when_asked_for_afterwards(part):
    run, _ = part
    assert main(["validate", str(run)]) == 0
    assert json.loads((run / "scores.val.json").read_text())["samples"] == 3


def test_a_limit_of_0_leaves_a_split_unscored(data, tmp_path, capsys):
    more = ["--trainer.limit_val_batches=0", "--trainer.limit_test_batches=0", "--trainer.enable_progress_bar=false"]
    run = fit(words(data, tmp_path / "run", *more))
    said = capsys.readouterr().out
    assert f"nothing was scored, as the limits say; score the model with: polymodal validate {run}" in said
    assert "scores on" not in said
    assert "epoch 1/1" not in said
    assert not list(run.glob("scores.*"))
    with pytest.raises(ConfigError, match=r"limit_test_batches 0.1: no batch of 3 is left"):
        fit(words(data, tmp_path / "other", "--trainer.limit_test_batches=0.1"))
    assert not (tmp_path / "other" / "config.yaml").exists()


def test_a_comparison_of_a_split_that_no_run_would_score_is_refused(data, tmp_path, capsys):
    given = ["--config", str(recipe("folder")), "--data.root", str(data), "--out", str(tmp_path / "out")]
    assert main(["compare", *given, "--methods", "none", "--trainer.limit_val_batches", "0", *SMALL]) == 2
    assert "--split: expected one that is scored (test), got 'val'" in capsys.readouterr().err


def test_a_long_scoring_tells_how_far_it_is(monkeypatch, capsys):
    """If this breaks, a training seems to hang after its last epoch."""
    monkeypatch.setattr(tracking, "EVERY", 0.0)
    assert list(tracking.track(iter("abc"), "scores", 3, lines=True)) == ["a", "b", "c"]
    assert capsys.readouterr().out.splitlines() == [
        "scores: 0 of 3",
        "scores: 0 of 3",
        "scores: 1 of 3",
        "scores: 2 of 3",
    ]
    assert list(tracking.track(iter("abc"), "scores", 3)) == ["a", "b", "c"]
    assert capsys.readouterr().out == ""
