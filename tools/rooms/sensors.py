"""From an ideal view to what is stored: a colour camera in bad light, a Kinect-like depth camera, derived images."""

import numpy as np
from PIL import Image

from .arrays import Array, vector
from .colour import to_srgb
from .layout import CLASSES, Room
from .tracing import View

DARK = 0.26  # share of scenes in the dark
FULL_WELL = 1500.0  # electrons of a white pixel at exposure 1: shot noise is its square root
READ_NOISE = 3.0  # electrons
NEAREST, FARTHEST = 0.5, 5.2  # metres the depth camera can measure
BASELINE = 0.12  # metres between its projector and its lens: the occlusion shadow's width
DISPARITY_STEP = 0.004  # 1/m: the depth step is this times the squared distance, 3.6 cm at 3 m
BROKEN = 0.18  # share of things that are partly invisible to the depth camera: dark or shiny
DEPTH_SCALE = 0.0205  # metres a grey level; 0 is a hole

Bytes = np.ndarray  # uint8


def _bytes(image: Array) -> Bytes:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _cloud(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> Array:
    """Smooth noise (H, W) of about `cells` bumps from top to bottom, roughly standard normal."""
    height, width = shape
    coarse = rng.standard_normal((cells + 2, round(cells * width / height) + 2)).astype(np.float32)
    fine = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return (fine - fine.mean()) / (fine.std() + 1e-6)


def expose(view: View) -> Array:
    """The clean photograph: linear RGB (H, W, 3) with its bright parts just below white."""
    return view.colour * np.float32(0.8 / np.percentile(view.colour.max(2), 95))


def photograph(rng: np.random.Generator, clean: Array) -> Bytes:
    """The colour camera: a colour cast, in `DARK` of the scenes hardly any light, and the noise of few photons.

    Args:
        rng: The camera's generator.
        clean: The clean photograph.
    """
    dark = rng.random() < DARK
    exposure = np.exp(rng.uniform(np.log(0.04), np.log(0.25))) if dark else rng.uniform(0.7, 1.2)
    cast = np.exp(rng.normal(0, 0.2 if dark else 0.1, 3))
    electrons = rng.poisson(clean * exposure * cast * FULL_WELL) + rng.normal(0, READ_NOISE, clean.shape)
    return _bytes(to_srgb((electrons / FULL_WELL).astype(np.float32)))


def snapshot(clean: Array) -> Bytes:
    """A camera without faults: the clean photograph as it is.

    Args:
        clean: The clean photograph.
    """
    return _bytes(to_srgb(clean))


def measure(rng: np.random.Generator, room: Room, view: View) -> Bytes:
    """The depth camera: noise and steps that grow with the squared distance, and holes.

    Holes are the projector's shadow left of things, parts of dark or shiny things, edges, surfaces seen at a grazing
    angle, and all that is out of range.

    Args:
        rng: The camera's generator.
        room: The room, for its things.
        view: The ideal view.
    """
    depth = view.point[..., 2]
    shape = depth.shape
    disparity = 1 / depth
    column = np.arange(shape[1]) - view.focal * BASELINE * disparity
    first = np.minimum.accumulate(column[:, ::-1], axis=1)[:, ::-1]  # what the projector meets first from the right
    hole = column > first + 1e-3
    facing = -(view.point * view.normal).sum(2) / np.linalg.norm(view.point, axis=2)
    hole |= facing < rng.uniform(0.05, 0.15, shape)
    jump = np.abs(np.diff(depth, axis=1, append=depth[:, -1:])) > 0.15
    hole |= jump & (rng.random(shape) < 0.5)
    for index, thing in enumerate(room.things):
        if thing.label not in ("wall", "floor", "ceiling") and rng.random() < BROKEN:
            hole |= (view.thing == index) & (_cloud(rng, shape, 8) > rng.normal(-0.2, 0.4))
    noise = 0.25 * rng.standard_normal(shape) + 0.4 * _cloud(rng, shape, shape[0] // 3)
    steps = np.maximum(np.rint(disparity / DISPARITY_STEP + noise), 1)
    measured = 1 / (steps * DISPARITY_STEP)
    hole |= (measured < NEAREST) | (measured > FARTHEST)
    return np.where(hole, 0, np.rint(measured / DEPTH_SCALE)).astype(np.uint8)


def normals(view: View) -> Bytes:
    """Surface normals in the camera's axes: x right, y up, z towards the camera, -1..1 as 0..255."""
    return _bytes((view.normal * vector([1, -1, -1]) + 1) / 2)


def reshading(view: View) -> Bytes:
    """White clay lit by a lamp at the camera: the cosine between normal and line of sight, falling off gently."""
    distance = np.linalg.norm(view.point, axis=2)
    facing = np.clip(-(view.point * view.normal).sum(2) / distance, 0, 1)
    return _bytes(facing / (1 + (distance / 5) ** 2))


def texture_edge(clean: Array) -> Bytes:
    """Sobel gradient of the clean photograph's brightness."""
    grey = np.pad(to_srgb(clean) @ vector([0.299, 0.587, 0.114]), 1, mode="edge")
    smooth_x = grey[:, :-2] + 2 * grey[:, 1:-1] + grey[:, 2:]
    smooth_y = grey[:-2] + 2 * grey[1:-1] + grey[2:]
    return _bytes(np.hypot(smooth_y[:, 2:] - smooth_y[:, :-2], smooth_x[2:] - smooth_x[:-2]) / 2)


def occlusion_edge(view: View) -> Bytes:
    """Where depth breaks off: the second difference of inverse depth, relative to inverse depth.

    Inverse depth is linear across the image of any plane, so an oblique wall gives exactly 0, where the first
    difference of depth would call it an edge.
    """
    inverse = np.pad(1 / view.point[..., 2], 1, mode="reflect", reflect_type="odd")
    middle = inverse[1:-1, 1:-1]
    across = inverse[1:-1, 2:] - 2 * middle + inverse[1:-1, :-2]
    down = inverse[2:, 1:-1] - 2 * middle + inverse[:-2, 1:-1]
    return _bytes(4 * np.maximum(np.abs(across), np.abs(down)) / middle)


def labels(room: Room, view: View) -> Bytes:
    """The class of every pixel."""
    return np.array([CLASSES.index(thing.label) for thing in room.things], np.uint8)[view.thing]
