"""Decode once: modalities meet in the encoder, and one decoder reads the weighted mean of their maps."""

import pytest
import torch
from torch import nn

from core_tools import NAMES, assert_kept, difference, images, randomize_norms
from polymodal import Exchange, FusionError, Multimodal, cost, fuse, models
from polymodal.fusion import Aggregation, Asymmetric, DecodeOnce, NoFusion
from polymodal.nn import PrivateNorm
from reference.decode_once import ListDecodeOnce, TwoScales
from reference.lists import Rule

THRESHOLD = 0.6  # scales are drawn from ±0.2..1.2, so about 40 % lie below
PENALTY = 0.01
TOLERANCE = 1e-10
SCALES = ("1", "2")
"""What the encoder returns and the decoder reads; "0" is the image."""


def network(modalities: int) -> Multimodal:
    """In float64, with random norms and weights."""
    torch.manual_seed(modalities)
    rule = DecodeOnce(Exchange(THRESHOLD, PENALTY))
    net = randomize_norms(fuse(TwoScales().double(), NAMES[:modalities], rule))
    for name, parameter in net.named_parameters():
        if name.endswith("logits"):
            nn.init.normal_(parameter)
    return net


def pairs(net: Multimodal, members: list[int]) -> dict[str, tuple[str, list[int] | int | None]]:
    """By the reference's names: the network's, and which rows of it."""
    found: dict[str, tuple[str, list[int] | int | None]] = {}
    for key in net.network.state_dict():
        name = key.replace("encoder.layer.", "encoder.")
        owner, _, kind = name.rpartition(".")
        if ".ways." in key:
            found[f"weights.{SCALES.index(owner.rpartition('.')[2])}"] = (key, members)
        elif not name.startswith("encoder."):
            found[name] = (key, 0 if isinstance(net.network.get_submodule(owner), PrivateNorm) else None)
        elif isinstance(net.network.get_submodule(key.rpartition(".")[0]), PrivateNorm):
            found |= {f"{owner}.norms.{i}.{kind}": (key, m) for i, m in enumerate(members)}
        else:
            found[f"{owner}.shared.{kind}"] = (key, None)
    return found


def rows(tensor, which):
    return tensor if which is None or tensor.dim() == 0 else tensor[which]


def reference(net: Multimodal, members: list[int]) -> ListDecodeOnce:
    """The list-based network with the same values, for some of the modalities."""
    total = len(net.modalities)
    other = ListDecodeOnce(len(members), Rule(threshold=THRESHOLD, members=members, total=total)).double()
    state = net.network.state_dict()
    other.load_state_dict({name: rows(state[key], which) for name, (key, which) in pairs(net, members).items()})
    return other


