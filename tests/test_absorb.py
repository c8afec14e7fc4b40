"""For inference: whatever is absorbed, chosen or left out, the predictions are those of the network itself."""

import copy
from itertools import product
from typing import get_args

import pytest
import torch
from torch import nn
from torch._decomp import decomposition_table
from torch.nn import functional as F

from core_tools import assert_equal, assert_same_state, images, randomize_norms
from polymodal import Exchange, cost, fuse, models
from polymodal.errors import DataError, ExportError
from polymodal.export import Absorbed, absorb, save, saving
from polymodal.export.clipping import shapes_at_once
from polymodal.fusion import FUSIONS, Aggregation, Fusion, NoFusion, RandomExchange
from polymodal.fusion.aggregation import Operation
from polymodal.multimodal import Multimodal
from polymodal.nn import PrivateNorm

NAMES = ("a", "b", "c", "d")
SITES = ("norm1", "norm2", "norm3", "norm5")


class Zoo(nn.Module):
    """One of each: bias, depthwise and grouped convolutions, a gate, a norm that reads what others read, a skip."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, 3, 2, 1)
        self.norm1 = nn.BatchNorm2d(8)
        self.expand = nn.Conv2d(8, 16, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False)
        self.norm3 = nn.BatchNorm2d(16)
        self.gate = nn.Conv2d(16, 16, 1)
        self.project = nn.Conv2d(16, 8, 1, bias=False)
        self.norm4 = nn.BatchNorm2d(8, affine=False)
        self.grouped = nn.Conv2d(8, 8, 3, 1, 1, groups=4)
        self.norm5 = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 6, 2, 2)
        self.norm6 = nn.BatchNorm2d(6)
        self.head = nn.Conv2d(14, 3, 1)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        first = self.conv1(x)
        x = F.relu(self.norm1(first))
        y = F.hardswish(self.norm2(self.expand(x)))
        y = F.relu6(self.norm3(self.depthwise(y)))
        y = y * self.gate(y.mean((2, 3), keepdim=True)).sigmoid()
        # A convolution that others read keeps its own values: the norm behind it stays.
        x = x + self.norm4(self.project(y)) + first
        x = F.max_pool2d(F.relu(self.norm5(self.grouped(x))), 2)
        up = F.interpolate(self.norm6(self.up(x)), size=first.shape[-2:], mode="bilinear")
        return [self.head(torch.cat([up, first], 1)), x]


def build(modalities: int, fusion=None, **settings) -> Multimodal:
    channels = settings.pop("channels", dict.fromkeys(NAMES[:modalities], 2))
    settings.setdefault("sites", SITES)
    return randomize_norms(fuse(Zoo(), channels, fusion, **settings).double()).eval()


def assert_absorbs(
    net: Multimodal, absorbed: Absorbed | None = None, names=None, sizes=((24, 32), (21, 19))
) -> Absorbed:
    if absorbed is None:  # for any size, or, in half of the time, for the one that is asked for
        absorbed = absorb(net, names, size=sizes[0] if len(sizes) == 1 else None)
    names = net.modalities if names is None else names
    for batch, size in enumerate(sizes, 3 - len(sizes)):
        inputs = {
            name: torch.randn(batch, absorbed.channels[name], *size, dtype=torch.float64)
            for name in absorbed.modalities
        }
        with torch.no_grad():
            expected, got = net(inputs, subset=True), absorbed(inputs)
        assert list(got.per_modality) == list(expected.per_modality)
        for name, output in expected.per_modality.items():
            assert_equal(got.per_modality[name], output, 1e-11, f"{name} {size}")
        assert_equal(got.ensemble, expected.ensemble, 1e-11, f"ensemble {size}")
        assert_equal([got.weights], [expected.weights], 0)
    return absorbed


@pytest.mark.parametrize(
    ("modalities", "fusion"),
    [
        pytest.param(1, Exchange(threshold=0.6), marks=pytest.mark.slow),
        (2, Exchange(share=1.0, within="all")),
        (3, RandomExchange(share=0.7)),
        pytest.param(4, Exchange(threshold=0.8, within="all"), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_absorbed_network_predicts_what_the_network_does(modalities, fusion):
    """If this breaks, a deployed network is another one than was evaluated."""
    assert_absorbs(build(modalities, fusion))


def test_nothing_of_the_network_is_changed_and_nothing_of_the_absorbed_one_trains():
    """If this breaks, exporting in the middle of a training spoils it."""
    net = build(2, Exchange(threshold=0.6)).train()
    before = copy.deepcopy(net)
    absorbed = absorb(net)
    assert_same_state(net, before)
    assert net.training
    assert net.network.norm1.training
    assert not any(p.requires_grad for p in absorbed.parameters())
    assert_absorbs(net.eval(), absorbed)


def test_some_of_the_modalities_and_no_exchange_among_them():
    """If this breaks, a device that lacks a sensor gets other predictions than `subset=True` gave."""
    net = build(3, Exchange(threshold=0.7))
    assert assert_absorbs(net, names=("a", "c")).modalities == ("a", "c")
    with net.fusion_disabled():
        assert_absorbs(net, sizes=((24, 32),))
    with pytest.raises(ExportError, match="expected some of a, b, c, got z"):
        absorb(net, ("a", "z"))


def macs(net: nn.Module, size: tuple[int, int]) -> int:
    return cost(net, size).macs


def test_what_is_saved_is_what_exchanged_channels_cost():
    """If this breaks, channels that nobody reads are still computed, or the report of it is wrong."""

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 1)
            self.conv1 = nn.Conv2d(4, 10, 3, padding=1, bias=False)
            self.norm1 = nn.BatchNorm2d(10)
            self.conv2 = nn.Conv2d(10, 12, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(12)
            self.conv3 = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False)
            self.norm3 = nn.BatchNorm2d(12)
            self.head = nn.Conv2d(12, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = F.relu(self.norm1(self.conv1(self.stem(x))))
            x = F.relu(self.norm2(self.conv2(x)))
            return self.head(F.relu(self.norm3(self.conv3(x))))

    net = fuse(Chain(), ["a", "b"], Exchange(threshold=0.5), sites=["norm1", "norm3"]).double().eval()
    with torch.no_grad():
        net.network.norm1.weight[0, :3] = 0.0  # three of a's own five channels
        net.network.norm3.weight[1, 6:10] = 0.1  # four of b's own six
        net.network.norm3.weight[1, 0] = 0.1  # not its own, so that it stays
    absorbed = assert_absorbs(net)
    saved = saving(net, absorbed, (8, 8))
    # A depthwise row that nobody reads was the only reader of a row of the convolution before it.
    assert saved.before.macs - saved.after.macs == 64 * (3 * 4 * 9 + 4 * 9 + 4 * 10)
    assert saved.before.macs == macs(net, (8, 8))
    assert f"{saved}".startswith("multiply-accumulates")
    assert not any(isinstance(module, PrivateNorm) for module in absorbed.modules())


def trained_unet(fusion: Fusion, modalities: int = 2, **settings) -> Multimodal:
    """A small network with stages, in which modalities' copies are no longer alike."""
    network = models.create("rooms-unet", classes=3, stem=4, widths=(5, 10), decoder=4)
    net = fuse(network, dict.fromkeys(NAMES[:modalities], 3), fusion, **settings).double()
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return randomize_norms(net).eval()


