"""Networks with norms of each sample leave Python as those with batch norms do: absorbed, exact, at every size."""

import pytest
import torch
from torch import Tensor, nn

from core_tools import assert_equal, images
from polymodal import Exchange, Multimodal, fuse
from polymodal.errors import ExportError
from polymodal.export import Session, absorb, save

NAMES = ("a", "b", "c")


class Net(nn.Module):
    """One of each: norms that linear layers or convolutions alone read, and two that must stay as they are."""

    def __init__(self) -> None:
        from timm.layers import LayerNorm2d, RmsNorm2d

        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, 2, 1)
        self.norm1, self.down = LayerNorm2d(8), nn.Conv2d(8, 8, 2, 2)
        self.padded_norm, self.padded = LayerNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.norm2, self.grouped = RmsNorm2d(8), nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False)
        self.norm3, self.point = nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 1, groups=4)
        self.norm4, self.query, self.key = nn.LayerNorm(8), nn.Linear(8, 8, bias=False), nn.Linear(8, 8)
        self.read_twice, self.linear = nn.LayerNorm(8), nn.Linear(8, 8)
        self.norm5, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.down(self.norm1(self.stem(x)))
        x = x + self.padded(self.padded_norm(x))  # zeros at the border are no β
        x = x + self.grouped(self.norm2(x))  # no β
        x = x + self.point(self.norm3(x))
        batch, channels, height, width = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        y = self.norm4(tokens)
        key = self.key(y.reshape(batch, height, width, channels)).flatten(1, 2)
        tokens = tokens + self.query(y) * key.sigmoid()
        y = self.read_twice(tokens)
        out = self.head(self.norm5(y + self.linear(y)))
        assert mask is None
        return out.transpose(1, 2).reshape(batch, 3, height, width)


def fused(network: nn.Module, channels: dict[str, int], fusion=None, **settings) -> Multimodal:
    """With norms of each modality's own."""
    torch.manual_seed(0)
    net = fuse(network, channels, fusion, **settings).double().eval()
    for parameter in net.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return net


@pytest.mark.parametrize(
    ("modalities", "sites", "kept", "size"),
    [
        (2, ["norm5", "norm1"], 2, (16, 24)),
        pytest.param(2, ["norm5", "norm1"], 2, None, marks=pytest.mark.slow),
        pytest.param(1, [], 2, (16, 24), marks=pytest.mark.slow),
        # The mean of several others has no scale of its own.
        pytest.param(3, ["norm5", "norm1"], 4, (16, 24), marks=pytest.mark.slow),
    ],
)
def test_scales_are_absorbed_where_layers_alone_read_them(modalities, sites, kept, size):
    """If this breaks, an absorbed transformer predicts something else, or multiplies with scales for nothing."""
    settings = {"fusion": Exchange(share=0.5), "sites": sites} if sites else {}
    net = fused(Net(), dict.fromkeys(NAMES[:modalities], 2), **settings)
    absorbed = absorb(net, size=size)
    inputs = images(net.modalities, 2, 2, *(size or (20, 12)))
    with torch.no_grad():
        expected, got = net(inputs), absorbed(inputs)
    assert_equal(
        [*got.per_modality.values(), got.ensemble], [*expected.per_modality.values(), expected.ensemble], 1e-10
    )
    norms = [node for node in absorbed.graph.graph.nodes if "norm" in str(node.target)]
    assert len(norms) == 7 * modalities
    assert sum(len(node.all_input_nodes) > 1 for node in norms) == kept * modalities


def test_arguments_that_may_be_left_out_are():
    """If this breaks, every ViT of timm, whose forward takes a mask, too, is refused with a message of `zip`."""
    from timm.layers import LayerNorm2d

    class Masked(nn.Sequential):
        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            return super().forward(x)

    net = fused(Masked(nn.Conv2d(2, 4, 1), LayerNorm2d(4)), {"a": 2, "b": 2})
    inputs = images(net.modalities, 1, 2, 16, 24)
    with torch.no_grad():
        assert_equal(absorb(net, size=(16, 24))(inputs).ensemble, net(inputs).ensemble, 1e-10)


def swin(**settings) -> nn.Module:
    import timm

    small = {"window_size": 4, "embed_dim": 12, "depths": (2,), "num_heads": (2,), "num_classes": 3}
    return timm.create_model("swin_tiny_patch4_window7_224", **small, **settings)


def test_network_of_one_size_is_refused_at_others_with_the_remedy():
    """If this breaks, a Swin that was made for one size is written to a file that is wrong, or fails, at others."""
    net = fused(swin(img_size=32), {"a": 3, "b": 3})
    with pytest.raises(ExportError, match=r"SwinTransformer has no static graph for images of every size.*--size"):
        absorb(net)


class Mit(nn.Sequential):
    """A mix transformer, the encoder of SegFormer, and a head on its last stage."""

    def __init__(self) -> None:
        from segmentation_models_pytorch.encoders.mix_transformer import MixVisionTransformerEncoder

        small = {"embed_dims": [8, 16, 16, 16], "num_heads": [1, 2, 2, 2], "depths": [1] * 4, "mlp_ratios": [2] * 4}
        encoder = MixVisionTransformerEncoder(
            out_channels=(3, 0, 8, 16, 16, 16), depth=3, sr_ratios=[4, 2, 1, 1], qkv_bias=True, **small
        )
        super().__init__(encoder, nn.Conv2d(16, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self[1](self[0](x)[-1])


def convnext() -> nn.Module:
    import timm

    return timm.create_model("test_convnext", depths=(1,) * 4, dims=(8, 8, 16, 16), num_classes=3)


def free_swin() -> nn.Module:
    """One whose windows are laid anew at each size, and padded where they do not fit."""
    return swin(img_size=32, strict_img_size=False)


SIZES = [(36, 36), (64, 64), (72, 200), (160, 96), (204, 60)]
"""Squares, both ways of lying, and sides that neither strides nor windows divide."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "folded"),
    [(convnext, False), (convnext, True), (Mit, False), (Mit, True), (free_swin, False)],  # a folded Swin takes minutes
)
def test_files_are_right_at_five_sizes(network, folded, tmp_path):
    """If this breaks, the file of a ConvNeXt, a MiT or a Swin predicts something else at sizes nobody looked at."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'polymodal[export]'")
    net = fused(network(), {"a": 3, "b": 3}, Exchange(share=0.4)).float()
    session = Session(save(absorb(net) if folded else net, tmp_path / "net.onnx")[0], threads=1)
    for batch, size in enumerate(SIZES, 1):
        inputs = {name: image.float() for name, image in images(net.modalities, batch, 3, *size).items()}
        with torch.no_grad():
            expected = net(inputs)
        got = [torch.from_numpy(array) for array in session(inputs).values()]
        assert_equal(got, [*expected.per_modality.values(), expected.ensemble], 1e-4, str(size))
