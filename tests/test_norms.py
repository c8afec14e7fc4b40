"""Private norms of every kind, against a list of the plain ones, in float64."""

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from segmentation_models_pytorch.decoders.upernet.decoder import LayerNorm2d as SmpLayerNorm2d
from segmentation_models_pytorch.encoders.mix_transformer import LayerNorm as SmpLayerNorm
from timm import layers as timm_layers
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops.misc import FrozenBatchNorm2d

from core_tools import NAMES, assert_equal, difference, images, plain_of
from polymodal import DataError, Exchange, FusionError, Multimodal, checkpoint, fuse, inspect
from polymodal.errors import ExportError
from polymodal.export import absorb
from polymodal.fusion import RandomExchange
from polymodal.nn import PrivateNorm
from reference.lists import exchange, own_channels

C = 6
THRESHOLD = 0.6

FIRST = {
    "batch 2d": lambda: nn.BatchNorm2d(C),
    "batch without scales": lambda: nn.BatchNorm2d(C, affine=False),
    "synchronised": lambda: nn.SyncBatchNorm(C),
    "instance 2d": lambda: nn.InstanceNorm2d(C, affine=True),
    "group": lambda: nn.GroupNorm(3, C),
    "frozen": lambda: FrozenBatchNorm2d(C),
    "layer over channels, torchvision": lambda: LayerNorm2d(C),
    "layer over channels, smp": lambda: SmpLayerNorm(C),
    "layer over channels of a decoder, smp": lambda: SmpLayerNorm2d(C),
    "layer over all": lambda: nn.LayerNorm((C, 5, 5)),
    **{
        f"timm {name}": lambda name=name: getattr(timm_layers, name)(C)
        for name in ("BatchNormAct2d", "LayerNorm2d", "LayerNormAct2d", "RmsNorm2d", "FrozenBatchNormAct2d")
    },
    "timm GroupNorm1": lambda: timm_layers.GroupNorm1(C),
    "timm GroupNormAct": lambda: timm_layers.GroupNormAct(C, 2),
}
LAST = {
    "layer": lambda: nn.LayerNorm(C),
    "layer without shift": lambda: nn.LayerNorm(C, bias=False),
    "rms": lambda: nn.RMSNorm(C),
    "timm LayerNorm": lambda: timm_layers.LayerNorm(C),
    "timm LayerNormAct": lambda: timm_layers.LayerNormAct(C),
    "timm RmsNorm": lambda: timm_layers.RmsNorm(C),
}
VOLUMES = {
    "batch 3d": lambda: nn.BatchNorm3d(C),
    "instance 3d": lambda: nn.InstanceNorm3d(C, affine=True, track_running_stats=True),
    "group 3d": lambda: nn.GroupNorm(2, C),
}
SIGNALS = {
    "batch 1d": lambda: nn.BatchNorm1d(C),
    "synchronised 1d": lambda: nn.SyncBatchNorm(C),
    "instance 1d": lambda: nn.InstanceNorm1d(C, affine=True),
    "group 1d": lambda: nn.GroupNorm(2, C),
}
ALL = {
    **{name: (norm, "first", 2) for name, norm in FIRST.items()},
    **{name: (norm, "last", 2) for name, norm in LAST.items()},
    "layer of tokens": (LAST["layer"], "tokens", 2),
    "layer of tokens, smp": (FIRST["layer over channels, smp"], "tokens", 2),
    "layer of windows": (LAST["layer"], "windows", 2),
    "batch of places": (SIGNALS["batch 1d"], "places", 2),
    **{name: (norm, "first", 3) for name, norm in VOLUMES.items()},
    **{name: (norm, "first", 1) for name, norm in SIGNALS.items()},
}
EXCHANGING = ("group", "timm LayerNorm2d", "timm GroupNormAct", "layer", "rms", "layer of tokens", "layer of windows")


class Around(nn.Module):
    """A norm between two convolutions, in a layout: `(N, C, ...)`, `(N, ..., C)`, `(N, L, C)`, windows or places."""

    def __init__(self, norm: nn.Module, layout: str = "first", axes: int = 2) -> None:
        super().__init__()
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
        self.first, self.norm, self.last = convolution(2, C, 1), norm, convolution(C, 2, 1)
        self.layout = layout

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.back(self.norm(self.to(self.first(x))), x).tanh())

    def to(self, *x: object, **arguments: object) -> object:
        if not isinstance(x[0], Tensor) or x[0].dim() < 3:
            return super().to(*x, **arguments)
        y = x[0]
        if self.layout == "first":
            return y
        if self.layout == "last":
            return y.movedim(1, -1)
        tokens = y.flatten(2).mT
        if self.layout == "windows":  # a window is a row of the image
            return tokens.unflatten(1, (y.shape[2], y.shape[3])).flatten(0, 1)
        return tokens.flatten(0, 1) if self.layout == "places" else tokens

    def back(self, y: Tensor, x: Tensor) -> Tensor:
        if self.layout == "first":
            return y
        if self.layout == "last":
            return y.movedim(-1, 1)
        return y.reshape(len(x), -1, C).mT.unflatten(2, x.shape[2:])


