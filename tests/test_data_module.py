"""The data module: batches that can be trained on, the same ones for the same seed, and clear refusals."""

from io import BytesIO

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from PIL import Image

from fixtures_data import edit, make_folder, target_of
from polymodal.data import Augment, FolderData, FolderDataset, check
from polymodal.data.sampler import SeededSampler
from polymodal.data.sizes import header_size
from polymodal.errors import ConfigError, DataError


@pytest.fixture
def root(tmp_path):
    return make_folder(tmp_path / "data")


def ready(root, stage: str = "fit", **settings) -> FolderData:
    data = FolderData(str(root), **{"batch_size": 2, "eval_batch_size": 2} | settings)
    data.setup(stage)
    return data


def test_batches(root):
    data = ready(root, modalities=["rgb", "bands"], augment=Augment(crop=(16, 16)), size=(20, 30), batch_size=4)
    assert data.num_classes == 2
    assert data.channels == {"rgb": 3, "bands": 4}
    assert data.inputs["rgb"].mean == (0.485, 0.456, 0.406)
    assert data.target.classes == ("class 0", "class 1")
    (batch,) = data.train_dataloader()  # the other two samples do not fill a batch
    assert batch["inputs"]["bands"].shape == (4, 4, 16, 16)
    assert batch["valid"]["bands"].shape == (4, 1, 16, 16)
    assert target_of(batch).shape == (4, 16, 16)
    assert len(set(batch["key"])) == 4
    batches = list(data.val_dataloader())
    assert [batch["key"] for batch in batches] == [["0006", "0007"], ["0008"]]
    assert batches[0]["inputs"]["rgb"].shape == (2, 3, 20, 30)
    assert target_of(batches[0]).shape == (2, 24, 32)


def test_embedded_rooms_need_no_path():
    data = ready("rooms", modalities=["rgb", "depth"])
    assert data.num_classes == 13
    assert [len(data.train_dataloader()), len(data.val_dataloader())] == [300, 75]
    batch = next(iter(data.val_dataloader()))
    assert batch["inputs"]["depth"].shape == (2, 1, 96, 128)
    assert 0 < batch["valid"]["depth"].float().mean() < 1


def test_class_frequencies_count_labelled_training_pixels(root):
    counts = np.zeros(2)
    for number in range(6):
        label = np.array(Image.open(root / f"label/{number:04d}.png"))
        counts += [(label == 0).sum(), (label == 1).sum()]
    assert ready(root).class_frequencies().numpy() == pytest.approx(counts / counts.sum())


def test_nothing_labelled_is_refused(root):
    for file in (root / "label").iterdir():
        Image.fromarray(np.full((24, 32), 255, np.uint8)).save(file)
    with pytest.raises(DataError, match="every pixel of the split 'train'"):
        ready(root).class_frequencies()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modalities": []}, "at least one of rgb, grey"),
        ({"modalities": ["rgb", "rgb"]}, "different names"),
        ({"modalities": ["dpeth"]}, "no modality 'dpeth'; did you mean 'depth'"),
        ({"batch_size": 7}, r"'train' has 6 sample\(s\), fewer than a batch of 7. Set data.batch_size to 6 or less"),
        ({"val_split": "valid"}, "no split 'valid'; did you mean 'val'"),
        ({"stage": "test"}, "no split 'test'"),
        ({"root": "nowhere"}, "nowhere: there is no such data set"),
    ],
)
def test_what_cannot_be_is_refused_before_training(root, settings, message):
    with pytest.raises(DataError, match=message):
        ready(settings.pop("root", root), **settings)


@pytest.mark.parametrize(
    "wrong",
    [{"batch_size": 0}, {"eval_batch_size": 0}, {"workers": -1}, {"size": (0, 4)}],
    ids=lambda wrong: str(wrong),
)
def test_impossible_settings_are_named(root, wrong):
    with pytest.raises(ConfigError, match=rf"data\.{next(iter(wrong))}: expected"):
        FolderData(str(root), **wrong)


def test_evaluation_needs_no_training_split(tmp_path):
    data = ready(make_folder(tmp_path / "data", splits={"val": 2}), "validate")
    assert len(next(iter(data.val_dataloader()))["key"]) == 2
    assert data.inputs["depth"].mean[0] > 1


def test_samples_of_different_size_are_refused_with_keys_and_remedy(tmp_path):
    root = make_folder(tmp_path / "data", modalities=["rgb", "depth"])
    for folder, dtype in (("rgb", np.uint8), ("depth", np.uint16), ("label", np.uint8)):
        for key in ("0000", "0007"):
            (file,) = (root / folder).glob(f"{key}.*")
            shape = (20, 30, 3) if folder == "rgb" else (20, 30)
            Image.fromarray(np.ones(shape, dtype)).save(file)
    with pytest.raises(DataError, match=r"samples of different sizes.*000.*data.size or data.augment.crop"):
        ready(root, batch_size=6)  # refused before the first step
    assert len(list(ready(root, augment=Augment(crop=(16, 16))).train_dataloader())) == 3
    assert len(list(ready(root, size=(16, 16)).train_dataloader())) == 3
    assert len(list(ready(root, batch_size=1).train_dataloader())) == 6


