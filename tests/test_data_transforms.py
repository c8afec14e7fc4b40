"""Augmentation: if modalities and target moved apart, or a hole became a distance, training would learn nonsense."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polymodal.data import Augment, InputSpec, TargetSpec, Truth, resize_inputs
from polymodal.errors import ConfigError

IGNORE = 255
SPECS = {
    "rgb": InputSpec("image", 3, mean=(0.5,) * 3, std=(0.25,) * 3),
    "depth": InputSpec("depth", 1, scale=0.1, invalid=0, mean=(1.0,), std=(2.0,)),
    "normal": InputSpec("normal", 3, mean=(0.1, 0.2, 0.3), std=(0.5,) * 3),
    "parts": InputSpec("label", 3, classes=("a", "b", "c")),
}
FILES = {name: f"{name}.png" for name in SPECS}
STILL = {"scale": (1.0, 1.0), "flip": False, "photometric": 0.0}


def scene(height: int = 12, width: int = 16) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Every modality shows the same smooth picture, so that a shift of one against another can be seen."""
    target = np.zeros((height, width), np.uint8)
    target[height // 3 :, width // 2 :] = 1
    target[: height // 4] = 2
    grey = (40 + 80 * target).astype(np.uint8)
    raw = {
        "rgb": grey[None].repeat(3, 0),
        "depth": (10 * (target + 1)).astype(np.uint8)[None],
        "normal": np.stack([grey, 255 - grey, grey]),
        "parts": target[None],
    }
    return raw, target


def run(augment: Augment, seed: int = 0, *, size=None, arrays=None):
    return augmented(augment, *(arrays or scene()), SPECS, seed, size=size)


def augmented(augment: Augment, raw, target, specs, seed: int = 0, *, size=None):
    """Inputs, masks and labels."""
    truth = Truth(target[None], TargetSpec("label", "", IGNORE), "target.png")
    generator = torch.Generator().manual_seed(seed)
    inputs, valid, targets, _ = augment(raw, {"target": truth}, specs, FILES, size=size, generator=generator)
    return inputs, valid, targets["target"]


def values(inputs: dict, name: str) -> torch.Tensor:
    """The inputs before normalisation."""
    spec = SPECS[name]
    return inputs[name] * torch.tensor(spec.std)[:, None, None] + torch.tensor(spec.mean)[:, None, None]


def test_nothing_asked_for_changes_nothing():
    raw, target = scene()
    inputs, valid, labels = run(Augment(**STILL))
    assert np.array_equal(labels.numpy(), target)
    assert labels.dtype == torch.int64
    assert torch.allclose(values(inputs, "depth"), torch.from_numpy(raw["depth"] * np.float32(0.1)), atol=1e-6)
    assert torch.allclose(values(inputs, "rgb"), torch.from_numpy(raw["rgb"] / np.float32(255)), atol=1e-6)
    assert all(mask.all() for mask in valid.values())


@given(
    st.integers(0, 10_000),
    st.tuples(st.integers(1, 40), st.integers(1, 40)) | st.none(),
    st.tuples(st.integers(1, 40), st.integers(1, 40)) | st.none(),
    st.floats(0.3, 3),
)
def test_modalities_and_target_stay_aligned(seed, crop, size, scale):
    """Depth and class inputs follow the target pixel by pixel through any scale, crop, flip and padding."""
    augment = Augment(scale=(scale, scale * 1.2), crop=crop, photometric=0.0)
    inputs, valid, labels = run(augment, seed, size=size)
    expected = crop or size or (12, 16)
    assert all(tensor.shape[1:] == expected for tensor in (*inputs.values(), *valid.values()))
    assert labels.shape == expected
    padded = labels == IGNORE
    for name in SPECS:
        assert torch.equal(valid[name][0], ~padded), name
        assert not inputs[name][:, padded].any(), name
    seen = labels[~padded]
    assert torch.allclose(values(inputs, "depth")[0][~padded], seen + 1.0, atol=1e-5)
    assert torch.equal(inputs["parts"].argmax(0)[~padded], seen)


@given(st.integers(0, 10_000))
def test_smooth_modalities_stay_aligned_too(seed):
    """A picture that rises along x and y must still agree with a depth that does, after scaling by interpolation."""
    ramp = (np.arange(60)[:, None] + np.arange(80)[None, :]).astype(np.uint8) + 1
    arrays = ({"rgb": ramp[None].repeat(3, 0), "depth": ramp[None]}, np.zeros((60, 80), np.uint8))
    specs = {name: SPECS[name] for name in ("rgb", "depth")}
    augment = Augment(scale=(0.5, 2.0), crop=(40, 50), photometric=0.0)
    inputs, valid, _ = augmented(augment, *arrays, specs, seed)
    difference = (values(inputs, "rgb")[0] * 255 - values(inputs, "depth")[0] * 10)[valid["rgb"][0]]
    assert difference.abs().mean() < 1.0  # in pixels of the file along either axis
    assert difference.mean().abs() < 0.35


@given(st.integers(0, 10_000), st.integers(1, 20), st.integers(1, 20))
def test_crop_without_scaling_is_a_window_of_the_file(seed, height, width):
    """No pixel is moved, stretched or left out: every value is where its neighbours in the file put it."""
    numbers = np.arange(1, 12 * 16 + 1, dtype=np.uint8).reshape(1, 12, 16)
    augment = Augment(**STILL | {"crop": (height, width)})
    inputs, valid, _ = augmented(augment, {"depth": numbers}, numbers[0], {"depth": SPECS["depth"]}, seed)
    shown = (values(inputs, "depth") * 10).round()[valid["depth"]].reshape(min(height, 12), min(width, 16))
    top, left = divmod(int(shown[0, 0]) - 1, 16)
    assert np.array_equal(shown.numpy(), numbers[0, top : top + height, left : left + width])


@given(st.integers(0, 10_000), st.floats(0.3, 3))
def test_what_fills_a_hole_is_not_mixed_into_the_pixels_beside_it(seed, scale):
    """A wall with holes stays one colour at any size: else its pixels beside a hole are learned and scored darker."""
    rng = np.random.default_rng(seed)
    known = rng.random((30, 40)) < 0.7
    raw = {"rgb": (200 * known[None].repeat(3, 0)).astype(np.uint8)}
    specs = {"rgb": InputSpec("image", 3, invalid=0, mean=(0.1,) * 3, std=(0.5,) * 3)}
    augment = Augment(scale=(scale, scale), photometric=0.0)
    trained, seen, _ = augmented(augment, raw, np.zeros((30, 40), np.uint8), specs, seed)
    evaluated, valid = resize_inputs(raw, specs, FILES, (round(30 * scale), round(40 * scale)))
    for inputs, mask in ((trained, seen), (evaluated, valid)):
        found = inputs["rgb"][:, mask["rgb"][0]]
        assert torch.allclose(found, torch.tensor((200 / 255 - 0.1) / 0.5), atol=1e-5)
        assert found.numel()
        assert not inputs["rgb"][:, ~mask["rgb"][0]].any()


def test_flip_mirrors_everything_and_turns_normals():
    raw, target = scene()
    mirrored = 0
    for seed in range(16):
        inputs, _, labels = run(Augment(scale=(1.0, 1.0), photometric=0.0), seed)
        if np.array_equal(labels.numpy(), target):
            continue
        mirrored += 1
        assert np.array_equal(labels.numpy(), target[:, ::-1])
        normal = torch.from_numpy(raw["normal"][:, :, ::-1] / np.float32(127.5)) - 1
        assert torch.allclose(values(inputs, "normal"), normal * torch.tensor([-1, 1, 1])[:, None, None], atol=1e-5)
    assert 3 <= mirrored <= 13


def test_depth_keeps_its_metres_when_scaled():
    inputs, valid, _ = run(Augment(scale=(2.0, 2.0), flip=False, photometric=0.0))
    found = values(inputs, "depth")[valid["depth"]].unique()
    assert all(any(math.isclose(depth, known, rel_tol=1e-5) for known in (1, 2, 3)) for depth in found.tolist())


def test_a_shorter_side_is_never_scaled_below_the_least():
    """Else the released augmentation, which keeps 350 pixels, is another one: small scales show mostly padding."""
    crop = (12, 16)  # the frame: what is padded tells the scaled size
    for least, side in ((1, 6), (9, 9), (12, 12)):
        _, _, labels = run(Augment(scale=(0.5, 0.5), min_side=least, crop=crop, flip=False, photometric=0.0))
        assert (labels != IGNORE).any(1).sum() == side
        assert (labels != IGNORE).any(0).sum() == side * 16 // 12


def test_photometry_touches_images_alone():
    still, _, _ = run(Augment(**STILL))
    changed, _, _ = run(Augment(**STILL | {"photometric": 0.5}))
    assert not torch.allclose(still["rgb"], changed["rgb"])
    for name in ("depth", "normal", "parts"):
        assert torch.equal(still[name], changed[name])


def test_depth_noise_is_relative_and_touches_depth_alone():
    raw, target = scene(64, 64)
    still, _, _ = run(Augment(**STILL), arrays=(raw, target))
    noisy, _, _ = run(Augment(**STILL, depth_noise=0.05), arrays=(raw, target))
    ratio = values(noisy, "depth") / values(still, "depth") - 1
    for label in range(3):
        assert ratio[0][torch.from_numpy(target) == label].std() == pytest.approx(0.05, rel=0.2)
    assert torch.equal(still["rgb"], noisy["rgb"])


def test_depth_hole_is_marked_as_not_measured():
    sizes = []
    for seed in range(20):
        inputs, valid, _ = run(Augment(**STILL, depth_holes=0.5, depth_hole_size=0.5), seed)
        hole = ~valid["depth"][0]
        rows, columns = hole.any(1).sum().item(), hole.any(0).sum().item()
        assert hole.sum() == rows * columns
        assert rows <= 6
        assert columns <= 8
        assert not inputs["depth"][0][hole].any()
        assert valid["rgb"].all()
        sizes.append(rows * columns)
    assert 3 <= sum(size > 0 for size in sizes) <= 17


def test_seed_decides_everything():
    augment = Augment(photometric=0.3, depth_noise=0.1, depth_holes=0.5)
    first, second, other = (run(augment, seed)[0] for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in SPECS)
    assert not all(torch.equal(first[name], other[name]) for name in SPECS)
    assert all(tensor.isfinite().all() for tensor in first.values())


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": (0, 1)},
        {"scale": (2.0, 1.0)},
        {"min_side": 0},
        {"crop": (0, 8)},
        {"photometric": -0.1},
        {"depth_noise": -1},
        {"depth_holes": 2},
        {"depth_hole_size": 2},
    ],
)
def test_impossible_settings_are_named(wrong):
    (name,) = wrong
    with pytest.raises(ConfigError, match=rf"augment\.{name}: expected"):
        Augment(**wrong)
