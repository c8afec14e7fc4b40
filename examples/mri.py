"""Segment a tumour in four MRI sequences, also where one is missing. Run: `python examples/mri.py [STEPS]`.

The network is MONAI's SegResNet in 3-D (`pip install monai`). The volumes are made up: a tumour is a core within an
oedema, of which t1ce shows the core alone, flair the oedema alone, and t2 both alike.
"""

import sys

import torch
from monai.losses import DiceCELoss
from monai.networks.nets import SegResNet
from torch import Tensor

import polymodal

BRIGHT = {"t1": (-0.5, -0.5), "t1ce": (0.0, 1.5), "t2": (1.5, 1.5), "flair": (1.5, 0.0)}  # oedema and core


def ball(centre: Tensor, least: float, most: float, size: int) -> Tensor:
    """Whether a voxel is in a ball around its volume's centre, `(B, D, H, W)`, of a radius from least to most."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(float(size))] * 3, indexing="ij"))
    radius = torch.empty(len(centre), 1, 1, 1).uniform_(least, most)
    return (grid - centre[:, :, None, None, None]).norm(dim=1) < radius


def batch(samples: int, size: int = 16) -> tuple[dict[str, Tensor], Tensor]:
    """Volumes `(B, 1, D, H, W)` by sequence and labels alike: 0 elsewhere, 1 in the oedema, 2 in the core."""
    centre = torch.empty(samples, 3).uniform_(5, size - 6)
    whole, core = ball(centre, 4, 5.5, size), ball(centre, 2, 3.5, size)
    volumes = {}
    for sequence, (oedema, in_core) in BRIGHT.items():
        other = ball(torch.empty(samples, 3).uniform_(0, size - 1), 2, 4, size)  # bright in this sequence alone
        volume = oedema * (whole & ~core) + in_core * core + 1.5 * (other & ~whole)
        volumes[sequence] = (volume + 0.5 * torch.randn(whole.shape))[:, None]
    return volumes, (whole.long() + core)[:, None]


def train(steps: int) -> polymodal.Multimodal:
    """A network that was trained on all sequences, and without one of them in every second step."""
    torch.manual_seed(0)
    plain = SegResNet(3, init_filters=8, in_channels=1, out_channels=3, blocks_down=(1, 1), blocks_up=(1,))
    net = polymodal.fuse(plain, list(BRIGHT), polymodal.Exchange(share=0.25))  # shared layers, private norms
    measure, optimiser = DiceCELoss(to_onehot_y=True, softmax=True), torch.optim.AdamW(net.parameters(), lr=1e-2)
    for step in range(steps):
        volumes, truth = batch(2)
        if step % 2:
            del volumes[list(BRIGHT)[step // 2 % 4]]
        prediction = net(volumes, subset=True)
        outputs = [*prediction.per_modality.values(), prediction.ensemble]
        loss = torch.stack([measure(output, truth) for output in outputs]).sum() + net.fusion_loss()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.eval()


def dice(net: polymodal.Multimodal, missing: str | None = None) -> dict[str, float]:
    """In per cent, how far each part is found in volumes that no training saw, without a sequence if one is named."""
    torch.manual_seed(1)
    volumes, truth = batch(8)
    with torch.no_grad():
        prediction = net({name: volume for name, volume in volumes.items() if name != missing}, subset=True)
    found = prediction.ensemble.argmax(1, keepdim=True)
    pairs = {part: (found == label, truth == label) for label, part in enumerate(("oedema", "core"), 1)}
    return {part: 200 * (a & b).sum().item() / (a.sum() + b.sum()).item() for part, (a, b) in pairs.items()}


if __name__ == "__main__":
    trained = train(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
    for missing in (None, *BRIGHT):
        parts = ", ".join(f"{part} {overlap:.0f} %" for part, overlap in dice(trained, missing).items())
        print(f"without {missing}: {parts}" if missing else f"all sequences: {parts}")
