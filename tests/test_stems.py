"""Modalities with other channels than the network takes: tiled, or with a first convolution of their own."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core_tools import assert_equal, assert_same_state, images, run
from polymodal import DataError, Exchange, fuse
from reference.plain import plain_segmenter

TOLERANCE = 1e-12


def test_repeat_is_tiling_by_hand():
    """If this breaks, one-channel depth enters the network in another way than in the papers."""
    plain = plain_segmenter(0).eval()
    by_hand = fuse(plain, ["rgb", "depth"])
    net = fuse(plain, {"rgb": 3, "depth": 1})
    assert_same_state(net, by_hand)
    rgb, depth = torch.randn(2, 3, 16, 16).double(), torch.randn(2, 1, 16, 16).double()
    tiled = run(by_hand, {"rgb": rgb, "depth": depth.repeat(1, 3, 1, 1)})
    assert_equal(run(net, {"rgb": rgb, "depth": depth}), tiled, 0.0)


def test_private_stem_of_one_channel_starts_as_the_tiled_image():
    """If this breaks, a private stem starts from noise instead of from the pretrained filters."""
    plain = plain_segmenter(0).eval()
    private = fuse(plain, {"rgb": 3, "depth": 1}, stems={"depth": "private"})
    repeat = fuse(plain, {"rgb": 3, "depth": 1})
    inputs = images(["rgb"], 2, 3, 16, 16) | images(["depth"], 2, 1, 16, 16)
    assert_equal(run(private, inputs), run(repeat, inputs), TOLERANCE)


@settings(max_examples=8)
@example(channels=1)
@example(channels=25)
@given(channels=st.integers(2, 24))
def test_private_stems_take_any_number_of_bands(channels):
    """If this breaks, multispectral images do not fit, or pretrained filters are scaled out of range by the bands."""
    plain = plain_segmenter(0).eval()
    net = fuse(plain, {"rgb": 3, "bands": channels, "depth": 1}, stems={"bands": "private", "depth": "private"})
    grey = torch.randn(2, 1, 16, 16).double()
    inputs = {"rgb": grey.expand(-1, 3, -1, -1), "bands": grey.expand(-1, channels, -1, -1), "depth": grey}
    with torch.no_grad():
        prediction = net(inputs)
    # Equal bands carry what a grey image carries, so a new stem must give what the old one gives for it.
    for name in inputs:
        assert_equal(prediction.per_modality[name], prediction.per_modality["rgb"], TOLERANCE, name)
    with pytest.raises(DataError, match=rf"'bands'.*{channels}.*{channels + 1}"):
        net(inputs | {"bands": torch.zeros(2, channels + 1, 16, 16).double()})


def test_private_stem_of_the_same_channels_starts_as_the_shared_one_and_trains_alone():
    """If this breaks, stems that should be private share their gradients, or shared ones do not."""
    plain = plain_segmenter(0)
    net = fuse(plain, {"rgb": 3, "normal": 3, "depth": 1}, None, stems={"normal": "private"}).eval()
    inputs = images(["rgb", "normal"], 2, 3, 16, 16) | images(["depth"], 2, 1, 16, 16)
    shared = fuse(plain, {"rgb": 3, "normal": 3, "depth": 1}, None).eval()
    assert_equal(run(net, inputs), run(shared, inputs), 0.0)
    net(inputs).per_modality["normal"].square().sum().backward()
    gradients = {n: p.grad for n, p in net.network.named_parameters() if n.startswith("conv1.")}
    assert len(gradients) == 2
    touched = {n for n, g in gradients.items() if g is not None and bool(g.abs().sum() > 0)}
    assert len(touched) == 1
    assert "normal" in touched.pop()


@pytest.mark.parametrize("present", [["rgb"], ["bands"], ["depth", "bands"], ["rgb", "bands"]])
def test_private_stems_in_subsets(present):
    """If this breaks, an absent modality shifts the others to the wrong stem."""
    channels = {"rgb": 3, "depth": 1, "bands": 20}
    net = fuse(plain_segmenter(0), channels, None, stems={"bands": "private"}).eval()
    inputs = {name: torch.randn(2, count, 16, 16).double() for name, count in channels.items()}
    with torch.no_grad():
        whole, part = net(inputs), net({name: inputs[name] for name in present}, subset=True)
    assert set(part.per_modality) == set(present)
    for name in present:
        assert_equal(part.per_modality[name], whole.per_modality[name], TOLERANCE, name)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_beside_a_private_stem_an_image_of_other_channels_is_refused(count):
    """Else missing channels become zeros and further ones are dropped, and nobody is told."""
    net = fuse(plain_segmenter(0), {"rgb": None, "bands": 5}, stems={"bands": "private"})
    bands = torch.zeros(2, 5, 16, 16).double()
    net({"rgb": torch.zeros(2, 3, 16, 16).double(), "bands": bands})
    with pytest.raises(DataError, match=r"'rgb': expected an image \(batch, 3, height, width\)"):
        net({"rgb": torch.zeros(2, count, 16, 16).double(), "bands": bands})


def test_one_modality_reports_no_exchange():
    """Else its run says that all channels were exchanged, with nobody."""
    net = fuse(plain_segmenter(0), {"rgb": 3}, Exchange(2.0, penalty=1e-3))
    assert all(share == 0 for site in net.exchanged().values() for share in site.values())
    assert all(state.keep.all() for state in net.exchange_state().values())


def test_a_private_stem_exports_for_batches_of_any_size():
    """If this breaks, a network of colour and depth, the usual one, cannot be exported."""
    channels = {"rgb": 3, "depth": 1}
    net = fuse(plain_segmenter(0).float(), channels, None, stems="private").eval()
    batch = torch.export.Dim("batch", min=1)
    inputs = {name: torch.randn(3, count, 32, 32) for name, count in channels.items()}
    program = torch.export.export(net, (inputs,), dynamic_shapes=({name: {0: batch} for name in channels},))
    inputs = {name: torch.randn(5, count, 32, 32) for name, count in channels.items()}
    assert torch.allclose(program.module()(inputs).ensemble, net(inputs).ensemble, atol=1e-5)
