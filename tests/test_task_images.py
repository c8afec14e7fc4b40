"""Images as they are predicted: as files of the target's own kind, as pictures, and held against truth of any size."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polymodal.data import TargetSpec, read_array
from polymodal.data.target import prepare_target
from polymodal.tasks.images import as_file, as_picture, truth_at


def target(kind: str = "image", channels: int = 1, **settings) -> TargetSpec:
    return TargetSpec(kind, kind, channels=channels, **{"range": (0.0, 1.0), **settings})


def test_depth_is_written_in_the_units_of_its_files():
    """If this breaks, predicted depth is off by the scale of the files, or says that nothing was measured."""
    depth = target("depth", scale=0.001, unit="m", invalid=0, range=(0.0, 4.0))
    stored = np.asarray(as_file(torch.tensor([[[-1.0, 0.0, 0.5, 1.0]]]), depth))
    assert stored.dtype == np.uint16
    assert stored.tolist() == [[1, 2000, 3000, 4000]]
    image = torch.tensor([-1.0, 0.0, 2.0]).view(3, 1, 1)
    assert np.asarray(as_file(image, target(channels=3))).tolist() == [[[0, 128, 255]]]
    assert as_picture(image).tolist() == [[[0, 128, 255]]]


@pytest.mark.parametrize(("invalid", "stored"), [(0, [1, 100, 255]), (255, [0, 100, 254]), (100, [0, 101, 255])])
def test_a_prediction_never_says_that_nothing_was_measured(invalid, stored):
    """If this breaks, who reads predicted depth back loses pixels without a word."""
    depth = target("depth", bits=8, invalid=invalid, range=(0.0, 255.0))
    image = torch.tensor([[[-1.0, 2 * 100 / 255 - 1, 1.0]]])
    assert np.asarray(as_file(image, depth)).tolist() == [stored]


@pytest.mark.parametrize(
    ("spec", "step"),
    [
        (target("depth", scale=0.01, range=(0.5, 2.0)), 0.01),
        (target("depth", scale=0.001, range=(0.0, 4.0)), 0.001),
        (target("raw", channels=4, scale=0.5, range=(0.0, 100.0)), 0.5),
        (target("normal", channels=3, range=(-1.0, 1.0)), 2 / 255),
        (target("image", channels=2), 1 / 255),
        (target("image", bits=16, range=(0.0, 0.25)), 1 / 65535),
    ],
)
def test_a_written_prediction_is_read_back_as_what_was_predicted(spec, step, tmp_path: Path):
    """If this breaks, predictions are of no use as another training's data: off by a factor, an offset or a channel."""
    image = 2 * torch.rand(spec.channels, 12, 16) - 1
    as_file(image, spec).save(tmp_path / "a.png")
    low, high = spec.range
    again, _ = prepare_target(read_array(tmp_path / "a.png"), spec, "a.png")
    assert (again - image).abs().max() <= 1.01 * step / (high - low)  # half a step of the range as -1 to 1


def test_depth_is_never_interpolated_and_its_holes_stay_holes():
    """If this breaks, scores at another size invent depths between two surfaces."""
    truth = torch.tensor([[-1.0, -1.0, 1.0, 1.0]]).expand(1, 1, 4, 4)
    known = torch.tensor([[True, True, False, False]]).expand(1, 1, 4, 4)
    depth = target("depth", range=(0.0, 4.0))
    image, valid = truth_at(truth, known, (2, 2), depth)
    assert image[0, 0].tolist() == [[-1.0, 0.0]] * 2
    assert valid[0, 0].tolist() == [[True, False]] * 2
    known = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    smooth, _ = truth_at(truth, known, (4, 3), target())
    assert smooth[0, 0, 0, 1].abs() < 0.5
    assert truth_at(truth, known, (4, 4), depth)[0] is truth


@given(st.integers(0, 10_000), st.tuples(st.integers(3, 40), st.integers(3, 40)))
def test_holes_of_an_image_are_not_mixed_into_its_truth(seed, size):
    """A wall with holes is one colour at any size: else what fills a hole is part of the truth beside it."""
    generator = torch.Generator().manual_seed(seed)
    valid = torch.rand(2, 1, 16, 20, generator=generator) < 0.7
    image, known = truth_at(torch.where(valid, -0.6, 0.0), valid, size, target())
    assert image.shape[-2:] == size
    assert known.any()
    assert torch.allclose(image[known], torch.tensor(-0.6), atol=1e-5)
    assert not image[~known].any()


def test_truth_is_known_where_more_than_half_of_it_is():
    """If this breaks, a pixel of truth that is mostly hole is scored, or a hole of one pixel takes a block with it."""
    valid = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    valid[..., 3, 3] = False  # a single pixel
    valid[..., :, 6:] = False  # the last quarter
    _, known = truth_at(torch.zeros(1, 1, 8, 8), valid, (4, 4), target())
    assert known[0, 0].tolist() == [[True, True, True, False]] * 4
