"""Image-to-image translation: each step against a plain second opinion, runs that are kept, resumed, scored, shown."""

import copy
import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image
from torch import Tensor

from fixtures_data import edit, known_of, make_folder, target_of
from polymodal.data import Augment, FolderData
from polymodal.errors import ConfigError, DataError
from polymodal.fusion import Aggregation, Alignment, Asymmetric, Exchange, Fusion, RandomExchange
from polymodal.runs.checkpoints import read_checkpoint
from polymodal.runs.interrupt import Stopped
from polymodal.runs.predict import predict
from polymodal.runs.seeds import EpochSeeds
from polymodal.runs.training import fit, recipe
from polymodal.runs.validate import validate
from polymodal.tasks import Optimiser, Translation
from polymodal.tasks.base import Task
from polymodal.tasks.translation import masked_l1, where_known

INPUTS = ["grey", "depth"]
NAMES = ("rgb", *INPUTS)
QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}
PLAIN = Augment(scale=(1.0, 1.0), flip=False, photometric=0.0)
ADAM = Optimiser(name="adam", lr=1e-2, scales_factor=1.0, weight_decay=0.0, schedule="constant", betas=(0.5, 0.999))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "own"
    splits = {"train": 4, "val": 2, "test": 2}
    return make_folder(folder, size=(32, 32), splits=splits, modalities=NAMES)


def task(fusion: Fusion | None = None, **settings) -> Translation:
    small = {"network_args": {"filters": 2}, "discriminator_filters": 2, "extractor": None, "optimiser": ADAM}
    return Translation(fusion=fusion, **{**small, **settings})


class Watch(Callback):
    """Keeps the networks as they were, and the batch of the first step."""

    def on_train_batch_start(self, trainer, model, batch, batch_idx):
        self.before = copy.deepcopy(model.net), copy.deepcopy(model.discriminator)
        self.batch = batch


def step(model: Translation, root: Path, inputs=INPUTS, target="rgb", size=None, **settings) -> Watch:
    """One batch of training, without a run folder."""
    data = FolderData(str(root), inputs, target=target, batch_size=4, augment=PLAIN, size=size)
    watch = Watch()
    once = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 0, "callbacks": [watch]}
    Trainer(accelerator="cpu", **once, **QUIET, **settings).fit(model, data)
    return watch


def bce(logits: Tensor, value: float) -> Tensor:
    """Written out, as the released code's sigmoid and binary cross-entropy."""
    p = logits.sigmoid()
    return -(value * p.log() + (1 - value) * (1 - p).log()).mean()


