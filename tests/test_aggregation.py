"""Aggregation, alignment and independent networks: the methods that channel exchanging is compared with."""

import copy
from itertools import combinations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from core_tools import assert_equal, images, randomize_norms, tensors_of
from polymodal import DataError, FusionError, checkpoint, cost, functional, fuse, models
from polymodal.fusion import Aggregation, Alignment, Exchange
from polymodal.nn import PrivateLayer, PrivateNorm, behind

NAMES = ("rgb", "depth", "thermal")
OPERATIONS = ("concat", "average", "attention")
PLACES = ("early", "middle", "late", "all")
SMALL_FPN = {"encoder_name": "tu-test_resnet", "decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32}


def small_deeplab():
    """torchvision's, of a quarter of the width: its encoder is called backbone, and it returns a dict."""
    from torchvision.models import mobilenet_v3_small
    from torchvision.models.segmentation.deeplabv3 import DeepLabHead, DeepLabV3, IntermediateLayerGetter

    encoder = mobilenet_v3_small(width_mult=0.25, dilated=True).features
    width = encoder[-1].out_channels
    return DeepLabV3(
        IntermediateLayerGetter(encoder, {str(len(encoder) - 1): "out"}), DeepLabHead(width, 2, (2, 4)), None
    )


NETWORKS = {
    "rooms-unet": lambda: models.create("rooms-unet", classes=2, stem=6, widths=(5, 7, 9), decoder=6),
    "smp/FPN": lambda: models.create("smp/FPN", classes=2, **SMALL_FPN),
    "torchvision/deeplabv3": small_deeplab,
}


def rooms(classes=3):
    torch.manual_seed(0)
    return randomize_norms(models.create("rooms-unet", classes=classes, stem=6, widths=(5, 7, 9), decoder=6).double())


def perturbed(net):
    """Every parameter a little off, so that copies differ between the modalities."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def alone(net, plain, m):
    """The plain network with the layers of modality m where it has its own, else with the common ones."""
    own = copy.deepcopy(plain)
    for name, module in own.named_modules():
        fused = net.network.get_submodule(name) if name else net.network
        if isinstance(fused, PrivateLayer):
            module.load_state_dict(fused.layers[m].state_dict())
        elif isinstance(fused, PrivateNorm):
            row = m if fused.roster is not None else 0
            values = {key: value[row] if value.dim() == 2 else value for key, value in fused.state_dict().items()}
            module.load_state_dict(values)
        elif isinstance(fused, nn.Conv2d):
            module.load_state_dict(fused.state_dict())
    return own


def aggregate(operation, weights, maps):
    """One fused map from a list of maps, written out."""
    if operation == "average":
        return sum(maps) / len(maps)
    wide = torch.cat(maps, 1)
    if operation == "concat":
        return F.conv2d(wide, weights.conv.weight, weights.conv.bias)
    inner = F.conv2d(wide, weights.squeeze.weight, weights.squeeze.bias, padding=1).clamp(min=0)
    gates = torch.sigmoid(F.conv2d(inner, weights.excite.weight, weights.excite.bias, padding=1))
    out = F.conv2d(wide * gates, weights.fuse.weight, padding=1)
    norm = weights.norm
    return F.batch_norm(out, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.1, norm.eps)


def reference(net, plain, inputs, operation, sites):
    """The aggregated U-Net as lists of tensors: one list entry a modality until they are one."""
    nets = [alone(net, plain, m) for m in range(len(inputs))]
    encoder = net.network.encoder
    streams = [one.encoder.act1(one.encoder.bn1(one.encoder.conv1(x))) for one, x in zip(nets, inputs, strict=True)]
    features = []
    for stage in range(3):
        streams = [nets[m].encoder.stages[stage](x) for m, x in enumerate(streams)]
        site = net.network.get_submodule(f"encoder.stages.{stage}.1")
        if stage in sites:
            last = stage == max(sites)
            fused = aggregate(operation, site.fusion if last else site.fusion.aggregate, streams)
            streams = [fused] if last else [x + fused for x in streams]
            features.append(fused if last else sum(streams) / len(streams))
        elif len(streams) > 1:
            features.append(aggregate(operation, encoder.fusion.ways[stage], streams))
        else:
            features.append(streams[0])
    out = nets[0].head(nets[0].decoder(features))
    return F.interpolate(out, size=inputs[0].shape[-2:], mode="bilinear")


STAGES = {"early": {0}, "middle": {1}, "late": {2}, "all": {0, 1, 2}}
KINDS = (("concat", 3), ("average", 3), ("attention", 2), ("attention", 3))
QUICK = set(zip(KINDS, ("early", "middle", "late", "all"), strict=True))
"""Each operation and each place once."""


@pytest.mark.parametrize(
    ("operation", "modalities", "place", "sites"),
    [
        pytest.param(*kind, place, sites, marks=[] if (kind, place) in QUICK else pytest.mark.slow)
        for kind, (place, sites) in product(KINDS, STAGES.items())
    ],
)
def test_equals_a_list_based_reference(modalities, operation, place, sites):
    """Lost: a baseline in a table that is not the method it is called by."""
    plain = rooms().eval()
    names = NAMES[:modalities]
    net = fuse(plain, names, Aggregation(operation), sites=place, convolutions="private")
    net = perturbed(randomize_norms(net)).eval()
    inputs = images(names, 2, 3, 24, 32)
    ours = net(inputs)
    assert ours.per_modality == {}
    assert ours.weights.numel() == 0
    theirs = reference(net, plain, list(inputs.values()), operation, sites)
    assert_equal(ours.ensemble, theirs, 1e-10)


@pytest.mark.parametrize("place", ["early", *(pytest.param(place, marks=pytest.mark.slow) for place in PLACES[1:])])
def test_gradients_reach_every_parameter(place):
    """Lost: an operation that is counted, and breaks distributed training, but is never trained."""
    net = fuse(rooms(), NAMES, Aggregation("attention"), sites=place, convolutions="private").train()
    net(images(NAMES, 2, 3, 24, 32)).ensemble.square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_a_map_that_nobody_reads_gets_no_parameters():
    """Lost: the parameters beside the score would count what has no effect."""
    plain = NETWORKS["smp/FPN"]()
    net = fuse(plain, NAMES[:2], Aggregation("concat"), sites="late", convolutions="private").train()
    net(images(NAMES[:2], 2, 3, 64, 64, dtype=torch.float32)).ensemble.sum().backward()
    assert all(parameter.grad is not None for parameter in net.network.encoder.fusion.parameters())


def test_concat_starts_as_the_average():
    """Lost: a pretrained encoder's later stages would begin with features they have never seen."""
    plain, inputs = rooms().eval(), images(NAMES, 2, 3, 24, 32)
    by = {op: fuse(plain, NAMES, Aggregation(op), sites="middle")(inputs).ensemble for op in ("concat", "average")}
    assert_equal(by["concat"], by["average"], 1e-7)  # 1/3 was rounded to float32


def test_average_of_equal_images_is_the_plain_network():
    """Lost: what is shared, or where the streams end, went wrong somewhere."""
    plain, image = rooms().eval(), torch.randn(2, 3, 24, 32, dtype=torch.float64)
    for place in ("early", "middle", "late"):
        net = fuse(plain, NAMES, Aggregation("average"), sites=place)
        assert_equal(net(dict.fromkeys(NAMES, image)).ensemble, plain(image), 1e-12)


def test_an_absent_modality_is_left_out_of_an_average_and_refused_where_channels_are_weighed():
    """Lost: a missing sensor would silently count as zeros."""
    plain, inputs = rooms().eval(), images(NAMES, 2, 3, 24, 32)
    one = {"depth": inputs["depth"]}
    average = fuse(plain, NAMES, Aggregation("average"), sites="middle")
    assert_equal(average(one, subset=True).ensemble, plain(inputs["depth"]), 1e-12)
    concat = fuse(plain, NAMES, Aggregation("concat"), sites="middle")
    with pytest.raises(FusionError, match="Missing modality rgb, thermal"):
        concat(one, subset=True)
    with pytest.raises(DataError, match="Missing modality"):
        average(one)


def test_independent_networks_are_each_modality_alone():
    """Lost: the 'nothing shared' row of a table would share something."""
    plain = rooms().eval()
    net = perturbed(fuse(plain, NAMES, None, convolutions="private"))
    inputs = images(NAMES, 2, 3, 24, 32)
    ours = net(inputs).per_modality
    for m, name in enumerate(NAMES):
        assert_equal(ours[name], alone(net, plain, m)(inputs[name]), 1e-12, name)
    assert sum(p.numel() for p in net.network.parameters()) == 3 * sum(p.numel() for p in plain.parameters())
    alone_again = net({"depth": inputs["depth"]}, subset=True).per_modality["depth"]
    assert_equal(alone_again, ours["depth"], 1e-12)


def test_private_layers_can_exchange_and_have_private_stems():
    """Lost: the unshared rows of the papers' ablation, and Corollary 1, could not be run."""
    net = fuse(rooms(), {"rgb": 3, "depth": 1}, Exchange(share=0.5), convolutions="private", stems={"depth": "private"})
    inputs = {"rgb": torch.randn(2, 3, 24, 32).double(), "depth": torch.randn(2, 1, 24, 32).double()}
    before = net.eval()(inputs).per_modality["rgb"]
    with net.fusion_disabled():
        assert not torch.equal(before, net(inputs).per_modality["rgb"])


BASELINES = {
    "concat": (Aggregation("concat"), "early"),
    "average": (Aggregation("average"), "all"),
    "attention": (Aggregation("attention"), "late"),
    "alignment": (Alignment(0.5), "all"),
    "independent": (None, "auto"),
}
COMMON = {
    ("rooms-unet", "average"), ("rooms-unet", "attention"), ("rooms-unet", "alignment"),
    ("smp/FPN", "concat"), ("smp/FPN", "independent"), ("torchvision/deeplabv3", "average"),
}  # fmt: skip
"""Each baseline, and on each network one that makes one stream."""


@pytest.mark.parametrize(
    ("network", "baseline"),
    [pytest.param(*pair, marks=[] if pair in COMMON else pytest.mark.slow) for pair in product(NETWORKS, BASELINES)],
)
def test_every_baseline_trains_a_step_and_comes_back_from_disk(network, baseline, tmp_path):
    """Lost: a comparison would stop at this method, or score other weights than it trained."""
    torch.manual_seed(0)
    plain = NETWORKS[network]()
    fusion, place = BASELINES[baseline]
    net = fuse(plain, {"rgb": 3, "depth": 1}, fusion, sites=place, convolutions="private").train()
    inputs = {"rgb": torch.randn(2, 3, 64, 64), "depth": torch.randn(2, 1, 64, 64)}
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-3)
    before = [p.detach().clone() for p in net.network.parameters()]
    outputs = net(inputs)
    loss = sum(t.square().mean() for t in tensors_of([*outputs.per_modality.values(), outputs.ensemble]))
    (loss + net.fusion_loss()).backward()
    optimiser.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, net.network.parameters(), strict=True))
    checkpoint.save(net, tmp_path)
    again = checkpoint.load(tmp_path, network=plain)
    assert_equal(again(inputs).ensemble, net.eval()(inputs).ensemble, 0.0)


