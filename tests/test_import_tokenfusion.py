"""Released checkpoints of TokenFusion: imported, they predict what the released code predicts, or are refused.

The checkpoint here is ours: the released names and shapes of SegFormer with MiT-B0 written out, random values. The
reference runs it on lists of modalities.
"""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import polymodal
from core_tools import difference
from polymodal import checkpoint
from polymodal.cli import main
from polymodal.errors import CheckpointError
from polymodal.runs.import_tokenfusion import RELEASED_TOKENS, import_tokenfusion

WIDTHS, HEADS, REDUCTION, BLOCKS, CLASSES, EPS = (32, 64, 160, 256), (1, 2, 5, 8), (8, 4, 2, 1), 2, 40, 1e-6


def released_state() -> dict[str, Tensor]:
    """Random tensors under the names of the released network."""
    state: dict[str, Tensor] = {"alpha": torch.tensor([0.3, -0.4])}

    def layer(name: str, *shape: int, bias: bool = True) -> None:
        state[f"{name}.weight"] = torch.randn(*shape) / (state_size(shape) ** 0.5)
        if bias:
            state[f"{name}.bias"] = 0.1 * torch.randn(shape[0])

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = 0.5 + torch.rand(width), 0.3 * torch.randn(width)

    def norms(name: str, width: int) -> None:
        for m in range(2):
            norm(f"{name}.ln_{m}", width)

    given = 3
    for stage, width in enumerate(WIDTHS):
        number, kernel = stage + 1, 3 if stage else 7
        layer(f"encoder.patch_embed{number}.proj.module", width, given, kernel, kernel)
        norms(f"encoder.patch_embed{number}.norm", width)
        for block in range(BLOCKS):
            name = f"encoder.block{number}.{block}"
            for one in ("norm1", "norm2"):
                norms(f"{name}.{one}", width)
            layer(f"{name}.attn.q.module", width, width)
            layer(f"{name}.attn.kv.module", 2 * width, width)
            layer(f"{name}.attn.proj.module", width, width)
            if REDUCTION[stage] > 1:
                layer(f"{name}.attn.sr.module", width, width, REDUCTION[stage], REDUCTION[stage])
                norms(f"{name}.attn.norm", width)
            layer(f"{name}.mlp.fc1.module", 4 * width, width)
            layer(f"{name}.mlp.dwconv.dwconv", 4 * width, 1, 3, 3)
            layer(f"{name}.mlp.fc2.module", width, 4 * width)
        norms(f"encoder.norm{number}", width)
        for m in range(2):
            scorer = f"encoder.score_predictor.{stage}.score_nets.{m}"
            norm(f"{scorer}.0", width)
            for index, (outputs, inputs) in {1: (1, 1), 3: (2, 1), 5: (4, 2)}.items():
                layer(f"{scorer}.{index}", width // outputs, width // inputs)
            layer(f"{scorer}.7", 2, width // 4)
            state[f"{scorer}.7.weight"] *= 30  # scores on both sides of the threshold
        layer(f"decoder.linear_c{number}.proj", 256, width)
        given = width
    layer("decoder.linear_fuse.conv", 256, 1024, 1, 1, bias=False)
    norm("decoder.linear_fuse.bn", 256)
    state["decoder.linear_fuse.bn.running_mean"] = 0.3 * torch.randn(256)
    state["decoder.linear_fuse.bn.running_var"] = 0.5 + torch.rand(256)
    state["decoder.linear_fuse.bn.num_batches_tracked"] = torch.tensor(0)
    layer("decoder.linear_pred", CLASSES, 256, 1, 1)
    return {name: value.double() if value.is_floating_point() else value for name, value in state.items()}


def state_size(shape: tuple[int, ...]) -> int:
    """How many inputs an output of a layer adds up."""
    return torch.Size(shape[1:]).numel()


def released_forward(state: dict[str, Tensor], rgb: Tensor, depth: Tensor) -> tuple[list[Tensor], list[float]]:
    """The logits by colour, by depth and by the ensemble, at a quarter of the size; how many tokens are exchanged."""

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def conv(x: Tensor, name: str, **settings: int) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **settings)

    def norm(x: Tensor, name: str, eps: float = EPS) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)

    def image(tokens: Tensor, size: torch.Size) -> Tensor:
        return tokens.transpose(1, 2).unflatten(2, size)

    def attention(x: Tensor, name: str, heads: int, reduction: int, m: int, size: torch.Size) -> Tensor:
        q, seen = linear(x, f"{name}.q.module"), x
        if reduction > 1:
            seen = conv(image(x, size), f"{name}.sr.module", stride=reduction).flatten(2).transpose(1, 2)
            seen = norm(seen, f"{name}.norm.ln_{m}")
        k, v = linear(seen, f"{name}.kv.module").chunk(2, -1)
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        return linear((weights @ v).transpose(1, 2).flatten(2), f"{name}.proj.module")

    xs, maps, shares = [rgb, depth.repeat(1, 3, 1, 1)], [], []
    for stage in range(4):
        number = stage + 1
        patches = {"stride": 2 if stage else 4, "padding": 1 if stage else 3}
        grids = [conv(x, f"encoder.patch_embed{number}.proj.module", **patches) for x in xs]
        size = grids[0].shape[-2:]
        embed = f"encoder.patch_embed{number}.norm"
        xs = [norm(grid.flatten(2).transpose(1, 2), f"{embed}.ln_{m}") for m, grid in enumerate(grids)]
        for block in range(BLOCKS):
            name = f"encoder.block{number}.{block}"
            scores = []
            for m, x in enumerate(xs):
                scorer = f"encoder.score_predictor.{stage}.score_nets.{m}"
                h = norm(x, f"{scorer}.0", 1e-5)
                for index in (1, 3, 5):
                    h = F.gelu(linear(h, f"{scorer}.{index}"))
                scores.append(linear(h, f"{scorer}.7").softmax(-1)[..., :1])
            shares.append(float((torch.cat(scores) < 0.02).double().mean()))
            own = [
                attention(norm(x, f"{name}.norm1.ln_{m}"), f"{name}.attn", HEADS[stage], REDUCTION[stage], m, size)
                for m, x in enumerate(xs)
            ]
            own = [f * s for f, s in zip(own, scores, strict=True)]
            met = [torch.where(scores[m] < 0.02, own[1 - m], own[m]) for m in range(2)]
            xs = [x + f for x, f in zip(xs, met, strict=True)]
            for m, x in enumerate(xs):
                h = linear(norm(x, f"{name}.norm2.ln_{m}"), f"{name}.mlp.fc1.module")
                h = conv(image(h, size), f"{name}.mlp.dwconv.dwconv", padding=1, groups=h.shape[-1])
                xs[m] = x + linear(F.gelu(h.flatten(2).transpose(1, 2)), f"{name}.mlp.fc2.module")
        xs = [image(norm(x, f"encoder.norm{number}.ln_{m}"), size) for m, x in enumerate(xs)]
        maps.append(xs)
    bn = [state[f"decoder.linear_fuse.bn.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
    logits = []
    for m in range(2):
        levels = []
        for stage in (3, 2, 1, 0):
            x = linear(maps[stage][m].flatten(2).transpose(1, 2), f"decoder.linear_c{stage + 1}.proj")
            x = image(x, maps[stage][m].shape[-2:])
            levels.append(F.interpolate(x, maps[0][m].shape[-2:], mode="bilinear"))
        fused = F.batch_norm(conv(torch.cat(levels, 1), "decoder.linear_fuse.conv"), *bn).relu()
        logits.append(conv(fused, "decoder.linear_pred"))
    weights = state["alpha"].softmax(0)
    return [*logits, weights[0] * logits[0] + weights[1] * logits[1]], shares


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return released_state()


def write(file, state):
    torch.save({"segmenter": {f"module.{name}": value for name, value in state.items()}, "epoch_start": 299}, file)
    return file


def test_an_imported_checkpoint_predicts_what_the_released_code_does(state, tmp_path, capsys):
    file = write(tmp_path / "model-best.pth.tar", state)
    assert main(["import-tokenfusion", str(file), str(tmp_path / "model")]) == 0
    assert f"{len(state)} tensors of a SegFormer with mit_b0, 40 classes" in capsys.readouterr().out
    net = polymodal.load(tmp_path / "model")
    assert net.fusion == RELEASED_TOKENS
    images = {"rgb": torch.randn(2, 3, 64, 96).double(), "depth": torch.randn(2, 1, 64, 96).double()}
    with torch.no_grad():
        expected, shares = released_forward(state, *images.values())
        found = net(images)
    assert 0.05 < sum(shares) / len(shares) < 0.95
    for one, other in zip([*found.per_modality.values(), found.ensemble], expected, strict=True):
        assert difference(one, other) < 1e-9
    metadata = checkpoint.read_config(tmp_path / "model")["metadata"]
    assert metadata["training"] == {"epochs": 300, "selected_on": "NYUDv2-40-CEN/test"}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s.pop("encoder.norm1.ln_1.bias"), r"missing encoder\.norm1\.ln_1\.bias"),
        (lambda s: s.update({"more.weight": torch.ones(1)}), r"left over more\.weight"),
        (lambda s: s.pop("decoder.linear_pred.weight"), "expected a SegFormer with MiT-B0 to B5"),
        (lambda s: s.update({"encoder.block3.2.norm1.ln_0.bias": torch.ones(160)}), "expected a SegFormer"),
        (lambda s: s.update({"alpha": torch.ones(3)}), r"rgb and depth, got one whose alpha has the shape \(3,\)"),
        (lambda s: s.clear(), "expected a SegFormer"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused_with_what_differs(change, text, state, tmp_path):
    other = dict(state)
    change(other)
    with pytest.raises(CheckpointError, match=text) as error:
        import_tokenfusion(write(tmp_path / "other.pth.tar", other), tmp_path / "model")
    assert "other.pth.tar" in str(error.value)
    assert not (tmp_path / "model").exists()
