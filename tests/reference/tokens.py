"""A small transformer, and the same for M modalities with lists of tensors and tokens exchanged one by one."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 3


class Attention(nn.Module):
    """One head over all tokens `(B, N, C)`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj((q @ k.mT / x.shape[-1] ** 0.5).softmax(-1) @ v)


class Block(nn.Module):
    """Norm, attention, norm, two linear layers; each adds to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = Attention(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Two stages of two blocks on patches with learned positions; `(B, 3, 8, 12)` to `(B, 3, 4, 6)`."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, 2)
        self.positions = nn.Parameter(torch.randn(1, 8, 4, 6))
        self.stage1 = nn.Sequential(Block(8), Block(8))
        self.widen = nn.Linear(8, 12)
        self.stage2 = nn.Sequential(Block(12), Block(12))
        self.norm = nn.LayerNorm(12)
        self.classifier = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        size = x.shape[-2:]
        x = self.stage1((x + F.interpolate(self.positions, size)).flatten(2).mT)
        x = self.classifier(self.norm(self.stage2(self.widen(x))))
        return x.mT.unflatten(2, size)


def transformer(seed: int) -> Transformer:
    """In float64, with every norm's scale and shift drawn at random."""
    torch.manual_seed(seed)
    net = Transformer().double()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.uniform_(0.3, 1.2)
                module.bias.normal_(0, 0.3)
    return net


def exchange(xs: list[Tensor], scores: list[Tensor], threshold: float) -> list[Tensor]:
    """TokenFusion eq. 6: tokens `(B, N, C)` with a score `(B, N)` below θ become the mean of the other modalities'."""
    weighed = [x * score[..., None] for x, score in zip(xs, scores, strict=True)]
    if len(xs) == 1:
        return weighed
    out = [x.clone() for x in weighed]
    for m, score in enumerate(scores):
        others = [x for i, x in enumerate(weighed) if i != m]
        for b, n in (score.detach() < threshold).nonzero().tolist():
            out[m][b, n] = sum(x[b, n] for x in others) / len(others)
    return out


def run_lists(
    nets: list[Transformer], scorers: dict[str, list[nn.Module]], images: list[Tensor], threshold: float
) -> tuple[list[Tensor], Tensor]:
    """`Transformer` for M modalities.

    Args:
        nets: For each modality a plain network with its norms; whatever is shared is the same module in all.
        scorers: By stage, one for each modality.
        images: One of each modality.
        threshold: θ.

    Returns:
        The predictions, and Σ|s| over the stages' blocks, the modalities and the tokens, for one image.
    """
    xs = [(net.patches(image) + net.positions).flatten(2).mT for net, image in zip(nets, images, strict=True)]
    total = torch.zeros((), dtype=images[0].dtype)
    for stage in ("stage1", "stage2"):
        if stage == "stage2":
            xs = [net.widen(x) for net, x in zip(nets, xs, strict=True)]
        for index in range(2):
            blocks = [net.get_submodule(f"{stage}.{index}") for net in nets]
            scores = [torch.softmax(score(x), -1)[..., 0] for score, x in zip(scorers[stage], xs, strict=True)]
            total = total + sum(score.sum() for score in scores) / len(images[0])
            made = [block.attn(block.norm1(x)) for block, x in zip(blocks, xs, strict=True)]
            xs = [x + y for x, y in zip(xs, exchange(made, scores, threshold), strict=True)]
            xs = [x + block.mlp(block.norm2(x)) for block, x in zip(blocks, xs, strict=True)]
    out = [net.classifier(net.norm(x)).mT.unflatten(2, (4, 6)) for net, x in zip(nets, xs, strict=True)]
    return out, total
