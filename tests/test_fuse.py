"""What `fuse` keeps of the network that it is given, and what it refuses to lose."""

import copy
import itertools
import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from core_tools import (
    NAMES,
    assert_equal,
    assert_same_state,
    fused,
    images,
    randomize_norms,
    run,
    small,
)
from polymodal import ConfigError, DataError, Exchange, FusionError, cost, fuse, inspect, take_over
from polymodal.export import absorb, save
from polymodal.fusion import Aggregation, NormFusion
from reference.decode_once import TwoScales
from reference.plain import plain_segmenter

TOLERANCE = 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_dtype_and_device_are_kept(dtype, device):
    """If this breaks, fusing a network on a GPU or in half precision stops with a mismatch at its first image."""
    plain = plain_segmenter(0).to(device=device, dtype=dtype)
    net = fuse(plain, {"rgb": 3, "depth": 1}, stems={"depth": "private"})
    floating = [t for t in itertools.chain(net.parameters(), net.buffers()) if t.is_floating_point()]
    assert {t.dtype for t in floating} == {dtype}
    assert {t.device.type for t in itertools.chain(net.parameters(), net.buffers())} == {device}
    inputs = {"rgb": torch.zeros(2, 3, 16, 16), "depth": torch.zeros(2, 1, 16, 16)}
    prediction = net({name: image.to(device=device, dtype=dtype) for name, image in inputs.items()})
    assert prediction.ensemble.dtype == dtype
    assert prediction.ensemble.shape == (2, 4, 16, 16)


@pytest.mark.parametrize("training", [False, True])
def test_training_flags_are_kept_layer_by_layer(training):
    """If this breaks, a network fused in eval mode predicts from the statistics of the test batch."""
    plain = plain_segmenter(0).train(training)
    plain.layer1.train(not training)
    net = fuse(plain, NAMES[:2])
    assert net.training == net.stem.training == net.ensemble.training == training
    flags = {name: module.training for name, module in plain.named_modules()}
    for name, module in net.network.named_modules():
        if name not in flags:  # a part of a private norm: as the norm was
            flags[name] = flags[name.rpartition(".")[0]]
        assert module.training == flags[name], name


def test_frozen_parameters_stay_frozen():
    """If this breaks, layers that a user froze are trained after fusing."""
    plain = plain_segmenter(0)
    for i, parameter in enumerate(plain.parameters()):
        parameter.requires_grad_(i % 3 > 0)
    parameters = dict(fuse(plain, NAMES[:2]).network.named_parameters())
    assert {n: p.requires_grad for n, p in parameters.items()} == {
        n: p.requires_grad for n, p in plain.named_parameters()
    }
    first = fuse(plain, {"x": 1}, None, stems="private")
    assert [p.requires_grad for n, p in first.network.named_parameters() if n.startswith("conv1")] == [False]


def test_the_original_is_left_alone():
    """If this breaks, the network that was passed in changes under the user's hands."""
    plain = plain_segmenter(0)
    before = copy.deepcopy(plain)
    net = fuse(plain, {"rgb": 3, "depth": 1}, stems="private")
    assert_same_state(plain, before)
    memory = {t.data_ptr() for t in itertools.chain(plain.parameters(), plain.buffers())}
    assert not memory & {t.data_ptr() for t in itertools.chain(net.parameters(), net.buffers())}
    net(images(["rgb"], 2, 3, 16, 16) | images(["depth"], 2, 1, 16, 16)).ensemble.sum().backward()
    assert_same_state(plain, before)
    assert all(p.grad is None for p in plain.parameters())


