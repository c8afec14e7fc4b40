# ---
# jupyter:
#   jupytext: {text_representation: {extension: .py, format_name: percent}}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Fuse anything
#
# Networks that were made for one kind of image, of three libraries and of one's own, made multimodal by one call
# each. No data is needed, and nothing is downloaded: the weights are drawn by lot.

# %%
import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

import polymodal

torch.manual_seed(0)
images = {"rgb": torch.rand(2, 3, 64, 64), "depth": torch.rand(2, 1, 64, 64)}

# %% [markdown]
# ## A U-Net of segmentation-models-pytorch
#
# `inspect` says what would happen, without changing anything: which norms become private, and behind which of them
# channels can be exchanged.

# %%
unet = smp.Unet("resnet18", encoder_weights=None, classes=5)
print(polymodal.inspect(unet))

# %%
net = polymodal.fuse(unet, {"rgb": 3, "depth": 1}, polymodal.Exchange(threshold=0.02, penalty=1e-3)).eval()
with torch.inference_mode():
    out = net(images)
for name, prediction in out.per_modality.items():
    print(name, tuple(prediction.shape))
print("ensemble", tuple(out.ensemble.shape), "weights", out.weights.tolist())

# %% [markdown]
# All convolutions are shared, so two modalities cost next to no parameters more than one: only norms are private.

# %%
one, two = (sum(p.numel() for p in network.parameters()) for network in (unet, net))
print(f"{one:,} parameters before, {two:,} after: {two / one - 1:.2%} more")

# %% [markdown]
# ## What an exchange is
#
# A channel whose scale has become small is replaced by that of the other modality. In a fresh network no scale is
# small; put some of them under the threshold, and their channels are exchanged.

# %%
with torch.no_grad():
    for scale in net.scales().values():
        scale[: scale.numel() // 4] = 0.001
print(dict(list(net.exchanged().items())[:2]))

# %% [markdown]
# ## A transformer of timm
#
# Layer norms are private just as batch norms are, and the tokens of one modality are replaced by those of the other.

# %%
vit = timm.create_model("test_vit4", num_classes=5, img_size=64)
tokens = polymodal.fuse(vit, ["rgb", "thermal"], polymodal.Exchange(share=0.3)).eval()
with torch.inference_mode():
    print(tuple(tokens({"rgb": torch.rand(2, 3, 64, 64), "thermal": torch.rand(2, 3, 64, 64)}).ensemble.shape))

# %% [markdown]
# ## A network of one's own, of one dimension
#
# Any module with norms will do. What cannot be fused is refused before anything changes, with the layer and the
# remedy.

# %%
signals = nn.Sequential(nn.Conv1d(1, 8, 5, padding=2), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 2, 1))
fused = polymodal.fuse(signals, ["left", "right"], polymodal.Exchange(threshold=0.02, penalty=1e-3), sites="1")
print(tuple(fused({"left": torch.rand(4, 1, 100), "right": torch.rand(4, 1, 100)}).ensemble.shape))

try:
    polymodal.fuse(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), ["rgb", "depth"])
except polymodal.FusionError as error:
    print(error)

# %% [markdown]
# ## A sensor is missing

# %%
with torch.inference_mode():
    print(net({"rgb": images["rgb"]}, subset=True).weights)

# %% [markdown]
# [Fusing networks](../fusing.md) has every argument, [Networks](../networks.md) what was seen of 148 of them.
