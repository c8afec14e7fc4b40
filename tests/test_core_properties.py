"""What holds for every network, number of modalities and threshold; and what `fuse` promises about its input."""

import copy
import itertools
import pickle
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from core_tools import NAMES, assert_equal, assert_same_state, images, plain_of, randomize_norms, tensors_of
from polymodal import DataError, Exchange, FusionError, Multimodal, fuse, inspect
from polymodal import functional as pm
from polymodal.fusion import Alignment
from reference.plain import SITES, plain_segmenter

modalities = st.integers(1, 4)
several = st.integers(2, 4)
seeds = st.integers(0, 2**16)
thresholds = st.floats(0, 2)
withins = st.sampled_from(["part", "all"])
TOLERANCE = 1e-12


def small(channels: int = 3, width: int = 7) -> nn.Module:
    """Two norms, of which the second is the place to exchange: `sites="4"`."""
    layers = [nn.Conv2d(channels, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, width, 3), nn.BatchNorm2d(width)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(width, 2, 1)).double()


def fused(m: int, fusion: Exchange | None, seed: int = 0) -> Multimodal:
    """A small network for m modalities in eval mode, its norms and ensemble weights random."""
    torch.manual_seed(seed)
    net = randomize_norms(fuse(small(), NAMES[:m], fusion, sites="4")).eval()
    with torch.no_grad():
        net.ensemble.alpha.normal_()
    return net


def run(net: nn.Module, inputs: dict[str, Tensor], **arguments: bool) -> list[Tensor]:
    """Predictions of every modality, ensemble and weights."""
    with torch.no_grad():
        prediction = net(inputs, **arguments)
    return tensors_of([prediction.per_modality, prediction.ensemble, prediction.weights])


def with_fusion(net: Multimodal, fusion: Exchange | None) -> Multimodal:
    """The same network, made with another fusion."""
    other = fuse(small(), net.modalities, fusion, sites="4").eval()
    other.load_state_dict(net.state_dict())
    return other


# ---------------------------------------------------------------------------------------------- fold, parts, exchange


@given(batch=st.integers(1, 3), m=modalities, seed=seeds)
def test_unfold_inverts_fold_without_copying(batch, m, seed):
    """If this breaks, samples and modalities are mixed up in the batch axis."""
    torch.manual_seed(seed)
    tensors = [torch.randn(batch, 2, 3, 4) for _ in range(m)]
    folded = pm.fold(tensors)
    unfolded = pm.unfold(folded, m)
    assert all(torch.equal(unfolded[:, i], tensor) for i, tensor in enumerate(tensors))
    assert unfolded.data_ptr() == folded.data_ptr()


@given(m=st.integers(1, 9), channels=st.integers(1, 70))
def test_parts_are_disjoint_complete_contiguous_and_even(m, channels):
    """If this breaks, a channel is penalised in two modalities or in none, and can die everywhere."""
    parts = pm.own_parts(m, channels)
    assert parts.shape == (m, channels)
    assert parts.sum(0).tolist() == [1] * channels
    owner = parts.int().argmax(0)
    assert bool((owner.diff() >= 0).all())
    assert parts.sum(1).max() - parts.sum(1).min() <= 1


@given(m=several, channels=st.integers(1, 12), threshold=thresholds, seed=seeds)
def test_exchange_within_parts_is_idempotent(m, channels, threshold, seed):
    """If this breaks, more than a channel's owner gives it up, and a channel can be lost in all modalities at once."""
    torch.manual_seed(seed)
    x, part = torch.randn(2, m, channels, 3, 3).double(), pm.own_parts(m, channels)
    keep = pm.keep_over_threshold(torch.randn(m, channels), threshold, part)
    once = pm.exchange(x, keep)
    assert torch.equal(pm.exchange(once, keep), once)
    assert bool(((~keep).sum(0) <= 1).all())


