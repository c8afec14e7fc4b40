# ---
# jupyter:
#   jupytext: {text_representation: {extension: .py, format_name: percent}}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Train on the rooms
#
# "rooms" comes with the package: 900 rendered scenes with colour, depth and more, and 13 classes. A short training
# by a recipe, then what the network predicts. The settings here are tiny, so that the notebook runs in a minute;
# without the limits it is the training whose scores stand in [Results](../results.md).

# %%
import json
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from matplotlib import pyplot as plt

import polymodal
from polymodal.data import DatasetSpec
from polymodal.runs.training import fit, recipe

LIMITS = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=4", "--trainer.limit_val_batches=1"]
run = Path(mkdtemp()) / "rooms"

# %% [markdown]
# ## The data
#
# A data set is a folder with a [dataset.yaml](../reference/dataset.md); the embedded one is called `rooms`.

# %%
rooms = DatasetSpec.load("rooms")
print(list(rooms.modalities), rooms.target.classes, {split: len(keys) for split, keys in rooms.splits.items()})
key = rooms.keys("val")[0]
scene = {}
for name in ("rgb", "depth"):
    part = rooms.modalities[name]
    file = rooms.file(part, key)
    scene[name] = rooms.content(part, file).channels(None, file)
    print(name, scene[name].shape, scene[name].dtype)

# %% [markdown]
# ## The training
#
# `fit` takes what `polymodal fit` takes behind it: a recipe, and settings that override it.

# %%
fit([f"--config={recipe('rooms')}", f"--trainer.default_root_dir={run}", "--trainer.accelerator=cpu",
     "--trainer.precision=32-true", *LIMITS])  # fmt: skip
scores = json.loads((run / "scores.val.json").read_text())
{name: round(figures["mean_iou"], 1) for name, figures in scores["predictions"].items()}

# %% [markdown]
# ## What it predicts
#
# A `Predictor` takes pictures as cameras and files give them.

# %%
predicted = polymodal.Predictor(run)(**scene)
shown = {
    "rgb": np.moveaxis(scene["rgb"], 0, -1),
    "depth": scene["depth"][0],
    "predicted": predicted["colors"],
    "confidence": predicted["confidence"],
}
figure, axes = plt.subplots(1, len(shown), figsize=(12, 3))
for axis, (title, picture) in zip(axes, shown.items(), strict=True):
    axis.imshow(picture)
    axis.set_title(title)
    axis.axis("off")

# %% [markdown]
# The run folder has a page of its own, `report.html`; [Read a run](read-a-run.md) goes on with what else lies in it.
