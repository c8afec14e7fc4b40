"""Derived domains are their formulas, holes stay holes, and what is written is a data set that can be trained on."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fixtures_data import MODALITIES, edit, known_of, make_archive, make_folder, target_of
from polymodal.cli import main
from polymodal.data import Augment, DatasetSpec, FolderDataset, Store, check, derive, read_array
from polymodal.data.content import FileSpec
from polymodal.data.geometry import (
    KINECT,
    KINECT_SIZE,
    Camera,
    Surface,
    gravity,
    hha,
    occlusion_edges,
    principal_curvatures,
    reshading,
    texture_edges,
)
from polymodal.data.reading import decode
from polymodal.data.statistics import compute, write
from polymodal.errors import DataError
from polymodal.tasks.images import as_file

CAMERA = Camera(80.0, 78.0, 31.0, 25.0)
SIZE = (48, 64)
ALL = "normal,reshading,edge_texture,edge_occlusion,principal_curvature,hha"


def rays(camera: Camera = CAMERA, size: tuple[int, int] = SIZE) -> np.ndarray:
    """P / z of every pixel, written out."""
    directions = [
        [[(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, 1.0] for u in range(size[1])]
        for v in range(size[0])
    ]
    return np.moveaxis(np.array(directions), 2, 0)


def plane(normal, distance: float = 2.0) -> np.ndarray:
    """Depth of the plane n · P = -distance, n towards the camera."""
    along = np.tensordot(np.asarray(normal, float), rays(), 1)
    return np.divide(-distance, along, out=np.full(SIZE, np.inf), where=along < 0)


def unit(*vector: float) -> np.ndarray:
    return np.array(vector) / np.linalg.norm(vector)


def angles(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.degrees(np.arccos((one * other).sum(0).clip(-1, 1)))


def everywhere(depth: np.ndarray) -> np.ndarray:
    return np.ones(depth.shape, bool)


@given(st.floats(-0.6, 0.6), st.floats(-0.6, 0.6))
def test_normals_of_a_plane_are_exact_up_to_the_border(x, y):
    depth = plane(unit(x, y, -1))
    normal, known = Surface(depth, everywhere(depth), CAMERA).normals
    assert known.all()
    assert angles(normal, np.broadcast_to(unit(x, y, -1)[:, None, None], normal.shape)).max() < 0.01


def test_normals_stay_sharp_where_two_planes_meet():
    """A plane laid across the edge between floor and wall would round off what segmentation has to find."""
    floor, wall = unit(0, -1, -0.3), unit(0, 0, -1)
    depths = np.stack([plane(n, d) for n, d in ((floor, 1.0), (wall, 3.0))])
    first = depths.argmin(0)
    truth = np.stack([floor, wall])[first].transpose(2, 0, 1)
    normal, _ = Surface(depths.min(0), everywhere(first), CAMERA).normals
    assert 0.2 < first.mean() < 0.8
    assert (angles(normal, truth) < 0.1).mean() > 0.99


def ball(radius: float = 0.3, distance: float = 1.5, camera: Camera = CAMERA, size: tuple[int, int] = SIZE):
    """A ball before a wall 4 m away: depth, true normals on the ball, and the ball's pixels."""
    ray = rays(camera, size)
    squared = (ray**2).sum(0)
    root = distance**2 - squared * (distance**2 - radius**2)
    hit = root > 0
    depth = np.where(hit, (distance - np.sqrt(np.where(hit, root, 0))) / squared, 4.0)
    return depth, (depth * ray - np.array([0, 0, distance])[:, None, None]) / radius, hit