@given(channels=st.integers(1, 12), seed=seeds)
def test_two_modalities_with_every_scale_small_swap(channels, seed):
    """If this breaks, "the mean over the others" is not the other one, for the papers' case of two modalities."""
    torch.manual_seed(seed)
    x, scale = torch.randn(2, 2, channels, 3, 3), torch.rand(2, channels)
    keep = pm.keep_over_threshold(scale, 2.0)
    swapped = pm.exchange(x, keep)
    assert torch.equal(swapped, x.flip(1))
    assert torch.equal(pm.exchange(swapped, keep), x)


def test_a_scale_at_the_threshold_is_kept():
    """If this breaks, threshold 0 exchanges dead channels, and "below" is not what the papers mean."""
    scale = torch.tensor([[0.5, -0.5, 0.0, 0.4999], [-0.4999, 0.0, 0.5, -0.5]])
    assert pm.keep_over_threshold(scale, 0.5).tolist() == [[True, True, False, False], [False, False, True, True]]
    assert bool(pm.keep_over_threshold(scale, 0.0).all())


@given(m=several, per_part=st.integers(1, 4), threshold=thresholds, seed=seeds, data=st.data())
def test_permuting_modalities_with_their_parts_permutes_the_exchange(m, per_part, threshold, seed, data):
    """If this breaks, the order of modalities matters beyond which part of the channels each one owns."""
    torch.manual_seed(seed)
    order = data.draw(st.permutations(range(m)))
    channels = m * per_part
    blocks = torch.arange(channels).view(m, per_part)[list(order)].flatten()
    x, scale, part = torch.randn(2, m, channels, 3, 3).double(), torch.randn(m, channels), pm.own_parts(m, channels)
    plain = pm.exchange(x, pm.keep_over_threshold(scale, threshold, part))
    keep = pm.keep_over_threshold(scale[list(order)][:, blocks], threshold, part)
    permuted = pm.exchange(x[:, list(order)][:, :, blocks], keep)
    assert torch.allclose(permuted, plain[:, list(order)][:, :, blocks], rtol=1e-12, atol=0)


@given(m=modalities, channels=st.integers(1, 40), percent=st.integers(0, 100), within=withins, seed=seeds)
def test_share_gives_up_the_smallest_scales_and_as_many_as_asked(m, channels, percent, within, seed):
    """If this breaks, a target share exchanges too many channels, or useful ones before useless ones."""
    torch.manual_seed(seed)
    scale, part = torch.randn(m, channels), pm.own_parts(m, channels)
    allowed = part if within == "part" else torch.ones_like(part)
    keep = pm.keep_over_share(scale, percent / 100, part if within == "part" else None)
    for i in range(m):
        assert int((~keep[i]).sum()) == percent * int(allowed[i].sum()) // 100
        given_up, kept = scale[i][~keep[i]].abs(), scale[i][keep[i] & allowed[i]].abs()
        assert not len(given_up) or not len(kept) or given_up.max() <= kept.min()
        assert bool(keep[i][~allowed[i]].all())


# ------------------------------------------------------------------------------------------------------ whole networks


@given(threshold=thresholds, within=withins, share=st.none() | st.floats(0, 1), seed=seeds)
def test_one_modality_is_the_plain_network(threshold, within, share, seed):
    """If this breaks, M = 1, the baseline of every comparison, is not the user's own network."""
    net = fused(1, Exchange(threshold, within=within, share=share), seed)
    inputs = images(["rgb"], 2, 3, 9, 9)
    output = plain_of(net, small(), 0).eval()(inputs["rgb"])
    assert_equal(run(net, inputs)[:2], [output, output], TOLERANCE)


@given(m=modalities, within=withins, penalty=st.sampled_from([0.0, 0.1]), seed=seeds)
def test_threshold_zero_and_share_zero_are_no_exchange(m, within, penalty, seed):
    """If this breaks, the control "the same sharing, no exchange" exchanges something."""
    net = fused(m, None, seed)
    inputs = images(net.modalities, 2, 3, 9, 9)
    for settings in (Exchange(0.0, penalty, within), Exchange(0.5, penalty, within, share=0.0)):
        other = with_fusion(net, settings)
        assert_equal(run(other, inputs), run(net, inputs), 0.0)
        assert set(itertools.chain.from_iterable(s.values() for s in other.exchanged().values())) == {0.0}


