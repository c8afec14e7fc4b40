"""Asymmetric fusion against lists of tensors, one modality's own network each, and against the definition in loops."""

import copy
import gc
import itertools
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from core_tools import NAMES, assert_equal, difference, images, plain_of, randomize_norms
from polymodal import FusionError, Multimodal, checkpoint, fuse
from polymodal import functional as pm
from polymodal.fusion import make_fusion
from polymodal.fusion.asymmetric import Asymmetric
from reference.plain import plain_segmenter

RULES = (Asymmetric(), Asymmetric(shift=False), Asymmetric(shuffle=False))
TOLERANCE = 1e-10
# Where a group of channels looks for its pixel: one row above, one column before, one column after, one row below.
LOOKS = ((-1, 0), (0, -1), (0, 1), (1, 0))

several = st.integers(2, 4)
shapes = {"channels": st.integers(1, 13), "height": st.integers(1, 4), "width": st.integers(1, 4)}


# ---------------------------------------------------------------------------------------------------------- definitions


def shuffled(xs: list[Tensor], step: int) -> list[Tensor]:
    """The last C - 4⌊C/5⌋ channels come from the modality `step` further on, in a circle."""
    first = xs[0].shape[1] // 5 * 4
    return [torch.cat([x[:, :first], xs[(m + step) % len(xs)][:, first:]], dim=1) for m, x in enumerate(xs)]


