"""The fast path computes what plain eager float32 does, and a training never waits for the compiler a second time."""

import copy
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn import functional as F

from core_tools import NAMES, assert_equal, difference, images, randomize_norms
from polymodal import ConfigError, Exchange, Multimodal, PolymodalError, functional, fuse, normalisation
from polymodal.models.unet import RoomsUNet, enlarge
from polymodal.speed import accelerate
from polymodal.tasks.base import Task


def network(modalities: int, exchanges: bool, statistics: str = "batch") -> Multimodal:
    """A small U-Net of which about half of the channels are exchanged, or none."""
    torch.manual_seed(0)
    plain = RoomsUNet(3, stem=8, widths=(8,), decoder=8)
    fusion = Exchange(0.6, penalty=1e-3, within="all") if exchanges else None
    return randomize_norms(fuse(plain, NAMES[:modalities], fusion, statistics=statistics))


def step(net: Multimodal, call: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Forward and backward in training: the predictions, the loss and every gradient."""
    net.zero_grad()
    prediction = call(inputs)
    outputs = {**prediction.per_modality, "ensemble": prediction.ensemble}
    loss = torch.stack([output.float().square().mean() for output in outputs.values()]).sum() + net.fusion_loss()
    loss.backward()
    gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    return {**{name: x.detach().clone() for name, x in outputs.items()}, "loss": loss.detach(), **gradients}


def redraw(net: Multimodal) -> None:
    """Other channels are exchanged from now on."""
    with torch.no_grad():
        for scale in net.scales().values():
            scale.copy_(torch.rand_like(scale) + 0.1)


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("modalities", "exchanges"),
    [
        pytest.param(count, exchanges, marks=() if (count, exchanges) in ((2, True), (3, False)) else pytest.mark.slow)
        for count in (1, 2, 3, 4)
        for exchanges in (True, False)
    ],
)
def test_compiled_training_equals_eager_and_other_masks_compile_nothing(modalities, exchanges, fresh_compiler):
    """Else training slows down for minutes whenever a scale crosses θ, or trains something else when compiled."""
    net = network(modalities, exchanges).train()
    own = copy.deepcopy(net)
    compiled = torch.compile(net, backend="aot_eager" if modalities == 2 else "eager", fullgraph=True)
    for number in range(3):
        torch.manual_seed(number)
        inputs = images(net.modalities, 2, 3, 16, 24, dtype=torch.float32)
        if exchanges and modalities > 1:
            redraw(net)
            own.load_state_dict(net.state_dict())
        with torch.compiler.set_stance("fail_on_recompile" if number else "default"):
            ours = step(net, compiled, inputs)
        theirs = step(own, own, inputs)
        assert ours.keys() == theirs.keys()
        assert_equal(ours, theirs, 1e-4, f"step {number}")
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    ours, theirs = ({k: x for k, x in n.named_buffers() if "running" in k} for n in (net, own))
    assert_equal(ours, theirs, 1e-5, "running statistics")


def test_other_sizes_compile_once_more_and_never_again(fresh_compiler):
    """Else every new image size costs a compilation."""
    net = network(2, True).eval()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    for number, (batch, height, width) in enumerate([(2, 16, 24), (3, 32, 40), (4, 48, 32), (5, 24, 56)]):
        inputs = images(net.modalities, batch, 3, height, width, dtype=torch.float32)
        with torch.no_grad(), torch.compiler.set_stance("fail_on_recompile" if number > 1 else "default"):
            assert_equal(compiled(inputs).ensemble, net(inputs).ensemble, 1e-5, f"{batch} x {height} x {width}")
    assert counters["stats"]["unique_graphs"] == 2


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("modalities", [1, 2, 3, 4])
def test_channels_last_and_bfloat16_equal_eager(modalities, exchanges):
    """Else the fastest way to predict on a CPU predicts something else."""
    net = network(modalities, exchanges).eval()
    fast = accelerate(copy.deepcopy(net))
    inputs = images(net.modalities, 2, 3, 24, 40, dtype=torch.float32)
    with torch.inference_mode():
        exact, ours = net(inputs), fast(inputs)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = fast(inputs)
    for name, wanted in {**exact.per_modality, "ensemble": exact.ensemble}.items():
        assert difference({**ours.per_modality, "ensemble": ours.ensemble}[name], wanted) <= 1e-5
        # bfloat16 keeps 8 bits, and the network has ten layers.
        assert difference({**rounded.per_modality, "ensemble": rounded.ensemble}[name].float(), wanted) <= 5e-2


@pytest.mark.parametrize("modalities", [2, 3])
def test_bfloat16_training_step_is_near_float32(modalities):
    """Else mixed precision trains something else."""
    net = network(modalities, True).train()
    own = copy.deepcopy(net)
    inputs = images(net.modalities, 4, 3, 24, 40, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        ours = step(net, net, inputs)
    theirs = step(own, own, inputs)
    gradients = [
        torch.cat([value.float().flatten() for name, value in found.items() if name in dict(net.named_parameters())])
        for found in (ours, theirs)
    ]
    assert torch.cosine_similarity(*gradients, dim=0) > 0.98
    assert abs(float(ours["loss"] - theirs["loss"])) <= 0.02 * float(theirs["loss"])
    statistics = dict(net.named_buffers())
    assert all(x.dtype == torch.float32 for name, x in statistics.items() if "running" in name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("affine", [True, False])
def test_fixed_statistics_keep_channels_last(dtype, affine):
    """Else every norm copies the features twice, and the convolutions behind it lose the faster order of memory."""
    x = torch.randn(3 * 2, 5, 4, 6).to(dtype)
    fixed = torch.randn(2, 5), torch.rand(2, 5) + 0.5
    scales = (torch.randn(2, 5), torch.randn(2, 5)) if affine else (None, None)

    def normalised(image: Tensor) -> Tensor:
        return normalisation.private_batch_norm(image, 2, *fixed, *scales, training=False, momentum=0.1, eps=1e-5)

    ours = normalised(x.to(memory_format=torch.channels_last))
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert ours.dtype == dtype
    assert_equal(ours, normalised(x), 1e-5 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("modalities", [2, 3])
def test_fixed_statistics_have_the_same_gradients_in_both_orders(modalities, affine, dtype):
    """Else a training with fixed statistics depends on how the features lie in memory, or is slow in one of them."""
    x, rows = torch.randn(2 * modalities, 5, 4, 6).to(dtype), (modalities, 5)
    own = torch.promote_types(dtype, torch.float32)  # under autocast features alone are in half precision
    fixed = torch.randn(rows, dtype=own), torch.rand(rows, dtype=own) + 0.5

    def gradients(order: torch.memory_format) -> list[Tensor]:
        torch.manual_seed(1)
        image = x.clone(memory_format=order).requires_grad_()
        scales = [torch.randn(rows, dtype=own).requires_grad_() for _ in range(2)] if affine else [None, None]
        y = normalisation.private_batch_norm(image, modalities, *fixed, *scales, training=False, momentum=0.1, eps=1e-5)
        assert y.dtype == dtype
        assert y.is_contiguous(memory_format=order)
        leaves = [image, *scales] if affine else [image]
        return [y.detach(), *torch.autograd.grad(y, leaves, torch.randn(x.shape).to(dtype))]

    for ours, wanted in zip(gradients(torch.channels_last), gradients(torch.contiguous_format), strict=True):
        assert ours.dtype == wanted.dtype
        assert_equal(ours, wanted, 1e-12 if dtype == torch.float64 else 1e-2)


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_an_activation_in_place_behind_a_norm_copies_nothing(modalities, training, exchanges):
    """Else a training step copies every gradient twice, out of the order of memory that convolutions want."""
    x = torch.randn(2 * modalities, 6, 4, 5, dtype=torch.float64)
    keep = torch.arange(6).expand(modalities, -1) % 2 == 0
    scales = torch.rand(modalities, 6, dtype=torch.float64) + 0.5, torch.randn(modalities, 6, dtype=torch.float64)

    def gradient(order: torch.memory_format, activate: Any) -> Tensor:
        image = x.clone(memory_format=order).requires_grad_()
        fixed = torch.zeros(modalities, 6, dtype=torch.float64), torch.ones(modalities, 6, dtype=torch.float64)
        y = normalisation.private_batch_norm(
            image, modalities, *fixed, *scales, training=training, momentum=0.1, eps=1e-5
        )
        if exchanges:
            y = functional.refold(functional.exchange(functional.unfold(y, modalities), keep))
        y = activate(y)
        assert y.grad_fn is not None
        assert "CopySlices" not in y.grad_fn.name()
        (y * torch.linspace(0, 1, y.numel(), dtype=torch.float64).view_as(y)).sum().backward()
        assert image.grad is not None
        return image.grad

    wanted = gradient(torch.contiguous_format, torch.relu)
    assert_equal(gradient(torch.contiguous_format, torch.relu_), wanted, 1e-12)
    ours = gradient(torch.channels_last, torch.relu_)
    assert_equal(ours, wanted, 1e-12)
    assert training or modalities == 1 or ours.is_contiguous(memory_format=torch.channels_last)


def test_two_modalities_exchange_without_leaving_channels_last():
    """Else an exchange costs more than the convolution before it."""
    x = torch.randn(2 * 2, 5, 4, 6).to(memory_format=torch.channels_last)
    keep = torch.rand(2, 5) < 0.5
    exchanged = functional.exchange(functional.unfold(x, 2), keep).flatten(0, 1)
    assert exchanged.is_contiguous(memory_format=torch.channels_last)
    own, other = functional.unfold(x, 2), functional.unfold(x, 2).flip(1)
    assert torch.equal(exchanged, torch.where(keep[..., None, None], own, other).flatten(0, 1))


@pytest.mark.parametrize("training", [True, False])
def test_training_leaves_the_order_alone_where_it_would_spoil_the_memory(monkeypatch, training):
    """Else a training on a processor without AVX-512 ends in "double free or corruption" after some steps."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    net = accelerate(network(2, True, "frozen").train(training))
    conv: nn.Conv2d = net.network.encoder.stages[0][0].conv1
    assert conv.weight.is_contiguous(memory_format=torch.channels_last) != training


def test_the_switch(monkeypatch):
    """Else "off" is not plain, "auto" slows training down, or an impossible wish fails in the middle of a training."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    net = network(2, True)
    modes = (("off", False, False, False), ("auto", True, False, False), ("auto", False, False, True))
    for speed, training, frozen, channels_last in (*modes, ("auto", True, True, True)):
        other = network(2, True, "frozen" if frozen else "batch").train(training)
        assert accelerate(other, speed) is other
        conv: nn.Conv2d = other.network.encoder.stages[0][0].conv1
        assert conv.weight.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert other._compiled_call_impl is None
        assert list(other.state_dict()) == list(net.state_dict())
    compiled = accelerate(copy.deepcopy(net), "compile")
    assert compiled._compiled_call_impl is not None
    assert list(compiled.state_dict()) == list(net.state_dict())
    with pytest.raises(ConfigError, match="speed: expected one of auto, off, compile, got 'fast'"):
        accelerate(net, "fast")  # type: ignore[arg-type]
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler"):
        accelerate(net, "compile")


def test_a_gpu_is_asked_for_the_loss_one_step_late(monkeypatch):
    """Else either the host waits for the device in every step, or a spoilt training ends in a checkpoint."""
    waited: list[str] = []
    event = SimpleNamespace(record=lambda: waited.append("record"), synchronize=lambda: waited.append("wait"))
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)

    class OnGpu:
        """A loss that says it is on a GPU."""

        is_cuda = True

        def __init__(self, value: float) -> None:
            self.value = value

        def detach(self) -> "OnGpu":
            return self

        def sum(self) -> "OnGpu":
            return self

        def to(self, device: str, *, non_blocking: bool) -> Tensor:
            assert device == "cpu"
            assert non_blocking
            return torch.tensor(self.value)

    task = Task("rooms-unet")
    task.check_finite(OnGpu(1.0), {"key": ["a"]})  # type: ignore[arg-type]
    assert waited == ["record"]
    task.check_finite(OnGpu(math.nan), {"key": ["b", "c"]})  # type: ignore[arg-type]
    assert waited == ["record", "wait", "record"]
    with pytest.raises(PolymodalError, match="the loss is nan in epoch 1, step 0, for the samples b, c"):
        task.on_train_epoch_end()
    task.on_train_epoch_end()  # said once


def test_a_cpu_is_asked_at_once():
    """Else the weights are spoilt by a step that need not have been taken."""
    task = Task("rooms-unet")
    task.check_finite(torch.tensor(1.0), {"key": ["a"]})
    with pytest.raises(PolymodalError, match="for the samples b"):
        task.check_finite(torch.tensor([1.0, math.inf]), {"key": ["b"]})


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("before", "after"), [((5, 7), (20, 28)), ((3, 4), (5, 9)), ((6, 5), (6, 5))])
def test_enlarging_by_products_is_bilinear_interpolation(before, after, dtype):
    """Else the small network is trained to predict other maps than it predicts."""
    x = torch.randn(2, 3, *before).to(dtype).requires_grad_()
    other = x.detach().clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        ours, theirs = enlarge(x, after), F.interpolate(other, size=after, mode="bilinear")
    upstream = torch.randn_like(ours)
    ours.backward(upstream)
    theirs.backward(upstream)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-2
    assert_equal([ours, x.grad], [theirs, other.grad], tolerance)
