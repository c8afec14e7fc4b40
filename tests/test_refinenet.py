"""RefineNet: the papers' network must be theirs to the last parameter, or their figures are compared with another."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core_tools import assert_equal
from polymodal import fuse, models
from polymodal.errors import CheckpointError
from polymodal.models.refinenet import Decoder

# Papers' networks: parameters in millions for one and two modalities, without and with norms; sites and their channels.
PAPERS = {
    "resnet50": (99.10, 99.16, 99.051, 0.053, 16, 3776),
    "resnet101": (118.10, 118.20, 117.991, 0.105, 33, 8128),
    "resnet152": (133.74, 133.89, 133.588, 0.151, 50, 11968),
}
LIGHT = {"resnet50": 27, "resnet101": 46, "resnet152": 62}  # millions (Nekrasov et al. 2018, table 1)


def million(tensors: object) -> float:
    return sum(tensor.numel() for tensor in tensors) / 1e6  # type: ignore[attr-defined]


@pytest.mark.parametrize("encoder", PAPERS)
def test_parameters_and_sites_are_the_papers(encoder):
    alone, both, convolutions, norms, sites, channels = PAPERS[encoder]
    with torch.device("meta"):
        plain = models.create("refinenet", classes=40, encoder_name=encoder)
        net = fuse(plain, ["rgb", "depth"])
    assert round(million(plain.parameters()), 2) == alone
    assert round(million(net.parameters()), 2) == both
    of_norms = [p for m in plain.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()]
    assert round(million(of_norms), 3) == norms
    assert round(million(plain.parameters()) - million(of_norms), 3) == convolutions
    blocks = [name for name, module in plain.named_modules() if type(module).__name__ == "Bottleneck"]
    assert list(net.sites) == [f"{name}.bn2" for name in blocks]
    assert len(net.sites) == sites
    assert sum(scale.shape[1] for scale in net.scales().values()) == channels
    assert not any(isinstance(module, nn.BatchNorm2d) for module in plain.decoder.modules())


@pytest.mark.parametrize("encoder", LIGHT)
def test_the_light_network_has_the_size_of_its_paper(encoder):
    with torch.device("meta"):
        net = models.create("refinenet", classes=40, encoder_name=encoder, light=True)
    assert round(million(net.parameters())) == LIGHT[encoder]


@pytest.mark.parametrize("size", [(64, 64), (45, 70)])
def test_logits_have_a_quarter_of_any_image_size(size):
    net = models.create("refinenet", classes=5, encoder_name="resnet18", light=True).eval()
    with torch.inference_mode():
        assert net(torch.randn(1, 3, *size)).shape == (1, 5, -(-size[0] // 4), -(-size[1] // 4))


class Features(nn.Module):
    """Stands for an encoder."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {6: (13, 18), 10: (7, 9), 12: (4, 5), 14: (2, 3)}
        self.features = [torch.randn(1, channels, *size).double() for channels, size in sizes.items()]

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, x, *self.features]


@pytest.mark.parametrize("light", [False, True])
def test_the_network_behind_the_encoder_is_the_papers(light, monkeypatch):
    """Against the formulas of the two papers, written out once more; dropout by one known mask per feature map."""
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: dropped(x) if self.training else x)
    with torch.device("meta"):
        net = models.create("refinenet", classes=3, encoder_name="resnet18", light=light)
    net.encoder = Features()
    net.decoder = Decoder([feature.shape[1] for feature in net.encoder.features], 8, light).double()
    net.head = nn.Conv2d(8, 3, 3, padding=1).double()
    for training in (False, True):
        net.train(training)
        with torch.no_grad():
            values = dict(net.named_parameters())
            wanted = reference(values, net.encoder.features, light=light, training=training)
            assert_equal(net(torch.zeros(1)), wanted, 1e-12)


def dropped(x: Tensor) -> Tensor:
    """Every third value of a sample dropped."""
    kept = torch.arange(x[0].numel()).view_as(x[0]) % 3 > 0
    return x * kept * 1.5


def reference(values: dict[str, Tensor], features: list[Tensor], *, light: bool, training: bool) -> Tensor:
    """The decoder and the classifier by their formulas, from the network's parameters by name."""
    drop = dropped if training else (lambda x: x)

    def conv(x: Tensor, name: str) -> Tensor:
        weight = values[f"{name}.weight"]
        return F.conv2d(x, weight, values.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def residual_units(x: Tensor, name: str, count: int) -> Tensor:
        for unit in range(count):
            rectified = x.clamp(min=0)
            inner = conv(rectified, f"{name}.{unit}.conv1").clamp(min=0)
            x = rectified + conv(inner, f"{name}.{unit}.conv2")
        return x

    coarser = None
    for level in range(4):
        name = f"decoder.blocks.{level}"
        x = features[3 - level]
        x = conv(drop(x) if level < 2 else x, f"{name}.reduce")
        x = x if light else residual_units(x, f"{name}.adapt", 2)
        if coarser is not None:
            x = conv(x, f"{name}.align")
            x = x + nn.Upsample(size=x.shape[-2:], mode="bilinear", align_corners=True)(coarser)
        x = pooled = x.clamp(min=0)
        for stage in range(4):
            pooled = conv(F.max_pool2d(pooled, 5, 1, 2), f"{name}.pool.convs.{stage}")
            x = x + pooled
        x = x if light else residual_units(x, f"{name}.refine", 3)
        coarser = x if level == 3 else conv(x, f"{name}.output")
    return conv(coarser if light else drop(coarser), "head")


def test_only_the_full_convolutions_of_the_residual_units_have_a_bias():
    """The released checkpoints hold a bias for the first convolution of a unit and for the classifier, no other."""
    with torch.device("meta"):
        net = models.create("refinenet", classes=3, encoder_name="resnet18")
    biases = [name for name, _ in net.decoder.named_parameters() if name.endswith("bias")]
    assert len(biases) == 4 * 5
    assert all(name.endswith("conv1.bias") for name in biases)
    assert net.head.bias is not None


def test_imagenet_weights_of_torchvision_fit_the_encoder(tmp_path):
    """The papers start from them: their names, with the classifier that is left out."""
    from torchvision.models import resnet18

    source = resnet18()
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    net = models.create("refinenet", classes=3, encoder_name="resnet18", light=True)
    assert models.load_encoder_weights(net, str(tmp_path / "resnet18.pth")) == len(net.encoder.state_dict())
    assert torch.equal(net.encoder.layer4[1].conv2.weight, source.layer4[1].conv2.weight)

    torch.save({k: v for k, v in source.state_dict().items() if "layer4" not in k}, tmp_path / "cut.pth")
    with pytest.raises(CheckpointError, match="layer4"):
        models.load_encoder_weights(net, str(tmp_path / "cut.pth"))
