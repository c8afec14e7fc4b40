"""Token exchanging (TokenFusion), against lists of tensors and, where it lies, the released code."""

import copy
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from core_tools import NAMES, assert_equal, difference, images, plain_of, randomize_norms
from polymodal import FusionError, Multimodal, checkpoint, functional, fuse
from polymodal.export import absorb
from polymodal.fusion import DecodeOnce, TokenExchange, make_fusion
from polymodal.nn import PrivateLayerNorm
from reference.plain import plain_segmenter
from reference.tokens import Attention, Block, run_lists, transformer

THRESHOLD, PENALTY = 0.5, 0.01
PLACES = ("stage1.0.attn", "stage1.1.attn", "stage2.0.attn", "stage2.1.attn")
CODE = os.environ.get("TOKENFUSION", "")


def fused(m: int, *, threshold: float = THRESHOLD) -> Multimodal:
    """With norms of each modality's own, and scores on both sides of the threshold."""
    net = fuse(transformer(m), NAMES[:m], TokenExchange(threshold, PENALTY))
    with torch.no_grad():
        for module in net.network.modules():
            if isinstance(module, PrivateLayerNorm):
                module.weight.uniform_(0.3, 1.2)
                module.bias.normal_(0, 0.3)
        for name, parameter in net.network.named_parameters():
            if ".scorers." in name and parameter.dim() == 2:
                parameter.normal_(0, 1)
    return net


def taken(net: Multimodal, size: int = 2) -> dict[str, Tensor]:
    return images(net.modalities, size, 3, 8, 12)


def plain_name(name: str) -> str:
    return name.replace(".attn.layer.", ".attn.")


def alone(net: Multimodal, m: int) -> nn.Module:
    """The plain network as modality m sees it, with values of its own."""
    return plain_of(net, transformer(0), m)


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_a_training_step_equals_the_lists(m):
    """If this breaks, users train something else than token exchanging, by wrong outputs, losses or gradients."""
    net = fused(m).train()
    inputs = taken(net)
    nets = [alone(net, i) for i in range(m)]
    scorers = {
        stage: [copy.deepcopy(net.network.get_submodule(f"{stage}.0.attn").fusion.scorers[i]) for i in range(m)]
        for stage in ("stage1", "stage2")
    }
    outputs, total = run_lists(nets, scorers, list(inputs.values()), THRESHOLD)
    prediction = net(inputs)
    assert_equal(list(prediction.per_modality.values()), outputs, 1e-10)
    assert_equal(net.fusion_loss(), PENALTY * total, 1e-10)

    (sum(x.square().mean() for x in prediction.per_modality.values()) + net.fusion_loss()).backward()
    (sum(x.square().mean() for x in outputs) + PENALTY * total).backward()
    theirs = [dict(own.named_parameters()) for own in nets]
    for name, parameter in net.network.named_parameters():
        if ".scorers." in name:
            i, _, rest = name.partition(".scorers.")[2].partition(".")
            expected = scorers[name.partition(".")[0]][int(i)].get_parameter(rest).grad
        else:
            gradients = [own[plain_name(name)].grad for own in theirs]
            expected = sum(gradients) if parameter.dim() == gradients[0].dim() else torch.stack(gradients)
        assert (parameter.grad - expected).abs().max() < 1e-10 * max(1e-3, float(expected.abs().max())), name
    assert sum(float(p.grad.abs().max()) > 1e-9 for p in net.network.parameters()) > 40


@pytest.mark.skipif(
    not CODE,
    reason="the released code is not here: git clone https://github.com/yikaiw/TokenFusion, TOKENFUSION=FOLDER",
)
def test_predictions_and_gradients_are_those_of_the_released_code():
    """If this breaks, the method is not the published one."""
    from compare_tokenfusion import compare, our_network, released_network, take_over

    torch.manual_seed(0)
    theirs, ours = released_network(Path(CODE), "mit_b0"), our_network("mit_b0")
    take_over(ours, theirs)
    views = [torch.randn(2, 3, 64, 64, dtype=torch.float64) for _ in range(2)]
    for training in (False, True):
        figures = compare(theirs, ours, views, training)
        assert 0.1 < figures.pop("exchanged") < 0.9
        assert max(figures.values()) < 1e-9, figures


@pytest.mark.parametrize("members", [[0], [0, 2], [1, 2]])
def test_an_absent_modality_gives_and_receives_nothing(members):
    """If this breaks, a sensor that fails at run time still leaks into the others' predictions."""
    net = fused(3).eval()
    inputs = {net.modalities[m]: x for m, x in zip(members, images("abc", 2, 3, 8, 12).values(), strict=False)}
    scorers = {
        stage: [net.network.get_submodule(f"{stage}.0.attn").fusion.scorers[m] for m in members]
        for stage in ("stage1", "stage2")
    }
    with torch.no_grad():
        expected, _ = run_lists([alone(net, m) for m in members], scorers, list(inputs.values()), THRESHOLD)
        assert_equal(list(net(inputs, subset=True).per_modality.values()), expected, 1e-10)


def test_without_fusion_each_modality_is_alone():
    """If this breaks, the comparison with and without fusion measures something else."""
    net = fused(2).eval()
    inputs = taken(net)
    with torch.no_grad(), net.fusion_disabled():
        outputs = list(net(inputs).per_modality.values())
        assert_equal(outputs, [alone(net, m)(x) for m, x in enumerate(inputs.values())], 1e-12)
    assert float(net.fusion_loss()) == 0