def test_inplace_keeps_the_network_itself():
    """If this breaks, inplace=True copies a large network after all, or gives other results than the copy."""
    plain = plain_segmenter(0).eval()
    copied = fuse(plain, NAMES[:2])
    conv = plain.layer1[0].conv1
    net = fuse(plain, NAMES[:2], inplace=True)
    assert net.network is plain
    assert net.network.layer1[0].conv1 is conv
    assert_same_state(net, copied)
    inputs = images(NAMES[:2], 2, 3, 16, 16)
    assert_equal(run(net, inputs), run(copied, inputs), 0.0)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"]
)
def test_copies_work_and_are_independent(duplicate):
    """If this breaks, averaging weights, spawning workers or keeping a best copy corrupts the network in training."""
    net = fused(3, Exchange(0.6))
    inputs = images(net.modalities, 2, 3, 9, 9)
    before = run(net, inputs)
    other = duplicate(net)
    assert_equal(run(other, inputs), before, 0.0)
    with other.fusion_disabled():
        assert_equal(run(net, inputs), before, 0.0, "exchange switched off in the copy only")
        with pytest.raises(AssertionError):
            assert_equal(run(other, inputs), before, 1e-3)
    one = {"depth": inputs["depth"]}
    assert_equal(run(other, one, subset=True), run(net, one, subset=True), 0.0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert_equal(run(net, inputs), before, 0.0)


def test_state_dict_round_trip_and_its_keys():
    """If this breaks, checkpoints of the same network do not fit, or a plain network's weights are not found again."""
    plain = plain_segmenter(0)
    net = randomize_norms(fuse(plain, NAMES[:3]))
    assert set(net.state_dict()) == {f"network.{key}" for key in plain.state_dict()} | {"ensemble.alpha"}
    other = fuse(plain_segmenter(1), NAMES[:3])
    other.load_state_dict(net.state_dict())
    assert_same_state(other, net)


def test_norms_without_scales_or_statistics_work():
    """If this breaks, networks with affine=False or track_running_stats=False norms cannot be fused."""
    for affine, track in itertools.product((False, True), repeat=2):
        norm = nn.BatchNorm2d(4, affine=affine, track_running_stats=track, momentum=None)
        plain = nn.Sequential(nn.Conv2d(3, 4, 1), norm, nn.ReLU(), nn.Conv2d(4, 2, 1)).double()
        inputs = images(NAMES[:2], 3, 3, 6, 6)
        alone = {name: copy.deepcopy(plain) for name in inputs}
        net = fuse(plain, NAMES[:2], fusion=None)
        for training in (True, True, False):
            outputs = {name: network.train(training)(inputs[name]) for name, network in alone.items()}
            assert_equal(net.train(training)(inputs).per_modality, outputs, TOLERANCE, f"{affine} {track} {training}")


def test_a_norm_used_twice_stays_one_norm():
    """If this breaks, networks that use one block in two places get twice the parameters and diverge."""
    norm = nn.BatchNorm2d(4)
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), norm, nn.ReLU(), nn.Conv2d(4, 4, 1), norm, nn.Conv2d(4, 2, 1)).double()
    net = fuse(plain, NAMES[:2], fusion=None)
    assert net.network[1] is net.network[4]
    randomize_norms(net.eval())
    inputs = images(NAMES[:2], 2, 3, 6, 6)
    for m, (name, image) in enumerate(inputs.items()):
        own = copy.deepcopy(plain).eval()
        own.load_state_dict({k: v[m] if v.dim() == 2 else v for k, v in net.network.state_dict().items()})
        assert_equal(net(inputs).per_modality[name], own(image), TOLERANCE, name)


def test_a_norm_leaves_its_statistics_alone_when_it_was_told_to():
    """If this breaks, a network whose tracking was switched off later is normalised by other statistics once fused."""
    plain = randomize_norms(small()).double()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
    inputs = images(NAMES[:2], 3, 3, 9, 9)
    alone = {name: copy.deepcopy(plain) for name in inputs}
    net = fuse(plain, NAMES[:2], fusion=None)
    for training in (True, False):
        outputs = {name: network.train(training)(inputs[name]) for name, network in alone.items()}
        assert_equal(net.train(training)(inputs).per_modality, outputs, TOLERANCE, str(training))


def test_a_cumulative_average_over_some_modalities_is_refused():
    """If this breaks, the running mean of a modality that was absent becomes a fraction of what it should be."""
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=None)).double()
    net = fuse(plain, NAMES[:2], None).train()
    net(images(NAMES[:2], 2, 3, 5, 5))
    with pytest.raises(FusionError, match=r"'1'.*momentum=None.*momentum, such as 0\.1"):
        net(images(["rgb"], 2, 3, 5, 5), subset=True)
    net.eval()(images(["rgb"], 2, 3, 5, 5), subset=True)


def test_overlapping_subsets_leave_no_modality_behind():
    """If this breaks, two threads of a server that overlap once make the network drop a modality for good."""
    net = fused(3, Exchange(0.6))
    first, second = net.roster.only([0]), net.roster.only([1])
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert net.roster.complete


@pytest.mark.parametrize("kind", ["list", "nested", "parametrized", "copy", "hook"])
def test_what_would_be_lost_with_a_norm_is_refused(kind):
    """If this breaks, statistics are mixed, or a network fails inside PyTorch."""
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    if kind == "list":
        plain.norms, message = [plain[1]], "'1'.*plain list"
    elif kind == "nested":
        plain.steps, message = {"first": [(plain[0], plain[1])]}, "'1'.*plain list"
    elif kind == "hook":
        plain[1].register_full_backward_hook(lambda *_: None)
        message = "'1'.*carries hooks"
    elif kind == "parametrized":
        nn.utils.parametrize.register_parametrization(plain[1], "weight", nn.Identity())
        message = "'1'.*parametrizations"
    else:
        plain.last, message = (plain[0].weight * 2), "cannot be copied.*inplace=True"
    with pytest.raises(FusionError, match=message):
        fuse(plain, NAMES[:2], None)(images(NAMES[:2], 2, 3, 9, 9, dtype=torch.float32))


