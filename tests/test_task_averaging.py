"""Averaging callbacks of a recipe: what they average is what the run keeps."""

from pathlib import Path

import torch

from fixtures_data import make_folder
from polymodal import load
from polymodal.runs.checkpoints import read_checkpoint
from polymodal.runs.training import fit, recipe

SWA = ["--trainer.callbacks=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.01"]


def train(tmp_path: Path, *more: str) -> Path:
    data = make_folder(tmp_path / "own", size=(16, 24), splits={"train": 4, "val": 2}, modalities=("rgb", "grey"))
    words = [f"--config={recipe('folder')}", f"--data.root={data}", f"--trainer.default_root_dir={tmp_path / 'run'}"]
    small = ["--data.batch_size=2", "--model.network_args={stem: 4, widths: [4, 4], decoder: 4}"]
    return fit([*words, *small, *more])


def test_stochastic_weight_averaging_is_what_is_kept(tmp_path, monkeypatch, capsys):
    """If this breaks, a run averages nothing, or keeps an epoch's own weights, and says nothing of it."""
    from lightning.pytorch.callbacks import StochasticWeightAveraging

    seen: list[dict[str, torch.Tensor]] = []
    update = StochasticWeightAveraging.update_parameters

    def watched(average, model, *others):
        seen.append({name: p.detach().clone() for name, p in model.named_parameters()})
        update(average, model, *others)

    monkeypatch.setattr(StochasticWeightAveraging, "update_parameters", staticmethod(watched))
    run = train(tmp_path, "--trainer.max_epochs=3", *SWA, "--trainer.callbacks.swa_epoch_start=2")
    assert len(seen) == 2
    kept = dict(load(run).named_parameters())
    assert kept
    for name, value in kept.items():
        mean = (seen[0][f"net.{name}"] + seen[1][f"net.{name}"]) / 2
        assert torch.allclose(value, mean, atol=1e-6), name
    assert not torch.equal(seen[0]["net.ensemble.alpha"], seen[1]["net.ensemble.alpha"])
    assert load(run).network.encoder.stages[0][0].bn1.num_batches_tracked == 2  # measured anew, by one epoch
    assert "the averaged weights are kept" in capsys.readouterr().out
    assert '"selected_on": null' in (run / "scores.val.json").read_text()


def test_averaging_that_does_not_come_to_its_end_is_told(tmp_path, capsys):
    """If this breaks, a model passes for an average that holds none."""
    train(tmp_path, "--trainer.max_epochs=3", "--trainer.max_steps=3", *SWA)
    assert "ended before StochasticWeightAveraging did" in capsys.readouterr().out


def test_a_moving_average_is_what_is_kept(tmp_path):
    """If this breaks, the average is validated, and the last step's own weights are kept."""
    ema = ["--trainer.callbacks=EMAWeightAveraging", "--trainer.callbacks.decay=0.9"]
    run = train(tmp_path, "--trainer.max_epochs=2", *ema)
    checkpoint = read_checkpoint(run / "checkpoints" / "best.ckpt")
    average, current = checkpoint["state_dict"], checkpoint["current_model_state"]
    for name, value in load(run).named_parameters():
        assert torch.equal(value, average[f"net.{name}"])
    assert any(not torch.equal(average[key], current[key]) for key in average)
