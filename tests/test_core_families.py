"""Networks of timm, smp and torchvision: fused without fusion, each branch is the network itself."""

import copy
import re

import pytest
import torch
from torch import Tensor, nn

from core_tools import assert_equal, assert_same_state, images, plain_of, randomize_norms
from polymodal import FusionError, Multimodal, fuse
from polymodal.functional import fold
from polymodal.nn.ensemble import main_output
from reference.plain import plain_segmenter

MODALITIES = ("rgb", "depth")
TOLERANCE = 1e-9

TIMM = (
    "cs3darknet_s", "cspresnet50", "darknet17", "densenet121", "dla46_c", "dpn48b", "eca_resnext26ts",
    "efficientnet_b0", "efficientnet_lite0", "efficientvit_b0", "ese_vovnet19b_slim_dw", "fasternet_t0", "fastvit_t8",
    "fbnetc_100", "gernet_s", "ghostnet_050", "ghostnetv2_100", "hardcorenas_a", "hgnetv2_b0", "hrnet_w18_small",
    "inception_v3", "lambda_resnet26t", "lcnet_035", "mixnet_s", "mnasnet_small", "mobilenetv2_035",
    "mobilenetv3_small_050", "mobilenetv4_conv_small_035", "mobileone_s0", "mobilevit_xxs", "mobilevitv2_050",
    "regnetx_002", "regnety_002", "repghostnet_050", "repvgg_a0", "res2net50_14w_8s", "resnest14d", "resnet18",
    "resnet26", "rexnet_100", "selecsls42", "seresnet50", "skresnet18", "starnet_s050", "swiftformer_xs",
    "tf_efficientnet_lite0", "tiny_vit_5m_224", "tinynet_e", "tresnet_m", "xception41",
)  # fmt: skip
QUICK = {
    "fasternet_t0", "ghostnet_050", "lcnet_035", "mobilenetv2_035", "mobilenetv3_small_050", "mobilevit_xxs",
    "repghostnet_050", "resnet10t", "resnet18", "skresnet18", "starnet_s050",
    "Unet-resnet18", "DeepLabV3Plus-mobilenet_v2", "Linknet-tu-resnet10t",
}  # fmt: skip
"""The light ones of each kind; the others are slow."""
INPUT_SIZE = {"inception_v3": 96}
# Some of these classify on a batch norm over vectors, which cannot be folded; their encoders have none.
TIMM_FEATURES = ("repvit_m0_9", "efficientvit_m0", "shvit_s1", "resnet10t", "mobilenetv3_small_050", "vgg11_bn")
SMP = (
    ("Unet", "resnet18"),
    ("UnetPlusPlus", "timm-mobilenetv3_small_100"),
    ("FPN", "efficientnet-b0"),
    ("DeepLabV3", "resnet18"),
    ("DeepLabV3Plus", "mobilenet_v2"),
    ("PSPNet", "densenet121"),
    ("MAnet", "timm-regnetx_002"),
    ("Linknet", "tu-resnet10t"),
    ("UPerNet", "tu-mobilenetv2_035"),
)


def quick_first(*networks):
    """Parameters, those that are not quick marked."""
    names = ["-".join(network) if isinstance(network, tuple) else network for network in networks]
    return [
        pytest.param(*network, id=name, marks=() if name in QUICK else pytest.mark.slow)
        for name, network in zip(names, ((n,) if isinstance(n, str) else n for n in networks), strict=True)
    ]


def build_timm(name: str, **arguments: object) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, **arguments).double()


def fused(plain: nn.Module, *, training: bool = False) -> Multimodal:
    """The network without fusion, the two modalities' norms random and different."""
    plain.train(training)
    return randomize_norms(fuse(plain, MODALITIES, fusion=None))


def assert_branches_equal(plain: nn.Module, size: int = 64, batch: int = 2) -> None:
    """Every branch of the fused network gives what the plain network with that modality's norms gives."""
    net = fused(plain)
    inputs = images(MODALITIES, batch, 3, size, size)
    with torch.inference_mode():
        prediction = net(inputs)
        outputs = [plain_of(net, plain, m)(image) for m, image in enumerate(inputs.values())]
    for name, output in zip(MODALITIES, outputs, strict=True):
        assert_equal(prediction.per_modality[name], output, TOLERANCE, name)
    first, second = prediction.per_modality.values()
    with pytest.raises(AssertionError):  # the two branches differ, so the comparison above was one
        assert_equal(first, second, 1e-3)


@pytest.mark.parametrize("name", quick_first(*TIMM))
def test_timm_classifier(name):
    """If this breaks, a user's favourite backbone computes something else once it is multimodal."""
    assert_branches_equal(build_timm(name, num_classes=5), INPUT_SIZE.get(name, 64))