WAYS = {
    "exchange": [Exchange(share=0.5)],
    "random": [RandomExchange(share=0.5)],
    "aggregation": [Aggregation(operation) for operation in get_args(Operation)],
    "token-exchange": [],
}
"""By the name of a fusion, the settings that it is tried with: every way it has, or one in which it acts.

Tokens are exchanged in transformers alone, and absorbed in `test_token_exchange.py`.
"""


EVERY_WAY = [way for name in FUSIONS for way in (WAYS[name] if name in WAYS else [FUSIONS[name]()])]
USUAL = dict.fromkeys(("exchange", "random", "asymmetric", "decode-once", "difference"), "shared")
"""By the name of a fusion, the convolutions that it is used with in the papers; the others with private ones."""


def usual(way: Fusion, convolutions: str) -> bool:
    """Of the ways to aggregate one: the others are absorbed with some of the modalities below."""
    return convolutions == USUAL.get(way.name, "private") and getattr(way, "operation", "concat") == "concat"


@pytest.mark.parametrize(
    ("fusion", "convolutions"),
    [
        pytest.param(way, kind, marks=() if usual(way, kind) else pytest.mark.slow)
        for way, kind in product(EVERY_WAY, ("shared", "private"))
    ],
    ids=str,
)
def test_every_fusion_has_a_static_form(fusion, convolutions):
    """If this breaks, the baselines cannot be deployed, or predict something else once they are."""
    assert_absorbs(trained_unet(fusion, convolutions=convolutions), sizes=((32, 48), (35, 29)))