@pytest.mark.parametrize("inputs", [["grey"], INPUTS])
def test_a_step_is_that_of_the_papers(root, inputs):
    """If this breaks, another loss is minimised than the papers', or one network's step leaks into the other."""
    model = task(Exchange(threshold=0.6, penalty=0.01))
    watch = step(model, root, inputs)
    generator, discriminator = watch.before
    batch = watch.batch
    real, valid = target_of(batch), known_of(batch)
    assert valid.all()
    adam = {"lr": 1e-2, "betas": (0.5, 0.999)}
    of_generator = torch.optim.Adam(generator.parameters(), **adam)
    of_discriminator = torch.optim.Adam(discriminator.parameters(), **adam)

    prediction = generator(batch["inputs"])
    given = [image.repeat(1, 3, 1, 1) for image in batch["inputs"].values()]  # one channel each, tiled to three
    made = list(prediction.per_modality.values())
    judged = sum(
        (bce(discriminator(x, real), 1) + bce(discriminator(x, y.detach()), 0)) / 2
        for x, y in zip(given, made, strict=True)
    )
    judged.backward()
    of_discriminator.step()
    of_discriminator.zero_grad()

    adversarial = sum(bce(discriminator(x, y), 1) for x, y in zip(given, made, strict=True))
    l1 = sum((y - real).abs().mean() for y in made) + (prediction.ensemble - real).abs().mean()
    scales = generator.scales().values()
    parts = [torch.arange(s.shape[1]) * len(inputs) // s.shape[1] for s in scales]
    penalty = sum(
        s[m, part == m].abs().sum() for s, part in zip(scales, parts, strict=True) for m in range(len(inputs))
    )
    (adversarial + 100 * l1 + 0.01 * penalty).backward()
    of_generator.step()

    for ours, theirs in ((model.net, generator), (model.discriminator, discriminator)):
        moved = 0
        for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            # Adam's first step has the size of the rate whatever the gradient: where that is only rounding, it may
            # point anywhere.
            if b.grad is not None and b.grad.abs().max() > 1e-4:
                firm = b.grad.abs() > 1e-4
                assert torch.allclose(a[firm], b[firm], atol=2e-4), name
                moved += 1
        assert moved >= 8


@pytest.mark.parametrize(
    "fusion",
    [
        None,
        pytest.param(RandomExchange(share=0.5), marks=pytest.mark.slow),
        Alignment(),
        Aggregation("concat"),
        pytest.param(Aggregation("attention"), marks=pytest.mark.slow),
    ],
    ids=["none", "random", "alignment", "concat", "attention"],
)
def test_every_fusion_that_makes_sense_trains(root, fusion):
    """If this breaks, a comparison of fusions for translation stops at this one."""
    own = {"sites": "middle", "convolutions": "private"} if isinstance(fusion, Alignment | Aggregation) else {}
    model = task(fusion, **own)
    generator, discriminator = step(model, root).before
    for after, before in ((model.net, generator), (model.discriminator, discriminator)):
        pairs = list(zip(after.parameters(), before.parameters(), strict=True))
        assert all(a.isfinite().all() for a, _ in pairs)
        assert sum(not torch.equal(a, b) for a, b in pairs) > len(pairs) / 2


def test_mixed_precision_trains(root):
    model = task(Exchange(penalty=0.01))
    step(model, root, precision="bf16-mixed")
    assert all(parameter.dtype == torch.float32 and parameter.isfinite().all() for parameter in model.parameters())


def test_inputs_of_any_channels_meet_one_discriminator(root):
    """If this breaks, rgb beside depth cannot be judged by a shared discriminator."""
    model = task(Exchange())
    step(model, root, ["rgb", "depth"], "grey")
    assert model.discriminator.convs[0].in_channels == 3 + 1
    step(private := task(stems="private"), root, ["rgb", "depth"], "grey")
    assert private.discriminator.convs[0].in_channels == 3 + 1


def test_pixels_without_truth_are_in_no_loss():
    """If this breaks, holes in the target are learned as if they were measured."""
    image, target = torch.rand(2, 2, 3, 4), torch.rand(2, 2, 3, 4)
    valid = torch.rand(2, 1, 3, 4) < 0.5
    other = torch.where(valid, target, 9.0)
    assert torch.equal(masked_l1(image, target, valid), masked_l1(image, other, valid))
    expected = np.abs(image - target).numpy()[valid.expand_as(target).numpy()].mean()
    assert masked_l1(image, target, valid).item() == pytest.approx(expected, rel=1e-5)
    assert masked_l1(image, target, torch.zeros_like(valid)) == 0
    shown = where_known(valid, image, target)
    assert torch.equal(shown[~valid.expand_as(target)], target[~valid.expand_as(target)])


def test_labels_are_refused_with_the_setting_that_helps(root):
    with pytest.raises(ConfigError, match=r"--data\.target depth"):
        step(task(), root, target=None)


def test_sizes_that_cannot_be_halved_are_refused_before_training(root):
    """If this breaks, odd sizes fail in the middle of a network, or after the first epoch."""
    with pytest.raises(ConfigError, match=r"36x36 .*data\.size.*such as 32x32"):
        step(task(), root, size=(36, 36))
    with pytest.raises(ConfigError, match=r"32x32 .*6 down\s+blocks.*multiples of 64"):
        step(task(network_args={"filters": 2, "depth": 6}), root)
    with pytest.raises(DataError, match="24x24 or more"):
        step(task(), root, size=(16, 16))


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_of_another_size_is_refused_before_training(split, tmp_path):
    """If this breaks, a training of days ends when it comes to be scored on that split."""
    root = make_folder(tmp_path / "own", size=(32, 32), splits={"train": 4, "val": 1, "test": 1}, modalities=NAMES)
    enlarge(root, {"val": "0004", "test": "0005"}[split])
    with pytest.raises(ConfigError, match=rf"images of {split} are 36x36 .*data\.size"):
        step(task(), root)


def test_a_network_that_predicts_less_than_the_image_is_refused(root):
    """RefineNet predicts at a quarter, for logits; else its first step ends in a traceback about shapes."""
    small = task(network="refinenet", network_args={"encoder_name": "resnet18", "light": True})
    with pytest.raises(ConfigError, match=r"refinenet predicts 8x8 .* from images of 32x32"):
        step(small, root)


def test_a_sample_of_another_size_is_named(tmp_path):
    """If this breaks, one odd file among thousands has to be searched for."""
    root = make_folder(tmp_path / "own", size=(32, 32), splits={"train": 4, "val": 2}, modalities=NAMES)
    enlarge(root, "0005")
    data = FolderData(str(root), INPUTS, target="rgb", batch_size=4, eval_batch_size=1, augment=PLAIN)
    with pytest.raises(DataError, match="0005: An image of 36x36"):
        Trainer(accelerator="cpu", max_epochs=1, **QUIET).fit(task(), data)


def enlarge(root: Path, key: str) -> None:
    """Give the files of a sample sides that can be halved only twice."""
    for file in root.glob(f"*/{key}.*"):
        with Image.open(file) as image:
            image.resize((36, 36), Image.Resampling.NEAREST).save(file)


@pytest.mark.parametrize("setting", [{"gradient_clip_val": 1.0}, {"accumulate_grad_batches": 2}])
def test_what_two_networks_in_turn_cannot_do_is_refused_with_the_setting(root, setting):
    """If this breaks, a recipe that works for segmentation ends in a traceback of Lightning's."""
    with pytest.raises(ConfigError, match=rf"trainer\.{next(iter(setting))} is .*Leave the setting out"):
        step(task(), root, **setting)


def test_what_fid_cannot_score_is_refused_before_the_training(tmp_path):
    """If this breaks, hours of training end without a page, as the only test image has no covariance."""
    splits = {"train": 4, "val": 2, "test": 1}
    root = make_folder(tmp_path / "data", size=(32, 32), splits=splits, modalities=(*NAMES, "bands"))
    with pytest.raises(
        ConfigError, match=r"model.extractor: .* of test a single one is scored. Set model.extractor to"
    ):
        step(task(extractor="lite0"), root)
    step(task(extractor="lite0"), root, limit_test_batches=0)
    edit(root, lambda d: d["modalities"].update(bands={"folder": "bands", "kind": "image"}))
    for file in (root / "bands").iterdir():
        np.save(file, np.nan_to_num(np.load(file)).clip(0, 1))
    with pytest.raises(ConfigError, match=r"images of 1 or 3 channels, and the target has 4. Set"):
        step(task(extractor="lite0"), root, target="bands")


def test_rates_follow_the_batch_size_that_they_are_meant_for(root):
    """If this breaks, `for_batch` changes the rates of segmentation and silently not those of translation."""
    model = task(optimiser=Optimiser(name="adam", lr=1e-3, scales_factor=1.0, schedule="constant", for_batch=2))
    step(model, root)  # batches of 4
    rates = {group["lr"] for optimiser in model.optimizers() for group in optimiser.param_groups}
    assert rates == {2e-3}


@pytest.mark.parametrize("stages", [None, {"encoder": [1e-3], "decoder": [2e-3]}])
def test_the_discriminator_has_its_factor(root, stages):
    """If this breaks, the discriminator wins at once, or the generator is slowed with it."""
    lr = 2e-4 if stages else 1e-3  # with stages the task's own, as another one would change nothing
    optimiser = Optimiser(name="adam", lr=lr, scales_factor=1.0, schedule="constant", stages=stages)
    model = task(optimiser=optimiser, discriminator_factor=0.25)
    step(model, root)
    rates = [{group["lr"] for group in optimiser.param_groups} for optimiser in model.optimizers()]
    assert rates == ([{1e-3, 2e-3}, {5e-4}] if stages else [{1e-3}, {2.5e-4}])
    with pytest.raises(ConfigError, match="discriminator_factor: expected a finite number above 0, got 0"):
        task(discriminator_factor=0)


SMALL = [
    *("--data.modalities=[grey, depth]", "--data.target=rgb", "--data.batch_size=2", "--data.eval_batch_size=2"),
    *("--model.network_args={filters: 2}", "--model.discriminator_filters=2", "--model.extractor=null"),
]


def train(root: Path, run: Path, epochs: int, *more: str) -> Path:
    words = [f"--config={recipe('rooms-translation')}", f"--data.root={root}", f"--trainer.default_root_dir={run}"]
    return fit([*words, f"--trainer.max_epochs={epochs}", "--trainer.check_val_every_n_epoch=1", *SMALL, *more])


def rows(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(root, tmp_path_factory.mktemp("runs") / "run", 3)


@pytest.mark.slow
def test_two_processes_train_one_run_to_its_end(root, tmp_path):
    """What any machine with two GPUs does by itself. If this breaks, it hangs or fails when the scores are counted."""
    run = tmp_path / "run"
    words = [f"--config={recipe('rooms-translation')}", f"--data.root={root}", "--data.cache=false", *SMALL]
    words += ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.devices=2", "--data.batch_size=1"]
    command = [sys.executable, "-m", "polymodal", "fit", *words, f"--trainer.default_root_dir={run}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("epoch 1/1") == 1
    scores = json.loads((run / "scores.val.json").read_text())
    assert scores["samples"] == 2, "one process counts all samples"
    [row] = rows(run)
    assert float(row["val/MAE/ensemble"]) == pytest.approx(scores["predictions"]["ensemble"]["MAE"], abs=1e-3)


def test_a_run_keeps_the_best_model_pictures_scores_and_a_page(root, finished):
    """If this breaks, the model that is kept is not the best, or there is nothing to see of it."""
    assert {file.name for file in (finished / "samples").iterdir()} == {f"epoch_000{n}.png" for n in (1, 2, 3)}
    with Image.open(finished / "samples" / "epoch_0003.png") as sheet:
        assert sheet.size == (6 * 32 + 5 * 4, 2 * 32 + 4)  # two inputs, two predictions, ensemble, target; two scenes
    errors = [float(row["val/MAE/ensemble"]) for row in rows(finished)]
    best = read_checkpoint(finished / "checkpoints" / "best.ckpt")
    assert len(best["callbacks"]["Recorder"]["rows"]) == errors.index(min(errors)) + 1
    scores = json.loads((finished / "scores.val.json").read_text())
    assert set(scores["predictions"]) == {"grey", "depth", "ensemble"}
    assert scores["predictions"]["ensemble"]["MAE"] == pytest.approx(min(errors), abs=1e-3)
    page = (finished / "report.html").read_text()
    assert "ensemble MAE" in page
    assert "<h2>Classes</h2>" not in page
    assert page.count("data:image/") == 2 * (3 + 3 + 3)  # a scene: inputs and truth, what each says, how far it is off


def test_a_killed_run_continues_bit_for_bit(root, finished, tmp_path, monkeypatch):
    """A break must not change results: both networks, both optimisers and both schedules go on as they were."""
    monkeypatch.setattr("polymodal.runs.training.finish", lambda cli: None)  # scores and pages are made of what is kept
    broken = tmp_path / "broken"
    seed_epoch = EpochSeeds.on_train_batch_start

    def die(self, trainer, *what):
        if trainer.current_epoch == 1:
            raise OSError("power cut")
        seed_epoch(self, trainer, *what)

    with monkeypatch.context() as patch:
        patch.setattr(EpochSeeds, "on_train_batch_start", die)
        with pytest.raises(OSError, match="power cut"):
            train(root, broken, 3)
    last = broken / "checkpoints" / "last.ckpt"
    train(root, broken, 3, f"--ckpt_path={last}")
    ours, theirs = (read_checkpoint(run / "checkpoints" / "last.ckpt") for run in (broken, finished))
    assert len(ours["optimizer_states"]) == len(ours["lr_schedulers"]) == 2
    for key, value in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][key], value), key
    assert rows(broken) == rows(finished)


def test_a_signal_within_an_epoch_costs_nothing(root, finished, tmp_path, monkeypatch):
    """Two networks and two optimisers take a step each for a batch; both must go on in the middle of an epoch."""
    monkeypatch.setattr("polymodal.runs.training.finish", lambda cli: None)

    def terminate(self, batch, batch_idx):
        if (self.current_epoch, batch_idx) == (1, 0):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Task, "on_train_batch_start", terminate)
        with pytest.raises(Stopped):
            train(root, tmp_path, 3)
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert read_checkpoint(last)["position"]["batches"] == 1
    train(root, tmp_path, 3, f"--ckpt_path={last}")
    ours, theirs = (read_checkpoint(run / "checkpoints" / "last.ckpt") for run in (tmp_path, finished))
    for key, value in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][key], value), key
    assert rows(tmp_path) == rows(finished)


