"""An untrained model of colour and depth, and scenes for it."""

import numpy as np
from PIL import Image

from fixtures_data import Described
from polymodal import fuse, models
from polymodal.runs.evaluation import save_model

HEIGHT, WIDTH = 24, 32


def save(folder, **settings):
    data = Described(**settings)
    net = fuse(models.create("rooms-unet", classes=data.classes), {"depth": 1, "rgb": 3}).eval()
    facts = {"seconds": 1.0, "epochs": 1, "seed": 0}
    save_model(net, "rooms-unet", {"classes": data.classes}, data, facts, folder)
    return net


def write_scene(folder, stem, size=(HEIGHT, WIDTH)):
    numbers = np.random.default_rng(0)
    for name in ("rgb", "depth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    Image.fromarray(numbers.integers(0, 256, (*size, 3), np.uint8)).save(folder / "rgb" / f"{stem}.png")
    Image.fromarray(numbers.integers(0, 4000, size).astype(np.uint16)).save(folder / "depth" / f"{stem}.png")
    return {"rgb": folder / "rgb" / f"{stem}.png", "depth": folder / "depth" / f"{stem}.png"}