class Lists(nn.Module):
    """The reference: a list of plain networks that share convolutions, and equation 6 channel by channel."""

    def __init__(self, net: Multimodal, plain: Around, threshold: float) -> None:
        super().__init__()
        self.networks = nn.ModuleList(plain_of(net, plain, m) for m in range(len(net.modalities)))
        for network in self.networks:
            network.first, network.last = self.networks[0].first, self.networks[0].last
        self.threshold = threshold

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        nets, count = self.networks, len(self.networks)
        acts = [getattr(net.norm, "act", nn.Identity()) for net in nets]
        for net in nets:
            if hasattr(net.norm, "act"):
                net.norm.act = nn.Identity()
        y = [net.norm(net.to(net.first(x))) for net, x in zip(nets, inputs, strict=True)]
        if self.threshold:
            axis = 1 if nets[0].layout == "first" else -1
            scales = [net.norm.weight.abs() for net in nets]
            small = [[c for c in own_channels(m, count, C) if scales[m][c] < self.threshold] for m in range(count)]
            y = [z.movedim(1, axis) for z in exchange([z.movedim(axis, 1) for z in y], small)]
        out = [net.last(net.back(act(z), x).tanh()) for net, act, z, x in zip(nets, acts, y, inputs, strict=True)]
        for net, act in zip(nets, acts, strict=True):
            if hasattr(net.norm, "act"):
                net.norm.act = act
        return out


def randomize(net: Multimodal) -> None:
    """Values of its own for every modality, so that a mixed-up one shows."""
    for norm in net.network.modules():
        if isinstance(norm, PrivateNorm):
            with torch.no_grad():
                for name, tensor in (*norm.named_parameters(), *norm.named_buffers()):
                    if name.endswith(("bias", "mean")):
                        tensor.normal_()
                    elif name.endswith(("weight", "var")):
                        tensor.uniform_(0.2, 1.2)


def both(name: str, modalities: int, threshold: float, *, training: bool = True) -> tuple[Multimodal, Lists]:
    norm, layout, axes = ALL[name]
    torch.manual_seed(modalities)
    plain = Around(norm(), layout, axes).double()
    fusion = Exchange(threshold) if threshold else None
    net = fuse(plain, NAMES[:modalities], fusion, **({"sites": "norm"} if threshold else {}))
    randomize(net)
    return net.train(training), Lists(net, plain, threshold).train(training)


def assert_like_the_lists(name: str, modalities: int, threshold: float, *, training: bool) -> Multimodal:
    net, reference = both(name, modalities, threshold, training=training)
    inputs = images(net.modalities, 3, 2, *(5,) * ALL[name][2])
    prediction, theirs = net(inputs), reference(list(inputs.values()))
    assert_equal(list(prediction.per_modality.values()), theirs, 1e-12, "outputs")
    sum((m + 1) * p.square().mean() for m, p in enumerate(prediction.per_modality.values())).backward()
    sum((m + 1) * p.square().mean() for m, p in enumerate(theirs)).backward()
    for key, parameter in net.network.norm.named_parameters():
        expected = [dict(network.norm.named_parameters())[key].grad for network in reference.networks]
        expected = torch.stack([torch.zeros_like(parameter[0]) if grad is None else grad for grad in expected])
        assert_equal(parameter.grad, expected, 1e-10, f"gradient of {key}")
    for layer in ("first", "last"):
        ours, expected = (getattr(n, layer).weight.grad for n in (net.network, reference.networks[0]))
        if expected.abs().max() > 1e-12:
            assert_equal(ours, expected, 1e-9, f"gradient of {layer}")
    for m, network in enumerate(reference.networks):
        for key, value in network.norm.named_buffers():
            ours = dict(net.network.norm.named_buffers())[key]
            assert_equal((ours[m] if ours.dim() else ours).double(), value.double(), 1e-12, key)
    return net


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ALL)
def test_without_exchange_every_modality_is_the_plain_network_with_its_own_norm(name, training):
    """If this breaks, modalities are normalised by each other's statistics or scales, in some layout."""
    assert_like_the_lists(name, 3, 0.0, training=training)