def shifted(x: Tensor) -> Tensor:
    """The first 4⌊C/5⌋ channels moved by a pixel, group by group, pixel by pixel; the others zero."""
    height, width = x.shape[-2:]
    size = x.shape[1] // 5
    planes = [torch.zeros_like(x[:, 0]) for _ in range(x.shape[1])]
    for channel, y, column in itertools.product(range(4 * size), range(height), range(width)):
        row, col = y + LOOKS[channel // size][0], column + LOOKS[channel // size][1]
        if 0 <= row < height and 0 <= col < width:
            mask = torch.zeros_like(planes[channel])
            mask[:, y, column] = 1
            planes[channel] = planes[channel] + mask * x[:, channel, row, col][:, None, None]
    return torch.stack(planes, dim=1)


def met(spatial: list[Tensor], following: list[Tensor] | None, rule: Asymmetric) -> list[Tensor]:
    """What a site makes of the inputs of its spatial convolution; or, given those of the following one, of these."""
    if following is None:
        return shuffled(spatial, 1) if rule.shuffle else spatial
    if rule.shift:
        given_by = [shifted(spatial[(m + 1) % len(spatial)]) for m in range(len(spatial))]
        following = [x + given for x, given in zip(following, given_by, strict=True)]
    return shuffled(following, -1) if rule.shuffle else following


@given(b=st.integers(1, 2), m=several, reverse=st.booleans(), **shapes)
def test_channel_shuffle_is_the_definition(b, m, reverse, channels, height, width):
    """If this breaks, other channels change places than in the paper, or they go to another modality."""
    x = torch.randn(b, m, channels, height, width)
    expected = shuffled(list(x.unbind(1)), -1 if reverse else 1)
    assert torch.equal(pm.channel_shuffle(x, reverse=reverse), torch.stack(expected, dim=1))


@given(b=st.integers(1, 2), m=several, **shapes)
def test_pixel_shift_is_the_definition(b, m, channels, height, width):
    """If this breaks, pixels move elsewhere than in the paper, or are given to another modality."""
    x = torch.randn(b, m, channels, height, width)
    expected = [shifted(x[:, (i + 1) % m]) for i in range(m)]
    assert torch.equal(pm.pixel_shift(x), torch.stack(expected, dim=1))


@given(m=several, channels=st.integers(1, 30))
def test_shuffle_keeps_the_content_and_comes_home(m, channels):
    """If this breaks, a shuffle duplicates or loses channels, or the second one does not undo the first."""
    x = torch.randn(2, m, channels, 2, 3)
    once = pm.channel_shuffle(x)
    assert torch.equal(once.sort(dim=1).values, x.sort(dim=1).values)
    assert torch.equal(pm.channel_shuffle(once, reverse=True), x)
    moved = (once != x).flatten(3).any(-1).sum(-1)
    assert bool((moved == channels - 4 * (channels // 5)).all())


@pytest.mark.parametrize("function", [pm.channel_shuffle, pm.pixel_shift])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_pure_functions_keep_dtype_and_input(function, dtype):
    """If this breaks, training in half precision changes type, or features change under the layers that share them."""
    x = torch.randn(1, 3, 7, 3, 2).to(dtype)
    before = x.clone()
    assert function(x).dtype == dtype
    assert torch.equal(x, before)


def test_one_modality_has_nobody_to_meet():
    """If this breaks, a network of one modality changes by being fused."""
    x = torch.randn(2, 1, 10, 3, 3)
    assert pm.channel_shuffle(x) is x
    assert torch.equal(pm.pixel_shift(x), torch.zeros_like(x))
    net = fuse(segmenter(), ["rgb"], "asymmetric").eval()
    inputs = images(["rgb"], 2, 3, 18, 22)
    assert_equal(net(inputs).per_modality["rgb"], segmenter().eval()(inputs["rgb"]), TOLERANCE)


# ------------------------------------------------------------------------------------------------------------- networks


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + self.downsample(x))


def basic() -> nn.Module:
    """Two stages of basic blocks: 10 channels, which 5 divides, and 12, which it does not."""
    torch.manual_seed(0)
    stages = {
        "layer1": nn.Sequential(BasicBlock(3, 10, 1), BasicBlock(10, 10, 1)),
        "layer2": nn.Sequential(BasicBlock(10, 12, 2), BasicBlock(12, 12, 1)),
        "classifier": nn.Conv2d(12, 4, 1),
    }
    network = nn.Sequential()
    for name, stage in stages.items():
        network.add_module(name, stage)
    return network.double()


def segmenter() -> nn.Module:
    """Two stages of bottlenecks, of 7 and of 10 channels inside."""
    return plain_segmenter(0)


# By network: for every site of "auto", its norm, its spatial convolution, and the convolution after that.
SITES = {
    basic: [(f"layer{n}.1.bn1", f"layer{n}.1.conv1", f"layer{n}.1.conv2") for n in (1, 2)],
    segmenter: [(f"layer{n}.1.bn2", f"layer{n}.1.conv2", f"layer{n}.1.conv3") for n in (1, 2)],
}


def fused(plain: nn.Module, m: int, rule: Asymmetric, *, training: bool) -> Multimodal:
    net = randomize_norms(fuse(plain, NAMES[:m], rule)).train(training)
    with torch.no_grad():
        net.ensemble.alpha.normal_()
    return net


def inputs_of(
    networks: list[nn.Module], xs: list[Tensor], replaced: dict[str, list[Tensor]], layer: str
) -> list[Tensor]:
    """What a layer of each network is given, when the layers in `replaced` are given something else than usual.

    With the layer "" it is the networks' outputs.
    """
    taken: list[Tensor] = []
    for m, (network, x) in enumerate(zip(networks, xs, strict=True)):
        handles = [
            network.get_submodule(name).register_forward_pre_hook(lambda *_, given=given[m]: (given,))
            for name, given in replaced.items()
        ]
        if layer:
            hook = network.get_submodule(layer).register_forward_pre_hook(lambda _, given: taken.append(given[0]))
            handles.append(hook)
        output = network(x)
        if not layer:
            taken.append(output)
        for handle in handles:
            handle.remove()
    return taken


def reference(networks: list[nn.Module], xs: list[Tensor], sites: list[tuple[str, str, str]], rule: Asymmetric) -> list:
    """The outputs of networks that meet at the sites: each runs by itself, again and again, up to its next meeting.

    The networks' norms must not learn from the many passes: their running statistics are of no meaning afterwards.
    """
    replaced: dict[str, list[Tensor]] = {}
    for _, spatial, following in sites:
        given = inputs_of(networks, xs, replaced, spatial)
        replaced[spatial] = met(given, None, rule)
        replaced[following] = met(given, inputs_of(networks, xs, replaced, following), rule)
    return inputs_of(networks, xs, replaced, "")


def loss_of(outputs: list[Tensor]) -> Tensor:
    """Some function of the outputs in which every modality weighs differently."""
    return sum((m + 1) * (output * output.roll(1, -1)).mean() for m, output in enumerate(outputs))


@pytest.mark.parametrize("build", [basic, segmenter])
@pytest.mark.parametrize("rule", RULES, ids=["both", "shuffle", "shift"])
@pytest.mark.parametrize(("m", "training"), [(2, True), (2, False), (3, True), (4, False)])
def test_network_equals_the_lists(build, rule, m, training):
    """If this breaks, what is trained is not AsymFusion: an operation is missing, misplaced or has a wrong gradient."""
    plain = build()
    net = fused(plain, m, rule, training=training)
    assert net.sites == tuple(norm for norm, _, _ in SITES[build])
    alone = [plain_of(net, plain, i).train(training) for i in range(m)]
    inputs = images(net.modalities, 2, 3, 9, 8)
    theirs = reference(alone, list(inputs.values()), SITES[build], rule)
    ours = list(net(inputs).per_modality.values())
    assert_equal(ours, theirs, TOLERANCE)
    loss_of(ours).backward()
    loss_of(theirs).backward()
    for name, parameter in net.network.named_parameters():
        gradients = [network.get_parameter(name).grad for network in alone]
        private = parameter.dim() > gradients[0].dim()
        expected = torch.stack(gradients) if private else sum(gradients)
        error, size = (parameter.grad - expected).abs().max(), expected.abs().max()
        assert error <= TOLERANCE * max(float(size), 1e-4), name
    assert sum(float(p.grad.abs().max()) > 1e-9 for p in net.network.parameters()) > 20


REAL = {
    "timm/resnet26": [(f"layer{n}.1.bn2", f"layer{n}.1.conv2", f"layer{n}.1.conv3") for n in (1, 2, 3, 4)],
    "torchvision/resnet18": [(f"layer{n}.1.bn1", f"layer{n}.1.conv1", f"layer{n}.1.conv2") for n in (1, 2, 3, 4)],
    "timm/efficientnet_lite0": [(f"blocks.{n}.bn2", f"blocks.{n}.conv_dw", f"blocks.{n}.conv_pwl") for n in
                                ("1.1", "2.1", "3.2", "4.2", "5.3", "6.0")],
    "torchvision/mobilenet_v3_small": [("features.3.block.1.1", "features.3.block.1.0", "features.3.block.2.0"),
                                       ("features.8.block.1.1", "features.8.block.1.0", "features.8.block.3.0"),
                                       ("features.11.block.1.1", "features.11.block.1.0", "features.11.block.3.0")],
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "torchvision/resnet18",
        "torchvision/mobilenet_v3_small",
        pytest.param("timm/resnet26", marks=pytest.mark.slow),
        pytest.param("timm/efficientnet_lite0", marks=pytest.mark.slow),
    ],
)
def test_real_networks_meet_in_the_last_block_of_each_stage(name):
    """If this breaks, a user's backbone meets in other layers than the paper's, or its gates and activations differ."""
    plain = build_real(name).eval()
    net = fused(plain, 2, Asymmetric(), training=False)
    assert net.sites == tuple(norm for norm, _, _ in REAL[name])
    inputs = images(net.modalities, 1, 3, 33, 40)
    with torch.inference_mode():
        alone = [plain_of(net, plain, i) for i in range(2)]
        theirs = reference(alone, list(inputs.values()), REAL[name], Asymmetric())
        assert_equal(list(net(inputs).per_modality.values()), theirs, 1e-8)
        with net.fusion_disabled():
            disabled = list(net(inputs).per_modality.values())
        apart = [network(image) for network, image in zip(alone, inputs.values(), strict=True)]
    assert_equal(disabled, apart, 1e-8)
    assert all(difference(x, y) > 1e-3 for x, y in zip(apart, theirs, strict=True)), "they never met"


def build_real(name: str) -> nn.Module:
    library, model = name.split("/")
    if library == "timm":
        import timm

        return timm.create_model(model, pretrained=False, num_classes=5).double()
    import torchvision

    return getattr(torchvision.models, model)(weights=None, num_classes=5).double()


# ------------------------------------------------------------------------------------------------------- what must hold


def outputs(net: nn.Module, inputs: dict[str, Tensor], **arguments: bool) -> list[Tensor]:
    with torch.no_grad():
        return list(net(inputs, **arguments).per_modality.values())


@given(m=st.integers(2, 4), turn=st.integers(1, 3))
def test_turning_the_circle_of_modalities_turns_the_outputs(m, turn):
    """If this breaks, one of the modalities is special: the first or the last of the circle."""
    net = fused(basic(), m, Asymmetric(), training=False)
    inputs = images(net.modalities, 1, 3, 7, 6)
    turned = copy.deepcopy(net)
    state = net.network.state_dict()
    private = {key: value.roll(turn, 0) for key, value in state.items() if value.dim() == 2}
    turned.network.load_state_dict(state | private)
    moved = torch.stack(list(inputs.values())).roll(turn, 0)
    given_there = outputs(turned, dict(zip(net.modalities, moved, strict=True)))
    assert_equal(given_there, list(torch.stack(outputs(net, inputs)).roll(turn, 0)), 1e-12)


@pytest.mark.parametrize("settings", [{"convolutions": "private"}, {"norms": "shared"}])
def test_what_is_private_does_not_matter(settings):
    """If this breaks, AsymFusion cannot be compared with unshared convolutions or shared norms: it finds no layers."""
    net = fuse(basic().eval(), NAMES[:2], "asymmetric", **settings)
    inputs = images(net.modalities, 2, 3, 7, 6)
    assert_equal(outputs(net, inputs), outputs(fuse(basic().eval(), NAMES[:2], "asymmetric"), inputs), 1e-12)


@pytest.mark.parametrize("rule", RULES, ids=["both", "shuffle", "shift"])
def test_fusion_is_asymmetric(rule):
    """If this breaks, both branches compute the same from the same pair, which is what the method avoids."""
    net = fuse(basic().eval(), NAMES[:2], rule)
    first, second = images(NAMES[:2], 1, 3, 7, 6).values()
    one, other = outputs(net, {"rgb": first, "depth": second})
    assert difference(one, other) > 1e-3
    alike = outputs(net, {"rgb": first, "depth": first})
    assert_equal(alike[0], alike[1], 1e-12)


@pytest.mark.parametrize("present", [("depth",), ("rgb", "normal"), ("depth", "normal", "thermal")])
@pytest.mark.parametrize("rule", RULES, ids=["both", "shuffle", "shift"])
def test_absent_modalities_are_passed_over(present, rule):
    """If this breaks, a missing modality disturbs the others, or one alone is not its own network."""
    plain = basic()
    net = fused(plain, 4, rule, training=False)
    inputs = images(present, 2, 3, 7, 6)
    alone = [plain_of(net, plain, NAMES.index(name)).eval() for name in present]
    expected = reference(alone, list(inputs.values()), SITES[basic] if len(present) > 1 else [], rule)
    assert_equal(outputs(net, inputs, subset=True), expected, TOLERANCE)


def test_disabled_is_each_modality_alone_even_after_an_error():
    """If this breaks, the comparison with and without fusion measures something else."""
    plain = basic()
    net = fused(plain, 3, Asymmetric(), training=False)
    inputs = images(net.modalities, 2, 3, 7, 6)
    before = outputs(net, inputs)
    with net.fusion_disabled():
        apart = outputs(net, inputs)
    assert_equal(apart, [plain_of(net, plain, m).eval()(x) for m, x in enumerate(inputs.values())], 1e-12)
    assert_equal(outputs(net, inputs), before, 0)


def test_adds_nothing_to_the_network_but_the_fusion():
    """If this breaks, parameters or keys differ from the network without fusion, and weights cannot be taken over."""
    net, without = fuse(basic(), NAMES[:2], "asymmetric"), fuse(basic(), NAMES[:2], None)
    assert list(net.state_dict()) == list(without.state_dict())
    assert [n for n, _ in net.named_modules()] == [n for n, _ in without.named_modules()]
    assert (net.scales(), net.exchange_state(), float(net.fusion_loss())) == ({}, {}, 0.0)


def test_saved_network_predicts_the_same(tmp_path):
    """If this breaks, a network that was saved computes something else when it is loaded."""
    net = fused(basic(), 3, Asymmetric(shift=False), training=False)
    inputs = images(net.modalities, 2, 3, 7, 6)
    checkpoint.save(net, tmp_path / "model")
    loaded = checkpoint.load(tmp_path / "model", network=basic())
    assert loaded.fusion == Asymmetric(shift=False)
    assert loaded.sites == net.sites
    assert_equal(outputs(loaded, inputs), outputs(net, inputs), 0)


def test_a_copy_is_a_network_of_its_own():
    """If this breaks, switching the fusion of a copy switches that of the original, or features go astray."""
    net = fused(basic(), 2, Asymmetric(), training=False)
    inputs = images(net.modalities, 2, 3, 7, 6)
    expected = outputs(net, inputs)
    twin = copy.deepcopy(net)
    assert_equal(outputs(twin, inputs), expected, 0)
    with twin.fusion_disabled():
        assert_equal(outputs(net, inputs), expected, 0)
        assert difference(outputs(twin, inputs)[0], expected[0]) > 1e-3


@pytest.mark.parametrize("fails", [False, True])
def test_no_features_outlive_the_forward_pass(fails, monkeypatch):
    """If this breaks, every site holds a feature map in memory between batches, and copies of the network fail."""
    net = fused(basic(), 2, Asymmetric(), training=False)
    kept: list[weakref.ref] = []

    def shift(x: Tensor) -> Tensor:
        given_by = pixel_shift(x)
        kept.append(weakref.ref(given_by))
        return given_by

    def fail(*_: object) -> None:
        raise MemoryError

    pixel_shift = pm.pixel_shift
    monkeypatch.setattr(pm, "pixel_shift", shift)
    if fails:
        net.network.get_submodule("layer2.1.bn1").register_forward_hook(fail)
        with pytest.raises(MemoryError):
            outputs(net, images(net.modalities, 1, 3, 7, 6))
    else:
        outputs(net, images(net.modalities, 1, 3, 7, 6))
    gc.collect()
    assert [ref() for ref in kept] == [None, None]


def test_mixed_precision_trains():
    """If this breaks, training in bfloat16 stops with a clash of types, or differs beyond rounding."""
    net = fused(basic(), 2, Asymmetric(), training=True).float()
    inputs = images(net.modalities, 2, 3, 9, 8, dtype=torch.float32)
    expected = net(inputs).ensemble
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = net(inputs)
        loss = sum(x.float().square().mean() for x in prediction.per_modality.values())
    loss.backward()
    assert prediction.ensemble.dtype == torch.bfloat16
    assert difference(prediction.ensemble.float(), expected) < 0.05
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in net.parameters())


@pytest.mark.slow  # tests/test_speed.py compiles an exchange
def test_compiles_into_one_graph():
    """If this breaks, torch.compile falls back to eager pieces, or fails."""
    net = fused(basic(), 2, Asymmetric(), training=False)
    inputs = images(net.modalities, 2, 3, 9, 8)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    assert_equal(outputs(compiled, inputs), outputs(net, inputs), 1e-12)


# ---------------------------------------------------------------------------------------------------------------- sites


@pytest.mark.parametrize(
    ("sites", "expected"),
    [
        ("auto", ("layer1.1.bn1", "layer2.1.bn1")),
        ("layer2.1.bn1", ("layer2.1.bn1",)),
        ("layer*", ("layer1.1.bn1", "layer2.1.bn1")),
        (["layer1*"], ("layer1.1.bn1",)),
        (lambda name, norm: norm.num_features == 12, ("layer2.1.bn1",)),
    ],
)
def test_sites_are_blocks_that_can_carry_the_fusion(sites, expected):
    """If this breaks, the modalities meet where nobody asked, or where maps do not fit together."""
    assert fuse(basic(), NAMES[:2], "asymmetric", sites=sites).sites == expected


class Branches(nn.Module):
    """A block whose two convolutions stand side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.conv2 = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv1(x)) + self.conv2(x)


class BranchesBlock(Branches):
    pass


class ReversedBlock(Branches):
    """A block that runs in another order than it was built in."""

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv1(self.conv2(x)))


class TwiceBlock(Branches):
    """A block that uses its convolution twice."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.norm(self.conv1(self.norm(self.conv1(x)))))


class InplaceBlock(Branches):
    """A block that rectifies its input in place before it runs one convolution after the other."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.norm(self.conv1(x.relu_())))


class DemandingBlock(Branches):
    """A block that needs more than one tensor."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.conv2(self.norm(self.conv1(x))) * mask


@pytest.mark.parametrize(
    ("build", "sites", "message"),
    [
        (basic, "layer2.0.bn1", r"'layer2.0.bn1' cannot .* 'layer2.0.conv1' is given 10 channels of 8 × 8 pixels and "
         r"'layer2.0.conv2' 12 channels of 4 × 4.*choose from, by name or pattern: layer1.1.bn1, layer2.1.bn1\."),
        (basic, "layer?.0*", r"'layer2.0.bn1' cannot"),
        (basic, ["layer1.1.bn1", "layer1.0.bn1"], r"'layer1.0.bn1' cannot .* given 3 channels"),
        (basic, "layer1.1.bn2", r"'layer1.1.bn2' matches no layer"),
        (basic, lambda name, norm: False, r"the predicate matches no layer"),
        (lambda: nn.Sequential(BasicBlock(3, 3, 2)), "auto", r"3 channels of 8 × 8 .* '0.conv2' 3 channels of 4 × 4"),
        (lambda: nn.Sequential(BranchesBlock()), "auto", r"'0.conv2' is given nothing of what '0.conv1' returns"),
        (lambda: nn.Sequential(ReversedBlock()), "auto", r"'0.conv2' is given nothing of what '0.conv1' returns"),
        (lambda: nn.Sequential(TwiceBlock()), "auto", r"'0.conv1' and '0.conv2' do not run once each"),
        (lambda: nn.Sequential(DemandingBlock()), "auto", r"its block '0' does not run by itself \(.*mask.*\)"),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), "auto", r"of a residual block, .* has no block"),
    ],
)  # fmt: skip
def test_sites_that_cannot_carry_the_fusion_are_refused_with_the_reason(build, sites, message):
    """If this breaks, a network trains with a fusion that does nothing, or fails in its first batch."""
    with pytest.raises(FusionError, match=message):
        fuse(build(), NAMES[:2], "asymmetric", sites=sites)


def test_a_block_that_changes_its_input_in_place_is_no_obstacle():
    """If this breaks, networks that activate before they convolve cannot carry the fusion."""
    assert fuse(nn.Sequential(InplaceBlock()), NAMES[:2], "asymmetric").sites == ("0.norm",)


def test_neither_operation_is_refused():
    """If this breaks, a run is called AsymFusion that fuses nothing."""
    with pytest.raises(FusionError, match="shuffle, shift: expected at least one"):
        make_fusion("asymmetric", {"shuffle": False, "shift": False})