def test_what_cannot_be_aggregated_is_refused_before_anything_changes():
    """Lost: hours later, or with a half-changed network."""
    flat = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    with pytest.raises(FusionError, match="no stages"):
        fuse(flat, NAMES, Aggregation())
    with pytest.raises(FusionError, match=r"'layer5' matches no layer.*encoder\.stages\.0"):
        fuse(rooms(), NAMES, Aggregation(), sites="layer5")
    with pytest.raises(FusionError, match="operation: expected"):
        Aggregation("sum")
    with pytest.raises(FusionError, match="weight: expected a finite number, 0 or more"):
        Alignment(-1.0)
    with pytest.raises(FusionError, match='convolutions: expected "private" or "shared"'):
        fuse(rooms(), NAMES, None, convolutions="unshared")
    from timm import create_model

    with pytest.raises(FusionError, match="no child called encoder or backbone"):
        fuse(create_model("resnet18"), NAMES, Aggregation())
    net = fuse(rooms(), NAMES, Aggregation())
    with pytest.raises(FusionError, match="without it there is no network"), net.fusion_disabled():
        pass


def gaussian_mmd(x, y, kernels=5):
    """The biased estimate of Gretton et al., eq. 5, summand by summand."""
    both = torch.cat([x, y])
    pairs = [((a - b) ** 2).sum() for i, a in enumerate(both) for j, b in enumerate(both) if i != j]
    middle = sum(pairs) / len(pairs)

    def k(a, b):
        distance = ((a - b) ** 2).sum()
        return sum(torch.exp(-distance / (middle * 2.0 ** (n - kernels // 2))) for n in range(kernels)) / kernels

    def mean(first, second):
        return sum(k(a, b) for a in first for b in second) / (len(first) * len(second))

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(0, 10**6))
def test_mmd_is_the_sum_over_all_pairs(n, m, dimensions, seed):
    """Lost: an alignment loss that measures something else."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dimensions, generator=generator, dtype=torch.float64)
    y = torch.randn(m, dimensions, generator=generator, dtype=torch.float64) + 1
    assert_equal(functional.mmd(x, y), gaussian_mmd(x, y), 1e-9)
    assert functional.mmd(x, x).abs() < 1e-12
    assert functional.mmd(x, y) >= -1e-12


def test_alignment_loss_is_that_of_the_stages_features():
    """Lost: the loss would look at other layers, other pairs, or an earlier batch."""
    plain = rooms().eval()
    net = perturbed(fuse(plain, NAMES, Alignment(0.7), sites="all", convolutions="private")).train()
    for module in net.modules():  # the reference runs in eval mode
        if isinstance(module, PrivateNorm):
            module.eval()
    inputs = images(NAMES, 2, 3, 32, 48)
    assert net.fusion_loss() == 0
    net(inputs)
    expected = torch.zeros((), dtype=torch.float64)
    features = [alone(net, plain, m).encoder(image) for m, image in enumerate(inputs.values())]
    for stage in range(3):
        size = [min(8, length) for length in features[0][stage].shape[2:]]
        points = [F.adaptive_avg_pool2d(f[stage].float(), size).permute(0, 2, 3, 1).flatten(0, 2) for f in features]
        for one, other in combinations(points, 2):
            expected = (
                expected + gaussian_mmd(one[::1], other[::1])
                if len(one) < 30
                else expected + functional.mmd(one, other)
            )
    assert_equal(net.fusion_loss().double(), (0.7 * expected).double(), 1e-5)
    assert net.fusion_loss() == net.fusion_loss(), "who looks at the loss must not take it away"
    assert copy.deepcopy(net).fusion_loss() == 0  # a copy has not run yet
    with torch.no_grad():
        net(inputs)
    assert net.fusion_loss() == 0, "the loss of one batch must not be counted again"


class ResidualBlock(nn.Module):
    """Of images, signals or volumes."""

    def __init__(self, axes):
        super().__init__()
        conv, norm = (getattr(nn, f"{name}{axes}d") for name in ("Conv", "BatchNorm"))
        self.conv1, self.norm, self.conv2 = conv(4, 4, 3, padding=1), norm(4), conv(4, 4, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(self.norm(self.conv1(x)).relu())


class OfAxes(nn.Module):
    """An encoder of one stage, and a head."""

    def __init__(self, axes):
        super().__init__()
        self.encoder = nn.Sequential(getattr(nn, f"Conv{axes}d")(3, 4, 1), nn.Sequential(ResidualBlock(axes)))
        self.head = getattr(nn, f"Conv{axes}d")(4, 2, 1)

    def forward(self, x):
        return self.head(self.encoder(x))


@pytest.mark.parametrize("axes", [1, 3])
def test_signals_and_volumes_are_aligned_averaged_or_refused(axes):
    """Lost: a training fails in its first batch, or fuse with nothing that says why."""
    torch.manual_seed(0)
    plain, inputs = OfAxes(axes), images(NAMES[:2], 2, 3, *(6,) * axes, dtype=torch.float32)
    net = fuse(plain, NAMES[:2], Alignment(0.7), norms="shared").eval()
    pool, sides = getattr(F, f"adaptive_avg_pool{axes}d"), [{1: 6, 3: 4}[axes]] * axes
    points = [pool(net.network.encoder(x), sides).movedim(1, -1).flatten(0, -2) for x in inputs.values()]
    for module in net.modules():
        module.training = not isinstance(module, PrivateNorm)
    net(inputs)
    assert_equal(net.fusion_loss(), 0.7 * functional.mmd(*points), 1e-5)
    assert fuse(plain, NAMES[:2], Aggregation("average"))(inputs).ensemble.shape[:2] == (2, 2)
    for operation in ("concat", "attention"):
        with pytest.raises(FusionError, match=r"takes maps \(batch, channels, height, width\).*operation=\"average\""):
            fuse(plain, NAMES[:2], Aggregation(operation))
    with pytest.raises(FusionError, match="takes no images but signals or volumes"):
        fuse(plain, NAMES[:2], "asymmetric")


def test_alignment_finds_the_channels_of_a_transformer():
    """Lost: rows of a map are drawn towards each other, not channels, or training fails at its first batch."""
    from timm import create_model

    small = {"img_size": 32, "patch_size": 4, "num_classes": 2}
    swin = create_model(
        "swin_tiny_patch4_window7_224", window_size=4, embed_dim=12, depths=(2,), num_heads=(2,), **small
    )
    vit = create_model("vit_tiny_patch16_224", embed_dim=12, depth=2, num_heads=2, **small)
    for plain in (swin, vit):
        net = fuse(plain, NAMES[:2], Alignment()).train()
        net(images(NAMES[:2], 2, 3, 32, 32, dtype=torch.float32))
        [site] = net.sites
        assert {x.shape for x in behind(net.network, site).seen()} <= {(2 * 64, 12), (2 * 64 + 2, 12)}
        assert net.fusion_loss() > 0


def test_what_does_not_return_one_map_is_no_place_to_meet():
    """Lost: fuse ends with a KeyError, or the first forward pass with a tuple that has no shape."""

    class PairsBlock(ResidualBlock):
        def forward(self, x):
            return super().forward(x), None

    class Takes(OfAxes):
        def __init__(self):
            super().__init__(2)
            self.encoder[1] = nn.Sequential(PairsBlock(2))

        def forward(self, x):
            return self.head(self.encoder(x)[0])

    for fusion in (Aggregation("average"), Alignment(), Exchange(every=2)):
        with pytest.raises(FusionError, match=r"'encoder\.1\.0' returns something else than one tensor"):
            fuse(Takes(), NAMES[:2], fusion, sites="late")

    class First(nn.Sequential):
        def forward(self, x):
            return self[0](x)

    unused = OfAxes(2)
    unused.encoder = First(*unused.encoder)
    with pytest.raises(FusionError, match=r"'encoder\.1\.0' does not run"):
        fuse(unused, NAMES[:2], Aggregation("average"))


def test_alignment_draws_features_together():
    """Lost: a loss whose sign or gradient is wrong."""
    net = fuse(rooms(), NAMES[:2], Alignment(), sites="late", convolutions="private").train()
    inputs, losses = images(NAMES[:2], 2, 3, 24, 32), []
    optimiser = torch.optim.SGD(net.parameters(), lr=0.5)
    for _ in range(8):
        optimiser.zero_grad()
        net(inputs)
        loss = net.fusion_loss()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_cost_is_counted_from_the_network_that_runs():
    """Lost: the columns beside every score of a comparison."""
    plain = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
    net = fuse(plain, ["rgb", "depth"], None)
    counted = cost(net, (10, 12))
    assert counted.macs == 2 * (10 * 12 * 8 * 27 + 10 * 12 * 2 * 8)
    assert counted.parameters == 8 * 27 + 2 * 2 * 8 + 2 * 8 + 2 + 2
    merged = fuse(rooms(), NAMES, Aggregation("average"), sites="early", convolutions="private")
    assert cost(merged, (24, 32)).macs < cost(fuse(rooms(), NAMES, None, convolutions="private"), (24, 32)).macs