@given(m=several, threshold=thresholds, seed=seeds, data=st.data())
def test_permuting_modalities_permutes_outputs_and_weights(m, threshold, seed, data):
    """If this breaks, results depend on the order in which modalities are named (within="all", which has no parts)."""
    order = list(data.draw(st.permutations(range(m))))
    net = fused(m, Exchange(threshold, within="all"), seed)
    permuted = fuse(small(), [NAMES[i] for i in order], net.fusion, sites="4").eval()
    state = net.state_dict()
    private = [key for key, value in state.items() if value.dim() and value.shape[0] == m and _is_private(net, key)]
    permuted.load_state_dict({key: value[order] if key in private else value for key, value in state.items()})
    inputs = images(net.modalities, 2, 3, 9, 9)
    with torch.no_grad():
        ours, theirs = permuted(inputs), net(inputs)
    for name in net.modalities:
        assert_equal(ours.per_modality[name], theirs.per_modality[name], TOLERANCE, name)
    assert list(ours.per_modality) == list(permuted.modalities)
    assert_equal([ours.ensemble, ours.weights], [theirs.ensemble, theirs.weights[order]], TOLERANCE)


def _is_private(net: Multimodal, key: str) -> bool:
    return key == "ensemble.alpha" or type(net.get_submodule(key.rpartition(".")[0])).__name__ == "PrivateBatchNorm2d"


@given(m=modalities, within=withins, seed=seeds, data=st.data())
def test_samples_do_not_mix(m, within, seed, data):
    """If this breaks, a prediction depends on which other images happen to be in the batch."""
    order = list(data.draw(st.permutations(range(3))))
    net = fused(m, Exchange(0.6, within=within), seed)
    inputs = images(net.modalities, 3, 3, 9, 9)
    whole = run(net, inputs)[:-1]
    shuffled = run(net, {name: image[order] for name, image in inputs.items()})[:-1]
    assert_equal(shuffled, [output[order] for output in whole], TOLERANCE)
    alone = run(net, {name: image[1:2] for name, image in inputs.items()})[:-1]
    assert_equal(alone, [output[1:2] for output in whole], TOLERANCE)


@given(m=several, threshold=thresholds, seed=seeds, data=st.data())
def test_subset_is_the_network_restricted_to_it(m, threshold, seed, data):
    """If this breaks, a network run without a sensor is not the network of the sensors that are there."""
    members = sorted(data.draw(st.sets(st.integers(0, m - 1), min_size=1)))
    net = fused(m, Exchange(threshold, within="all"), seed)
    restricted = fuse(small(), [NAMES[i] for i in members], net.fusion, sites="4").eval()
    state = net.state_dict()
    private = {key for key, value in state.items() if value.dim() and _is_private(net, key)}
    restricted.load_state_dict({key: value[members] if key in private else value for key, value in state.items()})
    inputs = images(restricted.modalities, 2, 3, 9, 9)
    assert_equal(run(net, inputs, subset=True), run(restricted, inputs), TOLERANCE)


def test_all_modalities_with_subset_allowed_changes_nothing():
    """If this breaks, code that always passes subset=True gets other results when nothing is missing."""
    net = fused(3, Exchange(0.6))
    inputs = images(net.modalities, 2, 3, 9, 9)
    assert_equal(run(net, inputs, subset=True), run(net, inputs), 0.0)


def test_subset_mode_ends_with_the_call_even_by_an_error():
    """If this breaks, one failed call leaves the network believing that a modality is absent."""
    net = fused(3, Exchange(0.6))
    inputs = images(net.modalities, 2, 3, 9, 9)
    before = run(net, inputs)
    handle = net.network[3].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        net({"depth": inputs["depth"]}, subset=True)
    handle.remove()
    assert_equal(run(net, inputs), before, 0.0)


