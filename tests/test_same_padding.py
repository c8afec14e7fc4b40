"""If these break, exporting a network with TensorFlow's padding takes minutes instead of seconds, or pads otherwise."""

import pytest
import timm.layers.padding
import torch
from timm.layers import Conv2dSame
from timm.layers.pool2d_same import MaxPool2dSame
from torch import nn
from torch.export import Dim
from torch.nn import functional as F

from polymodal.export.same_padding import numbers_where_known


class Network(nn.Module):
    """Brings images to multiples of 16, as smp's decoders do, then pads layer by layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        kinds = [(3, 2, 1), (5, 2, 1), (2, 2, 1), (3, 1, 2)]
        layers = [Conv2dSame(4 if i else 3, 4, k, stride, dilation=d) for i, (k, stride, d) in enumerate(kinds)]
        self.layers = nn.Sequential(*layers, MaxPool2dSame(3, 2))

    def forward(self, x):
        short = [(side + 15) // 16 * 16 - side for side in x.shape[-2:]]
        return self.layers(F.pad(x, (0, short[1], 0, short[0])))


def pads(program):
    return [node.args[1] for node in program.graph.nodes if "pad" in str(node.target)]


def test_sizes_that_the_strides_divide_are_padded_by_numbers_and_as_before():
    net, sides = Network(), {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    own = timm.layers.padding.get_same_padding
    with numbers_where_known(), torch.no_grad():
        program = torch.export.export(net, (torch.zeros(1, 3, 96, 160),), dynamic_shapes=(sides,), strict=False)
    assert timm.layers.padding.get_same_padding is own
    assert len(pads(program)) > 3
    assert all(type(side) is int for pad in pads(program)[1:] for side in pad)
    for size in ((64, 64), (161, 95), (33, 224)):
        x = torch.rand(1, 3, *size)
        assert torch.allclose(program.module()(x), net(x), atol=1e-6)


@pytest.mark.parametrize("side", [7, 8, 33])
def test_nothing_changes_for_sizes_that_are_numbers(side):
    net, x = Network(), torch.rand(1, 3, side, side)
    with numbers_where_known():
        inside = net(x)
    assert torch.equal(inside, net(x))


def test_what_is_not_known_to_divide_is_computed():
    net = nn.Sequential(Conv2dSame(3, 4, 3, 2))
    sides = {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    with numbers_where_known(), torch.no_grad():
        program = torch.export.export(net, (torch.zeros(1, 3, 20, 21),), dynamic_shapes=(sides,), strict=False)
    for size in ((15, 18), (18, 15)):
        x = torch.rand(1, 3, *size)
        assert torch.allclose(program.module()(x), net(x), atol=1e-6)
