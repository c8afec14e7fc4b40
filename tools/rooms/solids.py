"""Triangle meshes of boxes, cylinders, spheres and flat pieces, with texture coordinates in metres.

Metres, so that a pattern has the same size on a wall and on the cupboard before it; and meshes even for spheres,
because the ray tracer's own spheres give NaN normals when they are scaled unevenly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .arrays import Array, vector
from .furniture import Part, Triple


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh.

    Args:
        vertices: Positions (V, 3), metres.
        normals: Unit normals (V, 3).
        uv: Texture coordinates (V, 2).
        faces: Vertex indices (F, 3), counter-clockwise seen from outside.
    """

    vertices: Array
    normals: Array
    uv: Array
    faces: np.ndarray

    def placed(self, yaw: float, offset: Triple) -> Mesh:
        """The mesh turned by `yaw` radians about z, then moved by `offset`."""
        c, s = np.cos(yaw), np.sin(yaw)
        turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]], np.float32)
        return replace(self, vertices=self.vertices @ turn + vector(offset), normals=self.normals @ turn)

    def tiled(self, tile: float) -> Mesh:
        """The mesh with its texture repeated every `tile` metres; unchanged for 0."""
        return replace(self, uv=self.uv / np.float32(tile)) if tile else self


def merge(meshes: list[Mesh]) -> Mesh:
    """One mesh out of several."""
    starts = np.cumsum([0, *(len(m.vertices) for m in meshes)])
    return Mesh(
        np.concatenate([m.vertices for m in meshes]),
        np.concatenate([m.normals for m in meshes]),
        np.concatenate([m.uv for m in meshes]),
        np.concatenate([m.faces + start for m, start in zip(meshes, starts, strict=False)]),
    )


def quad(corner: Triple | Array, right: Triple | Array, up: Triple | Array, *, stretch: bool = False) -> Mesh:
    """A parallelogram that faces right × up.

    Args:
        corner: Its lower left corner seen from the front, metres.
        right: The edge to the lower right corner.
        up: The edge to the upper left corner.
        stretch: Texture coordinates 0..1 over the whole piece in place of metres.
    """
    origin, u, v = np.asarray(corner, np.float32), np.asarray(right, np.float32), np.asarray(up, np.float32)
    wide, high = (1.0, 1.0) if stretch else (float(np.linalg.norm(u)), float(np.linalg.norm(v)))
    normal = np.cross(u, v)
    return Mesh(
        np.stack([origin, origin + u, origin + u + v, origin + v]),
        np.tile(normal / np.linalg.norm(normal), (4, 1)).astype(np.float32),
        np.array([[0, 0], [wide, 0], [wide, high], [0, high]], np.float32),
        np.array([[0, 1, 2], [0, 2, 3]]),
    )


def disc(width: float, depth: float, sides: int = 32) -> Mesh:
    """A horizontal ellipse about the origin that faces up, its texture stretched over its bounding rectangle."""
    angle = np.arange(sides) * (2 * np.pi / sides)
    rim = np.stack([np.cos(angle), np.sin(angle)], 1) / 2
    flat = np.concatenate([np.zeros((1, 2)), rim]).astype(np.float32)
    index = np.arange(sides)
    return Mesh(
        np.concatenate([flat * vector([width, depth]), np.zeros((sides + 1, 1), np.float32)], 1),
        np.tile(vector([0, 0, 1]), (sides + 1, 1)),
        flat + np.float32(0.5),
        np.stack([np.zeros(sides, int), 1 + index, 1 + (index + 1) % sides], 1),
    )


def _box(size: Triple) -> Mesh:
    x, y, z = size
    a, b, c = x / 2, y / 2, z / 2
    return merge(
        [
            quad((-a, -b, -c), (x, 0, 0), (0, 0, z)),
            quad((a, b, -c), (-x, 0, 0), (0, 0, z)),
            quad((a, -b, -c), (0, y, 0), (0, 0, z)),
            quad((-a, b, -c), (0, -y, 0), (0, 0, z)),
            quad((-a, -b, c), (x, 0, 0), (0, y, 0)),
            quad((a, -b, -c), (-x, 0, 0), (0, y, 0)),
        ]
    )


def _grid(points: np.ndarray, normals: np.ndarray, uv: np.ndarray) -> Mesh:
    """The mesh over a (rows, columns, ...) grid of points whose columns run counter-clockwise and rows upwards."""
    rows, columns = points.shape[:2]
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1].ravel(), index[:-1, 1:].ravel(), index[1:, 1:].ravel(), index[1:, :-1].ravel()
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    vertices, directions, coordinates = (
        g.reshape(rows * columns, -1).astype(np.float32) for g in (points, normals, uv)
    )
    return Mesh(vertices, directions, coordinates, faces)


def _cylinder(diameter: float, height: float, sides: int = 24) -> Mesh:
    angle, level = np.meshgrid(np.linspace(0, 2 * np.pi, sides + 1), [-height / 2, height / 2])
    normals = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], -1)
    points = normals * (diameter / 2) + np.stack([np.zeros_like(level), np.zeros_like(level), level], -1)
    wall = _grid(points, normals, np.stack([angle * diameter / 2, level], -1))
    lid = disc(diameter, diameter, sides)
    lid = replace(lid, uv=lid.uv * np.float32(diameter)).placed(0.0, (0, 0, height / 2))
    flip = vector([1, -1, -1])
    return merge([wall, lid, replace(lid, vertices=lid.vertices * flip, normals=lid.normals * flip)])


def _sphere(diameter: float, rings: int = 16) -> Mesh:
    angle, tilt = np.meshgrid(np.linspace(0, 2 * np.pi, 2 * rings + 1), np.linspace(-np.pi / 2, np.pi / 2, rings + 1))
    normals = np.stack([np.cos(angle) * np.cos(tilt), np.sin(angle) * np.cos(tilt), np.sin(tilt)], -1)
    return _grid(normals * (diameter / 2), normals, np.stack([angle, tilt], -1) * (diameter / 2))


def solid(part: Part) -> Mesh:
    """The mesh of one part of a piece of furniture."""
    match part.shape:
        case "box":
            mesh = _box(part.size)
        case "cylinder":
            mesh = _cylinder(part.size[0], part.size[2])
        case "sphere":
            mesh = _sphere(part.size[0])
    return mesh.placed(0.0, part.centre)
