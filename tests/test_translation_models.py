"""The networks of image translation: the papers' sizes, any size that can be halved, a list-based second opinion."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core_tools import NAMES, assert_equal, images
from polymodal import ConfigError, DataError, Exchange, fuse, models
from polymodal.models import PatchDiscriminator, TranslationUNet, depth_for

THRESHOLD = 0.6


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_sizes_are_those_of_the_papers():
    """If this breaks, results with this network are not comparable with the papers'."""
    plain = models.create("translation-unet").to("meta")
    discriminator = PatchDiscriminator(3 + 3)
    assert f"{parameters(discriminator) / 1e6:.2f}" == "2.77"
    for modalities, millions in ((1, "54.42"), (2, "54.43"), (3, "54.44"), (4, "54.45")):
        net = fuse(plain, NAMES[:modalities], "exchange")
        assert f"{parameters(net) / 1e6:.2f}" == millions
        # Down blocks 2 to 7, 2432 channels.
        assert net.sites == tuple(f"encoder.blocks.{index}.norm" for index in range(1, 7))
        assert sum(scale.shape[1] for scale in net.scales().values()) == 2432


def test_the_papers_depth_reaches_a_single_pixel_in_training():
    """If this breaks, 256 × 256 with eight blocks stops at a norm that sees one pixel."""
    net = fuse(TranslationUNet(filters=2), NAMES[:2], "exchange")
    prediction = net(images(net.modalities, 1, 3, 256, 256, dtype=torch.float32))
    assert prediction.ensemble.shape == (1, 3, 256, 256)
    assert prediction.ensemble.abs().max() <= 1
    drops = [block.drop.p for block in net.network.decoder.blocks]
    assert drops == [0.5] * 3 + [0.0] * 5


@pytest.mark.parametrize(("height", "width", "depth"), [(64, 64, 6), (96, 128, 5), (80, 112, 4), (40, 56, 3)])
def test_depth_adapts_to_the_size(height, width, depth):
    """If this breaks, small images cannot be translated at all, or with a network that is too shallow."""
    assert depth_for(height, width) == depth
    net = TranslationUNet(out_channels=1, filters=2, depth=depth_for(height, width))
    assert net(torch.randn(2, 3, height, width)).shape == (2, 1, height, width)


def test_depth_is_never_more_than_the_papers():
    assert depth_for(1024, 2048) == 8


def test_enlarging_leaves_no_grid():
    """If this breaks, the choice against checkerboards draws them: a flat map must stay flat away from the border."""
    transposed, enlarging = (
        TranslationUNet(filters=2, depth=3, upsampling=upsampling).decoder.blocks[0].conv
        for upsampling in ("transposed", "nearest")
    )
    flat = torch.ones(1, 8, 8, 8)
    assert transposed(flat)[..., 4:-4, 4:-4].std((2, 3)).min() > 0.01
    assert enlarging(flat)[..., 4:-4, 4:-4].std((2, 3)).max() < 1e-6


@pytest.mark.parametrize("height", [32, 64])
def test_enlarging_keeps_sizes_and_sites(height):
    """If this breaks, the pictures change their size with the upsampling, or the exchange its place."""
    net = fuse(TranslationUNet(1, filters=2, depth=4, upsampling="nearest"), NAMES[:2], "exchange")
    prediction = net(images(net.modalities, 2, 3, height, 48, dtype=torch.float32))
    assert prediction.ensemble.shape == (2, 1, height, 48)
    assert net.sites == fuse(TranslationUNet(1, filters=2, depth=4), NAMES[:2], "exchange").sites


def test_an_unknown_upsampling_is_refused():
    with pytest.raises(ConfigError, match=r'"transposed" or "nearest".*bilinear'):
        TranslationUNet(upsampling="bilinear")


@pytest.mark.parametrize(("height", "width"), [(97, 128), (100, 130), (4, 4)])
def test_a_size_that_cannot_be_halved_is_refused_with_one_that_can(height, width):
    """If this breaks, odd images end in a message about tensors that do not fit together."""
    with pytest.raises(ConfigError, match=rf"{width}x{height}.*data\.size.*such as (\d+)x(\d+)") as caught:
        depth_for(height, width)
    better = str(caught.value).rpartition("such as ")[2].rstrip(".").split("x")
    assert depth_for(int(better[1]), int(better[0])) >= 5


def test_an_image_of_another_size_than_the_network_takes_is_refused():
    """If this breaks, a trained generator is given other images and answers with an error of torch.cat."""
    net = TranslationUNet(filters=2, depth=5)
    with pytest.raises(DataError, match=r"100x96 .*5 times.*multiples of 32.*96x96"):
        net(torch.zeros(1, 3, 96, 100))
    with pytest.raises(ConfigError, match="3 to 8 down blocks, got 2"):
        models.create("translation-unet", depth=2)


def test_the_discriminator_judges_patches_and_refuses_tiny_images():
    """If this breaks, the adversarial loss sees another receptive field than the papers', or crashes on thumbnails."""
    discriminator = PatchDiscriminator(3 + 1, filters=2)
    assert discriminator(torch.randn(2, 3, 64, 96), torch.randn(2, 1, 64, 96)).shape == (2, 1, 6, 10)
    assert discriminator(torch.randn(2, 3, 24, 24), torch.randn(2, 1, 24, 24)).shape == (2, 1, 1, 1)
    with pytest.raises(DataError, match="24x24 or more"):
        discriminator(torch.randn(2, 3, 23, 24), torch.randn(2, 1, 23, 24))


