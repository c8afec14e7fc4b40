"""What holds for every network, number of modalities and threshold."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from core_tools import NAMES, assert_equal, fused, images, plain_of, randomize_norms, run, small, with_fusion
from polymodal import Exchange, Multimodal, fuse
from polymodal import functional as pm

modalities = st.integers(1, 4)
several = st.integers(2, 4)
seeds = st.integers(0, 2**16)
thresholds = st.floats(0, 2)
withins = st.sampled_from(["part", "all"])
TOLERANCE = 1e-12


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


@settings(max_examples=12)  # several networks each
@given(m=modalities, within=withins, penalty=st.sampled_from([0.0, 0.1]), seed=seeds)
def test_threshold_zero_and_share_zero_are_no_exchange(m, within, penalty, seed):
    """If this breaks, the control "the same sharing, no exchange" exchanges something."""
    net = fused(m, None, seed)
    inputs = images(net.modalities, 2, 3, 9, 9)
    for fusion in (Exchange(0.0, penalty, within), Exchange(0.5, penalty, within, share=0.0)):
        other = with_fusion(net, fusion)
        assert_equal(run(other, inputs), run(net, inputs), 0.0)
        assert set(itertools.chain.from_iterable(s.values() for s in other.exchanged().values())) == {0.0}


@settings(max_examples=12)  # several networks each
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


@settings(max_examples=12)  # several networks each
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


# ------------------------------------------------------------------------------------------------------------ compilers


@pytest.fixture(scope="module")
def unet() -> Multimodal:
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    shallow = {"encoder_depth": 3, "decoder_channels": (32, 16, 8)}
    plain = smp.Unet("tu-resnet10t", encoder_weights=None, classes=3, **shallow).eval()
    net = fuse(plain, NAMES[:2], Exchange(0.6))
    return randomize_norms(net)


@pytest.mark.slow  # tests/test_speed.py compiles a smaller one
def test_compiles_into_one_graph(unet):
    """If this breaks, torch.compile falls back to eager pieces, or fails."""
    inputs = images(unet.modalities, 2, 3, 64, 64, dtype=torch.float32)
    compiled = torch.compile(unet, fullgraph=True, backend="eager")
    assert_equal(run(compiled, inputs), run(unet, inputs), 1e-6)


@pytest.mark.slow
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
