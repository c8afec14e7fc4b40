"""What a fused network takes, and how it is saved: what does not fit is said in our words, before anything runs."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from core_tools import NAMES, images
from polymodal import ConfigError, DataError, Multimodal, fuse, load, save
from polymodal.checkpoint import read_config
from polymodal.models import create

SPEC = {"name": "rooms-unet", "arguments": {"classes": 3, "stem": 4, "widths": [6, 8], "decoder": 5}}


def network() -> Multimodal:
    return fuse(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)), NAMES[:2], None).eval()


def rooms() -> Multimodal:
    return fuse(create(SPEC["name"], **SPEC["arguments"]), NAMES[:2])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((1, 3, 4, 4), np.float32), r"expected a tensor, got a numpy.ndarray.*torch.as_tensor"),
        (np.zeros((1, 3, 4, 4), np.uint8), r"expected a tensor, got a numpy.ndarray"),
        ([[0.0]], r"expected a tensor .*, got a list"),
        (Image.new("RGB", (4, 4)), r"expected a tensor .*, got a Image"),
        (None, r"expected a tensor .*, got a NoneType"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), r"floating-point values.*got torch.uint8.*image.float\(\) / 255"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.complex64), r"floating-point values.*got torch.complex64"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.bool), r"floating-point values.*got torch.bool"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.float64), r"of torch.float64 and the network of torch.float32"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.float16), r"of torch.float16 and the network of torch.float32"),
        (torch.zeros(1, 3, 4, 4, device="meta"), r"on meta and the network on cpu.*image.to\('cpu'\)"),
        (torch.zeros(3, 4, 4), r"expected an image \(batch"),
    ],
)
def test_what_is_no_image_of_the_network_is_refused_with_the_remedy(image, message):
    """If this breaks, a user's first mistakes end in a message of PyTorch's about a layer."""
    good = torch.zeros(1, 3, 4, 4)
    with pytest.raises(DataError, match=f"'depth'.*{message}|{message}"):
        network()({"rgb": good, "depth": image})


def test_mixed_precision_takes_images_of_either_type():
    """If this breaks, `torch.autocast` no longer works, with images that it would convert."""
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            assert network()(images(NAMES[:2], 1, 3, 4, 4, dtype=dtype)).ensemble.shape == (1, 2, 4, 4)
        with pytest.raises(DataError, match=r"float64"):
            network()(images(NAMES[:2], 1, 3, 4, 4))
    half = network().half()
    assert half(images(NAMES[:2], 1, 3, 4, 4, dtype=torch.float16)).ensemble.dtype == torch.float16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "rooms-unet"}, r'network: expected \{"name": ..., "arguments": \{...\}\}'),
        ({"network": {"name": "rooms-unet"}}, r"network: expected"),
        ({"network": {**SPEC, "name": "rooms-unit"}}, r"there is no network 'rooms-unit'"),
        ({"network": {**SPEC, "arguments": {"classes": 3}}}, r"is another network: missing"),
        ({"network": {**SPEC, "arguments": {"colours": 3}}}, r"cannot be .*colours"),
        ({"network": {**SPEC, "arguments": [3]}}, r"network: "),
        ({"network": {**SPEC, "arguments": {"classes": torch.tensor(3)}}}, r"types that JSON knows.*Tensor"),
        ({"metadata": {"mean": np.float32(0.5)}}, r"types that JSON knows.*float32"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(settings, message, tmp_path):
    """If this breaks, a model is found to be lost when it is loaded, long after its training."""
    with pytest.raises(ConfigError, match=message):
        save(rooms(), tmp_path / "model", **settings)
    assert not (tmp_path / "model").exists()


def test_a_run_folder_loads_as_its_model_does(tmp_path):
    """If this breaks, `polymodal.load` refuses the folder that every command takes."""
    net = rooms()
    before = torch.random.get_rng_state()
    save(net, tmp_path / "run" / "model", network=SPEC, metadata={"mean": (0.5, 1)})
    assert torch.equal(torch.random.get_rng_state(), before)
    for folder in (tmp_path / "run", str(tmp_path / "run"), tmp_path / "run" / "model"):
        state = load(folder).state_dict()
        assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())
        assert json.loads(json.dumps(read_config(folder)))["metadata"] == {"mean": [0.5, 1]}