def test_input_order_does_not_matter():
    """If this breaks, a data loader that yields depth before rgb silently swaps the two."""
    net = fused(2, Exchange(0.6))
    inputs = images(net.modalities, 2, 3, 9, 9)
    assert_equal(run(net, dict(reversed(inputs.items()))), run(net, inputs), 0.0)


def test_memory_layout_of_the_input_does_not_matter():
    """If this breaks, channels-last or sliced images give wrong results in silence."""
    net = fused(2, Exchange(0.6))
    inputs = images(net.modalities, 2, 3, 10, 12)
    layouts = {name: image.to(memory_format=torch.channels_last) for name, image in inputs.items()}
    assert_equal(run(net.to(memory_format=torch.channels_last), layouts), run(net, inputs), TOLERANCE)
    wide = {name: image.repeat_interleave(2, -1) for name, image in inputs.items()}
    assert_equal(run(net, {name: image[..., ::2] for name, image in wide.items()}), run(net, inputs), TOLERANCE)


def test_fusion_disabled_is_threshold_zero_and_restores_after_an_error():
    """If this breaks, comparing with and without exchange compares wrongly, or leaves the exchange off for good."""
    net = fused(3, Exchange(0.6))
    inputs = images(net.modalities, 2, 3, 9, 9)
    on, off = run(net, inputs), run(with_fusion(net, Exchange(0.0)), inputs)
    with pytest.raises(AssertionError):
        assert_equal(on, off, 1e-3)
    with net.fusion_disabled():
        assert_equal(run(net, inputs), off, 0.0)
        with net.fusion_disabled():
            pass
        assert_equal(run(net, inputs), off, 0.0, "after a nested context")
    assert_equal(run(net, inputs), on, 0.0)
    with pytest.raises(ZeroDivisionError), net.fusion_disabled():
        raise ZeroDivisionError
    assert_equal(run(net, inputs), on, 0.0)


def test_shared_norms_are_the_plain_network_for_every_modality():
    """If this breaks, the option of shared norms gives a modality norms of its own."""
    plain = randomize_norms(small()).eval()
    net = fuse(plain, NAMES[:3], fusion=None, norms="shared")
    inputs = images(net.modalities, 2, 3, 9, 9)
    for name, image in inputs.items():
        assert_equal(net(inputs).per_modality[name], plain(image), TOLERANCE, name)
    assert sum(p.numel() for p in net.network.parameters()) == sum(p.numel() for p in plain.parameters())
    joined = plain.train()(torch.stack(list(inputs.values()), 1).flatten(0, 1)).unflatten(0, (-1, 3))
    predictions = net.train()(inputs).per_modality
    assert_equal(torch.stack(list(predictions.values()), 1), joined, TOLERANCE, "training")


def test_mixed_precision_runs():
    """If this breaks, automatic mixed precision, the default on GPUs, stops with a dtype error."""
    net = fused(2, Exchange(0.6)).float().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = net(images(net.modalities, 2, 3, 9, 9, dtype=torch.float32))
        loss = sum(p.float().square().mean() for p in [*prediction.per_modality.values(), prediction.ensemble])
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())


# --------------------------------------------------------------------------------------- what fuse does to its argument


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


@pytest.mark.parametrize("kind", ["list", "parametrized", "vector", "copy"])
def test_what_would_be_lost_with_a_norm_is_refused(kind):
    """If this breaks, statistics are mixed, or a network fails inside PyTorch."""
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    settings = {}
    if kind == "list":
        plain.norms, message = [plain[1]], "'1'.*plain list"
    elif kind == "parametrized":
        nn.utils.parametrize.register_parametrization(plain[1], "weight", nn.Identity())
        message = "'1'.*parametrizations"
    elif kind == "copy":
        plain.last, message = (plain[0].weight * 2), "cannot be copied.*inplace=True"
    else:
        plain.append(nn.SyncBatchNorm(4))  # as convert_sync_batchnorm makes it of a BatchNorm1d
        message = r"'4'.*shape \(4, 4\)"
    with pytest.raises(FusionError, match=message):
        fuse(plain, NAMES[:2], None, **settings)(images(NAMES[:2], 2, 3, 9, 9, dtype=torch.float32))