def test_curvatures_of_a_ball_are_one_over_its_radius_and_of_a_wall_zero():
    camera = Camera(260.0, 260.0, 79.5, 59.5)
    depth, truth, _ = ball(camera=camera, size=(120, 160))
    surface = Surface(depth, everywhere(depth), camera)
    curvature, known = principal_curvatures(surface)
    rows, columns = np.indices(depth.shape)
    middle = np.hypot(rows - 59.5, columns - 79.5) < 30
    assert known.all()
    assert np.allclose(curvature[:, middle], 1 / 0.3, rtol=0.06)
    assert np.allclose(curvature[:, :10, :10], 0, atol=1e-6)
    assert (curvature[0] >= curvature[1]).all()
    assert angles(surface.normals[0], truth)[middle].max() < 1.5


def test_a_hollow_curves_the_other_way():
    depth, _, _ = ball(0.5, 1.0, Camera(260.0, 260.0, 31.5, 23.5))
    hollow = 2 * depth.min() - depth  # the ball mirrored away from the camera
    curvature, _ = principal_curvatures(Surface(hollow, everywhere(hollow), Camera(260.0, 260.0, 31.5, 23.5)))
    assert (curvature[:, 20:28, 28:36] < -1).all()


def test_reshading_is_its_formula():
    depth, truth, hit = ball(1.5, 3.0)
    light, known = reshading(Surface(depth, everywhere(depth), CAMERA))
    ray = rays()
    length = np.linalg.norm(ray, axis=0)
    expected = -(truth * ray).sum(0) / length / (1 + (depth * length / 5) ** 2)
    inside = hit & (expected > 0.3)
    assert known.all()
    assert np.abs(light - expected)[inside].max() < 0.05
    assert inside.sum() > 200


@given(st.floats(-0.8, 0.8), st.floats(-0.8, 0.8))
def test_an_oblique_wall_has_no_occlusion_edges(x, y):
    depth = plane(unit(x, y, -1))
    edges, known = occlusion_edges(Surface(depth, everywhere(depth), CAMERA))
    assert edges.max() < 1e-9
    assert known.sum() == depth.size - 4  # a corner has no neighbours on both sides along either axis


def test_occlusion_edges_are_where_depth_breaks_off():
    depth = np.full(SIZE, 3.0)
    depth[10:30, 20:40] = 2.6
    edges, _ = occlusion_edges(Surface(depth, everywhere(depth), CAMERA))
    assert edges[15, 20] == pytest.approx(4 * (1 / 2.6 - 1 / 3) * 2.6)
    assert edges[15, 19] == pytest.approx(4 * (1 / 2.6 - 1 / 3) * 3)
    assert edges[9, 30] == pytest.approx(4 * (1 / 2.6 - 1 / 3) * 3)
    assert not edges[15, 25:35].any()
    assert not edges[35:].any()


def test_rounding_of_the_file_makes_no_occlusion_edges():
    """An 8-bit depth map is a staircase: without this, every wall of NYUDv2's would be full of edges."""
    exact, step = plane(unit(0.5, 0.2, -1), 2.5), 0.04
    rounded = np.rint(exact / step) * step
    edges, _ = occlusion_edges(Surface(rounded, everywhere(rounded), CAMERA, step))
    assert edges.max() < 1e-6
    assert occlusion_edges(Surface(rounded, everywhere(rounded), CAMERA))[0].max() > 0.03


def test_gravity_is_found_in_a_tilted_room():
    """Mostly walls, some floor, a slanted roof, and a camera that looks down by 20 degrees and rolls by 5."""
    rng = np.random.default_rng(0)
    c, s, e, r = *(f(np.radians(20)) for f in (np.cos, np.sin)), *(f(np.radians(5)) for f in (np.cos, np.sin))
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.array([[e, -r, 0], [r, e, 0], [0, 0, 1]])
    parts = [((0, -1, 0), 500), ((1, 0, 0), 700), ((0, 0, -1), 900), (unit(0.5, 0.7, 0.5), 200)]
    normals = np.concatenate([np.tile(n, (count, 1)) for n, count in parts]) + 0.05 * rng.standard_normal((2300, 3))
    normals = turn @ (normals / np.linalg.norm(normals, axis=1, keepdims=True)).T
    assert np.degrees(np.arccos(gravity(normals) @ turn @ [0, 1, 0])) < 1


