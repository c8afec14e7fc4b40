"""Tiny downloads laid out as the official ones, with everything a test compares kept beside them."""

import json
from pathlib import Path

import h5py
import numpy as np
import scipy.io
from PIL import Image

SIZE = (6, 8)
"""Height and width."""

KINDS = {0: None, 21: "wall", 5: "chair", 3: "cabinet", 25: "air vent", 12: "garbage bin", 1: "book", 894: "torah"}
"""A few of the 894 kinds of NYUDv2 by their official number, 0 for unlabelled pixels."""

_OTHERS = """11 floor, 157 bed, 83 sofa, 19 table, 28 door, 59 window, 88 bookshelf, 64 picture, 7 counter, 80 blinds,
36 desk, 42 shelves, 89 curtain, 169 dresser, 119 pillow, 122 mirror, 143 floor mat, 141 clothes, 4 ceiling, 85 books,
17 refridgerator, 172 television, 15 paper, 135 towel, 123 shower curtain, 26 box, 45 whiteboard, 331 person,
158 night stand, 124 toilet, 24 sink, 144 lamp, 136 bathtub, 55 bag"""

NAMES = KINDS | {int(kind.split()[0]): kind.split(maxsplit=1)[1] for kind in _OTHERS.split(",")}
"""The kinds with a class of their own, too, spelt as the release spells them."""


