# ---
# jupyter:
#   jupytext: {text_representation: {extension: .py, format_name: percent}}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Read a run
#
# A run is a folder of plain files: numbers as JSON and CSV, arrays as npz, the model as safetensors. `report.html`
# shows them; this notebook reads them. It trains for two epochs of a few batches to have a run to read; put the path
# of your own in its place.

# %%
import csv
import json
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from matplotlib import pyplot as plt

import polymodal
from polymodal.runs.training import fit, recipe

run = Path(mkdtemp()) / "rooms"
fit([f"--config={recipe('rooms')}", f"--trainer.default_root_dir={run}", "--trainer.accelerator=cpu",
     "--trainer.precision=32-true", "--trainer.max_epochs=2", "--trainer.check_val_every_n_epoch=1",
     "--trainer.limit_train_batches=3", "--trainer.limit_val_batches=1"])  # fmt: skip
print(*sorted(str(file.relative_to(run)) for file in run.rglob("*.*")), sep="\n")

# %% [markdown]
# ## Scores
#
# One file for each split: every score of every modality and of the ensemble.

# %%
scores = json.loads((run / "scores.val.json").read_text())
for name, figures in scores["predictions"].items():
    print(f"{name:10} mean IoU {figures['mean_iou']:5.1f}, pixel accuracy {figures['pixel_accuracy']:5.1f}")
print("weights of the ensemble", scores["weights"], "exchanged", scores["exchanged"])

# %% [markdown]
# ## The training, epoch by epoch

# %%
rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
print(list(rows[0]))
losses = [(int(row["epoch"]), float(row["train/loss"])) for row in rows if row["train/loss"]]
print(losses)

# %% [markdown]
# ## Scales
#
# `scales.npz` keeps the scales γ of every site at every epoch, and the threshold θ: a channel under it is exchanged.

# %%
with np.load(run / "scales.npz") as arrays:
    sites, threshold = arrays["sites"].tolist(), float(arrays["threshold"])
    scales = {site: arrays[f"scale:{site}"] for site in sites}  # (epochs, modalities, channels)
first = sites[0]
print(first, scales[first].shape, "threshold", threshold)
plt.hist([np.abs(scales[first][-1, m]) for m in range(2)], bins=20, label=["rgb", "depth"])
plt.axvline(threshold, color="black")
plt.legend()

# %% [markdown]
# ## Scenes
#
# A few scenes of the validation with what was predicted, as the page shows them.

# %%
with np.load(run / "samples.npz") as arrays:
    print({name: arrays[name].shape for name in arrays.files if ":" in name or name == "target"})

# %% [markdown]
# ## The model

# %%
net = polymodal.load(run)
print(net.settings.fusion)
print(polymodal.inspect(net))