def test_hha_of_a_floor_and_a_wall():
    floor, wall = unit(0, -1, 0), unit(0, 0, -1)
    depths = np.stack([plane(n, d) for n, d in ((floor, 0.6), (wall, 4.0))])
    first, depth = depths.argmin(0), depths.min(0)
    levels, known = hha(Surface(depth, everywhere(depth), CAMERA))
    assert known.all()
    assert np.allclose(levels[0], np.minimum(310 / depth, 255))
    assert np.allclose(levels[1][first == 0], 0, atol=1)
    assert levels[1, 25, 31] == pytest.approx(60, abs=2)  # at the level of the camera, 0.6 m up, in centimetres
    assert np.median(levels[2][first == 0]) == pytest.approx(218, abs=0.1)
    assert np.median(levels[2][first == 1]) == pytest.approx(128, abs=0.1)


def test_texture_edges_are_sobels():
    image = np.random.default_rng(0).random((3, 9, 11))
    grey = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    for v in range(1, 8):
        for u in range(1, 10):
            part = grey[v - 1 : v + 2, u - 1 : u + 2]
            expected = min(np.hypot((kernel * part).sum(), (kernel.T * part).sum()) / 2, 1)
            assert texture_edges(image)[v, u] == pytest.approx(expected)
    assert texture_edges(grey[None])[0, 0] == pytest.approx(texture_edges(image)[0, 0])


def test_derived_normals_agree_with_the_rendered_ones():
    """From noisy 8-bit depth of the embedded rooms: half of all pixels within 4°, the mean below 10°.

    Over 20 scenes: median 2.5° (worst scene 4.0°), mean 8.0°, 88 % within 11.25°, for every pixel with a depth.
    """
    sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
    from rooms.layout import furnish

    store, errors, shadings, edges = Store("rooms"), [], [], []
    for number in (0, 123, 456, 789):
        focal = 64 / np.tan(np.radians(furnish(np.random.default_rng([0, number])).fov) / 2)
        names = ("depth", "normal", "reshading", "occlusion_edge")
        found = {name: store.find(name, f"{number:04d}") for name in names}
        depth, normal, shading, edge = (
            decode(store.read(file), file, FileSpec("image")).array.astype(float) for file in found.values()
        )
        surface = Surface(0.0205 * depth[0], depth[0] > 0, Camera(focal, focal, 63.5, 47.5), 0.0205)
        truth = (normal / 127.5 - 1) * np.array([1, -1, -1])[:, None, None]
        derived, known = surface.normals
        assert known.sum() > 0.99 * (depth > 0).sum()
        errors.append(angles(derived, truth / np.linalg.norm(truth, axis=0))[known])
        shadings.append(np.abs(reshading(surface)[0] - shading[0] / 255)[known])
        values, usable = occlusion_edges(surface)
        edges.append((values[usable & (edge[0] > 128)], values[usable & (edge[0] < 3)]))
    error = np.concatenate(errors)
    assert np.median(error) < 4
    assert error.mean() < 10
    assert (error < 11.25).mean() > 0.8
    assert np.concatenate(shadings).mean() < 0.05
    strong, none = (np.concatenate(part) for part in zip(*edges, strict=True))
    assert strong.mean() > 0.4
    assert none.mean() < 0.03