@pytest.mark.parametrize("operation", get_args(Operation))
def test_aggregation_of_some_modalities_absorbs_where_it_predicts_and_is_refused_elsewhere(operation):
    """If this breaks, a device is given an absorbed network that fails at its first image."""
    net = trained_unet(Aggregation(operation), modalities=3, sites="middle")
    if operation == "average":
        assert_absorbs(net, names=("a", "c"), sizes=((32, 48),))
        return
    with pytest.raises(ExportError, match="needs every modality of a, b, c, got a, c alone"):
        absorb(net, ("a", "c"))
    if operation == "attention":
        assert_absorbs(net, sizes=((32, 48),))


@pytest.mark.parametrize(
    "settings",
    [
        {"channels": {"a": 2, "b": 1, "c": 5}, "stems": {"c": "private"}},
        {"convolutions": "private"},
        {"norms": "shared", "fusion": NoFusion(), "sites": "auto"},
    ],
    ids=str,
)
def test_private_stems_private_convolutions_and_shared_norms(settings):
    """If this breaks, one way to build a network cannot be deployed."""
    fusion = settings.pop("fusion", Exchange(threshold=0.6))
    net = build(3, fusion, **settings)
    for parameter in net.network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    assert_absorbs(net, sizes=((21, 19),))


@pytest.mark.parametrize("tracked", [True, False])
def test_norms_that_look_at_each_image_stay_and_others_are_absorbed(tracked):
    """If this breaks, a network with instance norms predicts by statistics that it was not trained with."""
    layers = [nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True, track_running_stats=tracked), nn.Conv2d(8, 2, 1)]
    net = fuse(nn.Sequential(*layers), {"a": 3, "b": 3}, Exchange(share=0.5), sites="1").double().eval()
    for parameter in net.parameters():
        parameter.data += torch.randn_like(parameter)
    absorbed = assert_absorbs(net)
    norms = [node for node in absorbed.graph.graph.nodes if node.target is F.instance_norm]
    assert len(norms) == (0 if tracked else 2)


def test_norm_with_activation_is_absorbed_too():
    """If this breaks, timm's networks lose their activations, or keep their norms."""
    from timm.layers import BatchNormAct2d

    network = nn.Sequential(nn.Conv2d(3, 8, 3), BatchNormAct2d(8, act_layer=nn.SiLU), nn.Conv2d(8, 2, 1))
    net = randomize_norms(fuse(network, {"a": 3, "b": 3}, Exchange(threshold=0.6), sites="1").double()).eval()
    absorbed = assert_absorbs(net)
    assert {str(n.target) for n in absorbed.graph.graph.nodes} >= {"aten.conv2d.default", "aten.silu.default"}
    assert not any("norm" in str(node.target) for node in absorbed.graph.graph.nodes)


def test_sizes_that_the_network_does_not_take_are_refused():
    """If this breaks, a size that was never checked gives an error from inside a graph, or a wrong prediction."""
    network = models.create("translation-unet", depth=3, filters=4)
    net = randomize_norms(fuse(network, {"a": 3, "b": 3}, Exchange(share=0.5)).double()).eval()
    absorbed = assert_absorbs(net, sizes=((16, 24), (32, 8)))
    assert absorbed.step == 8
    with pytest.raises(DataError, match=r"20x16 .*multiples of 8.*16x16"):
        absorbed(images(("a", "b"), 1, 3, 16, 20))
    with pytest.raises(DataError, match="Missing modality b"):
        absorbed(images("a", 1, 3, 16, 16))


def test_images_are_not_copied_where_nothing_is_tiled():
    """If this breaks, every prediction copies all of its images for nothing."""
    absorbed = absorb(fuse(nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)), {"a": 2, "b": 1}, None))
    seen: list[torch.Tensor] = []
    absorbed.graph.register_forward_pre_hook(lambda _, tensors: seen.extend(tensors))
    inputs = {"a": torch.randn(1, 2, 8, 8), "b": torch.randn(1, 1, 8, 8)}
    absorbed(inputs)
    assert seen[0] is inputs["a"]
    assert torch.equal(seen[1], inputs["b"].expand(-1, 2, -1, -1))


