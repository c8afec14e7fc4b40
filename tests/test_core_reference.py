"""The fused network against the list-based one in `reference/`: two implementations, one answer, in float64."""

import copy
from functools import cache

import pytest
import torch
from torch.nn import functional as F

from core_tools import NAMES, difference, images, randomize_norms
from polymodal import Exchange, Multimodal, fuse
from reference.lists import ListSegmenter, Rule, list_keys
from reference.plain import CLASSES, SITES, plain_segmenter

TOLERANCE = 1e-10
THRESHOLD = 0.6  # scales are drawn from ±0.2..1.2, so about 40 % lie below
PENALTY = 0.01
MODES = ("train", "eval", "frozen")


def both(modalities: int, mode: str, fusion: Exchange, rule: Rule) -> tuple[Multimodal, ListSegmenter]:
    """The fused and the list-based network with the same random weights, in the same mode."""
    plain = plain_segmenter(seed=modalities)
    net = fuse(
        plain,
        NAMES[:modalities],
        fusion,
        sites="layer*.bn2",
        statistics="frozen" if mode == "frozen" else "batch",
    )
    randomize_norms(net)
    with torch.no_grad():
        net.ensemble.alpha.normal_()
    reference = ListSegmenter(modalities, rule).double()
    copy_weights(net, reference)
    net.train(mode != "eval")
    reference.train(mode != "eval")
    if mode == "frozen":
        reference.freeze_statistics()
    return net, reference


@cache
def pairs(modalities: int) -> list[tuple[str, int | None, str]]:
    """For every entry of the fused network: its key, the modality that owns it if one does, and the reference's key."""
    found: list[tuple[str, int | None, str]] = []
    with torch.random.fork_rng(devices=[]):  # the first to ask draws nothing that the others do not
        plain = plain_segmenter(0)
    for key in plain.state_dict():
        theirs = list_keys(plain, key, modalities)
        if ".shared." in theirs[0]:
            found.append((key, None, theirs[0]))
        else:
            found += [(key, m, name) for m, name in enumerate(theirs)]
    return found


def row(tensor: torch.Tensor, m: int | None) -> torch.Tensor:
    """Modality m's row of a private norm's value; the counter of batches has none."""
    return tensor if m is None or tensor.dim() == 0 else tensor[m]


def copy_weights(net: Multimodal, reference: ListSegmenter) -> None:
    ours, theirs = net.network.state_dict(), reference.state_dict()
    copied = {name: row(ours[key], m) for key, m, name in pairs(len(net.modalities))}
    copied["alpha"] = net.ensemble.alpha.detach()
    assert copied.keys() == theirs.keys()
    reference.load_state_dict(copied)


