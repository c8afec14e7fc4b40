"""Instance norms that are private for each modality, against a list of PyTorch's own, in float64."""

import copy

import pytest
import torch
from torch import Tensor, nn

from core_tools import NAMES, assert_equal, images
from polymodal import DataError, Exchange, FusionError, fuse, inspect
from polymodal.nn import PrivateInstanceNorm

CHANNELS = 6
THRESHOLD = 0.6
MODES = ("train", "eval", "frozen")


def plain_network(*, affine: bool = True, running: bool = True) -> nn.Sequential:
    """Convolution, norm, activation, convolution: the norm is all that can be private."""
    norm = nn.InstanceNorm2d(CHANNELS, affine=affine, track_running_stats=running)
    return nn.Sequential(nn.Conv2d(3, CHANNELS, 3), norm, nn.ReLU(), nn.Conv2d(CHANNELS, 2, 1)).double()


def randomize(net: nn.Module) -> None:
    """Values of its own for every modality, so that a mixed-up one shows."""
    norm = net.network[1]
    with torch.no_grad():
        if norm.weight is not None:
            norm.weight.uniform_(0.2, 1.2)
            norm.bias.normal_()
        if norm.running_mean is not None:
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)


class Lists(nn.Module):
    """The reference: a list of PyTorch's instance norms, one convolution for all, and equation 6 channel by channel."""

    def __init__(self, net: nn.Module, plain: nn.Sequential) -> None:
        super().__init__()
        self.first, self.last = copy.deepcopy(net.network[0]), copy.deepcopy(net.network[3])
        private = net.network[1]
        self.norms = nn.ModuleList(copy.deepcopy(plain[1]) for _ in net.modalities)
        for m, norm in enumerate(self.norms):
            rows = {key: value[m] if value.dim() == 2 else value for key, value in private.state_dict().items()}
            norm.load_state_dict(rows)

    def forward(self, inputs: list[Tensor], threshold: float) -> list[Tensor]:
        normalised = [norm(self.first(image)) for norm, image in zip(self.norms, inputs, strict=True)]
        return [self.last(x.relu()) for x in self.exchange(normalised, threshold)]

    def exchange(self, normalised: list[Tensor], threshold: float) -> list[Tensor]:
        count = len(normalised)
        if count == 1 or threshold == 0:
            return normalised
        exchanged = []
        for m, norm in enumerate(self.norms):
            channels = []
            for c in range(CHANNELS):
                own_part = m * CHANNELS // count <= c < (m + 1) * CHANNELS // count
                if own_part and norm.weight[c].abs() < threshold:
                    others = [normalised[other][:, c] for other in range(count) if other != m]
                    channels.append(sum(others) / (count - 1))
                else:
                    channels.append(normalised[m][:, c])
            exchanged.append(torch.stack(channels, dim=1))
        return exchanged


def both(modalities: int, mode: str, threshold: float, **norm: bool) -> tuple[nn.Module, Lists]:
    plain = plain_network(**norm)
    fusion = Exchange(threshold) if threshold else None
    net = fuse(plain, NAMES[:modalities], fusion, sites="1", statistics="frozen" if mode == "frozen" else "batch")
    randomize(net)
    reference = Lists(net, plain)
    net.train(mode != "eval")
    reference.train(mode != "eval")
    if mode == "frozen":
        reference.norms.eval()
    return net, reference


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("threshold", [0.0, THRESHOLD])
@pytest.mark.parametrize("modalities", [1, 2, 3, 4])
def test_outputs_gradients_and_statistics_equal_the_lists(modalities, threshold, mode):
    """If this breaks, modalities are normalised by each other's statistics or scales, or exchange the wrong maps."""
    net, reference = both(modalities, mode, threshold)
    inputs = images(net.modalities, 3, 3, 9, 11)
    for _ in range(2):  # the second pass sees the statistics that the first one left
        prediction = net(inputs)
        theirs = reference(list(inputs.values()), threshold)
        assert_equal(list(prediction.per_modality.values()), theirs, 1e-12, "outputs")
        net.zero_grad()
        reference.zero_grad()
        sum((m + 1) * p.square().mean() for m, p in enumerate(prediction.per_modality.values())).backward()
        sum((m + 1) * p.square().mean() for m, p in enumerate(theirs)).backward()
    norm = net.network[1]
    for key in ("weight", "bias"):
        expected = [getattr(other, key).grad for other in reference.norms]
        expected = torch.stack([torch.zeros(CHANNELS).double() if grad is None else grad for grad in expected])
        assert getattr(norm, key).grad.abs().max() > 1e-6
        assert_equal(getattr(norm, key).grad, expected, 1e-10, f"gradient of {key}")
    for key in ("running_mean", "running_var"):
        expected = torch.stack([getattr(other, key) for other in reference.norms])
        assert_equal(getattr(norm, key), expected, 1e-12, key)
    assert_equal(net.network[0].weight.grad, reference.first.weight.grad, 1e-10, "gradient of the convolution")
    if threshold and modalities > 1:
        assert sum(net.exchanged()["1"].values()) > 0, "nothing was exchanged, so nothing was compared"


@pytest.mark.parametrize(("affine", "running"), [(True, False), (False, True)])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_norm_with_scales_or_statistics_alone_is_private_too(affine, running, mode):
    """If this breaks, the usual `InstanceNorm2d(affine=True)` of image translation cannot be private."""
    net, reference = both(3, mode, 0.0, affine=affine, running=running)
    inputs = images(net.modalities, 2, 3, 7, 7)
    assert_equal(list(net(inputs).per_modality.values()), reference(list(inputs.values()), 0.0), 1e-12)