def test_fusing_twice_is_refused():
    """If this breaks, fusing a fused network nests modalities and fails later with a riddle."""
    net = fuse(plain_segmenter(0), NAMES[:2])
    for model in (net, net.network):
        with pytest.raises(FusionError, match="already"):
            fuse(model, NAMES[:2])


# ------------------------------------------------------------------------------------------------------------ compilers


@pytest.fixture(scope="module")
def unet() -> Multimodal:
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    net = fuse(smp.Unet("resnet18", encoder_weights=None, classes=3).eval(), NAMES[:2], Exchange(0.6))
    return randomize_norms(net)


def test_compiles_into_one_graph(unet):
    """If this breaks, torch.compile falls back to eager pieces, or fails."""
    inputs = images(unet.modalities, 2, 3, 64, 64, dtype=torch.float32)
    compiled = torch.compile(unet, fullgraph=True, backend="eager")
    assert_equal(run(compiled, inputs), run(unet, inputs), 1e-6)


def test_exports_with_any_batch_size(unet):
    """If this breaks, a trained network cannot leave Python."""

    class Deployed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = unet

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return self.net(inputs).ensemble

    batch = torch.export.Dim("batch", min=1, max=16)
    exported = torch.export.export(
        Deployed().eval(),
        (images(unet.modalities, 2, 3, 64, 64, dtype=torch.float32),),
        dynamic_shapes=({name: {0: batch} for name in unet.modalities},),
    )
    inputs = images(unet.modalities, 3, 3, 64, 64, dtype=torch.float32)
    with torch.no_grad():
        assert_equal(exported.module()(inputs), unet(inputs).ensemble, 1e-5)


# ---------------------------------------------------------------------------------------------------------------- stems


def test_repeat_is_tiling_by_hand():
    """If this breaks, one-channel depth enters the network in another way than in the papers."""
    plain = plain_segmenter(0).eval()
    by_hand = fuse(plain, ["rgb", "depth"])
    net = fuse(plain, {"rgb": 3, "depth": 1})
    assert_same_state(net, by_hand)
    rgb, depth = torch.randn(2, 3, 16, 16).double(), torch.randn(2, 1, 16, 16).double()
    tiled = run(by_hand, {"rgb": rgb, "depth": depth.repeat(1, 3, 1, 1)})
    assert_equal(run(net, {"rgb": rgb, "depth": depth}), tiled, 0.0)


def test_private_stem_of_one_channel_starts_as_the_tiled_image():
    """If this breaks, a private stem starts from noise instead of from the pretrained filters."""
    plain = plain_segmenter(0).eval()
    private = fuse(plain, {"rgb": 3, "depth": 1}, stems={"depth": "private"})
    repeat = fuse(plain, {"rgb": 3, "depth": 1})
    inputs = images(["rgb"], 2, 3, 16, 16) | images(["depth"], 2, 1, 16, 16)
    assert_equal(run(private, inputs), run(repeat, inputs), TOLERANCE)