def penalty(other: ListDecodeOnce, members: list[int]) -> torch.Tensor:
    """λ Σ|γ| over every modality's own part."""
    total = torch.zeros(())
    for norms in (other.encoder.layer1[0].bn2, other.encoder.layer2[0].bn2):
        for m, scale in zip(members, norms.scales(), strict=True):
            width = len(scale)
            total = total + scale[m * width // len(members) : (m + 1) * width // len(members)].abs().sum()
    return PENALTY * total


@pytest.mark.parametrize("modalities", [1, 2, 3, 4])
def test_a_training_step_equals_the_list_based_reference(modalities):
    """If this breaks, decode once trains something else than its formula."""
    net = network(modalities).train()
    members = list(range(modalities))
    other = reference(net, members).train()
    inputs = images(net.modalities, 3, 3, 18, 22)
    ours = net(inputs)
    main, own = other(list(inputs.values()), branches=True)
    assert difference(ours.ensemble, main) < TOLERANCE
    for name, prediction in zip(net.modalities, own, strict=True):
        assert difference(ours.per_modality[name], prediction) < TOLERANCE, name
    for predictions, added in (
        ([ours.ensemble, *ours.per_modality.values()], net.fusion_loss()),
        ([main, *own], penalty(other, members)),
    ):
        (sum((i + 1) * p.sin().mean() for i, p in enumerate(predictions)) + added).backward()
    gradients = {name: parameter.grad for name, parameter in other.named_parameters()}
    mine = {name: parameter.grad for name, parameter in net.network.named_parameters()}
    assert len(gradients) > 20
    for name, (key, which) in pairs(net, members).items():
        if name in gradients:
            error = (rows(mine[key], which) - gradients[name]).abs().max()
            assert error <= TOLERANCE * max(float(gradients[name].abs().max()), 1e-4), name
    after = net.network.state_dict()
    for name, value in other.state_dict().items():  # running statistics among them
        key, which = pairs(net, members)[name]
        assert difference(rows(after[key], which).double(), value.double()) < TOLERANCE, name


@pytest.mark.parametrize("members", [[0], [0, 2], [1, 2], [0, 1, 2]])
def test_a_subset_equals_the_reference_of_those_present(members):
    """If this breaks, a sensor that fails at run time goes on weighing in the others' prediction."""
    net = network(3).eval()
    inputs = images([NAMES[m] for m in members], 2, 3, 18, 22)
    with torch.no_grad():
        main, own = reference(net, members).eval()(list(inputs.values()), branches=True)
        asked, plain = net(inputs, subset=True, per_modality=True), net(inputs, subset=True)
    assert difference(asked.ensemble, main) < TOLERANCE
    assert difference(plain.ensemble, main) < TOLERANCE
    for name, prediction in zip(inputs, own, strict=True):
        assert difference(asked.per_modality[name], prediction) < TOLERANCE, name
    assert plain.per_modality == {}


@pytest.mark.parametrize(
    ("within", "weights"),
    [
        (Exchange(0.6), "learned"),
        *(pytest.param(Asymmetric(), weights, marks=pytest.mark.slow) for weights in ("learned", "equal")),
        pytest.param(Exchange(0.6), "equal", marks=pytest.mark.slow),
        *(pytest.param(NoFusion(), weights, marks=pytest.mark.slow) for weights in ("learned", "equal")),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_is_saved_loaded_absorbed_and_equal(within, weights, tmp_path):
    """If this breaks, what was trained is not what is deployed."""
    torch.manual_seed(0)
    plain = models.create("rooms-unet", classes=2, stem=6, widths=(5, 7), decoder=6)
    net = randomize_norms(fuse(plain, {"rgb": 3, "depth": 1}, DecodeOnce(within, weights))).eval()
    inputs = {"rgb": torch.randn(2, 3, 32, 48), "depth": torch.randn(2, 1, 32, 48)}
    assert_kept(net, plain, inputs, tmp_path, 1e-5)


def test_the_decoder_runs_once_at_inference():
    """If this breaks, decode once costs what decoding every modality costs."""
    plain = models.create("rooms-unet", classes=2)
    macs = {
        name: cost(fuse(plain, ["rgb", "depth"], fusion), (96, 128)).macs
        for name, fusion in (("exchange", Exchange()), ("once", DecodeOnce()))
    }
    plain_macs = cost(fuse(plain, ["rgb"], None), (96, 128)).macs
    encoder = cost(fuse(plain, ["rgb", "depth"], Aggregation("average"), sites="late"), (96, 128)).macs - plain_macs
    assert macs["exchange"] == 2 * plain_macs
    assert macs["once"] == pytest.approx(plain_macs + encoder, rel=0.01)


def test_pixels_without_a_batch_are_refused_where_branches_would_share_them_out():
    """If this breaks, a modality's own loss is taken of pixels that others predicted."""

    class Pixels(TwoScales):
        def forward(self, x):
            return super().forward(x).flatten(2).movedim(1, -1).flatten(0, 1)

    net, inputs = fuse(Pixels(), NAMES[:2], DecodeOnce(NoFusion())), images(NAMES[:2], 2, 3, 16, 16, dtype=torch.float)
    with pytest.raises(FusionError, match=r"where 6 rows are to be told apart.*the batch in the first axis"):
        net(inputs)
    assert len(net.eval()(inputs).ensemble) % 2 == 0  # one stream: all rows are its own


def test_is_fused_in_inference_mode_too():
    """If this breaks, a model that is loaded where it is used, in a block without gradients, cannot be loaded."""
    with torch.inference_mode():
        net = fuse(models.create("rooms-unet", classes=2, stem=4, widths=(4, 4), decoder=4), ["a", "b"], DecodeOnce())
        assert net({name: torch.randn(1, 3, 16, 16) for name in "ab"}).ensemble.shape == (1, 2, 16, 16)


def test_what_cannot_be_decoded_once_is_refused():
    """If this breaks, the mistake shows after the training."""
    plain = models.create("rooms-unet", classes=2)
    with pytest.raises(FusionError, match=r"'decoder\.blocks\.0\.1' is not in 'encoder'"):
        fuse(plain, NAMES, DecodeOnce(), sites=["encoder.stages.0.0.bn1", "decoder.blocks.0.1"])
    with pytest.raises(FusionError, match="'aggregation' makes one stream"):
        DecodeOnce(Aggregation())
    with pytest.raises(FusionError, match='weights: expected "learned" or "equal", got \'mean\''):
        DecodeOnce(weights="mean")
    with pytest.raises(FusionError, match="within: expected a fusion, got 'exchange'"):
        DecodeOnce("exchange")

    class Tokens(TwoScales):
        def __init__(self):
            super().__init__()
            self.encoder.register_forward_hook(lambda _, __, maps: [x.flatten(2).mT for x in maps])

        def forward(self, x):
            sides = [side // 2 for side in x.shape[2:]], [side // 4 for side in x.shape[2:]]
            return self.decoder(*(t.mT.unflatten(2, s) for t, s in zip(self.encoder(x)[1:], sides, strict=True)))

    with pytest.raises(FusionError, match=r'not known where channels are. Use weights="equal"'):
        fuse(Tokens(), NAMES, DecodeOnce(NoFusion()))
    net = fuse(Tokens(), NAMES, DecodeOnce(NoFusion(), "equal"))
    assert net(images(NAMES, 1, 3, 24, 40, dtype=torch.float)).ensemble.shape[-2:] == (24, 40)
    flat = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    with pytest.raises(FusionError, match="no child called encoder or backbone"):
        fuse(flat, NAMES, DecodeOnce(NoFusion()))