def test_holes_stay_holes():
    """Depth 0 is no surface: whatever stands in a hole, nothing derived may change, and nothing be invented in it."""
    depth = plane(unit(0.3, 0.4, -1))
    known = everywhere(depth)
    known[8:40, 10:30] = False
    surfaces = [Surface(np.where(known, depth, other), known, CAMERA) for other in (0.0, 9.0)]
    for function in (lambda s: s.normals, reshading, occlusion_edges, principal_curvatures, hha):
        (one, mask), (other, again) = (function(surface) for surface in surfaces)
        assert np.array_equal(mask, again)
        assert not mask[~known].any()
        assert mask[known].mean() > 0.95
        assert np.array_equal(one[..., mask], other[..., mask])
        assert np.isfinite(one).all()
    nothing = Surface(depth, np.zeros(SIZE, bool), CAMERA)
    for function in (lambda s: s.normals, reshading, occlusion_edges, principal_curvatures, hha):
        values, mask = function(nothing)
        assert not mask.any()
        assert np.isfinite(values).all()


def test_a_resized_camera_sees_the_same_rays():
    whole, small = rays(CAMERA, (48, 64)), rays(CAMERA.resized(48, 64, (24, 32)), (24, 32))
    assert np.allclose(whole.reshape(3, 24, 2, 32, 2).mean((2, 4)), small)
    half = KINECT.resized(*KINECT_SIZE, (240, 320))
    assert (half.fx, half.fy, half.cx, half.cy) == (262.5, 262.5, 159.5, 119.5)


@pytest.mark.parametrize("size", [(5, 200), (200, 5), (2, 3), (1, 1)])
def test_images_lower_than_a_window_are_no_error(size):
    """One strip of a panorama among the files must not end the whole command."""
    surface = Surface(np.full(size, 2.0), np.ones(size, bool), CAMERA)
    for function in (lambda s: s.normals, reshading, occlusion_edges, principal_curvatures, hha):
        values, known = function(surface)
        assert known.shape == size
        assert np.isfinite(values).all()


@pytest.fixture
def root(tmp_path):
    return make_folder(tmp_path / "data", modalities=("rgb", "depth"))


@pytest.mark.parametrize("archive", [False, True])
def test_command_writes_a_data_set_of_many_domains(root, tmp_path, archive, capsys):
    out = tmp_path / "out"
    assert main(["data", "derive", str(make_archive(root) if archive else root), str(out), "--domains", ALL]) == 0
    assert "54 files" in capsys.readouterr().out
    assert [defect for defect in check(out) if "constant" not in defect.problem] == []
    data = FolderDataset(out, "train")
    assert list(data.inputs) == ["rgb", "depth", *ALL.split(",")]
    sample, plain = data[0], FolderDataset(root, "train")[0]
    assert np.array_equal(target_of(sample), target_of(plain))
    for name in ("normal", "reshading", "edge_occlusion", "principal_curvature", "hha"):
        assert not sample["valid"][name][~plain["valid"]["depth"]].any(), name
        assert sample["valid"][name].any(), name
    assert sample["valid"]["edge_texture"].all()
    assert (out / "rgb/0003.jpg").read_bytes() == (root / "rgb/0003.jpg").read_bytes()


def test_what_was_measured_of_the_source_goes_with_it(root, tmp_path):
    """Else the same images are normalised by other figures, and runs on source and derived set cannot be compared."""
    write(compute(root), root)
    derive(root, tmp_path / "out", ["normal"])
    assert FolderDataset(tmp_path / "out", "train").inputs["rgb"] == FolderDataset(root, "train").inputs["rgb"]


def test_a_domain_is_as_large_and_as_often_there_as_its_depth(root, tmp_path):
    """Else normals of a smaller depth camera make a set that nobody can read, and a scene without depth ends it all."""
    edit(root, lambda d: d["modalities"]["depth"].update(resize=True, optional=True))
    for file in (root / "depth").iterdir():
        Image.fromarray(np.array(Image.open(file))[::2, ::2]).save(file)
    (root / "depth/0000.png").unlink()
    out = tmp_path / "out"
    assert len(derive(root, out, ["normal", "edge_texture"])) == 8 + 9
    data = FolderDataset(out, "train")
    assert [data.present(key)["normal"] for key in data.keys[:2]] == [False, True]
    assert data[1]["inputs"]["normal"].shape == (3, 24, 32)
    assert "resize" not in yaml.safe_load((out / "dataset.yaml").read_text())["modalities"]["edge_texture"]
    assert not [defect for defect in check(out) if not defect.note and "constant" not in defect.problem]