@given(channels=st.integers(1, 25))
def test_private_stems_take_any_number_of_bands(channels):
    """If this breaks, multispectral images do not fit, or pretrained filters are scaled out of range by the bands."""
    plain = plain_segmenter(0).eval()
    net = fuse(plain, {"rgb": 3, "bands": channels, "depth": 1}, stems={"bands": "private", "depth": "private"})
    grey = torch.randn(2, 1, 16, 16).double()
    inputs = {"rgb": grey.expand(-1, 3, -1, -1), "bands": grey.expand(-1, channels, -1, -1), "depth": grey}
    with torch.no_grad():
        prediction = net(inputs)
    # Equal bands carry what a grey image carries, so a new stem must give what the old one gives for it.
    for name in inputs:
        assert_equal(prediction.per_modality[name], prediction.per_modality["rgb"], TOLERANCE, name)
    with pytest.raises(DataError, match=rf"'bands'.*{channels}.*{channels + 1}"):
        net(inputs | {"bands": torch.zeros(2, channels + 1, 16, 16).double()})


def test_private_stem_of_the_same_channels_starts_as_the_shared_one_and_trains_alone():
    """If this breaks, stems that should be private share their gradients, or shared ones do not."""
    plain = plain_segmenter(0)
    net = fuse(plain, {"rgb": 3, "normal": 3, "depth": 1}, None, stems={"normal": "private"}).eval()
    inputs = images(["rgb", "normal"], 2, 3, 16, 16) | images(["depth"], 2, 1, 16, 16)
    shared = fuse(plain, {"rgb": 3, "normal": 3, "depth": 1}, None).eval()
    assert_equal(run(net, inputs), run(shared, inputs), 0.0)
    net(inputs).per_modality["normal"].square().sum().backward()
    gradients = {n: p.grad for n, p in net.network.named_parameters() if n.startswith("conv1.")}
    assert len(gradients) == 2
    touched = {n for n, g in gradients.items() if g is not None and bool(g.abs().sum() > 0)}
    assert len(touched) == 1
    assert "normal" in touched.pop()


@pytest.mark.parametrize("present", [["rgb"], ["bands"], ["depth", "bands"], ["rgb", "bands"]])
def test_private_stems_in_subsets(present):
    """If this breaks, an absent modality shifts the others to the wrong stem."""
    channels = {"rgb": 3, "depth": 1, "bands": 20}
    net = fuse(plain_segmenter(0), channels, None, stems={"bands": "private"}).eval()
    inputs = {name: torch.randn(2, count, 16, 16).double() for name, count in channels.items()}
    with torch.no_grad():
        whole, part = net(inputs), net({name: inputs[name] for name in present}, subset=True)
    assert set(part.per_modality) == set(present)
    for name in present:
        assert_equal(part.per_modality[name], whole.per_modality[name], TOLERANCE, name)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_beside_a_private_stem_an_image_of_other_channels_is_refused(count):
    """Else missing channels become zeros and further ones are dropped, and nobody is told."""
    net = fuse(plain_segmenter(0), {"rgb": None, "bands": 5}, stems={"bands": "private"})
    bands = torch.zeros(2, 5, 16, 16).double()
    net({"rgb": torch.zeros(2, 3, 16, 16).double(), "bands": bands})
    with pytest.raises(DataError, match=r"'rgb': expected an image \(batch, 3, height, width\)"):
        net({"rgb": torch.zeros(2, count, 16, 16).double(), "bands": bands})


def test_one_modality_reports_no_exchange():
    """Else its run says that all channels were exchanged, with nobody."""
    net = fuse(plain_segmenter(0), {"rgb": 3}, Exchange(2.0, penalty=1e-3))
    assert all(share == 0 for site in net.exchanged().values() for share in site.values())
    assert all(state.keep.all() for state in net.exchange_state().values())


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "at least one"),
        ({}, "at least one"),
        (["rgb", "rgb"], "'rgb' is named twice"),
        (["rgb", "depth.raw"], r"'depth\.raw'"),
        (["rgb", ""], "''"),
        (["rgb", 3], "3"),
        ("rgb", r"\['rgb'\]|\[\"rgb\"\]"),
        ({"rgb"}, "expected a list"),  # a set has another order in every process
        (2, "expected a list"),
        ({"rgb": 3, "depth": 0}, "'depth'.*0"),
        ({"rgb": 3, "depth": True}, "'depth'.*True"),
        ({"rgb": 3, "bands": 4}, "'bands' has 4 channels.*private"),
    ],
)
def test_bad_modalities_are_refused_by_name(names, message):
    """If this breaks, a mistake in the list of modalities shows as a shape error somewhere deep in the network."""
    with pytest.raises(FusionError, match=message):
        fuse(small(), names, sites="4")