@pytest.mark.parametrize("modalities", [1, 2, 3, 4])
@pytest.mark.parametrize("name", EXCHANGING)
def test_exchange_behind_norms_of_one_sample_equals_the_lists(name, modalities):
    """If this breaks, behind layer, group or RMS norms other channels are exchanged than those of small scales."""
    net = assert_like_the_lists(name, modalities, THRESHOLD, training=True)
    assert net.scales()["norm"].shape == (modalities, C)
    if modalities > 1:
        assert sum(net.exchanged()["norm"].values()) > 0, "nothing was exchanged, so nothing was compared"


@settings(max_examples=10, deadline=None)
@given(name=st.sampled_from(EXCHANGING), threshold=st.floats(0, 1.5), seed=st.integers(0, 99), data=st.data())
def test_absent_modalities_and_batches_change_nothing_for_the_others(name, threshold, seed, data):
    """If this breaks, a sample's prediction depends on what else lies in the batch, or on who is absent."""
    net, _ = both(name, 3, threshold, training=False)
    torch.manual_seed(seed)
    present = data.draw(st.lists(st.sampled_from(net.modalities), min_size=1, unique=True))
    inputs = images([m for m in net.modalities if m in present], 3, 2, 4, 5)
    with torch.no_grad():
        together = net(inputs, subset=True).per_modality
        for row in range(3):
            alone = net({key: image[row : row + 1] for key, image in inputs.items()}, subset=True).per_modality
            assert_equal({key: out[row : row + 1] for key, out in together.items()}, alone, 1e-12)


@pytest.mark.parametrize("name", ["layer of windows", "batch of places"])
def test_windows_belong_to_their_image_when_layers_run_again(name):
    """If this breaks, gradient checkpointing mixes up whose windows are whose, without a word."""
    from torch.utils.checkpoint import checkpoint as run_again

    net, _ = both(name, 2, 0.0, training=False)
    again = copy.deepcopy(net)
    normalise = again.network.norm.forward
    again.network.norm.forward = lambda x: run_again(normalise, x, use_reentrant=False)
    inputs = images(net.modalities, 3, 2, 5, 5)
    for network in (net, again):
        network(inputs).per_modality["rgb"].square().sum().backward()
    assert_equal(again.network.norm.weight.grad, net.network.norm.weight.grad, 1e-12)
    assert net.network.norm.weight.grad[1].abs().max() == 0


@pytest.mark.parametrize("name", ["layer", "group", "batch 3d", "frozen"])
def test_random_exchange_needs_no_scales_that_are_trained(name):
    """If this breaks, only batch norms of images have the control of an exchange."""
    norm, layout, axes = ALL[name]
    plain = Around(norm(), layout, axes)
    net = fuse(plain, NAMES[:2], RandomExchange(0.5, within="all"), sites="norm").eval()
    inputs = images(net.modalities, 1, 2, *(5,) * axes, dtype=torch.float32)
    with torch.no_grad(), net.fusion_disabled():
        apart = net(inputs).per_modality["rgb"]
    assert not torch.equal(net(inputs).per_modality["rgb"], apart)
    chosen_by_scales = fuse(plain, NAMES[:2], Exchange(THRESHOLD), sites="norm")
    assert set(chosen_by_scales.scales()) == (set() if name == "frozen" else {"norm"})


class InFront(nn.Module):
    """Gives a norm what a function makes of the features."""

    def __init__(self, norm: nn.Module, function: object) -> None:
        super().__init__()
        self.conv, self.norm, self.function = nn.Conv2d(2, C, 1), norm, function

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y + self.norm(self.function(y)).sum()


class Odd(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flip(-1))