def test_domains_that_are_there_are_not_derived_again(root, tmp_path):
    assert main(["data", "derive", str(root), str(tmp_path / "one"), "--domains", "hha,normal"]) == 0
    derive(tmp_path / "one", tmp_path / "two")
    others = [name for name in ALL.split(",") if name not in ("hha", "normal")]
    assert list(DatasetSpec.load(tmp_path / "two").modalities) == ["rgb", "depth", "normal", "hha", *others]
    assert (tmp_path / "two/hha/0001.png").read_bytes() == (tmp_path / "one/hha/0001.png").read_bytes()


def test_stored_values_are_those_of_the_formulas(root, tmp_path):
    derive(root, tmp_path / "out", ALL.split(","), Camera(30.0, 30.0, 15.5, 11.5))
    raw = read_array(root / "depth/0000.png")[0]
    surface = Surface(raw * 0.001, raw > 0, Camera(30.0, 30.0, 15.5, 11.5), 0.001)
    stored = {name: read_array(tmp_path / f"out/{name}/0000.png").astype(float) for name in ALL.split(",")}
    normal, known = surface.normals
    assert np.abs(stored["normal"] / 127.5 - 1 - normal * np.array([1, -1, -1])[:, None, None])[:, known].max() < 0.005
    assert np.abs(stored["reshading"][0] / 255 - reshading(surface)[0])[known].max() < 0.005
    edges, usable = occlusion_edges(surface)
    assert np.abs(stored["edge_occlusion"][0] / 255 - edges)[usable].max() < 0.005
    curvature, usable = principal_curvatures(surface)
    levels = stored["principal_curvature"]
    assert np.abs((levels[:2] - 127) / 12.7 - curvature.clip(-10, 10))[:, usable].max() < 0.05
    assert (levels[2][usable] == 127).all()
    assert np.abs(stored["hha"] - hha(surface)[0])[:, known].max() <= 0.5
    color = read_array(root / "rgb/0000.jpg") / 255
    assert np.abs(stored["edge_texture"][0] / 255 - texture_edges(color)).max() < 0.005
    for name, values in stored.items():
        if name != "edge_texture":
            assert (values.reshape(-1, 24, 32).sum(0) == 0)[~surface.known].all(), name


def test_a_stopped_run_continues_and_a_later_one_adds_domains(root, tmp_path):
    out = tmp_path / "out"
    (root / "depth/0005.png").rename(root / "away.png")
    with pytest.raises(DataError, match="no file for the key '0005'"):
        derive(root, out, ["normal"])
    assert not (out / "dataset.yaml").exists()
    (root / "away.png").rename(root / "depth/0005.png")
    before = {file: file.stat().st_mtime_ns for file in (out / "normal").iterdir()}
    assert {file.stem for file in derive(root, out, ["normal"])} == {"0005", "0006", "0007", "0008"}
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())
    assert len(derive(root, out, ["hha"])) == 9
    assert list(DatasetSpec.load(out).modalities) == ["rgb", "depth", "normal", "hha"]
    with pytest.raises(DataError, match=r"was begun with .*Kinect"):
        derive(root, out, ["reshading"], CAMERA)


def test_a_source_of_the_same_name_is_told_apart(root, tmp_path):
    """If this breaks, one folder holds normals of one data set beside the depth of another."""
    out = tmp_path / "out"
    derive(root, out, ["normal"])
    other = make_folder(tmp_path / "other/data", modalities=("rgb", "depth"), seed=1)
    with pytest.raises(DataError, match=r"out was begun with .* Name a new folder"):
        derive(other, out, ["hha"])
    edit(root, lambda d: d["modalities"]["depth"].update(scale=0.002))
    with pytest.raises(DataError, match=r"out was begun with .* Name a new folder"):
        derive(root, out, ["hha"])
    edit(root, lambda d: d["modalities"]["depth"].update(scale=0.001))
    assert len(derive(make_archive(root), out, ["hha"])) == 9