@pytest.mark.parametrize("name", ["type", "keys", "pop", "forward", "training", "depth map", "深度"])
def test_any_name_without_a_dot_works(name):
    """If this breaks, a modality whose name a container happens to use as a method cannot have a stem of its own."""
    net = fuse(small(), {"rgb": 3, name: 1}, None, stems="private").eval()
    inputs = images(["rgb"], 1, 3, 9, 9) | images([name], 1, 1, 9, 9)
    assert list(net(inputs).per_modality) == ["rgb", name]
    copy.deepcopy(net).load_state_dict(net.state_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sites": "encoder.*"}, r"'encoder\.\*' matches no.*1, 4"),
        ({"sites": ["4", "nothing"]}, "'nothing' matches no.*1, 4"),
        ({"sites": []}, "1, 4"),
        ({"sites": "3"}, "'3' matches no.*1, 4"),  # a convolution
        ({"sites": lambda name, module: False}, "1, 4"),
        ({}, "auto.*1, 4"),  # a plain chain of layers has no residual block
        ({"fusion": "blending"}, "'blending'.*exchange"),
        ({"sites": None}, "sites: expected.*None"),
        ({"sites": "4", "stems": None}, "stems: expected.*None"),
        ({"sites": "4", "statistics": None}, "statistics: expected.*None"),
        ({"sites": "4", "stems": "tile"}, "'tile'"),
        ({"sites": "4", "stems": {"lidar": "private"}}, "'lidar'.*rgb, depth"),
        ({"sites": "4", "norms": "group"}, "'group'"),
        ({"sites": "4", "norms": "shared"}, "shared"),
        ({"sites": "4", "statistics": "running"}, "'running'"),
        ({"sites": "4", "statistics": ["encoder.*"]}, r"'encoder\.\*'"),
    ],
)
def test_bad_settings_are_refused_with_what_was_expected(settings, message):
    """If this breaks, a misspelt setting is ignored in silence and a whole training compares nothing."""
    model = small()
    before = copy.deepcopy(model)
    with pytest.raises(FusionError, match=message):
        fuse(model, NAMES[:2], **({"fusion": "exchange"} | settings), inplace=True)
    assert_same_state(model, before)


@pytest.mark.parametrize(
    "settings",
    [
        {"threshold": -0.1},
        {"threshold": float("nan")},
        {"penalty": -1.0},
        {"penalty": float("nan")},
        {"within": "half"},
        {"share": 1.5},
        {"share": -0.1},
        {"share": float("nan")},
    ],
)
def test_exchange_refuses_values_out_of_range(settings):
    """If this breaks, a nonsensical threshold or share trains without a word."""
    with pytest.raises(FusionError, match=next(iter(settings))):
        Exchange(**settings)