@pytest.mark.parametrize("name", quick_first(*TIMM_FEATURES))
def test_timm_encoder_returning_a_list(name):
    """If this breaks, encoders that return feature pyramids cannot be made multimodal."""
    assert_branches_equal(build_timm(name, features_only=True))


@pytest.mark.parametrize(("architecture", "encoder"), quick_first(*SMP))
def test_smp(architecture, encoder):
    """If this breaks, the segmentation decoders that most users start from compute something else when fused."""
    import segmentation_models_pytorch as smp

    network = getattr(smp, architecture)(encoder, encoder_weights=None, classes=3).double()
    assert_branches_equal(network)


def test_smp_with_a_classification_head_returns_a_pair():
    """If this breaks, networks with two heads (mask and label) lose one of them."""
    import segmentation_models_pytorch as smp

    network = smp.Unet("resnet18", encoder_weights=None, classes=3, aux_params={"classes": 2}).double()
    assert_branches_equal(network)


def test_torchvision_deeplab_returns_a_dict():
    """If this breaks, torchvision's segmentation networks, which return a dict of two outputs, do not work."""
    from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

    network = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3, aux_loss=True).double()
    assert_branches_equal(network)
    net = fuse(network.eval(), MODALITIES, fusion=None)
    with torch.inference_mode():
        prediction = net(images(MODALITIES, 1, 3, 64, 64))
    assert list(prediction.ensemble) == list(prediction.per_modality["rgb"]) == ["out", "aux"]


@pytest.mark.parametrize(
    "name",
    quick_first(
        "resnet26", "densenet121", "regnety_002", "mobilenetv2_035", "dla46_c", "repvgg_a0", "ese_vovnet19b_slim_dw"
    ),
)
def test_training_mode_normalises_each_modality_by_its_own_batch(name):
    """If this breaks, one modality's statistics leak into another's while training, in running values or gradients."""
    plain = build_timm(name, num_classes=5)
    net = fused(plain, training=True)
    alone = [plain_of(net, plain, m).train() for m in range(2)]
    inputs = images(MODALITIES, 4, 3, 64, 64)
    outputs = [network(image) for network, image in zip(alone, inputs.values(), strict=True)]
    predictions = list(net(inputs).per_modality.values())
    for name_, prediction, output in zip(MODALITIES, predictions, outputs, strict=True):
        assert_equal(prediction, output, 1e-8, name_)
    state = net.network.state_dict()
    for m, network in enumerate(alone):
        for key, value in network.state_dict().items():
            ours = state[key]
            if "running" in key:
                assert_equal(ours[m], value, 1e-8, key)
            elif "num_batches" in key:
                assert torch.equal(ours, value), key


@pytest.mark.parametrize("timm_network", [False, True])
def test_network_with_synchronised_norms(timm_network):
    """If this breaks, a network prepared for several GPUs cannot be fused, or loses its activations."""
    if timm_network:
        from timm.layers import convert_sync_batchnorm

        plain = build_timm("mobilenetv2_035", num_classes=5)
        synchronised = convert_sync_batchnorm(copy.deepcopy(plain))
    else:
        plain = plain_segmenter(0)
        synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(plain))
    inputs = images(MODALITIES, 2, 3, 64, 64)
    for training in (False, True):
        ours, theirs = (fuse(n.train(training), MODALITIES, fusion=None) for n in (synchronised, plain))
        with torch.no_grad():
            assert_equal(ours(inputs).per_modality, theirs(inputs).per_modality, 1e-12)


@pytest.mark.parametrize(
    ("name", "sites"),
    [
        ("resnet26", r"layer\d\.\d\.bn2"),
        pytest.param("seresnet50", r"layer\d\.\d\.bn2", marks=pytest.mark.slow),
        ("efficientnet_lite0", r"blocks\.[1-6]\.\d\.bn2"),
        ("mobilenetv2_035", r"blocks\.[1-6]\.\d\.bn2"),
    ],
)
def test_auto_sites_follow_the_spatial_convolution_of_every_block(name, sites):
    """If this breaks, the default exchanges in stems or shortcuts, or skips blocks, against the papers' choice."""
    plain = build_timm(name, num_classes=5)
    expected = [n for n, m in plain.named_modules() if isinstance(m, nn.BatchNorm2d) and re.fullmatch(sites, n)]
    assert list(fuse(plain, MODALITIES).sites) == expected


def test_auto_sites_are_in_the_encoder_alone():
    """If this breaks, channels are exchanged in decoders, where no paper does it."""
    import segmentation_models_pytorch as smp
    from torchvision.models.segmentation import deeplabv3_resnet50

    unet = smp.Unet("resnet50", encoder_weights=None)
    blocks = [(stage, i) for stage, n in ((1, 3), (2, 4), (3, 6), (4, 3)) for i in range(n)]
    assert fuse(unet, MODALITIES).sites == tuple(f"encoder.layer{s}.{i}.bn2" for s, i in blocks)
    deeplab = deeplabv3_resnet50(weights=None, weights_backbone=None, aux_loss=True)
    assert fuse(deeplab, MODALITIES).sites == tuple(f"backbone.layer{s}.{i}.bn2" for s, i in blocks)