def test_the_camera_that_is_assumed_is_said(root, tmp_path, capsys):
    """If this breaks, normals of another camera of the same shape are wrong and nobody knows why."""
    derive(root, tmp_path / "a", ["normal"])
    assert "Kinect, 525,525,319.5,239.5 at 640x480" in (said := capsys.readouterr().out)
    assert "--intrinsics fx,fy,cx,cy" in said
    derive(root, tmp_path / "b", ["normal"], CAMERA)
    derive(root, tmp_path / "c", ["edge_texture"])
    assert "intrinsics" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "domains", "message"),
    [
        (lambda d: d["modalities"].pop("depth"), ["hha"], "expected one modality of kind depth.*got none"),
        (lambda d: d["modalities"].pop("rgb"), ["edge_texture"], "expected one modality of kind image.*got none"),
        (lambda d: d["modalities"]["depth"].update(unit="mm"), ["normal"], "expected depth in metres, got mm"),
        (
            lambda d: [d["modalities"]["depth"].pop(key) for key in ("scale", "unit")],
            ["normal"],
            r"dataset.yaml: modalities.depth: .*whole numbers \(uint16 in .*scale: 0.001.*unit: m",
        ),
        (
            lambda d: d["modalities"].update(hha={"folder": "rgb", "kind": "image"}),
            ["hha"],
            "has a modality hha already",
        ),
        (lambda d: None, ["normals"], "expected some of normal.*got 'normals'"),
        (lambda d: None, [], "at least one name"),
    ],
)
def test_what_cannot_be_derived_is_refused_before_anything_is_written(root, tmp_path, change, domains, message):
    edit(root, change)
    with pytest.raises(DataError, match=message):
        derive(root, tmp_path / "out", domains)
    assert not (tmp_path / "out").exists()


def test_images_that_are_no_kinects_need_intrinsics(tmp_path):
    """The same command with what the message asks for goes on in the same folder."""
    root = make_folder(tmp_path / "data", size=(24, 40), modalities=("rgb", "depth"), splits={"train": 1})
    with pytest.raises(DataError, match=r"40x24 .*not the shape of a Kinect's.* --intrinsics"):
        derive(root, tmp_path / "out", ["normal"])
    command = ["data", "derive", str(root), str(tmp_path / "out"), "--domains", "normal", "--intrinsics"]
    assert main([*command, "50,50,19.5,11.5"]) == 0
    assert yaml.safe_load((tmp_path / "out/dataset.yaml").read_text())["modalities"]["normal"]["invalid"] == 0


@pytest.mark.parametrize(
    ("size", "kinect"), [((120, 160), True), ((160, 213), True), ((425, 560), False), ((480, 632), False)]
)
def test_a_cropped_image_is_not_taken_for_a_resized_one(tmp_path, size, kinect):
    """A crop keeps the focal length; with that of a resized image all normals would be turned, and nothing say so."""
    root = make_folder(tmp_path / "data", size=size, modalities=("rgb", "depth"), splits={"train": 1})
    if kinect:
        assert len(derive(root, tmp_path / "out", ["edge_occlusion"])) == 1
        return
    with pytest.raises(DataError, match="--intrinsics"):
        derive(root, tmp_path / "out", ["edge_occlusion"])
    assert not (tmp_path / "out").exists()


def _with_depths(root, **depths):
    """Add modalities of depth, and take away the one that there was."""
    edit(root, lambda d: d["modalities"].pop("depth"))
    for name, metres in depths.items():
        (root / name).mkdir()
        for file in (root / "depth").iterdir():
            Image.fromarray(np.rint(1000 * metres).astype(np.uint16)).save(root / name / file.name)
        edit(root, lambda d, name=name: d["modalities"].update({name: MODALITIES["depth"] | {"folder": name}}))
    return root


