"""What the tree of an encoder tells: its stages, their blocks, and the spatial convolution inside a block."""

import pytest
import torch
from torch import nn

from polymodal.anatomy.blocks import spatial_convolutions, spatial_norms, stages
from polymodal.models import create


def build(name: str) -> nn.Module:
    library, model = name.split("/")
    with torch.device("meta"):
        if library == "timm":
            import timm

            return timm.create_model(model, pretrained=False)
        import torchvision

        return getattr(torchvision.models, model)(weights=None)


STAGES = {
    "timm/resnet18": {f"layer{n}": [f"layer{n}.0", f"layer{n}.1"] for n in (1, 2, 3, 4)},
    "timm/regnety_002": {
        "s1": ["s1.b1"],
        "s2": ["s2.b1"],
        "s3": [f"s3.b{b}" for b in range(1, 5)],
        "s4": [f"s4.b{b}" for b in range(1, 8)],
    },
    "torchvision/efficientnet_b0": {
        f"features.{n}": [f"features.{n}.{b}" for b in range(blocks)]
        for n, blocks in zip(range(1, 8), (1, 2, 2, 3, 3, 4, 1), strict=True)
    },
    # All blocks in a row: a stage begins where a block strides.
    "torchvision/mobilenet_v2": {
        "features.1": ["features.1"],
        "features.2-3": ["features.2", "features.3"],
        "features.4-6": [f"features.{b}" for b in range(4, 7)],
        "features.7-13": [f"features.{b}" for b in range(7, 14)],
        "features.14-17": [f"features.{b}" for b in range(14, 18)],
    },
}


@pytest.mark.parametrize("name", STAGES)
def test_stages_are_those_of_the_architecture(name):
    """If this breaks, "early" or "late" fusion happens elsewhere in the network than a user thinks."""
    found = stages(build(name))
    assert {stage: list(blocks) for stage, blocks in found.items()} == STAGES[name]
    assert list(found) == list(STAGES[name])


def test_stages_of_the_rooms_network_are_in_its_encoder():
    """If this breaks, the fusions that look at stages do not work with the recipes' own network."""
    assert list(stages(create("rooms-unet", classes=3))) == [f"encoder.stages.{n}" for n in range(3)]


def test_a_block_around_a_single_block_is_one():
    """If this breaks, a network whose blocks keep their convolutions in a part of their own has too many stages."""

    class Block(nn.Module):
        def __init__(self, part: nn.Module) -> None:
            super().__init__()
            self.part = part

    inner = [Block(Block(nn.Conv2d(3, 3, 3))) for _ in range(4)]
    network = nn.Sequential(nn.Sequential(*inner[:2]), nn.Sequential(*inner[2:]))
    assert stages(network) == {"0": ("0.0", "0.1"), "1": ("1.0", "1.1")}


def test_without_blocks_there_are_no_stages():
    """If this breaks, a plain chain of layers is cut somewhere."""
    chain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, 2))
    assert stages(chain) == {}
    assert spatial_convolutions(chain) == []


@pytest.mark.parametrize(
    ("name", "block", "conv", "norm", "following"),
    [
        ("timm/resnet26", "layer2.1", "conv2", "bn2", "conv3"),
        ("timm/resnet18", "layer2.1", "conv1", "bn1", "conv2"),
        ("timm/efficientnet_b0", "blocks.3.1", "conv_dw", "bn2", "conv_pwl"),
        ("torchvision/efficientnet_b0", "features.3.1", "block.1.0", "block.1.1", "block.3.0"),
    ],
)
def test_anatomy_of_a_block(name, block, conv, norm, following):
    """If this breaks, fusions act around another layer than the spatial convolution, such as inside a gate."""
    network = build(name)
    [spatial] = [spatial for spatial in spatial_convolutions(network) if spatial.block == block]
    assert [spatial.conv, spatial.norm, spatial.following] == [f"{block}.{layer}" for layer in (conv, norm, following)]
    assert spatial.norm in spatial_norms(network)


def test_a_gate_by_name_is_no_part_of_the_path():
    """If this breaks, smp's EfficientNets cannot carry AsymFusion: the gate's convolution is taken for the next one."""
    import segmentation_models_pytorch as smp

    found = spatial_convolutions(smp.Unet("efficientnet-b0", encoder_weights=None))
    assert {spatial.following.rpartition(".")[2] for spatial in found} == {"_project_conv"}