def test_samples_of_different_size_are_evaluated_one_by_one(tmp_path):
    """If this breaks, a training ends in an error after its first epoch."""
    root = make_folder(tmp_path / "data", modalities=["rgb", "depth"])
    for folder, dtype in (("rgb", np.uint8), ("depth", np.uint16), ("label", np.uint8)):
        (file,) = (root / folder).glob("0007.*")
        shape = (20, 30, 3) if folder == "rgb" else (20, 30)
        Image.fromarray(np.arange(np.prod(shape)).reshape(shape).astype(dtype) % 2).save(file)
    for settings in ({}, {"size": (16, 16)}):
        batches = list(ready(root, **settings).val_dataloader())
        assert [batch["key"] for batch in batches] == [["0006"], ["0007"], ["0008"]]
        assert [tuple(target_of(batch).shape[1:]) for batch in batches] == [(24, 32), (20, 30), (24, 32)]
    (note,) = (defect for defect in check(root) if "sizes" in defect.problem)
    assert note.note
    assert "2 sizes, 32x24 (2), 30x20 (1): they are evaluated one by one" in note.problem


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "npy"])
def test_sizes_are_those_of_the_files(ending, tmp_path):
    """If this breaks, samples are taken for equal that are not, or evaluated one by one for nothing."""
    root = make_folder(tmp_path / "data", modalities=["rgb"], splits={"train": 2})
    for key, size in (("0000", (20, 30)), ("0001", (30, 20))):
        (root / "label" / f"{key}.png").unlink()
        file = root / "label" / f"{key}.{ending}"
        np.save(file, np.zeros(size, np.uint8)) if ending == "npy" else Image.new("L", size[::-1]).save(file)
    data = FolderDataset(root, "train")
    assert data.sizes == {(20, 30): "0000", (30, 20): "0001"}
    exif = Image.Exif()
    exif[274] = 6
    turned, content = Image.new("L", (30, 20)), BytesIO()
    turned.save(content, "JPEG", exif=exif)
    assert header_size(content.getvalue()) == (30, 20)


def test_statistics_of_the_file_and_of_the_folder_come_first(root):
    edit(root, lambda d: d["modalities"]["rgb"].update(mean=0.5, std=[0.1, 0.2, 0.3]))
    (root / "statistics.json").write_text('{"depth": {"mean": [7], "std": [2]}}')
    inputs = ready(root).inputs
    assert inputs["rgb"].mean == (0.5,) * 3
    assert inputs["rgb"].std == (0.1, 0.2, 0.3)
    assert (inputs["depth"].mean, inputs["depth"].std) == ((7,), (2,))
    edit(root, lambda d: d["modalities"]["rgb"].update(mean=[0.5, 0.5]))
    with pytest.raises(DataError, match=r"modalities.rgb.mean: expected one number for each of 3 channel"):
        ready(root)


class Recorder(LightningModule):
    """Trains one weight and remembers what it saw in every epoch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.seen: dict[int, list[tuple[list[str], float]]] = {}

    def training_step(self, batch):
        self.seen.setdefault(self.current_epoch, []).append((batch["key"], batch["inputs"]["rgb"].sum().item()))
        return self.weight * torch.rand(())  # draws that must not move the data

    def validation_step(self, batch):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def train(root, tmp_path, *, epochs: int, workers: int = 0, resume=None) -> dict:
    seed_everything(3, verbose=False)
    module = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = FolderData(str(root), ["rgb"], batch_size=2, eval_batch_size=2, workers=workers, cache=True)
    trainer.fit(module, data, ckpt_path=resume)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    return module.seen


@pytest.mark.filterwarnings("ignore")
def test_seed_decides_every_batch_whatever_the_workers_and_breaks(tmp_path):
    """The same samples, order and augmentation: in a second run, with loader workers, and after resuming."""
    root = make_folder(tmp_path / "data", modalities=["rgb"])
    straight = train(root, tmp_path, epochs=3)
    assert len({str(batches) for batches in straight.values()}) == 3
    assert train(root, tmp_path, epochs=3, workers=1) == straight
    for workers in (0, 1):
        train(root, tmp_path, epochs=1)
        resumed = train(root, tmp_path, epochs=3, workers=workers, resume=tmp_path / "last.ckpt")
        assert resumed == {epoch: straight[epoch] for epoch in (1, 2)}


def test_sampler_visits_every_sample_once_an_epoch():
    sampler = SeededSampler(10, seed=0)
    first, second = list(sampler), list(sampler)
    assert sorted(draw.number for draw in first) == sorted(draw.number for draw in second) == list(range(10))
    assert [draw.number for draw in first] != [draw.number for draw in second]
    assert not {draw.seed for draw in first} & {draw.seed for draw in second}
    sampler.set_epoch(0)
    assert list(sampler) == first