def test_depth_along_the_line_of_sight_is_turned_into_depth_along_the_axis(tmp_path):
    """Taken as it is, Taskonomy's depth_euclidean makes a bowl of every wall."""
    root = make_folder(tmp_path / "data", size=SIZE, modalities=("rgb", "depth"), splits={"train": 1})
    wall = plane(unit(0.1, 0.2, -1))
    ray = _with_depths(root, depth_euclidean=wall * np.linalg.norm(rays(), axis=0))
    derive(ray, tmp_path / "out", ["normal"], CAMERA)
    stored = read_array(tmp_path / "out/normal/0000.png") / 127.5 - 1
    truth = np.broadcast_to(unit(0.1, -0.2, 1)[:, None, None], stored.shape)
    assert angles(stored / np.linalg.norm(stored, axis=0), truth).max() < 2


def test_of_taskonomys_two_depths_the_one_along_the_axis_is_taken(tmp_path):
    """The complete download has both, and must be derivable as it is."""
    root = make_folder(tmp_path / "data", size=SIZE, modalities=("rgb", "depth"), splits={"train": 1})
    _with_depths(root, depth_euclidean=np.full(SIZE, 9.0), depth_zbuffer=np.full(SIZE, 2.0))
    derive(root, tmp_path / "out", ["hha"], CAMERA)
    assert (read_array(tmp_path / "out/hha/0000.png")[0] == 155).all()  # 310 m / 2 m


def test_photometry_leaves_what_was_measured_alone(root, tmp_path):
    """Brighter HHA means a nearer, higher and steeper surface: changed at random, none of it says anything any more."""
    derive(root, tmp_path / "out")
    kinds = {name: part.kind for name, part in DatasetSpec.load(tmp_path / "out").modalities.items()}
    changes = (Augment(scale=(1, 1), flip=False, photometric=strength) for strength in (0.5, 0.0))
    one, other = (FolderDataset(tmp_path / "out", "train", augment=augment)[0, 0]["inputs"] for augment in changes)
    assert {name for name in one if not torch.equal(one[name], other[name])} == {"rgb"}
    assert [name for name, kind in kinds.items() if kind == "image"] == ["rgb"]


@pytest.mark.parametrize("domain", ["hha", "reshading"])
def test_a_derived_domain_can_be_the_target(root, tmp_path, domain):
    """What a network predicts of it is written with the grey levels of the derived files."""
    derive(root, tmp_path / "out", [domain])
    data = FolderDataset(tmp_path / "out", "train", ["rgb"], target=domain)
    stored = read_array(tmp_path / f"out/{domain}/0000.png")
    sample = data[0]
    valid = known_of(sample)[0].numpy()
    assert np.allclose(target_of(sample).numpy()[:, valid], stored[:, valid] / 127.5 - 1, atol=1e-5)
    assert 0 < valid.mean() < 1
    written = np.asarray(as_file(target_of(sample), data.target))
    assert np.array_equal(written[valid], np.moveaxis(stored, 0, -1).squeeze()[valid])


@pytest.mark.parametrize("intrinsics", ["50,50,19.5", "a,b,c,d", "0,50,1,1", "50,50,nan,1"])
def test_wrong_intrinsics_are_refused(root, tmp_path, intrinsics, capsys):
    command = ["data", "derive", str(root), str(tmp_path / "out"), "--domains", "normal", "--intrinsics", intrinsics]
    assert main(command) == 2
    assert "--intrinsics: expected" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_own_and_foreign_folders_are_refused(root, tmp_path):
    with pytest.raises(DataError, match="another folder"):
        derive(root, root, ["normal"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter.txt").write_text("dear")
    with pytest.raises(DataError, match="not empty"):
        derive(root, tmp_path / "full", ["normal"])