def png(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def make_nyudv2(root: Path, images: int = 5, train=(1, 4), test=(2, 3, 5)) -> dict[str, np.ndarray]:
    """The .mat in the official structure, axes in reverse as MATLAB writes them, and splits.mat."""
    rng = np.random.default_rng(0)
    height, width = SIZE
    raw = rng.uniform(0.5, 9.5, (images, height, width)).astype(np.float32)
    truth = {
        "images": rng.integers(0, 256, (images, height, width, 3), np.uint8),
        "rawDepths": np.where(rng.random(raw.shape) < 0.3, 0, raw).astype(np.float32),
        "depths": raw,
        "labels": rng.choice(list(KINDS), raw.shape).astype(np.uint16),
    }
    root.mkdir(parents=True, exist_ok=True)
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w", userblock_size=512) as mat:
        mat["images"] = truth["images"].transpose(0, 3, 2, 1)
        for name in ("rawDepths", "depths", "labels"):
            mat[name] = truth[name].transpose(0, 2, 1)
        references = np.empty((1, 894), h5py.ref_dtype)
        for number in range(1, 895):
            text = NAMES.get(number) or f"thing {number}"
            cell = mat.create_dataset(f"#refs#/{number}", data=np.array([[ord(c)] for c in text], np.uint16))
            references[0, number - 1] = cell.ref
        mat.create_dataset("names", data=references)
    listed = {"trainNdxs": np.array([train], np.uint16).T, "testNdxs": np.array([test], np.uint16).T}
    scipy.io.savemat(root / "splits.mat", listed)
    return truth


def make_sunrgbd(root: Path) -> dict[str, np.ndarray]:
    """Three scenes of two sensors and sizes; the paths are those of the authors' machines, in both of their forms."""
    rng = np.random.default_rng(1)
    folders = ["kv2/kinect2data/000065_a-resize", "realsense/shr/2014_b", "xtion/sun3ddata/c"]
    sizes = [(6, 8), (5, 7), (6, 8)]
    truth: dict[str, np.ndarray] = {}
    meta = np.empty(3, object)
    toolbox = root / "SUNRGBDtoolbox"
    (toolbox / "Metadata").mkdir(parents=True)
    (toolbox / "traintestSUNRGBD").mkdir()
    with h5py.File(toolbox / "Metadata/SUNRGBD2Dseg.mat", "w") as mat:
        references = np.empty((3, 1), h5py.ref_dtype)
        for number, (folder, size) in enumerate(zip(folders, sizes, strict=True)):
            scene = root / "SUNRGBD" / folder
            depth = rng.integers(0, 10000, size).astype(np.uint16)
            label = rng.integers(0, 38, size).astype(np.uint8)
            png(scene / "image" / f"i{number}.jpg", rng.integers(0, 256, (*size, 3), np.uint8))
            png(scene / "depth_bfx" / f"d{number}.png", (depth << 3) | (depth >> 13))
            png(scene / "depth" / f"d{number}.png", ((depth // 2) << 3) | ((depth // 2) >> 13))
            cell = mat.create_dataset(f"#refs#/{number}", data=label.T)
            references[number, 0] = cell.ref
            meta[number] = {
                "rgbpath": f"/n/fs/sun3d/data/SUNRGBD/{folder}//image/i{number}.jpg",
                "rgbname": f"i{number}.jpg",
                "depthname": f"d{number}.png",
            }
            truth |= {f"depth{number}": depth, f"label{number}": label}
        mat.create_dataset("SUNRGBD2Dseg/seglabel", data=references)
    scipy.io.savemat(toolbox / "Metadata/SUNRGBDMeta.mat", {"SUNRGBDMeta": meta})
    write_sunrgbd_split(root, [f"/data1/SUNRGBD/{folders[2]}", f"/data1/SUNRGBD/{folders[1]}/"], [folders[0]])
    return truth


def write_sunrgbd_split(root: Path, train: list[str], test: list[str]) -> None:
    def cells(paths: list[str]) -> np.ndarray:
        full = [path if path.startswith("/") else f"/n/fs/sun3d/data/SUNRGBD/{path}" for path in paths]
        return np.array(full, object)

    file = root / "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat"
    scipy.io.savemat(file, {"alltrain": cells(train), "alltest": cells(test)})


def make_cityscapes(root: Path) -> dict[str, np.ndarray]:
    """Two frames for training, one for validation, one for test, whose labels are withheld."""
    rng = np.random.default_rng(2)
    truth: dict[str, np.ndarray] = {}
    frames = [("train", "aachen", 0), ("train", "ulm", 1), ("val", "munster", 2), ("test", "bonn", 3)]
    for split, city, number in frames:
        stem = f"{split}/{city}/{city}_000000_{number:06d}"
        disparity = rng.integers(0, 30000, SIZE).astype(np.uint16)
        disparity[0, :3] = 0, 1, 2
        label = rng.integers(0, 34, SIZE).astype(np.uint8) if split != "test" else np.zeros(SIZE, np.uint8)
        image = rng.integers(0, 256, (*SIZE, 3), np.uint8)
        png(root / f"leftImg8bit/{stem}_leftImg8bit.png", image)
        png(root / f"disparity/{stem}_disparity.png", disparity)
        png(root / f"gtFine/{stem}_gtFine_labelIds.png", label)
        png(root / f"gtFine/{stem}_gtFine_instanceIds.png", label)
        camera = root / f"camera/{stem}_camera.json"
        camera.parent.mkdir(parents=True, exist_ok=True)
        camera.write_text(json.dumps({"extrinsic": {"baseline": 0.2}, "intrinsic": {"fx": 2262.52 + number}}))
        truth |= {f"disparity{number}": disparity, f"label{number}": label, f"image{number}": image}
    return truth


def make_cen(root: Path) -> dict[str, np.ndarray]:
    """Images and masks without the border that depth still has, and the two lists."""
    rng = np.random.default_rng(3)
    truth: dict[str, np.ndarray] = {}
    for number in (1, 3, 4):
        label = rng.choice([*range(40), 255], SIZE).astype(np.uint8)
        image = rng.integers(0, 256, (*SIZE, 3), np.uint8)
        depth = rng.integers(1, 50000, (SIZE[0] + 3, SIZE[1] + 4)).astype(np.uint16)
        for folder, array in (("rgb", image), ("masks", label), ("depth", depth)):
            png(root / folder / f"{number:06d}.png", array)
        truth |= {f"label{number}": label, f"image{number}": image, f"depth{number}": depth}
    write_cen_lists(root, [3, 4], [1])
    return truth


def write_cen_lists(root: Path, train: list[int], val: list[int]) -> None:
    for name, numbers in (("train", train), ("val", val)):
        lines = [f"rgb/{n:06d}.png\tmasks/{n:06d}.png\tdepth/{n:06d}.png" for n in numbers]
        (root / f"{name}.txt").write_text("\n".join(lines))