@pytest.mark.parametrize(
    ("listed", "settings"),
    [
        ("encoder.conv1", {"stems": "private"}),
        ("decoder.classifier", {"convolutions": "private"}),
        ("decoder.conv", {"convolutions": {"rank": 1}}),
        ("encoder", {"fusion": Aggregation("average"), "sites": "late"}),
    ],
)
def test_what_would_not_be_found_in_a_plain_list_is_refused(listed, settings):
    """If this breaks, what was to be each modality's own is shared, or the modalities do not meet, without a word."""
    plain = TwoScales()
    plain.steps = [plain.get_submodule(listed)]
    before = list(plain.state_dict())
    with pytest.raises(FusionError, match=f"'{listed}' .* plain list"):
        fuse(plain, NAMES[:2], settings.pop("fusion", None), inplace=True, **settings)
    assert list(plain.state_dict()) == before


def test_a_fusion_of_ones_own_that_refuses_leaves_the_network_as_it_was():
    """If this breaks, a network that is changed in place is of no use after an error, and cannot be fused again."""

    @dataclass(frozen=True)
    class Refuses(NormFusion):
        def install(self, network, sites, roster):
            raise ValueError("three modalities, please")

    plain = plain_segmenter(0)
    before = list(plain.state_dict())
    with pytest.raises(ValueError, match="three modalities"):
        fuse(plain, NAMES[:2], Refuses(), inplace=True)
    assert list(plain.state_dict()) == before
    assert not plain._forward_pre_hooks


def test_replicas_that_would_run_at_the_same_time_are_refused():
    """If this breaks, the replicas of DataParallel take one batch's modalities for those of another, without a word."""
    net = fuse(plain_segmenter(0), NAMES[:2])
    with pytest.raises(FusionError, match=r"Use torch\.nn\.parallel\.DistributedDataParallel"):
        net._replicate_for_data_parallel()  # what it does with every module, where there are several GPUs


def test_modalities_that_are_named_in_the_place_of_images_are_refused():
    """If this breaks, `subset=["rgb"]` predicts from all modalities, and a score of one is that of all of them."""
    net = fuse(plain_segmenter(0), NAMES[:2]).eval()
    inputs = images(NAMES[:2], 1, 3, 9, 9)
    with pytest.raises(DataError, match=r"subset: expected True or False, got \['rgb'\]. .*give their images alone"):
        net(inputs, subset=["rgb"])
    with pytest.raises(DataError, match=r"present: expected a dict of boolean tensors by modality, .*got a list"):
        net(inputs, present=["rgb"])


def test_a_part_of_the_network_alone_is_told_how_many_images_it_is_given():
    """If this breaks, features that are read of an encoder, after a pass with fewer images, are normalised as another
    modality's."""
    net = randomize_norms(fuse(TwoScales(), NAMES[:2], None)).eval()
    four, two = (images(NAMES[:2], size, 3, 8, 8, dtype=torch.float32) for size in (4, 2))
    before = net.network.encoder(net.stem(four))
    net(two)
    assert_equal(net.network.encoder(net.stem(four)), before, 0.0)


def test_no_modality_is_called_what_the_prediction_of_all_is():
    """If this breaks, the prediction of such a modality is lost where predictions go by name, and its score wrong."""
    net = fuse(plain_segmenter(0), ["rgb", "ensemble"]).eval()
    with pytest.raises(FusionError, match="'ensemble' is called as the prediction of all is"):
        net(images(["rgb", "ensemble"], 2, 3, 16, 16)).named()


def test_fusing_twice_is_refused():
    """If this breaks, fusing a fused network nests modalities and fails later with a riddle."""
    net = fuse(plain_segmenter(0), NAMES[:2])
    for model in (net, net.network):
        with pytest.raises(FusionError, match="already"):
            fuse(model, NAMES[:2])