def test_exchange_happens_before_the_activation_of_a_fused_norm():
    """If this breaks, most timm networks exchange rectified features, which is another method than the papers'."""
    from timm.layers import BatchNormAct2d

    plain = nn.Sequential(nn.Conv2d(3, 6, 1), BatchNormAct2d(6), nn.Conv2d(6, 2, 1)).double().eval()
    # With two modalities the exchange is a swap, which the activation does not notice; the mean over two others is not.
    net = randomize_norms(fuse(plain, ["rgb", "depth", "normal"], "exchange", sites="1"))
    with torch.no_grad():
        net.scales()["1"][0, 0] = net.scales()["1"][1, 3] = 0.001
    inputs = images(net.modalities, 2, 3, 8, 8)
    seen: list[Tensor] = []
    net.network[2].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        net(inputs)
        raw = plain[0](fold(list(inputs.values()))).unflatten(0, (-1, 3))
        norm = net.network[1]
        shape = (1, 3, 6, 1, 1)
        normal = (raw - norm.running_mean.view(shape)) / (norm.running_var.view(shape) + norm.eps).sqrt()
        normal = normal * norm.weight.view(shape) + norm.bias.view(shape)
        expected = normal.clone()
        expected[:, 0, 0] = (normal[:, 1, 0] + normal[:, 2, 0]) / 2
        expected[:, 1, 3] = (normal[:, 0, 3] + normal[:, 2, 3]) / 2
    assert_equal(seen[0], expected.relu().flatten(0, 1), 1e-12)


class OwnForward(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.mean(0)


class OwnInit(nn.BatchNorm2d):
    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-3)


class HomeMade(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(4))
        self.register_buffer("running_var", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.running_mean.view(1, -1, 1, 1)) / self.running_var.view(1, -1, 1, 1).sqrt()


def around(norm: nn.Module) -> nn.Module:
    """A network with a good norm, and after it the one in question: a late check has changed the first."""
    inner = nn.Sequential(nn.Conv2d(4, 4, 1), norm)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), inner, nn.Conv2d(4, 2, 1))


def split_batch_norm() -> nn.Module:
    from timm.layers import SplitBatchNorm2d

    return around(SplitBatchNorm2d(4))


REFUSED = {
    "norms of no known kind": (lambda: build_timm("test_efficientnet_evos", num_classes=5), r"'bn1' \(EvoNorm2dS0\)"),
    "no norm at all": (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), r"no norm"),
    "a user's own forward": (lambda: around(OwnForward(4)), r"'2\.1' \(OwnForward\)"),
    "timm's split batch norm": (split_batch_norm, r"'2\.1' \(SplitBatchNorm2d\)"),
    "a norm of one's own with statistics": (lambda: around(HomeMade()), r"'2\.1' \(HomeMade\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_by_name_and_nothing_is_changed(case):
    """If this breaks, a network is fused wrongly without a word, or is left half converted after the error."""
    make, message = REFUSED[case]
    model = make()
    before = copy.deepcopy(model)
    with pytest.raises(FusionError, match=message):
        fuse(model, MODALITIES, fusion=None, inplace=True)
    assert_same_state(model, before)


def test_subclass_with_the_computation_of_batch_norm_is_accepted():
    """If this breaks, harmless subclasses that only set defaults are refused."""
    assert_branches_equal(around(OwnInit(4)).double(), size=8)


def test_norms_over_one_sample_beside_batch_norms_are_taken():
    """If this breaks, networks that mix batch norms with layer or group norms are refused for no reason."""
    assert_branches_equal(around(nn.GroupNorm(2, 4)).double(), size=8)
    assert_branches_equal(around(nn.InstanceNorm2d(4)).double(), size=8)


@pytest.mark.parametrize(
    ("form", "taken"),
    [
        (lambda a, b: {"aux": a, "out": b}, "b"),  # torchvision
        (lambda a, b: {"loss_free": a, "logits": b}, "b"),  # transformers
        (lambda a, b: {"first": a, "second": b}, "a"),
        (lambda a, b: [a, b], "a"),
        (lambda a, _: a, "a"),
    ],
)
def test_the_main_prediction_is_found_in_every_form_that_libraries_return(form, taken):
    """If this breaks, networks of transformers are fused and trained, and cannot be scored or exported."""
    tensors = {"a": torch.zeros(1), "b": torch.ones(1)}
    assert main_output(form(*tensors.values())) is tensors[taken]
