# ---
# jupyter:
#   jupytext: {text_representation: {extension: .py, format_name: percent}}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Deploy
#
# From a fused network to a file that runs without polymodal, and without PyTorch: norms and exchange absorbed into
# the convolutions, ONNX written and checked. Needs `pip install 'polymodal[export]'`.

# %%
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import onnxruntime
import torch

import polymodal
from polymodal import models
from polymodal.export import absorb, save, saving

torch.manual_seed(0)
folder = Path(mkdtemp())

# %% [markdown]
# ## A network
#
# A trained one is `polymodal.load("runs/mine")`. This one is fresh, and exchanges a third of its channels.

# %%
plain = models.create("rooms-unet", classes=8)
net = polymodal.fuse(plain, {"rgb": 3, "depth": 1}, polymodal.Exchange(share=0.3)).eval()

# %% [markdown]
# ## Absorb
#
# What remains are plain convolutions that read each other's channels; what nobody reads is not computed.

# %%
absorbed = absorb(net)
print(saving(net, absorbed, (96, 128)))

# %% [markdown]
# ## Export
#
# Before the file takes its place it is read back and compared with the network, at sizes and batches that differ in
# kind.

# %%
print(save(absorbed, folder / "net.onnx"))

# %% [markdown]
# ## Run it
#
# By ONNX Runtime alone, with inputs called as the modalities, at any size that is a multiple of the network's step.

# %%
images = {"rgb": torch.rand(1, 3, 96, 128), "depth": torch.rand(1, 1, 96, 128)}
session = onnxruntime.InferenceSession(folder / "net.onnx")
names = [output.name for output in session.get_outputs()]
outputs = dict(zip(names, session.run(names, {name: x.numpy() for name, x in images.items()}), strict=True))
print({name: array.shape for name, array in outputs.items()})

with torch.inference_mode():
    expected = net(images).ensemble.numpy()
print("largest difference", np.abs(outputs["prediction_ensemble"] - expected).max())

# %% [markdown]
# ## One sensor alone
#
# A device with a colour camera gets the network for colour, with what it had from depth left out.

# %%
alone = absorb(net, ["rgb"])
print(save(alone, folder / "rgb.onnx"))
print([x.name for x in onnxruntime.InferenceSession(folder / "rgb.onnx").get_inputs()])

# %% [markdown]
# [Deployment](../deployment.md) has the command line, the other formats, and what a file says of itself.
