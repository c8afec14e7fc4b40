"""The embedded data set: whatever `polymodal demo` and every recipe on rooms takes for granted about the archive."""

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import polymodal

ARCHIVE = Path(polymodal.__file__).parent / "data" / "rooms.zip"
TOOLS = Path(__file__).parents[1] / "tools"
COUNTS = {"train": 600, "val": 150, "test": 150}
CLASSES = [
    "wall",
    "floor",
    "ceiling",
    "rug",
    "picture",
    "door",
    "window",
    "table",
    "chair",
    "cabinet",
    "bed",
    "sofa",
    "ball",
]
CHANNELS = {
    "rgb": 3,
    "depth": 1,
    "normal": 3,
    "reshading": 1,
    "texture_edge": 1,
    "occlusion_edge": 1,
    "daylight": 3,
}


class Rooms:
    """The archive, read with nothing but zipfile and Pillow."""

    def __init__(self, path: Path):
        self.zip = zipfile.ZipFile(path)
        self.description = yaml.safe_load(self.zip.read("dataset.yaml"))
        self.files = {(n.split("/")[0], Path(n).stem): n for n in self.zip.namelist()}

    def keys(self, split):
        return self.zip.read(self.description["splits"][split]).decode().split()

    def image(self, folder, key):
        with Image.open(io.BytesIO(self.zip.read(self.files[folder, key]))) as image:
            return np.asarray(image)


@pytest.fixture(scope="module")
def rooms():
    return Rooms(ARCHIVE)


@pytest.fixture(scope="module")
def labels(rooms):
    return {split: np.stack([rooms.image("label", key) for key in rooms.keys(split)]) for split in COUNTS}


def test_the_wheel_stays_small():
    assert ARCHIVE.stat().st_size <= 20_000_000


def test_splits_have_the_promised_sizes_and_share_no_scene(rooms):
    keys = {split: rooms.keys(split) for split in COUNTS}
    assert {split: len(k) for split, k in keys.items()} == COUNTS
    assert len(set().union(*keys.values())) == sum(COUNTS.values())


def test_every_scene_has_every_modality(rooms):
    everything = {(folder, key) for split in COUNTS for key in rooms.keys(split) for folder in (*CHANNELS, "label")}
    assert everything == {name for name in rooms.files if name[0] not in ("dataset.yaml", "splits")}


def test_images_have_the_promised_size_and_channels(rooms):
    for key in [rooms.keys(split)[i] for split in COUNTS for i in (0, -1)]:
        for folder, channels in (*CHANNELS.items(), ("label", 1)):
            image = rooms.image(folder, key)
            assert image.dtype == np.uint8
            assert image.shape == ((96, 128, 3) if channels == 3 else (96, 128)), (folder, key)


def test_the_description_names_the_classes_with_a_colour_each(rooms):
    target = rooms.description["target"]
    assert target["classes"] == CLASSES
    assert len({tuple(colour) for colour in target["colors"]}) == len(CLASSES)
    assert set(rooms.description["modalities"]) == set(CHANNELS)
    assert rooms.description["modalities"]["depth"]["invalid"] == 0


@pytest.mark.parametrize("split", COUNTS)
def test_no_class_is_starved(labels, split):
    shares = np.bincount(labels[split].ravel(), minlength=len(CLASSES)) / labels[split].size
    seen = np.array([(labels[split] == c).any((1, 2)).mean() for c in range(len(CLASSES))])
    assert len(shares) == len(CLASSES), "a label beyond the classes"
    assert shares.min() >= 0.008, dict(zip(CLASSES, shares.round(4), strict=True))
    assert seen.min() >= 0.25, dict(zip(CLASSES, seen.round(3), strict=True))


@pytest.mark.parametrize("split", ["val", "test"])
def test_both_sensors_fail_somewhere(rooms, split):
    keys = rooms.keys(split)
    brightness = np.array([rooms.image("rgb", key).mean() for key in keys])
    holes = np.array([(rooms.image("depth", key) == 0).mean() for key in keys])
    assert 0.1 < (brightness < 60).mean() < 0.45
    assert 0.05 < holes.mean() < 0.25


def test_a_flat_thing_leaves_no_trace_in_clean_geometry(rooms):
    """A rug or picture that stood out in depth would make colour needless, and fusion with it."""
    for key in rooms.keys("val")[:20]:
        label, normal = rooms.image("label", key), rooms.image("normal", key).astype(int)
        picture = (label[:, 1:] == CLASSES.index("picture")) & (label[:, :-1] == CLASSES.index("wall"))
        assert np.abs(np.diff(normal, axis=1))[picture].max(initial=0) <= 1, key


def test_by_day_a_class_has_its_colour_and_in_the_photograph_it_has_any(rooms):
    """Colours by lot leave a translation nothing to learn; colours that name the class, a segmentation nothing."""

    def spread(folder, name):
        hues = []
        for key in rooms.keys("val")[:60]:
            mask = rooms.image("label", key) == CLASSES.index(name)
            if mask.sum() > 200:
                red, green, blue = rooms.image(folder, key)[mask].mean(0) + 1
                hues.append((np.log(red / green), np.log(blue / green)))
        return np.std(hues, axis=0).mean()

    for name in ("wall", "floor", "door", "table", "cabinet", "bed", "sofa"):
        assert spread("daylight", name) < 0.12 < spread("rgb", name) / 2, name


def test_rendering_again_gives_the_stored_scene(rooms, monkeypatch):
    """Without this nobody could make more rooms of the same kind."""
    pytest.importorskip("mitsuba", reason="rendering needs mitsuba: pip install polymodal[render]")
    monkeypatch.syspath_prepend(str(TOOLS))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import render_rooms

    scene = render_rooms.render(7, seed=0, size=(128, 96))
    for name, image in scene.items():
        stored = rooms.image(name, "0007").astype(int)
        typical = np.median(np.abs(stored - image))
        assert typical <= (4 if name in render_rooms.QUALITY else 0), name
        assert (np.abs(stored - image) <= 24).mean() > 0.97, name
