"""One room: its walls, what stands in it and hangs in it, the light and the camera, all drawn from one generator."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from .arrays import Array, vector
from .colour import to_srgb
from .furniture import FURNITURE, Part, Triple, extent
from .solids import Mesh, disc, merge, quad, solid
from .surfaces import FLAT, Surface, pattern, poster

CLASSES = (
    *("wall", "floor", "ceiling"),
    *("rug", "picture", "door", "window"),  # flat: only colour tells
    *("table", "chair", "cabinet", "bed", "sofa", "ball"),
)
# How often a piece is drawn, and how often it then stands with its back to a wall.
FREQUENCY = {"table": 0.18, "chair": 0.25, "cabinet": 0.13, "bed": 0.14, "sofa": 0.13, "ball": 0.17}
AT_WALL = {"table": 0.25, "chair": 0.2, "cabinet": 0.95, "bed": 0.8, "sofa": 0.7, "ball": 0.0}
# What a piece wears: its own colours, the pattern of the wall or of the floor, or it is no more than a poster.
GUISES = {"own": 0.6, "wall": 0.18, "floor": 0.12, "poster": 0.1}
LIFT = 0.004  # metres between a flat thing and what it lies on: enough for the ray tracer, nothing for a depth camera


@dataclass(frozen=True)
class Thing:
    """One mesh of the scene: its class name, shape and surface."""

    label: str
    mesh: Mesh
    surface: Surface


@dataclass(frozen=True)
class Side:
    """A wall: lower left corner seen from inside, direction to the right, length, and the direction into the room."""

    corner: Array
    right: Array
    length: float
    inward: Array

    @property
    def yaw(self) -> float:
        """The turn that puts a piece's back to this wall."""
        return float(np.arctan2(-self.inward[0], self.inward[1]))

    def quad(self, start: float, bottom: float, width: float, height: float) -> Mesh:
        """A flat piece that hangs on the wall, `start` metres from its left end."""
        corner = self.corner + start * self.right + vector([0, 0, bottom]) + LIFT * self.inward
        return quad(corner, width * self.right, (0, 0, height), stretch=True)


@dataclass
class Room:
    """A room in the making, and finished: the scene to render.

    Args:
        size: Width, depth and height, metres. The camera looks from y = 0 towards y = depth.
        eye: Where the camera is.
        yaw: Its direction, radians from +y towards +x.
        pitch: Radians upwards.
        fov: Horizontal field of view, degrees.
        light: Where the lamp is.
        ambient: Light from everywhere, as a share of what the lamp gives at 2 m.
        things: The meshes.
    """

    size: Triple
    eye: Triple
    yaw: float
    pitch: float
    fov: float
    light: Triple
    ambient: float
    things: list[Thing] = field(default_factory=list)
    _standing: list[tuple[float, float, float, float]] = field(default_factory=list)
    _hanging: list[tuple[int, float, float]] = field(default_factory=list)

    @property
    def sides(self) -> list[Side]:
        """The walls: opposite the camera, left, right, behind the camera."""
        w, d, _ = self.size
        rows = (((0, d), (1, 0), w), ((0, 0), (0, 1), d), ((w, d), (0, -1), d), ((w, 0), (-1, 0), w))
        return [
            Side(vector([*corner, 0]), vector([*right, 0]), length, vector([right[1], -right[0], 0]))
            for corner, right, length in rows
        ]

    def sees(self, x: float, y: float, nearest: float) -> bool:
        """Whether the camera has the spot in its field of view, at least `nearest` metres away."""
        dx, dy = x - self.eye[0], y - self.eye[1]
        off = (np.arctan2(dx, dy) - self.yaw + np.pi) % (2 * np.pi) - np.pi
        return abs(np.degrees(off)) < 0.45 * self.fov and np.hypot(dx, dy) > nearest

    def stand(self, rng: np.random.Generator, size: Triple, at_wall: bool) -> tuple[float, Triple] | None:
        """A free place on the floor for a piece: its turn and position, or None when there is no room left."""
        width, depth, _ = self.size
        for _ in range(40):
            if at_wall:
                side = self.sides[rng.choice(3, p=(0.5, 0.25, 0.25))]
                along = rng.uniform(0, side.length)
                x, y, _ = side.corner + along * side.right + (size[1] / 2 + 0.02) * side.inward
                yaw = side.yaw
            else:
                x, y, yaw = rng.uniform(0, width), rng.uniform(0, depth), rng.uniform(-np.pi, np.pi)
            c, s = abs(np.cos(yaw)), abs(np.sin(yaw))
            half_x, half_y = (size[0] * c + size[1] * s) / 2, (size[0] * s + size[1] * c) / 2
            box = (x - half_x, y - half_y, x + half_x, y + half_y)
            inside = box[0] > 0 and box[1] > 0 and box[2] < width and box[3] < depth
            free = all(box[2] < b[0] or b[2] < box[0] or box[3] < b[1] or b[3] < box[1] for b in self._standing)
            clear = max(1.3, max(half_x, half_y) + 0.5)
            if inside and free and self.sees(x, y, clear):
                self._standing.append(box)
                return float(yaw), (float(x), float(y), 0.0)
        return None

    def hang(self, rng: np.random.Generator, bottom: float, width: float, height: float) -> Mesh | None:
        """A free stretch of wall for a flat thing: its mesh, or None when there is none left."""
        for _ in range(40):
            index = int(rng.choice(3, p=(0.5, 0.25, 0.25)))
            side = self.sides[index]
            if side.length < width + 0.2:
                continue
            start = rng.uniform(0.1, side.length - width - 0.1)
            x, y, _ = side.corner + (start + width / 2) * side.right
            free = all(i != index or start + width < a or b < start for i, a, b in self._hanging)
            if free and self.sees(x, y, 1.3):
                self._hanging.append((index, start, start + width))
                return side.quad(start, bottom, width, height)
        return None


