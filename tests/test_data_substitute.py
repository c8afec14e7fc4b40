"""Controls: a modality replaced by noise, or by a copy of another one."""

import pytest
import torch

from polymodal.data import FolderData
from polymodal.data.corruptions import Corruption
from polymodal.data.dropout import ModalityDropout
from polymodal.errors import ConfigError


def _data(**settings):
    data = FolderData("rooms", modalities=["rgb", "depth"], batch_size=2, **settings)
    data.setup("fit")
    return data


def test_a_copy_is_the_same_image_with_the_same_meaning():
    """Lost: the control would hand the network the real second sensor, or another view of the first."""
    data = _data(substitute={"depth": "rgb"})
    assert data.channels == {"rgb": 3, "depth": 3}
    sample = data._dataset("train", augmented=True)[0, 5]
    assert list(sample["inputs"]) == ["rgb", "depth"]
    assert torch.equal(sample["inputs"]["rgb"], sample["inputs"]["depth"])


def test_noise_is_the_same_for_the_same_sample_and_seed_alone():
    """Lost: a resumed training, or a second evaluation, would see other noise."""
    data = _data(substitute={"depth": "noise"})
    train, val = data._dataset("train", augmented=True), data._dataset("val")
    noise = train[3, 7]["inputs"]["depth"]
    assert noise.shape[0] == 1
    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - 1) < 0.05
    assert torch.equal(noise, train[3, 7]["inputs"]["depth"])
    assert not torch.equal(noise, train[3, 8]["inputs"]["depth"])
    assert torch.equal(val[1]["inputs"]["depth"], val[1]["inputs"]["depth"])
    assert not torch.equal(val[1]["inputs"]["depth"], val[2]["inputs"]["depth"])
    assert torch.equal(train[3, 7]["inputs"]["rgb"], _data()._dataset("train", augmented=True)[3, 7]["inputs"]["rgb"])


def test_a_control_loses_modalities_and_is_corrupted_as_what_it_controls():
    """Lost: the controls of a comparison with dropout end with a traceback, and so does every score under faults."""
    for source in ("rgb", "noise"):
        data = _data(substitute={"depth": source}, dropout=ModalityDropout({"depth": 0.5}))
        train, val = data._dataset("train", augmented=True), data._dataset("val")
        seen = {there: train[0, seed] for seed in range(8) for there in [train[0, seed]["present"]["depth"]]}
        assert seen[True]["valid"]["depth"].all()
        assert not seen[False]["valid"]["depth"].any()
        assert not seen[False]["inputs"]["depth"].any()
        scene = val[0]
        black = Corruption("depth", "black", 1)
        found = black(scene["inputs"]["depth"], scene["valid"]["depth"], data.inputs["depth"], scene["key"])
        assert found.shape == scene["inputs"]["depth"].shape


@pytest.mark.parametrize(
    ("substitute", "message"),
    [
        ({"thermal": "noise"}, "unknown modality 'thermal'"),
        ({"depth": "thermal"}, "got 'thermal'"),
        ({"depth": "rgb", "rgb": "depth"}, "none is"),
        ({"depth": "noise", "rgb": "noise"}, "at least one modality must be read"),
    ],
)
def test_what_cannot_be_made_is_refused(substitute, message):
    """Lost: a comparison would fail hours later, or compare something else."""
    with pytest.raises(ConfigError, match=message):
        _data(substitute=substitute)