def test_sites_by_pattern_list_and_predicate_are_the_same():
    """If this breaks, one of the three ways to say where to exchange chooses other layers."""
    for sites in ("layer*.bn2", ["layer1.*.bn2", "layer2.*.bn2"], lambda n, m: n.endswith("bn2")):
        net = fuse(plain_segmenter(0), NAMES[:2], sites=sites)
        assert net.sites == SITES
        assert tuple(net.scales()) == tuple(net.exchanged()) == tuple(net.exchange_state()) == SITES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lidar": (2, 3, 9, 9)}, "'lidar'.*rgb, depth"),
        ({"depth": None}, "depth.*subset"),
        ({"depth": (2, 3, 9, 8)}, r"(?=.*'rgb')(?=.*'depth').*\(2, 3, 9, 9\).*\(2, 3, 9, 8\)"),
        ({"depth": (1, 3, 9, 9)}, r"(?=.*'rgb')(?=.*'depth').*\(2, 3, 9, 9\).*\(1, 3, 9, 9\)"),
        ({"depth": (2, 4, 9, 9)}, r"'depth'.*3.*\(2, 4, 9, 9\)"),
        ({"depth": (3, 9, 9)}, r"'depth'.*\(3, 9, 9\)"),
    ],
)
def test_bad_inputs_name_the_modality_and_both_shapes(change, message):
    """If this breaks, a user sees a convolution's shape error instead of which modality is wrong."""
    net = fused(2, Exchange(0.6))
    shapes = {"rgb": (2, 3, 9, 9), "depth": (2, 3, 9, 9)} | change
    inputs = {name: torch.zeros(shape).double() for name, shape in shapes.items() if shape is not None}
    with pytest.raises(DataError, match=message):
        net(inputs)


def test_a_tensor_instead_of_a_dict_is_refused():
    """If this breaks, all of its values are printed as the name of a modality."""
    with pytest.raises(DataError, match=r"Expected a dict of images by modality \(rgb, depth\), got a Tensor"):
        fused(2, Exchange(0.6))(torch.zeros(2, 3, 9, 9))


def test_a_scalar_output_is_refused():
    """If this breaks, a network that returns its loss fails deep inside PyTorch."""

    class WithLoss(nn.Sequential):
        def forward(self, x):
            y = super().forward(x)
            return y, y.mean()

    net = fuse(WithLoss(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), NAMES[:2], None)
    with pytest.raises(FusionError, match="returned a scalar, such as a loss"):
        net(images(NAMES[:2], 2, 3, 5, 5, dtype=torch.float32))


def test_subset_of_nothing_or_of_the_unknown_is_refused():
    """If this breaks, a typo in a modality's name counts as its absence."""
    net = fused(2, Exchange(0.6))
    with pytest.raises(DataError, match="rgb, depth"):
        net({}, subset=True)
    with pytest.raises(DataError, match="'dpeth'"):
        net(images(["rgb", "dpeth"], 1, 3, 9, 9), subset=True)


def test_batch_of_one_value_per_channel_is_refused_with_the_remedy():
    """If this breaks, batch size 1 on a pooled feature trains on a variance of zero, or ends in a riddle."""
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).double()
    inputs = images(NAMES[:2], 1, 3, 6, 6)
    with pytest.raises(FusionError, match=re.compile("'2'.*frozen", re.DOTALL)):
        fuse(plain, NAMES[:2], fusion=None).train()(inputs)
    fuse(plain, NAMES[:2], fusion=None, statistics="frozen").train()(inputs)
    fuse(plain, NAMES[:2], fusion=None).eval()(inputs)


def test_frozen_statistics_by_pattern():
    """If this breaks, "freeze the encoder's statistics" freezes other norms or none."""
    net = fuse(plain_segmenter(0), NAMES[:2], statistics=["layer1.*"]).train()
    before = copy.deepcopy(net.state_dict())
    net(images(net.modalities, 2, 3, 16, 16))
    for key, value in net.state_dict().items():
        if "running" in key:
            assert torch.equal(value, before[key]) == ("layer1" in key), key


def test_inspect_tells_what_would_be_and_what_is():
    """If this breaks, a user cannot see where channels are exchanged before and after."""
    plain = plain_segmenter(0)
    before = str(inspect(plain))
    net = randomize_norms(fuse(plain, NAMES[:2], Exchange(0.6)))
    after = str(inspect(net))
    for site in SITES:
        assert site in before
        assert site in after
    assert all(name in after for name in net.modalities)
    assert inspect(fuse(plain, NAMES[:2], Alignment())).norms == inspect(plain).norms
    refused = str(inspect(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm3d(4))))
    assert "BatchNorm3d" in refused
    assert "is multimodal already" in str(inspect(net.network))