def loss_of(predictions: list[torch.Tensor], ensemble: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
    """Σ_m CE(prediction_m) + CE(ensemble) + λ·penalty, the penalty weighted already."""
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(CLASSES, ensemble.shape[:1] + ensemble.shape[2:], generator=generator)
    return sum(F.cross_entropy(p, target) for p in [*predictions, ensemble]) + penalty


def compare(net: Multimodal, reference: ListSegmenter, mode: str) -> None:
    """One step of training: outputs, loss, every gradient, then running statistics and the outputs after the step."""
    inputs = images(net.modalities, 3, 3, 18, 22)
    optimisers = [torch.optim.SGD(n.parameters(), lr=0.1) for n in (net, reference)]
    ours = net(inputs)
    theirs, their_ensemble = reference(list(inputs.values()))
    for m, name in enumerate(net.modalities):
        assert difference(ours.per_modality[name], theirs[m]) < TOLERANCE, f"output of {name}"
    assert difference(ours.ensemble, their_ensemble) < TOLERANCE
    loss = loss_of(list(ours.per_modality.values()), ours.ensemble, net.fusion_loss())
    their_loss = loss_of(theirs, their_ensemble, PENALTY * reference.penalty())
    assert difference(loss, their_loss) < TOLERANCE
    loss.backward()
    their_loss.backward()
    parameters, their_parameters = dict(net.network.named_parameters()), dict(reference.named_parameters())
    assert difference(net.ensemble.alpha.grad, reference.alpha.grad) < TOLERANCE or len(net.modalities) == 1
    gradients = [
        (name, row(parameters[key].grad, m), their_parameters[name].grad)
        for key, m, name in pairs(len(net.modalities))
        if key in parameters
    ]
    assert len(gradients) == len(their_parameters) - 1
    for name, gradient, their_gradient in gradients:
        # A convolution's bias right before a norm on batch statistics has a gradient of zero but for rounding.
        error, size = (gradient - their_gradient).abs().max(), their_gradient.abs().max()
        assert error <= TOLERANCE * max(float(size), 1e-4), f"gradient of {name}"
    flowing = sum(float(their_gradient.abs().max()) > 1e-9 for *_, their_gradient in gradients)
    assert flowing > 0.8 * len(gradients), "too few gradients to compare"
    for optimiser in optimisers:
        optimiser.step()
    state, their_state = net.network.state_dict(), reference.state_dict()
    for key, m, name in pairs(len(net.modalities)):
        value, their_value = row(state[key], m).double(), their_state[name].double()
        assert difference(value, their_value) < TOLERANCE, f"{name} after the step"
    with torch.no_grad():
        ours, (theirs, their_ensemble) = net.eval()(inputs), reference.eval()(list(inputs.values()))
    assert difference(ours.ensemble, their_ensemble) < TOLERANCE, f"ensemble after a step in mode {mode}"


def assert_some_exchanged(net: Multimodal, within: str) -> None:
    """The drawn scales put channels on both sides of the threshold: otherwise a test would compare nothing."""
    exchanged = torch.cat([(~state.keep).flatten() for state in net.exchange_state().values()])
    if len(net.modalities) == 1:
        assert not exchanged.any()
        return
    own = torch.cat([state.part.flatten() for state in net.exchange_state().values()])
    allowed = int(own.sum()) if within == "part" else own.numel()
    assert 0 < exchanged.sum() < allowed


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("within", ["part", "all"])
@pytest.mark.parametrize("modalities", [1, 2, 3, 4])
def test_training_step_equals_the_reference(modalities, within, mode):
    """If this breaks, users train something else than channel exchanging, by wrong outputs or gradients."""
    fusion = Exchange(THRESHOLD, PENALTY, within)
    net, reference = both(modalities, mode, fusion, Rule(threshold=THRESHOLD, within=within))
    assert_some_exchanged(net, within)
    compare(net, reference, mode)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("modalities", [1, 2, 3, 4])
def test_share_equals_the_reference(modalities, share):
    """If this breaks, asking for a share of exchanged channels exchanges other channels, or another number of them."""
    net, reference = both(modalities, "train", Exchange(share=share, penalty=PENALTY), Rule(share=share))
    compare(net, reference, "train")


@pytest.mark.parametrize("within", ["part", "all"])
@pytest.mark.parametrize("members", [[0], [0, 2], [2, 3], [0, 1, 3]])
def test_subset_equals_the_reference_of_the_present(members, within):
    """If this breaks, a sensor that fails at run time still leaks into the others' predictions."""
    net, _ = both(4, "eval", Exchange(THRESHOLD, within=within), Rule())
    present = [NAMES[m] for m in members]
    reference = ListSegmenter(len(members), Rule(threshold=THRESHOLD, within=within, members=members, total=4)).double()
    state = net.network.state_dict()
    copied = {name: row(state[key], None if i is None else members[i]) for key, i, name in pairs(len(members))}
    copied["alpha"] = net.ensemble.alpha.detach()[members]
    reference.load_state_dict(copied)
    inputs = images(present, 2, 3, 18, 22)
    with torch.no_grad():
        ours = net(inputs, subset=True)
        theirs, their_ensemble = reference.eval()(list(inputs.values()))
    assert list(ours.per_modality) == present
    assert ours.weights.shape == (len(members),)
    for name, prediction in zip(present, theirs, strict=True):
        assert difference(ours.per_modality[name], prediction) < TOLERANCE, name
    assert difference(ours.ensemble, their_ensemble) < TOLERANCE


def test_training_on_a_subset_leaves_the_absent_alone():
    """If this breaks, a sample without depth changes depth's statistics or gradients."""
    net, _ = both(3, "train", Exchange(THRESHOLD), Rule())
    before = copy.deepcopy(net.network.state_dict())
    prediction = net(images(["rgb", "normal"], 2, 3, 18, 22), subset=True)
    sum(p.square().mean() for p in prediction.per_modality.values()).backward()
    for name, module in net.network.named_modules():
        if type(module).__name__ == "PrivateBatchNorm2d":
            assert torch.equal(module.running_mean[1], before[f"{name}.running_mean"][1]), name
            assert not torch.equal(module.running_mean[2], before[f"{name}.running_mean"][2]), name
            assert module.weight.grad[1].abs().max() == 0, name


def test_ensemble_loss_trains_only_its_weights():
    """If this breaks, the ensemble's loss pulls at the branches, which the papers forbid."""
    net, _ = both(2, "train", Exchange(THRESHOLD), Rule())
    net(images(net.modalities, 2, 3, 18, 22)).ensemble.square().mean().backward()
    assert all(p.grad is None for p in net.network.parameters())
    assert net.ensemble.alpha.grad.abs().max() > 0


def test_new_network_starts_from_the_pretrained_one():
    """If this breaks, fusing throws pretrained weights away: right after it, each branch is the network of before."""
    plain = randomize_norms(plain_segmenter(0)).eval()
    net = fuse(plain, NAMES[:3], Exchange(threshold=0.0))
    inputs = images(net.modalities, 2, 3, 18, 22)
    with torch.no_grad():
        prediction = net(inputs)
        for name, image in inputs.items():
            assert difference(prediction.per_modality[name], plain(image)) < 1e-12
        mean = sum(plain(image) for image in inputs.values()) / 3
    assert difference(prediction.ensemble, mean) < 1e-12
    assert torch.allclose(prediction.weights, torch.full((3,), 1 / 3, dtype=torch.float64))


def test_auto_sites_are_the_middle_norms_of_the_bottlenecks():
    """If this breaks, channels are exchanged elsewhere than in the papers: in stems, shortcuts or the decoder."""
    assert fuse(plain_segmenter(0), NAMES[:2]).sites == SITES


def test_penalty_covers_every_own_part_once_whatever_is_exchanged():
    """If this breaks, λ means something else than in equation 4, and released settings do not carry over."""
    for within in ("part", "all"):
        net, reference = both(3, "train", Exchange(THRESHOLD, 0.5, within), Rule())
        assert difference(net.fusion_loss(), 0.5 * reference.penalty()) < TOLERANCE
    assert both(3, "train", Exchange(THRESHOLD), Rule())[0].fusion_loss() == 0


def test_state_and_shares_tell_what_the_reference_exchanges():
    """If this breaks, the report shows other channels as exchanged than the network exchanges."""
    for within in ("part", "all"):
        net, reference = both(3, "eval", Exchange(THRESHOLD, within=within), Rule(threshold=THRESHOLD, within=within))
        rule = Rule(threshold=THRESHOLD, within=within)
        for site, state in net.exchange_state().items():
            scales = reference.get_submodule(site).scales()
            given_up = rule(scales)
            channels = len(scales[0])
            assert [torch.nonzero(~kept).flatten().tolist() for kept in state.keep] == given_up
            assert torch.equal(state.scale, torch.stack([scale.detach().abs() for scale in scales]))
            assert torch.equal(state.part.sum(0), torch.ones(channels, dtype=torch.long))
            for m, name in enumerate(net.modalities):
                allowed = int(state.part[m].sum()) if within == "part" else channels
                assert net.exchanged()[site][name] == pytest.approx(len(given_up[m]) / allowed)
            assert net.scales()[site] is net.network.get_submodule(site).weight
