"""Makes the models, the run and the exported file in this folder: `python tests/saved/make.py`, with the version whose
files later ones must go on reading. They are kept as that version wrote them; test_saved.py reads them."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import polymodal
from polymodal.export import absorb
from polymodal.export import save as save_exported
from polymodal.fusion import make_fusion
from polymodal.models import create
from polymodal.runs.training import fit, recipe

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent)]
from core_tools import randomize_norms  # noqa: E402
from fixtures_data import make_archive, make_folder  # noqa: E402

UNET = {"name": "rooms-unet", "arguments": {"classes": 3, "stem": 4, "widths": [4, 6], "decoder": 4}}
FUSIONS = {
    "none": (None, {}),
    "exchange": ({"name": "exchange", "threshold": 0.6, "penalty": 1e-3}, {}),
    "exchange-share": ({"name": "exchange", "share": 0.5, "within": "all"}, {"statistics": "frozen"}),
    "random": ({"name": "random", "share": 0.5, "seed": 3}, {}),
    "asymmetric": ({"name": "asymmetric"}, {}),
    "concat": ({"name": "aggregation", "operation": "concat"}, {"convolutions": "private", "sites": "all"}),
    "average": ({"name": "aggregation", "operation": "average"}, {"sites": "early"}),
    "attention": ({"name": "aggregation", "operation": "attention"}, {"sites": "late"}),
    "alignment": ({"name": "alignment", "weight": 0.5}, {"convolutions": "private", "sites": "middle"}),
    "shared-norms": (None, {"norms": "shared", "stems": {"depth": "private"}}),
}


def models(folder: Path) -> None:
    """A model of each fusion, and in expected.npz what each predicts of the images there."""
    torch.manual_seed(0)
    images = {"rgb": torch.randn(1, 3, 16, 24), "depth": torch.randn(1, 1, 16, 24)}
    arrays = {f"image {name}": image.numpy() for name, image in images.items()}
    for name, (settings, others) in FUSIONS.items():
        fusion = None
        if settings is not None:
            settings = dict(settings)
            fusion = make_fusion(settings.pop("name"), settings)
        net = polymodal.fuse(create(UNET["name"], **UNET["arguments"]), {"rgb": 3, "depth": 1}, fusion, **others)
        randomize_norms(net).eval()
        polymodal.save(net, folder / name, network=UNET, metadata={"classes": ["a", "b", "c"]})
        with torch.no_grad():
            prediction = net(images)
        for output, value in {**prediction.per_modality, "ensemble": prediction.ensemble}.items():
            arrays[f"{name} {output}"] = value.numpy()
        if name == "exchange":
            save_exported(absorb(net), folder / "folded.onnx", format="onnx")
    np.savez_compressed(folder / "expected.npz", **arrays)


def run(folder: Path) -> None:
    """A run of two epochs, and the data set that it was trained on."""
    with tempfile.TemporaryDirectory() as scratch:
        data = make_folder(
            Path(scratch, "own"), size=(16, 24), splits={"train": 6, "val": 3}, modalities=("grey", "depth")
        )
        shutil.move(make_archive(data), folder / "own.zip")
    settings = [
        "--trainer.max_epochs=30",
        "--trainer.check_val_every_n_epoch=5",
        "--data.batch_size=2",
        "--data.augment.crop=[16,16]",
        "--model.network_args={stem: 4, widths: [4, 4], decoder: 4}",
        "--model.fusion.threshold=0.9",
    ]
    words = [f"--data.root={folder / 'own.zip'}", f"--trainer.default_root_dir={folder / 'run'}"]
    fit([f"--config={recipe('folder')}", *words, *settings])
    shutil.rmtree(folder / "run" / "checkpoints")  # which name the folder that they were in
    for name in ("report.html", "environment.json", "events.*"):
        for made in (folder / "run").glob(name):
            made.unlink()


if __name__ == "__main__":
    os.chdir(HERE)  # so that no path of this machine is recorded
    models(Path())
    run(Path())