class Wrapped(nn.Module):
    """As what torch.compile makes: it hands on whatever it is asked for."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *given, **named):
        return self.module(*given, **named)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.module, name)


@pytest.mark.parametrize(
    "call",
    [
        lambda net, path: cost(net, (32, 32)),
        lambda net, path: take_over(fuse(plain_segmenter(0), ["rgb", "depth"]), net),
        lambda net, path: take_over(net, fuse(plain_segmenter(0), ["rgb", "depth"])),
        lambda net, path: absorb(net),
        lambda net, path: save(net, path),
    ],
)
def test_what_takes_a_fused_network_refuses_a_plain_one_by_name(call, tmp_path):
    """If this breaks, who forgets `fuse` reads of an attribute of some class."""
    with pytest.raises(ConfigError, match=r"expected what `fuse` returned, got a DataParallel.*net\.module"):
        call(nn.DataParallel(fuse(plain_segmenter(0), ["rgb", "depth"])), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_a_wrapper_that_hands_on_its_attributes_is_as_good_as_the_network():
    """If this breaks, a compiled network cannot be counted, or start from another one."""
    net = fuse(plain_segmenter(0), ["rgb", "depth"])
    assert cost(Wrapped(net), (32, 32)) == cost(net, (32, 32))
    assert take_over(Wrapped(net), Wrapped(net)).taken
    assert str(inspect(Wrapped(net))) == str(inspect(net))


class Windowed(nn.Module):
    """A linear layer between two convolutions, on the windows of the image, or on places before samples."""

    def __init__(self, *, windows: bool) -> None:
        super().__init__()
        self.windows = windows
        self.first, self.norm, self.mix = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 4)
        self.window, self.last = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(x))
        b, c, h, w = x.shape
        if not self.windows:
            return self.last(self.mix(x.flatten(2).permute(2, 0, 1)).permute(1, 2, 0).view(b, c, h, w))
        y = x.unflatten(2, (2, -1)).unflatten(4, (2, -1)).permute(0, 2, 4, 3, 5, 1).flatten(0, 2)
        y = self.window(self.mix(y).permute(0, 3, 1, 2))
        y = y.unflatten(0, (b, 2, 2)).permute(0, 3, 1, 4, 2, 5)
        return self.last(y.reshape(b, c, h, w))


@pytest.mark.parametrize("convolutions", ["private", {"rank": 2}])
def test_private_layers_on_windows_are_those_of_the_image(convolutions):
    """If this breaks, the windows of one modality go through the layers of another, without a word."""
    net = fuse(Windowed(windows=True).double(), NAMES[:3], None, convolutions=convolutions).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
    inputs = images(NAMES[:3], 2, 3, 4, 8)
    together = net(inputs).per_modality
    for name in NAMES[:3]:
        alone = net({name: inputs[name]}, subset=True).per_modality
        assert_equal(together[name], alone[name], 1e-12)


def test_a_private_layer_that_is_given_places_before_samples_is_refused():
    """If this breaks, half of the places of all modalities go through one modality's layer."""
    with pytest.raises(FusionError, match=r"The layer 'mix' \(Linear\).*samples are not one after the other"):
        fuse(Windowed(windows=False), NAMES[:2], None, convolutions="private")
    fuse(Windowed(windows=False), NAMES[:2], None)


class Places(nn.Module):
    """Attention between places of images of one size; or, by mistake, between the images of the batch."""

    def __init__(self, sides: tuple[int, int], *, mixes: bool, says: bool) -> None:
        super().__init__()
        if says:
            self.img_size = sides
        self.patch = nn.Conv2d(3, 8, 16, 16)
        self.place = nn.Parameter(torch.zeros(1, sides[0] // 16 * (sides[1] // 16), 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=not mixes)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 2)

    def forward(self, x):
        tokens = self.patch(x).flatten(2).mT + self.place
        return self.head(self.norm(tokens + self.attention(tokens, tokens, tokens)[0]))


@pytest.mark.parametrize(
    ("sides", "says"), [((32, 32), False), ((96, 96), False), ((384, 384), False), ((48, 80), True)]
)
def test_a_network_for_images_of_one_size_is_looked_at_with_such_images(sides, says):
    """If this breaks, what mixes the samples of a batch is known of networks for some sizes alone, and else silent."""
    fuse(Places(sides, mixes=False, says=says), NAMES[:2], None)
    with pytest.raises(FusionError, match=r"'norm'.*are mixed with each other"):
        fuse(Places(sides, mixes=True, says=says), NAMES[:2], None)


def test_a_forward_that_is_a_function_is_refused_where_it_would_be_copied():
    """If this breaks, the plain network runs behind the fused one's back: no modality has norms, and none meets."""
    plain = Windowed(windows=True).double().eval()
    forward = plain.forward
    plain.forward = lambda x: forward(x)
    with pytest.raises(FusionError, match=r"forward of '' \(Windowed\).*inplace=True"):
        fuse(plain, NAMES[:2], None)
    net = fuse(plain, NAMES[:2], None, inplace=True)
    inputs = images(NAMES[:2], 2, 3, 4, 4)
    before = net(inputs).ensemble
    with torch.no_grad():
        net.network.norm.bias.add_(1)
    assert (net(inputs).ensemble != before).any()