REFUSED = {
    "tokens before samples": (nn.LayerNorm(C), lambda y: y.flatten(2).permute(2, 0, 1), "first axis"),
    "windows before samples": (
        nn.LayerNorm(C),
        lambda y: y.movedim(1, -1).transpose(0, 1).flatten(0, 1),
        "first axis",
    ),
    "levels before samples": (nn.BatchNorm2d(C), lambda y: torch.stack([y, 2 * y]).flatten(0, 1), "first axis"),
    "what no sample is in": (nn.LayerNorm(C), lambda y: torch.ones(4, C, dtype=y.dtype, device=y.device), "first axis"),
    "an attention over the batch": (
        nn.LayerNorm(C),
        lambda y: (y.flatten(1) @ y.flatten(1).T).softmax(1).mm(y.flatten(1)).view_as(y).movedim(1, -1),
        "mixed with each other",
    ),
    "a computation of its own": (Odd(C), lambda y: y.movedim(1, -1), "axes that are not known"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_norm_whose_samples_cannot_be_told_apart_is_refused_by_name(case):
    """If this breaks, one modality is scaled as another, and nobody hears of it."""
    norm, function, message = REFUSED[case]
    network = InFront(norm, function)
    with pytest.raises(FusionError, match=rf"'norm' \((LayerNorm|BatchNorm2d|Odd)\).*{message}"):
        fuse(network, NAMES[:2], None)
    assert "'norm'" in str(inspect(network))


def test_layers_that_have_no_shape_yet_are_refused():
    """If this breaks, people are told of hooks that they never made."""
    network = nn.Sequential(nn.Conv2d(2, C, 1), nn.LazyBatchNorm2d())
    with pytest.raises(FusionError, match=r"'1' \(LazyBatchNorm2d\).*run the network once"):
        fuse(network, NAMES[:2], None)
    network(torch.zeros(1, 2, 3, 3))
    assert fuse(network, NAMES[:2], None).network[1].weight.shape == (2, C)


def test_rows_that_are_left_over_are_refused_when_they_come():
    """If this breaks, a network that lays out its windows by the size of an image mixes modalities at some sizes."""

    def halves(y: Tensor) -> Tensor:
        tokens = y.flatten(2).mT
        return tokens if y.shape[-1] > 8 else tokens.flatten(0, 1)[: 3 * len(y) - 1].unsqueeze(1)

    net = fuse(InFront(nn.LayerNorm(C), halves), NAMES[:2], None)
    net(images(NAMES[:2], 2, 2, 16, 16, dtype=torch.float32))
    with pytest.raises(FusionError, match=r"'norm' was given 11 rows.*no multiple of the 4 images"):
        net(images(NAMES[:2], 2, 2, 6, 6, dtype=torch.float32))


def test_features_of_another_form_are_refused_by_the_norms_name():
    """If this breaks, volumes for a network of images end in an error of PyTorch's, or in wrong statistics."""
    net = fuse(Around(nn.BatchNorm2d(C)), NAMES[:2], None)
    with pytest.raises(FusionError, match=r"'norm' takes features of 4 axes.*\(4, 6, 5, 5, 5\)"):
        net.network.norm(torch.zeros(4, C, 5, 5, 5))


def test_a_layer_of_other_axes_inside_does_not_make_volumes_of_images():
    """If this breaks, a network of images with a gate or an attention over other axes takes no images any more."""
    plain = nn.Sequential(nn.Conv2d(2, C, 1), nn.BatchNorm2d(C), nn.Conv2d(C, 2, 1))
    net = fuse(plain.append(nn.Unflatten(1, (1, 2))).append(nn.Conv3d(1, 1, 1)), NAMES[:2], None)
    assert net(images(NAMES[:2], 2, 2, 5, 5, dtype=torch.float32)).ensemble.shape == (2, 1, 2, 5, 5)


def test_only_what_keeps_statistics_is_frozen():
    """If this breaks, `statistics: frozen` cannot be said to a network with layer norms beside its batch norms."""
    mixed = nn.Sequential(nn.Conv2d(2, C, 1), nn.BatchNorm2d(C), nn.GroupNorm(2, C))
    net = fuse(mixed, NAMES[:2], None, statistics="frozen")
    assert (net.network[1].frozen, net.network[2].frozen) == (True, False)
    with pytest.raises(FusionError, match=r"statistics: 'norm' \(LayerNorm\) keeps no running statistics"):
        fuse(Around(nn.LayerNorm(C), "last"), NAMES[:2], None, statistics="frozen")


def test_a_scale_over_several_axes_is_private_and_no_place_to_exchange():
    """If this breaks, a norm over whole maps exchanges something else than channels."""
    with pytest.raises(FusionError, match="no layer that could be a site"):
        fuse(Around(nn.LayerNorm((C, 5, 5))), NAMES[:2], "exchange", sites="norm")


def test_a_model_saved_when_layer_norms_were_shared_is_loaded(tmp_path):
    """If this breaks, whoever trained a network of batch and layer norms cannot load it any more."""
    plain = nn.Sequential(nn.Conv2d(2, C, 1), nn.BatchNorm2d(C), nn.GroupNorm(2, C))
    net = fuse(plain, NAMES[:2], None).eval()
    with torch.no_grad():
        net.network[2].weight.copy_(torch.rand(C).expand(2, C))
    checkpoint.save(net, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({k: v[0].clone() if "network.2." in k else v for k, v in tensors.items()}, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    del config["weights"]  # the digest, which early versions did not write
    (tmp_path / "config.json").write_text(json.dumps(config))
    inputs = images(NAMES[:2], 1, 2, 5, 5, dtype=torch.float32)
    assert_equal(checkpoint.load(tmp_path, network=plain)(inputs).ensemble, net(inputs).ensemble, 0.0)


@pytest.mark.parametrize("axes", [1, 3])
def test_volumes_and_signals_come_in_by_every_way(axes):
    """If this breaks, four sequences of an MRI cannot be fused, or images for volumes fail inside PyTorch."""
    plain = Around((nn.BatchNorm1d, None, nn.BatchNorm3d)[axes - 1](C), axes=axes)
    net = fuse(plain, {"rgb": 2, "depth": 1, "thermal": 5}, None, stems={"thermal": "private"}).eval()
    sides = (5, 6, 7)[:axes]
    inputs = {name: torch.randn(2, count, *sides) for name, count in net.channels.items()}
    assert net(inputs).ensemble.shape == (2, 2, *sides)
    tiled = plain.eval()(inputs["depth"].repeat(1, 2, *(1,) * axes))
    assert_equal(net(inputs).per_modality["depth"], tiled, 1e-6)
    with pytest.raises(DataError, match=r"'rgb': expected an image \(batch, 2, .*(length|depth, height, width)\), got"):
        net({"rgb": torch.zeros(2, 2, 5, 5), "depth": torch.zeros(2, 1, 5, 5), "thermal": torch.zeros(2, 5, 5, 5)})
    with pytest.raises(ExportError, match="volumes" if axes == 3 else "signals"):
        absorb(net)


class Transformer(nn.Module):
    """PyTorch's own transformer between two convolutions."""

    def __init__(self, *, norm_first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True, norm_first=norm_first)
        self.first, self.last = nn.Conv2d(3, 8, 2, 2), nn.Conv2d(8, 2, 1)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.first(x)
        return self.last(self.encoder(tokens.flatten(2).mT).mT.reshape(tokens.shape))


@pytest.mark.parametrize("fusion", [None, Exchange(THRESHOLD)])
@pytest.mark.parametrize("norm_first", [False, True])
def test_pytorch_s_own_transformer_calls_its_norms_when_it_predicts(norm_first, fusion):
    """If this breaks, its kernel for predictions passes over the norms: trained networks fail or exchange nothing."""
    torch.manual_seed(0)
    plain = Transformer(norm_first=norm_first).double().eval()
    net = fuse(plain, NAMES[:3], fusion, **({} if fusion is None else {"sites": "*.norm1"}))
    randomize(net)
    inputs = images(net.modalities, 2, 3, 8, 8)
    expected = net(inputs).per_modality
    with torch.no_grad():
        found = net(inputs).per_modality
        alone = plain_of(net, plain, 0)(inputs["rgb"])
    assert_equal(found, expected, 1e-12)
    assert fusion is None or sum(net.exchanged()["encoder.layers.0.norm1"].values()) > 0
    assert (difference(found["rgb"], alone) < 1e-12) == (fusion is None)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("case", ["batch sizes", "subset", "fusion", "gaps"])
def test_layers_that_run_again_for_another_pass_are_refused(case, reentrant):
    """If this breaks, gradient checkpointing takes the rows of one modality for another's, and gradients are wrong."""
    from torch.utils.checkpoint import checkpoint as run_again

    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, C, 1), nn.BatchNorm2d(C)

        def forward(self, x: Tensor) -> Tensor:
            return run_again(self.norm, self.conv(x), use_reentrant=reentrant)

    net = fuse(Again().double(), NAMES[:2], Exchange(THRESHOLD), sites="norm")
    four, two = (images(NAMES[:2], size, 3, 5, 5) for size in (4, 2))

    def loss(*arguments, **settings) -> Tensor:
        return sum(x.nan_to_num().square().sum() for x in net(*arguments, **settings).per_modality.values())

    for batch in (four, two):
        loss(batch).backward()  # one after the other they are as they were
    if case == "batch sizes":
        total = loss(four) + loss(two)
    elif case == "subset":
        total = loss({"rgb": four["rgb"]}, subset=True)
    elif case == "gaps":
        total = loss(four, present={"depth": torch.tensor([True, False, True, False])})
    else:
        with net.fusion_disabled():
            total = loss(four)
            total.backward(retain_graph=True)
    with pytest.raises(FusionError, match="Gradient checkpointing runs layers again"):
        total.backward()