def test_every_modality_starts_from_the_networks_norm():
    """If this breaks, fusing throws away what a pretrained generator's norms have learned."""
    plain = plain_network()
    with torch.no_grad():
        plain[1].weight.normal_()
        plain[1].running_mean.normal_()
    for modalities in (1, 2, 3, 4):
        net = fuse(plain.eval(), NAMES[:modalities], None)
        inputs = images(net.modalities, 2, 3, 8, 8)
        expected = [plain(image) for image in inputs.values()]
        assert_equal(list(net(inputs).per_modality.values()), expected, 1e-12, f"M = {modalities}")


def test_an_absent_modality_keeps_its_statistics():
    """If this breaks, training on samples without depth changes what depth is normalised by in evaluation."""
    net, reference = both(3, "train", 0.0)
    before = net.network[1].running_mean.clone()
    inputs = images([NAMES[0], NAMES[2]], 2, 3, 8, 8)
    prediction = net(inputs, subset=True)
    reference.norms = nn.ModuleList([reference.norms[0], reference.norms[2]])
    assert_equal(list(prediction.per_modality.values()), reference(list(inputs.values()), 0.0), 1e-12)
    after = net.network[1].running_mean
    assert torch.equal(after[1], before[1])
    assert_equal(after[[0, 2]], torch.stack([norm.running_mean for norm in reference.norms]), 1e-12)


def test_shared_norms_serve_all_modalities_alike():
    """If this breaks, norms="shared" is no longer the plain network applied to every modality."""
    plain = plain_network()
    net = fuse(plain, NAMES[:2], None, norms="shared").eval()
    inputs = images(net.modalities, 2, 3, 8, 8)
    expected = [plain.eval()(image) for image in inputs.values()]
    assert_equal(list(net(inputs).per_modality.values()), expected, 1e-12)


def test_a_map_of_one_pixel_is_refused_by_the_norms_name():
    """If this breaks, a network that halves its image too often fails with PyTorch's message, or learns nothing."""
    net = fuse(plain_network(), NAMES[:2], None)
    with pytest.raises(FusionError, match=r"'1'.*1x1.*larger images"):
        net(images(net.modalities, 4, 3, 3, 3))
    net.eval()(images(net.modalities, 4, 3, 3, 3))  # running statistics need no second pixel
    with pytest.raises(FusionError, match=r"'1'.*1x1"):
        fuse(plain_network(running=False), NAMES[:2], None).eval()(images(NAMES[:2], 4, 3, 3, 3))


def test_what_is_no_private_norm_is_said():
    """If this breaks, a network whose instance norms hold nothing to be private fails without saying what to do."""
    bare = nn.Sequential(nn.Conv2d(3, 4, 1), nn.InstanceNorm2d(4), nn.Conv2d(4, 2, 1))
    with pytest.raises(FusionError, match=r"no norm that could be made private.*'1' \(InstanceNorm2d\)"):
        fuse(bare, NAMES[:2])

    class Own(nn.InstanceNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    odd = nn.Sequential(nn.Conv2d(3, 4, 1), Own(4, track_running_stats=True), nn.Conv2d(4, 2, 1))
    with pytest.raises(FusionError, match=r"'1' \(Own\)"):
        fuse(odd, NAMES[:2])
    with pytest.raises(FusionError, match="shared norms"):
        fuse(plain_network(), NAMES[:2], "exchange", sites="1", norms="shared")


@pytest.mark.parametrize("statistics", ["frozen", ["1"]])
def test_statistics_that_are_not_kept_cannot_be_frozen(statistics):
    """If this breaks, `statistics: frozen` is taken for a network whose norms go on normalising by each image."""
    with pytest.raises(FusionError, match=r"statistics: '1' \(InstanceNorm2d\) keeps no running statistics"):
        fuse(plain_network(running=False), NAMES[:2], statistics=statistics)
    assert fuse(plain_network(), NAMES[:2], sites="1", statistics=statistics).network[1].frozen


def test_it_is_found_listed_and_kept():
    """If this breaks, `inspect` hides these norms, or a network with them is fused twice."""
    plain = plain_network()
    assert "1" in str(inspect(plain))
    net = fuse(plain, NAMES[:2], "exchange", sites="1")
    assert isinstance(net.network[1], PrivateInstanceNorm)
    assert net.scales()["1"].shape == (2, CHANNELS)
    with pytest.raises(FusionError, match="multimodal already"):
        fuse(net.network, NAMES[:2])
    with pytest.raises(DataError):
        net({"rgb": torch.zeros(1, 3, 8, 8).double()})


def test_mixed_precision_keeps_statistics_in_float32():
    """If this breaks, training in bfloat16 fails, or rounds the running statistics away."""
    net = fuse(plain_network(), NAMES[:2], "exchange", sites="1").float()
    inputs = images(net.modalities, 2, 3, 8, 8, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        prediction = net(inputs)
    sum(p.float().square().mean() for p in prediction.per_modality.values()).backward()
    norm = net.network[1]
    assert norm.running_mean.dtype == norm.weight.grad.dtype == torch.float32
    assert norm.running_mean.abs().max() > 0


def test_a_norm_that_does_not_track_is_evaluated_by_the_sample():
    """If this breaks, switching a generator's tracking off has no effect once it is fused."""
    plain = plain_network().eval()
    plain[1].track_running_stats = False
    net = fuse(plain, NAMES[:2], None)
    inputs = images(net.modalities, 2, 3, 8, 8)
    expected = [plain(image) for image in inputs.values()]
    assert_equal(list(net(inputs).per_modality.values()), expected, 1e-12)
