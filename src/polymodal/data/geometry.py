"""What can be computed from metric depth and colour, one function a domain, each with its formula.

Camera axes are right (x), down (y) and forward (z); pixel (column u, row v) with depth z shows the point
P = z · ((u - cx) / fx, (v - cy) / fy, 1), where pixel centres are whole numbers. Arrays are float64, (H, W) or
(C, H, W). Every function of a `Surface` returns its values with the bool mask (H, W) of the pixels for which there are
any: a hole in the depth map is a hole in all that is derived from it, never a value.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from polymodal.errors import ConfigError

Array = np.ndarray


@dataclass(frozen=True)
class Camera:
    """Intrinsics of a pinhole camera in pixels.

    Args:
        fx: Focal length along rows.
        fy: Along columns.
        cx: Column of the principal point; the centre of the first pixel is 0.
        cy: Row of it.
    """

    fx: float
    fy: float
    cx: float
    cy: float

    def resized(self, height: int, width: int, to: tuple[int, int]) -> "Camera":
        """The same camera, its images resized from `height` and `width` to those of `to`."""
        y, x = to[0] / height, to[1] / width
        return Camera(self.fx * x, self.fy * y, (self.cx + 0.5) * x - 0.5, (self.cy + 0.5) * y - 0.5)

    def rays(self, height: int, width: int) -> Array:
        """P / z of every pixel of an image, (3, H, W): ((u - cx) / fx, (v - cy) / fy, 1)."""
        rows, columns = np.indices((height, width))
        x, y = (columns - self.cx) / self.fx, (rows - self.cy) / self.fy
        return np.stack([x, y, np.ones_like(x)])


KINECT = Camera(525.0, 525.0, 319.5, 239.5)
"""The factory intrinsics of the first Kinect, for its images of 640×480 pixels."""
KINECT_SIZE = (480, 640)

_ASIDE = 5


def parse_camera(text: str) -> Camera:
    """The camera of the words `fx,fy,cx,cy`.

    Raises:
        ConfigError: They are not four numbers, or a focal length is not above 0.
    """
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 4 or not all(map(math.isfinite, values)) or min(values[:2]) <= 0:
        raise ConfigError(f"--intrinsics: expected fx,fy,cx,cy in pixels, such as 525,525,319.5,239.5, got {text!r}.")
    return Camera(*values)


class Surface:
    """A depth map as a surface in space: its points, and a plane through each of them.

    Args:
        depth: Metres along the axis of the camera.
        known: bool (H, W), where there is a depth; it is above 0 there.
        camera: Its intrinsics.
        step: Metres between two depths that the file can hold; 0 when it holds any.
    """

    def __init__(self, depth: Array, known: Array, camera: Camera, step: float = 0.0) -> None:
        self.known = known
        self.camera = camera
        self.step = step
        self.depth = np.where(known, depth, 0.0).astype(np.float64)
        self.inverse = np.where(known, 1 / np.where(known, depth, 1.0), 0.0)
        # On both sides of a pixel a thirty-second of the image: enough for the noise of a Kinect at any size.
        self.radius = max(2, round(depth.shape[1] / 32))

    @cached_property
    def rays(self) -> Array:
        """P / z, (3, H, W)."""
        return self.camera.rays(*self.depth.shape)

    @property
    def points(self) -> Array:
        """P, (3, H, W), metres; 0 where the depth is not known."""
        return self.rays * self.depth

    @cached_property
    def normals(self) -> tuple[Array, Array]:
        """Unit normals towards the camera, (3, H, W), and where there are any.

        A plane n · P = d has the inverse depth 1 / z = n · P / (z d), which is affine in the pixel: a u + b v + c. It
        is fitted by least squares in a square window, and n is proportional to -(a fx, b fy, a cx + b cy + c). Of nine
        windows that hold the pixel, centred on it or moved aside by the radius, the one with the least error is taken,
        so that no plane is laid across an edge where another window avoids it (the rule of Kuwahara et al. 1976 for
        means). The error is the mean squared residual plus the squared residual of the pixel itself; of the windows
        moved aside it counts `_ASIDE` times, as on a curved surface the centred one is right.
        """
        windows = _Windows(self.known, self.radius)
        value, a, b, residual = windows.fit(self.inverse)
        best = np.full(self.depth.shape, np.inf)
        plane = np.zeros((3, *self.depth.shape))
        for down in (0, -self.radius, self.radius):
            for right in (0, -self.radius, self.radius):
                moved = [_moved(field, down, right) for field in (value, a, b, residual)]
                # The plane of a window was fitted around its own centre.
                own = moved[0] - moved[1] * right - moved[2] * down
                usable = self.known & _moved(windows.usable, down, right)
                error = (moved[3] + (self.inverse - own) ** 2) * (_ASIDE if down or right else 1)
                error = np.where(usable, error, np.inf)
                better = error < best
                best = np.where(better, error, best)
                plane = np.where(better, np.stack([own, moved[1], moved[2]]), plane)
        known = np.isfinite(best)
        rows, columns = np.indices(self.depth.shape)
        camera = self.camera
        constant = plane[0] + plane[1] * (camera.cx - columns) + plane[2] * (camera.cy - rows)
        normal = -np.stack([plane[1] * camera.fx, plane[2] * camera.fy, constant])
        length = np.linalg.norm(normal, axis=0)
        return normal / np.where(known, length, 1.0), known


def reshading(surface: Surface) -> tuple[Array, Array]:
    """White clay lit by a lamp at the camera: cos(normal, line of sight) / (1 + (distance / 5 m)²), 0 to 1."""
    normal, known = surface.normals
    distance = np.linalg.norm(surface.points, axis=0)
    facing = -(surface.rays * normal).sum(0) / np.linalg.norm(surface.rays, axis=0)
    return facing.clip(0, 1) / (1 + (distance / 5) ** 2), known


def occlusion_edges(surface: Surface) -> tuple[Array, Array]:
    """Where depth breaks off: 4 max(|w(u-1) - 2 w(u) + w(u+1)|, the same along v) / w with w = 1 / z, up to 1.

    Inverse depth is affine across the image of any plane, so an oblique wall gives 0, where a first difference would
    call it an edge. What the rounding of the file alone can make of it, step / 2 · (w(u-1)² + 2 w(u)² + w(u+1)²), is
    taken off before the division. A pixel needs known neighbours on both sides along at least one axis.
    """
    w, known = surface.inverse, surface.known
    edges, any_axis = np.zeros(w.shape), np.zeros(w.shape, bool)
    for down, right in ((0, 1), (1, 0)):
        before, after = _moved(w, -down, -right), _moved(w, down, right)
        both = known & _moved(known, -down, -right) & _moved(known, down, right)
        rounding = surface.step / 2 * (before**2 + 2 * w**2 + after**2)
        bend = (np.abs(before - 2 * w + after) - rounding).clip(0) / np.where(known, w, 1.0)
        edges = np.where(both, np.maximum(edges, bend), edges)
        any_axis |= both
    return (4 * edges).clip(0, 1), any_axis


def principal_curvatures(surface: Surface) -> tuple[Array, Array]:
    """Largest and smallest principal curvature, (2, H, W), 1/m; above 0 where the surface bulges towards the camera.

    The eigenvalues of I⁻¹ II with the fundamental forms I = [P_i · P_j] and II = [n_i · P_j] made symmetric, where i
    and j stand for derivatives along u and v: H ± √(H² - K), with 2 H = tr(I⁻¹ II) and K = det II / det I. Derivatives
    of points and normals are slopes of planes fitted by least squares in a square window around the pixel.
    """
    normal, known = surface.normals
    windows = _Windows(known, surface.radius)
    points, normals = ([windows.fit(axis)[1:3] for axis in field] for field in (surface.points, normal))
    pu, pv, nu, nv = (np.stack([axis[i] for axis in field]) for field in (points, normals) for i in (0, 1))
    e, f, g = (pu * pu).sum(0), (pu * pv).sum(0), (pv * pv).sum(0)
    k, m, n = (nu * pu).sum(0), ((nu * pv).sum(0) + (nv * pu).sum(0)) / 2, (nv * pv).sum(0)
    area = e * g - f**2
    usable = known & windows.usable & (area > 0)
    area = np.where(usable, area, 1.0)
    mean, gauss = (e * n - 2 * f * m + g * k) / (2 * area), (k * n - m**2) / area
    half = np.sqrt((mean**2 - gauss).clip(0))
    return np.stack([mean + half, mean - half]), usable


def hha(surface: Surface) -> tuple[Array, Array]:
    """Horizontal disparity, height and angle (Gupta et al. 2014) as the grey levels of their encoding, (3, H, W).

    Disparity: 310 m / z. Height: centimetres above the lowest point, which is the first percentile of all heights.
    Angle: degrees between normal and gravity, plus 38: floor 218, wall 128, ceiling 38. Above 255 all of them end.
    """
    normal, known = surface.normals
    down = gravity(normal[:, known])
    height = -np.tensordot(down, surface.points, 1)
    lowest = np.percentile(height[known], 1) if known.any() else 0.0
    angle = np.degrees(np.arccos(np.tensordot(down, normal, 1).clip(-1, 1)))
    levels = np.stack([310 * surface.inverse, 100 * (height - lowest), angle + 38])
    return levels.clip(0, 255), known


def gravity(normals: Array) -> Array:
    """The direction of gravity in camera axes, (3,), from normals alone (Gupta et al. 2013, section 3).

    Starting from the image's downward axis, the direction that is most parallel to the normals of floors and most
    perpendicular to those of walls: the eigenvector of the smallest eigenvalue of Σ_walls n nᵀ - Σ_floors n nᵀ. Floors
    are the normals within an angle of the last direction or its opposite, walls those within it of a right angle; five
    times with 45°, then five times with 15°.

    Args:
        normals: Unit normals (3, N).
    """
    down = np.array([0.0, 1.0, 0.0])
    for degrees in (45, 15):
        for _ in range(5):
            cosine = np.abs(down @ normals)
            walls = normals[:, cosine < np.sin(np.radians(degrees))]
            floors = normals[:, cosine > np.cos(np.radians(degrees))]
            found = np.linalg.eigh(walls @ walls.T - floors @ floors.T)[1][:, 0]
            down = found if found @ down > 0 else -found
    return down


def texture_edges(image: Array) -> Array:
    """Sobel gradient of brightness: √(Gx² + Gy²) / 2 up to 1, borders repeated.

    Args:
        image: (1, H, W) or (3, H, W) from 0 to 1; of three channels the brightness is 0.299 R + 0.587 G + 0.114 B.

    Returns:
        (H, W).
    """
    grey = image[0] if len(image) == 1 else np.tensordot([0.299, 0.587, 0.114], image, 1)
    grey = np.pad(grey, 1, mode="edge")
    across = grey[:-2] + 2 * grey[1:-1] + grey[2:]
    down = grey[:, :-2] + 2 * grey[:, 1:-1] + grey[:, 2:]
    return (np.hypot(across[:, 2:] - across[:, :-2], down[2:] - down[:-2]) / 2).clip(0, 1)


class _Windows:
    """Least-squares planes over the known pixels of the square window around every pixel.

    A window is `usable` when at least a quarter of it is known, and that quarter not along a line.
    """

    def __init__(self, known: Array, radius: int) -> None:
        self.known, self.radius = known, radius
        grid = np.indices(known.shape).astype(np.float64)
        self.rows, self.columns = grid[0], grid[1]
        self.count = np.maximum(self._sum(known), 1)
        self.u, self.v = self._mean(self.columns), self._mean(self.rows)
        self.uu = self._mean(self.columns**2) - self.u**2
        self.vv = self._mean(self.rows**2) - self.v**2
        self.uv = self._mean(self.columns * self.rows) - self.u * self.v
        determinant = self.uu * self.vv - self.uv**2
        full = radius * (radius + 1) / 3  # the variance of the columns of a window without holes
        self.usable = (self.count >= (2 * radius + 1) ** 2 / 4) & (determinant > 0.05 * full**2)
        self.determinant = np.where(self.usable, determinant, 1.0)

    def fit(self, values: Array) -> tuple[Array, Array, Array, Array]:
        """Value at the pixel, slope along u, slope along v and mean squared residual of each window's plane."""
        mean = self._mean(values)
        uw = self._mean(self.columns * values) - self.u * mean
        vw = self._mean(self.rows * values) - self.v * mean
        a = (uw * self.vv - vw * self.uv) / self.determinant
        b = (vw * self.uu - uw * self.uv) / self.determinant
        residual = self._mean(values**2) - mean**2 - a * uw - b * vw
        return mean + a * (self.columns - self.u) + b * (self.rows - self.v), a, b, residual.clip(0)

    def _mean(self, values: Array) -> Array:
        return self._sum(np.where(self.known, values, 0.0)) / self.count

    def _sum(self, values: Array) -> Array:
        """Sums over windows as differences of running sums."""
        for axis in (0, 1):
            margins = [(0, 0), (0, 0)]
            margins[axis] = (self.radius + 1, self.radius)
            running = np.cumsum(np.pad(values.astype(np.float64), margins), axis=axis)
            ends = np.arange(values.shape[axis])
            values = np.take(running, ends + 2 * self.radius + 1, axis) - np.take(running, ends, axis)
        return values


def _moved(field: Array, down: int, right: int) -> Array:
    """The field's value `down` rows below and `right` columns to the right of every pixel; 0 beyond the image."""
    top, left = max(down, 0), max(right, 0)
    padded = np.pad(field, ((top - down, top), (left - right, left)))
    return padded[top : top + field.shape[0], left : left + field.shape[1]]