def test_what_has_no_static_form_is_refused_with_the_alternative():
    """If this breaks, a fusion of somebody's own is dropped in silence."""

    class Meet(nn.Module):
        def __init__(self, roster) -> None:
            super().__init__()
            self.roster = roster

        def forward(self, x, scale):
            return x.flip(0)

    net = build(2, Exchange())
    net.network.norm1.fusion = Meet(net.roster)
    with pytest.raises(ExportError, match=r"'norm1'.*Meet.*Export it as it is"):
        absorb(net)


def test_network_that_decides_by_its_values_is_refused():
    """If this breaks, one branch is deployed, whatever the images are."""

    class Moody(nn.Sequential):
        def forward(self, x):
            return super().forward(x) if bool(x.sum() > 0) else -super().forward(x)

    net = fuse(Moody(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)), ["a", "b"], None)
    with pytest.raises(ExportError, match=r"Moody.*model folder"):
        absorb(net)


def test_what_is_changed_in_place_is_changed_for_all_who_read_it():
    """If this breaks, a network with activations in place is refused, or absorbed into another one."""

    class InPlace(nn.Sequential):
        def forward(self, x):
            x = self[1](self[0](x))
            return self[2](x.relu_().mul_(2) + x)  # twice the rectified values, and these again

    layers = InPlace(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    assert_absorbs(randomize_norms(fuse(layers, ["a", "b"], Exchange(threshold=0.6), sites="1")).double().eval())


def test_dropout_and_norms_of_each_image_do_not_trace_a_network_twice(monkeypatch):
    """If this breaks, exporting takes a sixth longer for every network with dropout or a group norm."""
    monkeypatch.delattr(torch.export.ExportedProgram, "run_decompositions")
    encoder = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(inplace=True)
    decoder = nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4), nn.ReLU(inplace=True), nn.Dropout2d(0.9, inplace=True)
    layers = nn.Sequential(*encoder, *decoder, nn.Conv2d(4, 2, 1), nn.Dropout(0.9))
    assert_absorbs(randomize_norms(fuse(layers, ["a", "b"], Exchange(threshold=0.6), sites="1")).double().eval())


def test_dropout_that_goes_on_at_inference_is_no_part_of_a_file_that_drops_nothing():
    """If this breaks, what is to be random is left out without a word."""

    class Random(nn.Dropout):
        def forward(self, x):
            return F.dropout(x, 1.0, training=True)

    net = fuse(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), Random(), nn.Conv2d(4, 2, 1)), ["a", "b"], None)
    image = images(["a", "b"], 1, 2, 8, 8, dtype=torch.float32)
    assert_equal(absorb(net.eval())(image).ensemble, net(image).ensemble, 1e-6)


def test_the_shape_of_what_is_clipped_is_known_while_tracing_alone():
    """If this breaks, exporting a network with ReLU6 takes a seventh longer, or PyTorch is left as it was not."""
    before = dict(decomposition_table)
    with shapes_at_once():
        assert torch.equal(F.relu6(torch.tensor([-1.0, 7.0])), torch.tensor([0.0, 6.0]))
        changed = {operation for operation, way in decomposition_table.items() if way is not before.get(operation)}
        graph = torch.export.export(nn.ReLU6(), (torch.zeros(2, 3),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    assert changed == {torch.ops.aten.hardtanh.default}
    assert dict(decomposition_table) == before
    assert torch.ops.aten.hardtanh.default in {node.target for node in graph.graph.nodes}
    assert torch.equal(graph.module()(torch.full((3, 3), 7.0)), torch.full((3, 3), 6.0))


class Placed(nn.Sequential):
    """Adds where each row lies, in a tensor that it makes on the device of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = super().forward(x)
        return x + torch.arange(x.shape[2], device=x.device)[:, None]


def test_what_a_graph_makes_is_made_where_the_network_is(tmp_path):
    """If this breaks, an absorbed Swin, which makes masks for each size, cannot be exported or moved."""
    network = Placed(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4))
    net = randomize_norms(fuse(network, {"a": 2, "b": 2}, Exchange(share=0.5), sites="1")).eval()
    absorbed = absorb(net)
    inputs = {name: image.float() for name, image in images(net.modalities, 1, 2, 8, 12).items()}
    elsewhere = copy.deepcopy(absorbed).to("meta")
    assert elsewhere({name: image.to("meta") for name, image in inputs.items()}).ensemble.is_meta
    assert_equal(absorbed(inputs).ensemble, net(inputs).ensemble, 1e-4)
    assert save(absorbed, tmp_path / "net.pt2", format="pt2")