def _shell(room: Room, wall: Surface, floor: Surface, ceiling: Surface) -> Iterator[Thing]:
    w, d, h = room.size
    walls = [quad(s.corner, s.length * s.right, (0, 0, h)) for s in room.sides]
    yield Thing("wall", merge(walls).tiled(wall.tile), wall)
    yield Thing("floor", quad((0, 0, 0), (w, 0, 0), (0, d, 0)).tiled(floor.tile), floor)
    yield Thing("ceiling", quad((0, 0, h), (0, d, 0), (w, 0, 0)).tiled(ceiling.tile), ceiling)


def _flat(rng: np.random.Generator, room: Room, label: str) -> Iterator[Thing]:
    height = room.size[2]
    match label:
        case "rug":
            wide, deep = rng.uniform(1.2, 2.6), rng.uniform(0.9, 1.8)
            width, depth, _ = room.size
            x, y, yaw = rng.uniform(0.2, 0.8) * width, rng.uniform(0.35, 0.75) * depth, rng.uniform(-0.6, 0.6)
            reach = np.hypot(wide, deep) / 2
            if not (reach < x < width - reach and reach < y < depth - reach):
                yaw = 0.0
                x, y = np.clip((x, y), (wide / 2, deep / 2), (width - wide / 2, depth - deep / 2))
            oblong = quad((-wide / 2, -deep / 2, 0), (wide, 0, 0), (0, deep, 0), stretch=True)
            lying = disc(wide, deep) if rng.random() < 0.4 else oblong
            yield Thing(label, lying.placed(yaw, (x, y, LIFT)), FLAT[label](rng))
            return
        case "door":
            mesh = room.hang(rng, 0.0, rng.uniform(0.75, 1.1), rng.uniform(1.9, min(2.15, height - 0.1)))
        case "window":
            bottom = rng.uniform(0.7, 1.1)
            mesh = room.hang(rng, bottom, rng.uniform(0.8, 1.7), rng.uniform(0.8, min(1.4, height - bottom - 0.1)))
        case _:
            bottom = rng.uniform(0.8, 1.3)
            mesh = room.hang(rng, bottom, rng.uniform(0.5, 1.3), rng.uniform(0.45, min(1.0, height - bottom - 0.1)))
    if mesh is not None:
        yield Thing(label, mesh, FLAT[label](rng))


def _decoy(rng: np.random.Generator, room: Room, parts: list[Part], wall: Surface) -> Iterator[Thing]:
    paper = to_srgb(wall.pixels.mean((0, 1))) if rng.random() < 0.7 else vector([0.9, 0.88, 0.82])
    drawing, width, height = poster(rng, parts, paper)
    shrink = min(1.0, (room.size[2] - 0.4) / height) * rng.uniform(0.7, 1.0)
    mesh = room.hang(rng, rng.uniform(0.05, 0.3), width * shrink, height * shrink)
    if mesh is not None:
        yield Thing("picture", mesh, drawing)


def _piece(rng: np.random.Generator, room: Room, label: str, guise: str, own: dict[str, Surface]) -> Iterator[Thing]:
    parts = FURNITURE[label](rng)
    if guise == "poster":
        yield from _decoy(rng, room, parts, own["wall"])
        return
    main, accent = (own[guise],) * 2 if guise in own else (pattern(rng), pattern(rng))
    place = room.stand(rng, extent(parts), rng.random() < AT_WALL[label])
    if place is None:
        return
    for surface, chosen in ((main, False), (accent, True)):
        meshes = [solid(part) for part in parts if part.accent is chosen]
        if meshes:
            yield Thing(label, merge(meshes).placed(*place).tiled(surface.tile), surface)


def furnish(rng: np.random.Generator) -> Room:
    """A random room."""
    width, depth, height = rng.uniform(3.6, 5.6), rng.uniform(3.8, 6.2), rng.uniform(2.3, 2.8)
    room = Room(
        size=(width, depth, height),
        eye=(width * rng.uniform(0.25, 0.75), rng.uniform(0.2, 0.5), rng.uniform(1.1, 1.7)),
        yaw=rng.uniform(-0.4, 0.4),
        pitch=np.radians(rng.uniform(-23, 2)),
        fov=rng.uniform(68, 84),
        light=(width * rng.uniform(0.2, 0.8), depth * rng.uniform(0.2, 0.7), height * rng.uniform(0.65, 0.85)),
        ambient=rng.uniform(0.3, 0.7),
    )
    covers = {"wall": pattern(rng), "floor": pattern(rng)}
    room.things.extend(_shell(room, covers["wall"], covers["floor"], pattern(rng)))
    for label, chance in (("door", 0.7), ("window", 0.8), ("rug", 0.75), ("picture", 0.9), ("picture", 0.5)):
        if rng.random() < chance:
            room.things.extend(_flat(rng, room, label))
    for _ in range(int(rng.integers(4, 8))):
        label = str(rng.choice(list(FREQUENCY), p=list(FREQUENCY.values())))
        guise = str(rng.choice(list(GUISES), p=list(GUISES.values())))
        room.things.extend(_piece(rng, room, label, guise, covers))
    return room
