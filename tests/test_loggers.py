"""The loggers that a recipe names: each receives the settings, the scores of the epochs, and those of the end."""

import csv
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger

from fixtures_data import make_folder
from polymodal.errors import ConfigError
from polymodal.runs.loggers import Events, loggers_of
from polymodal.runs.training import fit, recipe

SMALL = [
    *("--data.batch_size=2", "--data.eval_batch_size=1", "--trainer.max_epochs=2", "--trainer.accelerator=cpu"),
    "--model.network_args={stem: 4, widths: [4, 4], decoder: 4}",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "own"
    return make_folder(root, size=(16, 24), splits={"train": 4, "val": 2, "test": 2}, modalities=("rgb", "grey"))


def train(data: Path, run: Path, *loggers: dict) -> Path:
    given = yaml.safe_dump(list(loggers) if len(loggers) > 1 else loggers[0])
    words = [f"--config={recipe('folder')}", f"--data.root={data}", f"--trainer.default_root_dir={run}"]
    return fit([*words, *SMALL, f"--trainer.logger={given}"])


def final(run: Path, split: str) -> float:
    scores = json.loads((run / f"scores.{split}.json").read_text())
    return scores["predictions"]["ensemble"]["mean_iou"]


def test_csv_loggers_receive_scores_and_settings_beside_the_runs_own_record(data, tmp_path):
    """If this breaks, a logger is replaced without a word, as it once was; one alone, or several."""
    folders = [tmp_path / "one", tmp_path / "two"]
    named = [{"class_path": "CSVLogger", "init_args": {"save_dir": str(folder)}} for folder in folders]
    run = train(data, tmp_path / "run", *named)
    assert len(list(run.glob("events.out.tfevents*"))) == 1
    for folder in folders:
        [file] = folder.rglob("metrics.csv")
        rows = list(csv.DictReader(file.open()))
        assert sum(row["val/mean_iou/ensemble"] != "" for row in rows) == 2, "of two epochs"
        for split in ("val", "test"):
            [value] = filter(None, (row[f"final/{split}/mean_iou/ensemble"] for row in rows))
            assert float(value) == pytest.approx(final(run, split))
        settings = yaml.safe_load(file.with_name("hparams.yaml").read_text())
        assert settings["trainer"]["max_epochs"] == 2
        assert settings["model"]["init_args"]["network"] == "rooms-unet"


def test_the_words_for_loggers_mean_what_they_say(tmp_path):
    """True and null: the run's own events; false: none; one: beside them."""
    for given in (None, True):
        [own] = loggers_of(given, tmp_path / "run")
        assert isinstance(own, Events)
    assert loggers_of(False, tmp_path / "run") == []
    csv_logger = CSVLogger(tmp_path / "other")
    assert loggers_of(csv_logger, tmp_path / "run")[1:] == [csv_logger]


def test_a_logger_that_would_write_over_the_runs_metrics_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"CSVLogger would write over .*metrics.csv"):
        loggers_of(CSVLogger(tmp_path, name="", version=""), tmp_path)


def test_wandb_receives_the_scores_offline(data, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    settings = {"save_dir": str(tmp_path), "offline": True, "project": "own"}
    run = train(data, tmp_path / "run", {"class_path": "WandbLogger", "init_args": settings})
    summary = dict(wandb.run.summary)
    wandb.finish()
    assert summary["final/test/mean_iou/ensemble"] == pytest.approx(final(run, "test"))
    assert "val/mean_iou/ensemble" in summary


def test_mlflow_receives_the_scores_in_a_local_folder(data, tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    uri = f"file:{tmp_path / 'mlruns'}"
    settings = {"save_dir": str(tmp_path / "mlruns"), "experiment_name": "own"}
    run = train(data, tmp_path / "run", {"class_path": "MLFlowLogger", "init_args": settings})
    client = MlflowClient(uri)
    [found] = client.search_runs([client.get_experiment_by_name("own").experiment_id])
    assert found.data.metrics["final/val/mean_iou/ensemble"] == pytest.approx(final(run, "val"))
    assert found.data.params["trainer/max_epochs"] == "2"
    assert found.info.status == "FINISHED"


@pytest.mark.parametrize(("logger", "package"), [("WandbLogger", "wandb"), ("MLFlowLogger", "mlflow")])
def test_a_logger_whose_package_is_missing_is_told_before_anything_is_trained(data, tmp_path, logger, package):
    if find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(ConfigError, match=package) as refusal:
        train(data, tmp_path / "run", {"class_path": logger})
    assert "\n" not in str(refusal.value)
    other = {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path)}}
    with pytest.raises(ConfigError, match=f"^Requirement '{package}.*met"):
        train(data, tmp_path / "run", other, {"class_path": logger})
    assert not (tmp_path / "run").exists()
