"""Statistics: the figures that every input is normalised with."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from fixtures_data import edit, make_archive, make_folder
from polymodal.data import DatasetSpec, FolderDataset
from polymodal.data.statistics import compute, input_specs, write
from polymodal.errors import DataError


@pytest.fixture
def root(tmp_path):
    return make_folder(tmp_path / "data")


def test_figures_are_those_of_the_measured_training_pixels(root):
    found = compute(root)
    depths = np.concatenate([np.array(Image.open(root / f"depth/{n:04d}.png")).ravel() for n in range(6)])
    metres = depths[depths > 0] / 1000
    assert found["depth"].mean == pytest.approx([metres.mean()])
    assert found["depth"].std == pytest.approx([metres.std()])
    bands = np.concatenate([np.load(root / f"bands/{n:04d}.npy").reshape(-1, 4) for n in range(6)])
    assert found["bands"].mean == pytest.approx(np.nanmean(bands, 0), rel=1e-5)
    assert found["bands"].std == pytest.approx(np.nanstd(bands, 0), rel=1e-5)
    grey = np.stack([np.array(Image.open(root / f"grey/{n:04d}.png")) for n in range(6)]) / 65535
    assert found["grey"].mean == pytest.approx([grey.mean()])


def test_written_figures_are_used(root):
    found = compute(root)
    assert write(found, root) == root / "statistics.json"
    assert [file.name for file in root.glob("*statistics*")] == ["statistics.json"]
    specs = input_specs(DatasetSpec.load(root), list(found))
    assert {name: (spec.mean, spec.std) for name, spec in specs.items()} == {
        name: (moments.mean, moments.std) for name, moments in found.items()
    }
    data = FolderDataset(root, "train")
    pixels = np.concatenate([data[i]["inputs"]["rgb"].flatten(1).numpy() for i in range(6)], 1)
    assert pixels.mean(1) == pytest.approx(np.zeros(3), abs=1e-4)
    assert pixels.std(1) == pytest.approx(np.ones(3), abs=1e-4)


def test_figures_of_another_scale_are_refused(root):
    """Else who corrects the scale afterwards trains on a modality that is a constant."""
    write(compute(root), root)
    edit(root, lambda d: d["modalities"]["depth"].update(scale=1.0))
    with pytest.raises(DataError, match=r"statistics.json: depth: was measured with the scale 0.001, and .* says 1"):
        input_specs(DatasetSpec.load(root), ["rgb", "depth"])
    edit(root, lambda d: d["modalities"]["depth"].update(mean=2000, std=700))  # now they are not needed
    assert input_specs(DatasetSpec.load(root), ["depth"])["depth"].mean == (2000,)


def _keep(root) -> None:
    write(compute(root), root)
    assert input_specs(DatasetSpec.load(root), list(compute(root)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["modalities"]["depth"].pop("invalid"), r"with invalid 0, and dataset.yaml says none"),
        (lambda d: d["modalities"]["depth"].update(invalid=7), r"with invalid 0, and dataset.yaml says 7"),
        (lambda d: d["modalities"]["depth"].update(kind="raw"), r"with the kind depth, and dataset.yaml says raw"),
        (lambda d: d["splits"].update(train="splits/val.txt"), r"from other samples than the training split"),
    ],
)
def test_figures_of_other_settings_are_refused(root, change, said):
    """A hole of 0 m that counts as measured, or the scenes of another split, would go on unnoticed."""
    _keep(root)
    edit(root, change)
    with pytest.raises(DataError, match=rf"statistics.json: depth: was measured {said}.*polymodal data stats"):
        input_specs(DatasetSpec.load(root), ["depth"])


def test_figures_of_other_files_are_refused(root):
    _keep(root)
    file = root / "depth/0002.png"
    times, content = file.stat(), np.array(Image.open(file))
    Image.fromarray(content + np.uint16(1)).save(file)
    with pytest.raises(DataError, match=r"depth: was measured from files that have changed since"):
        input_specs(DatasetSpec.load(root), ["depth"])
    assert input_specs(DatasetSpec.load(root), ["rgb"])  # the others still hold
    Image.fromarray(content).save(file)
    assert file.stat().st_mtime_ns != times.st_mtime_ns
    assert input_specs(DatasetSpec.load(root), ["depth"])  # the time is another one, the content is not


def test_figures_of_other_files_of_the_same_size_and_time_are_refused(root):
    """As archives are unpacked with one time for all files."""
    _keep(root)
    file = root / "bands/0002.npy"
    times = file.stat()
    np.save(file, np.load(file) + 1)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(DataError, match="bands: was measured from files that have changed since"):
        input_specs(DatasetSpec.load(root), ["bands"])


def test_figures_move_with_the_data_set(root, tmp_path):
    """Copied, renamed or packed, the files are the same; so are the keys in another order."""
    _keep(root)
    copy = tmp_path / "elsewhere"
    shutil.copytree(root, copy, copy_function=shutil.copyfile)
    (copy / "depth").rename(copy / "distance")
    edit(copy, lambda d: d["modalities"]["depth"].update(folder="distance"))
    keys = (copy / "splits/train.txt").read_text().split()
    (copy / "splits/train.txt").write_text("\n".join(reversed(keys)))
    for place in (copy, make_archive(copy)):
        assert input_specs(DatasetSpec.load(place), ["depth"])["depth"].mean == compute(root)["depth"].mean


def test_figures_of_an_earlier_version_are_refused(root):
    """They did not note what they were measured from, so nothing says that they still hold."""
    (root / "statistics.json").write_text('{"depth": {"mean": [7], "std": [2], "scale": 0.001}}')
    with pytest.raises(DataError, match=r"depth: was measured by an earlier version.*polymodal data stats"):
        input_specs(DatasetSpec.load(root), ["depth"])


def test_archive_needs_an_output_and_reads_it_from_inside(root, tmp_path):
    archive = make_archive(root)
    found = compute(archive)
    with pytest.raises(DataError, match=r"data.zip: statistics cannot be written into an archive.*--output"):
        write(found, archive)
    assert json.loads(write(found, archive, tmp_path / "out.json").read_text())["depth"]["mean"] == pytest.approx(
        list(found["depth"].mean)
    )
    (root / "statistics.json").write_text('{"depth": {"mean": [7], "std": [2]}}')
    assert input_specs(DatasetSpec.load(make_archive(root)), ["depth"])["depth"].mean == (7,)


def test_no_permission_is_explained_and_leaves_nothing(root, monkeypatch):
    def forbidden(*arguments, **settings):
        raise PermissionError(13, "Permission denied")

    found = compute(root)
    before = sorted(root.iterdir())
    monkeypatch.setattr("pathlib.Path.replace", forbidden)
    with pytest.raises(DataError, match=r"statistics.json: cannot be written \(Permission denied\).*--output"):
        write(found, root)
    assert sorted(root.iterdir()) == before


@pytest.mark.parametrize(
    "content", ["", "[]", '{"depth": 3}', '{"depth": {"mean": [1]}}', '{"depth": {"mean": "a", "std": []}}']
)
def test_damaged_statistics_are_refused(root, content):
    (root / "statistics.json").write_text(content)
    with pytest.raises(DataError, match=r"statistics.json: not what"):
        FolderDataset(root, "train")


def test_statistics_of_other_channels_are_refused(root):
    (root / "statistics.json").write_text('{"bands": {"mean": [1, 2], "std": [1, 2]}}')
    with pytest.raises(DataError, match=r"statistics.json: bands.mean: expected one number for each of 4 channel"):
        FolderDataset(root, "train")


def test_nothing_measured_is_refused(root):
    for file in (root / "depth").iterdir():
        Image.fromarray(np.zeros((24, 32), np.uint16)).save(file)
    with pytest.raises(DataError, match=r"data/depth: depth: no pixel of any training sample"):
        compute(root)


def test_constant_channel_stays_finite(root):
    for file in (root / "grey").iterdir():
        Image.fromarray(np.full((24, 32), 30000, np.uint16)).save(file)
    assert FolderDataset(root, "train", ["grey"])[0]["inputs"]["grey"].isfinite().all()


def test_a_channel_that_is_constant_but_for_rounding_is_not_blown_up(root):
    """If this breaks, a sensor that says the same in all of training makes inputs of a million of its first change."""
    for file in (root / "grey").iterdir():
        Image.fromarray(np.full((480, 640), 25700, np.uint16)).save(file)
    assert compute(root)["grey"].std == (1.0,)
