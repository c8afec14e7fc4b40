"""What runs without values is told its shapes at once, and they are those that PyTorch works out itself."""

import pytest
import torch
from torch.nn import functional as F

from polymodal.anatomy import ByShapes

MAP = torch.empty(2, 6, 8, 10, device="meta")
ROW = torch.empty(6, device="meta")
LAYERS = {
    "batch norm": lambda x: F.batch_norm(x, ROW, ROW, ROW, ROW),
    "batch norm in training": lambda x: F.batch_norm(x, None, None, ROW, ROW, training=True),
    "group norm": lambda x: F.group_norm(x, 3, ROW, ROW),
    "layer norm": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (6,), ROW, ROW),
    "instance norm": F.instance_norm,
    "activations": lambda x: [f(x) for f in (F.relu, F.relu6, F.hardswish, F.hardsigmoid, F.gelu, F.mish, F.elu)],
    "more activations": lambda x: [F.leaky_relu(x), F.softplus(x), x.clamp(0, 1), F.relu(x * 1, inplace=True)],
    "integers": lambda x: x.long().clamp(0, 1),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "bilinear": lambda x: F.interpolate(x, (5, 7), mode="bilinear"),
    "bicubic": lambda x: F.interpolate(x, scale_factor=0.5, mode="bicubic", align_corners=True),
}
REFUSED = {
    "layer norm of another shape": lambda x: F.layer_norm(x, (6,)),
    "batch norm of other channels": lambda x: F.batch_norm(x, ROW[:5], ROW[:5]),
    "nothing left": lambda x: F.interpolate(x, (0, 3), mode="bilinear"),
}


def described(output):
    values = [output] if isinstance(output, torch.Tensor) else output
    return [(value.shape, value.dtype, value.stride(), value.requires_grad, value.is_meta) for value in values]


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_returns_what_it_returns_without_the_shortcut(layer):
    """If this breaks, a network is refused that would run, or is found to run at a size at which it does not."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for gradient in (False, True):
            x = torch.empty_like(MAP, dtype=dtype, requires_grad=gradient)
            with ByShapes():
                ours = LAYERS[layer](x)
            assert described(ours) == described(LAYERS[layer](x))
            if gradient and layer != "integers":
                total = sum(output.sum() for output in (ours if isinstance(ours, list) else [ours]))
                assert described(torch.autograd.grad(total, x))[0][:2] == (x.shape, dtype)


@pytest.mark.parametrize("layer", REFUSED)
def test_what_a_layer_refuses_it_still_refuses(layer):
    """If this breaks, a network passes the rehearsal and fails at its first image."""
    with pytest.raises((RuntimeError, ArithmeticError)) as expected:
        REFUSED[layer](MAP)
    with ByShapes(), pytest.raises((RuntimeError, ArithmeticError)) as found:
        REFUSED[layer](MAP)
    assert str(found.value) == str(expected.value)
    with ByShapes():  # values are left alone
        assert torch.equal(F.relu(torch.tensor([-1.0, 2.0])), torch.tensor([0.0, 2.0]))
