"""Mitsuba 3 looks into a room: clean colour and exact geometry for every pixel."""

from dataclasses import dataclass

import mitsuba as mi
import numpy as np

from .arrays import Array, vector
from .layout import Room, Thing

mi.set_variant("scalar_rgb")  # needs no LLVM and no GPU

FINE = 3  # rays to a pixel and axis; odd, so that the middle one passes through the pixel's centre


@dataclass(frozen=True)
class View:
    """What an ideal camera sees.

    Args:
        colour: Linear RGB (H, W, 3), averaged over the pixel.
        point: Camera coordinates (H, W, 3) at the pixel's centre: right, down, forward, metres.
        normal: Unit normal (H, W, 3) at the pixel's centre in the same axes.
        thing: Index (H, W) into the room's things at the pixel's centre.
        focal: Focal length in pixels.
    """

    colour: Array
    point: Array
    normal: Array
    thing: np.ndarray
    focal: float


def _shape(thing: Thing) -> mi.Mesh:
    upright = np.ascontiguousarray(thing.surface.pixels[::-1], np.float32)  # Mitsuba puts v = 0 at the first row
    texture = {
        "type": "bitmap",
        "bitmap": mi.Bitmap(upright),
        "raw": True,
        "wrap_mode": "repeat" if thing.surface.tile else "clamp",
    }
    properties = mi.Properties()
    properties["bsdf"] = mi.load_dict({"type": "twosided", "bsdf": {"type": "diffuse", "reflectance": texture}})
    source = thing.mesh
    mesh = mi.Mesh(
        thing.label,
        len(source.vertices),
        len(source.faces),
        has_vertex_normals=True,
        has_vertex_texcoords=True,
        props=properties,
    )
    parameters = mi.traverse(mesh)
    parameters["vertex_positions"] = source.vertices.ravel()
    parameters["vertex_normals"] = source.normals.ravel()
    parameters["vertex_texcoords"] = source.uv.ravel()
    parameters["faces"] = source.faces.ravel()
    parameters.update()
    return mesh


def _axes(room: Room) -> Array:
    """The camera's right, down and forward directions as rows (3, 3)."""
    cy, sy, cp, sp = np.cos(room.yaw), np.sin(room.yaw), np.cos(room.pitch), np.sin(room.pitch)
    forward = vector([sy * cp, cy * cp, sp])
    right = vector([cy, -sy, 0])
    return np.stack([right, np.cross(forward, right), forward]).astype(np.float32)


def look(room: Room, width: int, height: int) -> View:
    """Renders a room.

    Args:
        room: The room.
        width: Pixels across.
        height: Pixels from top to bottom.
    """
    axes = _axes(room)
    eye = vector(room.eye)
    shapes = {f"thing{index:03d}": _shape(thing) for index, thing in enumerate(room.things)}
    scene = mi.load_dict(
        {
            "type": "scene",
            "camera": {
                "type": "perspective",
                "fov": float(room.fov),
                "fov_axis": "x",
                "to_world": mi.ScalarTransform4f().look_at(
                    origin=[float(x) for x in eye], target=[float(x) for x in eye + axes[2]], up=[0, 0, 1]
                ),
                "film": {
                    "type": "hdrfilm",
                    "width": FINE * width,
                    "height": FINE * height,
                    "pixel_format": "rgb",
                    "rfilter": {"type": "box"},
                },
                # One ray through the middle of each of the film's pixels.
                "sampler": {"type": "stratified", "sample_count": 1, "jitter": False},
            },
            "integrator": {
                "type": "aov",
                "aovs": "albedo:albedo,distance:depth,normal:sh_normal,thing:shape_index",
                "image": {"type": "path", "max_depth": 2},
            },
            # Radiant intensity that gives the irradiance π at 2 m: a white wall there has the radiance 1.
            "lamp": {"type": "point", "position": [float(x) for x in room.light], "intensity": 4 * np.pi},
            **shapes,
        }
    )
    image = np.array(mi.render(scene, spp=1))
    lit, albedo, distance, normal, shape = np.split(image, (3, 6, 7, 10), axis=2)
    colour = (lit + room.ambient * albedo).reshape(height, FINE, width, FINE, 3).mean((1, 3))
    middle = slice(FINE // 2, None, FINE)
    focal = width / 2 / np.tan(np.radians(room.fov) / 2)
    x, y = np.arange(width) + 0.5 - width / 2, np.arange(height) + 0.5 - height / 2
    rays = np.stack(np.broadcast_arrays(x[None], y[:, None], focal), -1)
    rays /= np.linalg.norm(rays, axis=2, keepdims=True)
    return View(
        colour.astype(np.float32),
        (rays * distance[middle, middle]).astype(np.float32),
        normal[middle, middle] @ axes.T,
        np.rint(shape[middle, middle, 0]).astype(int) - 1,  # Mitsuba counts the shapes from 1
        float(focal),
    )
