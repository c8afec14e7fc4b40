"""If this breaks, minutes on a GPU are spent on a script that does not run."""

import json
import sys
from pathlib import Path

import pytest

from fixtures_data import make_folder, target_of

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import gpu_check


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    root = make_folder(folder / "whole", size=(48, 64), splits={"train": 4, "val": 2}, modalities=["rgb", "depth"])
    assert gpu_check.pack(root, folder / "packed") < 2**20
    return folder / "packed"


def test_a_packed_set_is_one_to_train_with(data):
    from polymodal.data import FolderDataset

    sample = FolderDataset(data, "train")[0]
    assert sample["inputs"]["rgb"].shape == (3, 240, 320)
    assert target_of(sample).shape == (240, 320)


@pytest.mark.slow
def test_rehearsal_writes_results_and_goes_on_where_it_was(data, tmp_path, capsys):
    words = [
        "run",
        str(tmp_path / "out"),
        f"--work={tmp_path / 'work'}",
        f"--data={data}",
        "--rehearse",
        "--minutes=60",
    ]
    assert gpu_check.main([*words, "--parts", "tests,inference"]) == 0
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert [part["status"] for part in results["parts"].values()] == [0, 0]
    assert "exchange+auto" in (tmp_path / "out/results.md").read_text()
    capsys.readouterr()
    assert gpu_check.main([*words, "--parts", "tests,inference,learning"]) == 0
    assert capsys.readouterr().out.startswith("learning: ")
    assert "decode once" in (tmp_path / "out/results.md").read_text()


def test_a_part_that_takes_too_long_is_ended_and_told(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "RESERVE_S", 0.0)
    slow = gpu_check.Part("slow", 1, ["-c", "import time; print('begun', flush=True); time.sleep(60)"])
    results = gpu_check.run(tmp_path / "out", tmp_path / "work", [slow], minutes=1, rehearse=True)
    assert results["parts"]["slow"]["status"] == "out of time"
    assert "begun" in (tmp_path / "out/results.md").read_text()


def test_without_a_gpu_only_a_rehearsal_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu_check.main(["run", str(tmp_path / "out")])
    assert "--rehearse" in capsys.readouterr().err