def test_a_trained_model_predicts_and_is_validated_from_its_folder(root, finished, tmp_path, capsys):
    """If this breaks, a model is of no use after its training."""
    inputs = {name: next((root / name).glob("0004.*")) for name in INPUTS}
    written = predict(finished, inputs, tmp_path / "out")
    assert {file.name for file in written} == {f"0004_{name}.png" for name in (*INPUTS, "ensemble")}
    with Image.open(tmp_path / "out" / "0004_ensemble.png") as image:
        assert (image.size, image.mode) == ((32, 32), "RGB")
    before = json.loads((finished / "scores.test.json").read_text())["predictions"]
    assert validate(finished, "test")["predictions"] == before
    assert "MAE" in capsys.readouterr().out


def test_a_score_is_printed_with_its_extractor(capsys):
    """If this breaks, a FID by other features can be taken for the published kind."""
    from polymodal.runs.validate import _show
    from polymodal.tasks.protocol import Protocol

    scores = ("MAE", "MSE", "PSNR", "SSIM", "FID[lite0]", "KID[lite0]")
    predictions = {"texture_edge": dict.fromkeys(scores, 1.0)}
    _show({"samples": 2, "split": "test", "classes": [], "scored_on": "a", "predictions": predictions}, Protocol())
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*predictions, *scores)), "cut short"
    assert "logits" not in shown


@pytest.mark.parametrize("fusion", [None, Exchange(), Asymmetric()], ids=["none", "exchange", "asymmetric"])
def test_another_network_can_be_the_generator(root, fusion):
    """If this breaks, a user's own network predicts no images, or is judged and never trained.

    AsymFusion acts inside residual blocks, which the papers' generator lacks and others have.
    """
    model = task(fusion, network="rooms-unet", network_args={"stem": 4, "widths": [4, 4], "decoder": 4})
    watch = step(model, root)
    prediction = model.fused(watch.batch["inputs"])
    assert prediction.ensemble.shape == target_of(watch.batch).shape
    assert {name: image.shape for name, image in prediction.per_modality.items()} == dict.fromkeys(
        INPUTS, (4, 3, 32, 32)
    )
    before, _ = watch.before
    pairs = list(zip(model.fused.parameters(), before.parameters(), strict=True))
    assert sum(not torch.equal(after, old) for after, old in pairs) > len(pairs) / 2