def test_a_stage_has_one_scorer_for_each_modality_also_when_loaded_or_copied(tmp_path):
    """If this breaks, a saved model predicts otherwise, or goes on training with a scorer for every block."""
    net = fused(2).eval()
    inputs = taken(net)
    checkpoint.save(net, tmp_path / "model")
    loaded = checkpoint.load(tmp_path / "model", network=transformer(9))
    assert loaded.settings == net.settings
    assert net.sites == PLACES
    for other in (loaded, copy.deepcopy(net)):
        with torch.no_grad():
            assert_equal(other(inputs).ensemble, net(inputs).ensemble, 0)
        found = [other.network.get_submodule(place).fusion.scorers for place in PLACES]
        assert found[0] is found[1]
        assert found[2] is found[3]
        assert found[1] is not found[2]
    count = sum(p.numel() for p in net.parameters()) - sum(
        p.numel() for p in fuse(transformer(0), NAMES[:2]).parameters()
    )
    assert count == sum(p.numel() for stage in (found[0], found[2]) for p in stage.parameters())


@pytest.mark.slow
def test_the_absorbed_network_exchanges_the_same_tokens():
    """If this breaks, an exported network predicts something else."""
    net = fused(2).eval()
    inputs = taken(net, 1)
    with torch.no_grad():
        assert_equal(absorb(net, size=(8, 12))(inputs).ensemble, net(inputs).ensemble, 1e-10)
        assert difference(net(inputs).ensemble, fused(2, threshold=0.0).eval()(inputs).ensemble) > 1e-6


@given(st.integers(2, 4), st.floats(0, 1), st.integers(0, 999))
def test_every_token_is_its_own_or_the_others_mean(m, threshold, seed):
    """If this breaks, tokens are mixed across places or samples, or exchanged where nobody asked for it."""
    torch.manual_seed(seed)
    x, scores = torch.randn(2, m, 5, 3, dtype=torch.float64), torch.rand(2, m, 5, 1, dtype=torch.float64)
    out = functional.exchange_tokens(x, functional.mean_of_others(x), scores, threshold)
    mean = (x.sum(1, keepdim=True) - x) / (m - 1)
    kept = scores[..., 0] >= threshold
    assert torch.equal(out[kept], x[kept])
    assert torch.allclose(out[~kept], mean[~kept], rtol=0, atol=1e-12)
    assert torch.equal(functional.exchange_tokens(x, mean, scores, 0.0), x)


class Halves(nn.Sequential):
    """Blocks that see the halves of an image, one behind the other in the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.unflatten(1, (2, -1)).flatten(0, 1)).unflatten(0, (-1, 2)).flatten(1, 2)


class Turned(Attention):
    """It returns its tokens with the axes in another order."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mT


class TurnedBlock(Block):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.attn = Turned(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm2(x + self.attn(self.norm1(x)).mT))


def in_windows() -> nn.Module:
    net = transformer(0)
    net.stage1, net.stage2 = Halves(*net.stage1), Halves(*net.stage2)
    return net


def in_another_layout() -> nn.Module:
    net = transformer(0)
    net.stage2 = nn.Sequential(TurnedBlock(12), TurnedBlock(12)).double()
    return net


@pytest.mark.parametrize(
    ("make", "sites", "message"),
    [
        (lambda: plain_segmenter(0), "auto", "no block with an attention"),
        (in_windows, "auto", r"'stage1\.0' lie in windows"),
        (in_another_layout, "auto", r"'stage2\.0' returns its tokens in another layout.*stage1\.0\.attn"),
        (lambda: transformer(0), "*.norm1", r"matches no layer.*stage1\.0\.attn"),
    ],
)
def test_what_cannot_work_is_refused_by_name_and_nothing_is_changed(make, sites, message):
    """If this breaks, tokens of different places or samples change places without a word."""
    net = make()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(FusionError, match=message):
        fuse(net, NAMES[:2], TokenExchange(), sites=sites, inplace=True)
    assert_equal(net.state_dict(), before, 0)


@pytest.mark.parametrize("settings", [{"threshold": -1.0}, {"penalty": float("nan")}, {"share": 0.5}])
def test_bad_settings_are_refused(settings):
    """If this breaks, a training runs with a threshold that means nothing."""
    with pytest.raises(FusionError, match=next(iter(settings))):
        make_fusion("token-exchange", settings)


@pytest.mark.slow
def test_networks_that_people_bring():
    """If this breaks, tokens cannot be exchanged in Swin, whose attention sees windows, or in MiT with one decoder."""
    import segmentation_models_pytorch as smp
    import timm

    small = {"img_size": 64, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 2), "num_classes": 3}
    swin = timm.create_model("swin_tiny_patch4_window7_224", **small).double().eval()
    mit = smp.Segformer("mit_b0", encoder_weights=None, classes=3).double().eval()
    for plain, fusion, last in (
        (swin, TokenExchange(0.4), "layers.1.blocks.1.drop_path1"),
        (mit, DecodeOnce(TokenExchange(0.4)), "encoder.block4.1.attn"),
    ):
        net = randomize_norms(fuse(plain, NAMES[:3], fusion)).train()
        assert net.sites[-1] == last
        prediction = net(images(net.modalities, 2, 3, 64, 64))
        sum(x.square().mean() for x in [*prediction.per_modality.values(), prediction.ensemble]).backward()
        assert all(p.grad is not None for name, p in net.named_parameters() if ".scorers." in name)
        assert prediction.ensemble.isfinite().all()
