"""Exported networks are right at every size that they take, or fixed to one, or refused before a file is written."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from core_tools import assert_equal, randomize_norms
from polymodal import Exchange, export, fuse, models
from polymodal.errors import DataError, ExportError
from polymodal.export.pooling import adaptive_avg_pool2d

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'polymodal[export]'")


def fused(network: nn.Module, sites="1"):
    return randomize_norms(fuse(network, {"a": 2, "b": 2}, Exchange(threshold=0.6), sites=sites)).eval()


def layered(*middle: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), *middle, nn.Conv2d(4, 2, 1))


class Branch(nn.Module):
    """What Python decides by the size of an image."""

    def __init__(self, condition) -> None:
        super().__init__()
        self.condition = condition

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flip(1) if self.condition(x.shape[-2], x.shape[-1]) else x


def assert_predicts(net, session, sizes) -> None:
    for batch, size in enumerate(sizes, 1):
        inputs = {name: torch.randn(batch % 4 + 1, count, *size) for name, count in session.modalities.items()}
        with torch.no_grad():
            expected = net(inputs).ensemble
        assert_equal([torch.from_numpy(session(inputs)["ensemble"])], [expected], 1e-4, str(size))


def test_pooling_in_words_of_onnx_is_that_of_pytorch():
    """If this breaks, a network with pyramid pooling predicts something else at sizes that nobody tried."""
    for height in (1, 2, 5, 6, 7, 13, 40, 61):
        for width in (1, 3, 8, 29):
            for places in ((1, 1), (2, 3), (6, 6), (7, 1)):
                image = torch.randn(2, 3, height, width, dtype=torch.float64)
                expected = F.adaptive_avg_pool2d(image, places)
                assert torch.allclose(adaptive_avg_pool2d(image, places), expected, rtol=0, atol=1e-13)


class Pyramid(nn.Module):
    """Adds what a few places of the whole image say, as the context modules of PSPNet and ESANet do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for places in (1, 3):
            x = x + F.interpolate(F.adaptive_avg_pool2d(x, places), x.shape[-2:], mode="bilinear")
        return x


def assert_right_at_ten_random_sizes(net, folded, path) -> None:
    session = export.Session(export.save(export.absorb(net) if folded else net, path)[0], threads=1)
    sides = np.random.default_rng(0).integers(1, max(2, 256 // session.step), (10, 2)) * session.step
    assert_predicts(net, session, [(height, width) for height, width in sides.tolist()])


@pytest.mark.slow
@pytest.mark.parametrize("folded", [False, True])
def test_pyramid_pooling_is_right_at_ten_random_sizes(folded, tmp_path):
    """If this breaks, the files of such networks are wrong by some percent, at most sizes and without a word."""
    assert_right_at_ten_random_sizes(fused(layered(Pyramid())), folded, tmp_path / "net.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("smp/PSPNet", {"encoder_name": "tu-resnet10t", "encoder_depth": 3}),
        ("refinenet", {"encoder_name": "tu-resnet10t", "light": True}),
        ("rooms-unet", {"widths": [24, 32]}),
    ],
    ids=["pspnet", "refinenet", "rooms"],
)
def test_networks_of_the_recipes_are_right_at_ten_random_sizes(name, arguments, folded, tmp_path):
    """If this breaks, what people train by our own recipes cannot be deployed, or is another network there.

    Their encoders are the shallowest that have all stages: an export takes time for each layer.
    """
    network = models.create(name, classes=3, **arguments)
    net = randomize_norms(fuse(network, {"rgb": 3, "depth": 1}, Exchange(share=0.3))).eval()
    assert_right_at_ten_random_sizes(net, folded, tmp_path / "net.onnx")


CONDITIONS = {
    "large": lambda height, width: height > 150,
    "portrait": lambda height, width: height > width,
}


@pytest.mark.parametrize("condition", ["large", pytest.param("portrait", marks=pytest.mark.slow)])
def test_what_python_decides_by_the_size_is_refused(condition, tmp_path):
    """If this breaks, a file computes at every size what was right for one."""
    net = fused(layered(Branch(CONDITIONS[condition])))
    with pytest.raises(ExportError, match=r"does not predict.*on \d images of \d+x\d+.*Nothing was written.*--size"):
        export.save(net, tmp_path / "net.onnx")
    with pytest.raises(ExportError, match=r"absorbed network does not predict.*--size HEIGHT WIDTH"):
        export.absorb(net)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("folded", [pytest.param(False, marks=pytest.mark.slow), True])
def test_what_python_decides_by_the_size_is_right_at_one(folded, tmp_path):
    """If this breaks, the remedy that the refusal names does not help."""
    net = fused(layered(Branch(CONDITIONS["large"])))
    made = export.absorb(net, size=(40, 24)) if folded else net
    session = export.Session(export.save(made, tmp_path / "net.onnx", size=(40, 24))[0], threads=1)
    assert session.size == (40, 24)
    assert_predicts(net, session, [(40, 24)] * 3)
    with pytest.raises(DataError, match=r"40x24 .*fixed to 24x40 .*--size 24 40"):
        session({name: torch.zeros(1, 2, 24, 40) for name in ("a", "b")})


def test_size_of_a_file_is_that_of_the_folding_and_stands_in_it(tmp_path):
    """If this breaks, who has the file alone does not know which images it takes."""
    folded = export.absorb(fused(layered()), size=[16, 24])  # as a file holds it
    assert folded.size == (16, 24)
    with pytest.raises(ExportError, match=r"absorbed for images of 24x16 .*got 16x16"):
        export.save(folded, tmp_path / "net.pt2", format="pt2", size=(16, 16))
    for size in ((0, 16), 16, (16, 16, 3)):
        with pytest.raises(ExportError, match="size: expected height and width of at least one pixel"):
            export.save(fused(layered()), tmp_path / "net.pt2", format="pt2", size=size)
        with pytest.raises(ExportError, match="size: expected height and width of at least one pixel"):
            export.absorb(fused(layered()), size=size)
    assert not list(tmp_path.iterdir())
    extra = {"polymodal.json": ""}
    torch.export.load(export.save(folded, tmp_path / "net.pt2", format="pt2")[0], extra_files=extra)
    assert json.loads(extra["polymodal.json"])["size"] == [16, 24]


def test_runtime_that_fails_on_a_file_is_told_in_one_line(tmp_path, monkeypatch):
    """If this breaks, an export ends in a traceback from inside a runtime."""

    def fail(*images):
        raise RuntimeError("node 7\nof the graph")

    monkeypatch.setattr(export.Session, "__call__", fail)
    with pytest.raises(ExportError, match=r"onnx fails on 3 images of 33x33 .*takes: node 7 Nothing was written"):
        export.save(fused(layered()), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())
