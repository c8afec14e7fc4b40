"""Train a multimodal network in plain PyTorch: `fuse`, a loop, a prediction. Run: `python examples/train.py [STEPS]`.

The task is made up so that neither image is enough: each shows a bright or a dark square, and the square's class is
whether both are alike. So what a modality predicts well, it has from the other.
"""

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import polymodal


def network(classes: int) -> nn.Module:
    """Any network with batch norms will do; this one has two residual blocks."""

    class Block(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
            self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))

    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), Block(16), Block(16), nn.Conv2d(16, classes, 1))


def batch(samples: int, size: int = 24) -> tuple[dict[str, Tensor], Tensor]:
    """Images `(B, 3, H, W)` by modality and labels `(B, H, W)`: 0 around the square, 1 or 2 in it."""
    kinds = torch.randint(0, 2, (samples,))
    truth = torch.zeros(samples, size, size, dtype=torch.long)
    truth[:, 6:18, 6:18] = 1 + kinds[:, None, None]
    inside, sign = (truth > 0).float(), torch.randint(0, 2, (samples, 1, 1)) * 2.0 - 1
    # Each image alone shows a bright or a dark square; whether both agree is the class.
    images = {"rgb": sign * inside, "depth": sign * (1.0 - 2 * kinds[:, None, None]) * inside}
    return {name: (x + 0.3 * torch.randn_like(x))[:, None].expand(-1, 3, -1, -1) for name, x in images.items()}, truth


def train(steps: int) -> dict[str, float]:
    """Train, and give the pixel accuracy in per cent of each modality's prediction and of the ensemble."""
    torch.manual_seed(0)
    # One call: shared convolutions, private norms, channels exchanged behind the first norm of each block.
    net = polymodal.fuse(network(3), ["rgb", "depth"], polymodal.Exchange(share=0.5), sites="*.bn1")
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(steps):
        images, truth = batch(8)
        prediction = net(images)
        outputs = [*prediction.per_modality.values(), prediction.ensemble]
        loss = torch.stack([F.cross_entropy(output, truth) for output in outputs]).sum() + net.fusion_loss()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    net.eval()
    images, truth = batch(64)
    with torch.no_grad():
        prediction = net(images)
    outputs = {**prediction.per_modality, "ensemble": prediction.ensemble}
    return {name: 100 * (output.argmax(1) == truth).float().mean().item() for name, output in outputs.items()}


if __name__ == "__main__":
    for name, accuracy in train(int(sys.argv[1]) if len(sys.argv) > 1 else 200).items():
        print(f"{name}: {accuracy:.1f} % of the pixels are right")