def test_the_discriminators_patch_is_70_pixels():
    """If this breaks, textures are judged at another scale than in the papers."""
    discriminator = PatchDiscriminator(2, filters=2).double()
    for index in range(len(discriminator.norms)):
        discriminator.norms[index] = nn.Identity()  # a norm sees the whole map
    image = torch.randn(1, 1, 160, 160, dtype=torch.float64, requires_grad=True)
    discriminator(image, image)[0, 0, 8, 8].backward()
    seen = image.grad[0, 0].abs() > 0
    assert seen.any(0).sum() == seen.any(1).sum() == 70


class ListGenerator:
    """The reference: M generators side by side as lists, written out with PyTorch's functions alone.

    Convolutions come from one state dict, norms from their modality's row, and channels are exchanged one by one.
    """

    def __init__(self, state: dict[str, Tensor], depth: int, modalities: int) -> None:
        self.state, self.depth, self.modalities = state, depth, modalities

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        maps, skips = inputs, []
        for i in range(self.depth):
            name = f"encoder.blocks.{i}"
            maps = [self.conv(name, x if i == 0 else F.leaky_relu(x, 0.2)) for x in maps]
            if 0 < i < self.depth - 1:
                maps = self.exchange(name, [self.norm(name, x, m) for m, x in enumerate(maps)])
            skips.append(maps)
        for i in range(self.depth):
            name = f"decoder.blocks.{i}"
            if i > 0:
                maps = [torch.cat(pair, 1) for pair in zip(maps, skips[self.depth - 1 - i], strict=True)]
            weight, bias = self.state[f"{name}.conv.weight"], self.state[f"{name}.conv.bias"]
            maps = [F.conv_transpose2d(x.relu(), weight, bias, stride=2, padding=1) for x in maps]
            if i < self.depth - 1:
                maps = [self.norm(name, x, m) for m, x in enumerate(maps)]
        return [x.tanh() for x in maps]

    def conv(self, name: str, x: Tensor) -> Tensor:
        return F.conv2d(x, self.state[f"{name}.conv.weight"], self.state[f"{name}.conv.bias"], stride=2, padding=1)

    def norm(self, name: str, x: Tensor, m: int) -> Tensor:
        weight, bias = (self.state[f"{name}.norm.{key}"][m].view(1, -1, 1, 1) for key in ("weight", "bias"))
        mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), unbiased=False, keepdim=True)
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def exchange(self, name: str, maps: list[Tensor]) -> list[Tensor]:
        channels = maps[0].shape[1]
        result = []
        for m, own in enumerate(maps):
            scale = self.state[f"{name}.norm.weight"][m]
            planes = [own[:, c] for c in range(channels)]
            for c in range(m * channels // self.modalities, (m + 1) * channels // self.modalities):
                if self.modalities > 1 and scale[c].abs() < THRESHOLD:
                    others = [maps[other][:, c] for other in range(self.modalities) if other != m]
                    planes[c] = sum(others) / len(others)
            result.append(torch.stack(planes, 1))
        return result


@pytest.mark.parametrize(("modalities", "training"), [(1, True), (2, True), (2, False), (3, True)])
def test_generator_with_exchange_equals_the_lists(modalities, training):
    """If this breaks, users train another network than the papers', or score it with other statistics than theirs."""
    depth = 5
    net = fuse(TranslationUNet(2, filters=4, depth=depth).double(), NAMES[:modalities], Exchange(THRESHOLD))
    with torch.no_grad():
        for key, value in net.network.state_dict().items():
            if ".norm." in key and value.dim() == 2:
                value.uniform_(0.2, 1.2)
    net.train(training)
    state = {
        key: value.clone().requires_grad_(value.is_floating_point()) for key, value in net.network.state_dict().items()
    }
    reference = ListGenerator(state, depth, modalities)
    inputs = images(net.modalities, 2, 3, 32, 64)

    prediction = net(inputs)
    theirs = reference(list(inputs.values()))
    assert_equal(list(prediction.per_modality.values()), theirs, 1e-11, "images")
    assert_equal(prediction.ensemble, sum(theirs) / modalities, 1e-11, "ensemble")

    sum((m + 1) * p.sin().sum() for m, p in enumerate(prediction.per_modality.values())).backward()
    sum((m + 1) * p.sin().sum() for m, p in enumerate(theirs)).backward()
    compared = 0
    for name, parameter in net.network.named_parameters():
        ours, expected = parameter.grad, state[name].grad
        if name.replace(".conv.bias", ".norm.weight") in state and name.endswith("conv.bias"):
            continue  # a shift before a norm on the map's own statistics has no gradient but rounding
        assert_equal(ours, expected, 1e-9, f"gradient of {name}")
        compared += bool(expected.abs().max() > 1e-9)
    assert compared >= 20
    if modalities > 1:
        assert sum(sum(shares.values()) for shares in net.exchanged().values()) > 0
