"""A folder as Taskonomy is distributed becomes a data set, or the file that keeps it from that is named."""

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fixtures_data import known_of, target_of
from polymodal.cli import main
from polymodal.data import FolderDataset, check, restore_target
from polymodal.data.taskonomy import DOMAINS, describe
from polymodal.errors import DataError
from polymodal.files import write_file


def scene(rng: np.random.Generator, domain: str, size: tuple[int, int]) -> np.ndarray:
    channels = (3,) if domain in ("rgb", "normal", "reshading", "principal_curvature") else ()
    if DOMAINS[domain]["bits"] == 16:
        values = rng.integers(300, 4000, size, dtype=np.uint16)
        if domain.startswith("depth"):
            values[:3] = 65535
        return values
    return rng.integers(0, 256, (*size, *channels), dtype=np.uint8)


def make_taskonomy(root, keys, domains=tuple(DOMAINS), size=(12, 16)):
    """The layout, with noise in the files."""
    rng = np.random.default_rng(0)
    for domain in domains:
        for key in keys:
            file = root / domain / f"{key}_domain_{domain}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scene(rng, domain, size)).save(file)
    return root


KEYS = [f"point_{point}_view_{view}" for point in range(6) for view in range(2)]


@pytest.fixture
def root(tmp_path):
    return make_taskonomy(tmp_path / "sample", KEYS)


def test_all_ten_domains_are_read_with_their_ranges(root, capsys):
    assert main(["data", "taskonomy", str(root)]) == 0
    assert "dataset.yaml" in capsys.readouterr().out
    assert check(root) == []
    data = FolderDataset(root, "train")
    assert list(data.inputs) == [name for name in DOMAINS if name != "rgb"]
    assert len(DOMAINS) == 10
    raw = np.asarray(Image.open(root / f"depth_zbuffer/{data.keys[0]}_domain_depth_zbuffer.png")).astype(np.float64)
    sample = FolderDataset(root, "train", ["rgb"], target="depth_zbuffer")[0]
    known = raw != 65535
    assert np.array_equal(known_of(sample)[0].numpy(), known)
    metres = restore_target(target_of(sample), FolderDataset(root, "train", ["rgb"], target="depth_zbuffer").target)
    assert np.allclose(metres[0].numpy()[known], raw[known] / 512, atol=1e-5)
    raw = np.asarray(Image.open(root / f"edge_texture/{data.keys[0]}_domain_edge_texture.png")).astype(np.float64)
    target = target_of(FolderDataset(root, "train", ["rgb"], target="edge_texture")[0])[0]
    assert np.allclose(target.numpy(), raw / 65535 / 0.125 - 1, atol=1e-6)
    target = target_of(FolderDataset(root, "train")[0])
    raw = np.asarray(Image.open(root / f"rgb/{data.keys[0]}_domain_rgb.png"))
    assert torch.allclose(target, torch.from_numpy(raw.copy()).permute(2, 0, 1) / 127.5 - 1, atol=1e-6)


def test_folders_that_are_left_out_are_named(root, capsys):
    """A domain whose files are called otherwise was missing in the training, and nobody knew."""
    for file in (root / "reshading").rglob("*.png"):
        file.rename(file.with_name(file.name.replace("domain_reshading", "domain_shading")))
    describe(root)
    assert "files of other names: reshading" in capsys.readouterr().out


@pytest.mark.parametrize("buildings", [0, 4])
def test_drawn_splits_share_no_place_and_are_always_the_same(tmp_path, buildings):
    """Views of the same point show the same room: in both splits, they would be trained on and scored on."""
    names = [f"house{number}/" for number in range(buildings)] or [""]
    keys = [name + key for name in names for key in KEYS]
    found = []
    for copy in ("a", "b"):
        root = make_taskonomy(tmp_path / copy, keys, ("rgb", "normal"))
        describe(root)
        found.append({split: (root / f"splits/{split}.txt").read_text().split() for split in ("train", "val")})
    assert found[0] == found[1]
    places = [
        {key.rpartition("/")[0] if buildings else key.rpartition("_view_")[0] for key in part}
        for part in found[0].values()
    ]
    assert not places[0] & places[1]
    assert sorted(found[0]["train"] + found[0]["val"]) == sorted(keys)
    assert len(found[0]["val"]) == (12 if buildings else 4)
    assert set(FolderDataset(root, "val")[0]["inputs"]) == {"normal"}


def test_splits_that_are_there_are_kept(root):
    (root / "splits").mkdir()
    (root / "splits/train.txt").write_text("point_1_view_0\npoint_2_view_1\n")
    (root / "splits/test.txt").write_text("point_3_view_0\n")
    (root / "normal/point_5_view_1_domain_normal.png").unlink()  # in no split
    describe(root)
    assert yaml.safe_load((root / "dataset.yaml").read_text())["splits"].keys() == {"train", "test"}
    assert FolderDataset(root, "train").keys == ("point_1_view_0", "point_2_view_1")


def test_a_split_in_another_encoding_is_named(root):
    (root / "splits").mkdir()
    (root / "splits/train.txt").write_bytes("häuschen/point_0_view_0\n".encode("latin1"))
    with pytest.raises(DataError, match=r"splits/train.txt: expected text in UTF-8 .*Save it in that encoding"):
        describe(root)


def test_a_break_between_two_split_files_leaves_neither(root, monkeypatch):
    """If this breaks, the next call takes a train.txt alone for the user's own, and nothing is left to validate on."""

    def broken(path, content):
        if path.name == "val.txt":
            raise KeyboardInterrupt
        write_file(path, content)

    with monkeypatch.context() as patch:
        patch.setattr("polymodal.data.taskonomy.write_file", broken)
        with pytest.raises(KeyboardInterrupt):
            describe(root)
    assert not (root / "splits").exists()
    describe(root)
    assert {file.name for file in (root / "splits").iterdir()} == {"train.txt", "val.txt"}
    assert yaml.safe_load((root / "dataset.yaml").read_text())["splits"].keys() == {"train", "val"}


def test_a_folder_in_the_way_of_drawn_splits_is_named(root):
    (root / "splits").mkdir()
    (root / "splits/notes.md").write_text("mine")
    with pytest.raises(DataError, match=r"splits: the drawn splits cannot be written .*train.txt and val.txt"):
        describe(root)
    assert not (root / "dataset.yaml").exists()
    (root / "splits/notes.md").unlink()
    describe(root)  # an empty folder is none


def test_missing_domain_file_of_a_sample_is_named(root):
    (root / "normal/point_2_view_1_domain_normal.png").unlink()
    (root / "rgb/point_3_view_0_domain_rgb.png").unlink()
    message = r"2 file\(s\) .* normal/point_2_view_1_domain_normal.png, rgb/point_3_view_0_domain_rgb.png\. .*splits/"
    with pytest.raises(DataError, match=message):
        describe(root)
    assert not (root / "dataset.yaml").exists()
    assert not (root / "splits").exists()


@pytest.mark.parametrize("domain", ["depth_euclidean", "depth_zbuffer", "edge_occlusion", "edge_texture"])
def test_16_bit_domain_saved_with_8_bits_is_refused(root, domain):
    """Its values would be wrong by a factor of 256, and depth would end at half a metre."""
    describe(root)
    key = FolderDataset(root, "val").keys[0]
    file = root / domain / f"{key}_domain_{domain}.png"
    Image.fromarray((np.asarray(Image.open(file)) // 256).astype(np.uint8)).save(file)
    for wanted in ({"modalities": [domain]}, {"modalities": ["reshading"], "target": domain}):
        with pytest.raises(DataError, match=rf"{key}_domain_{domain}.png: expected 16-bit"):
            FolderDataset(root, "val", **wanted)[0]


def test_domains_of_different_sizes_are_refused(root):
    describe(root)
    data = FolderDataset(root, "train", ["normal", "reshading"])
    file = root / f"normal/{data.keys[0]}_domain_normal.png"
    Image.open(file).resize((8, 6)).save(file)
    with pytest.raises(DataError, match=r"domain_reshading.png: expected the size of .*normal.png, 8x6 .*got 16x12"):
        data[0]


def test_what_is_no_taskonomy_is_refused(tmp_path, root):
    with pytest.raises(DataError, match=r"expected folders of two or more domains .* got rgb"):
        describe(make_taskonomy(tmp_path / "one", KEYS, ("rgb",)))
    with pytest.raises(DataError, match=r"two or more points to draw splits from, got 1"):
        describe(make_taskonomy(tmp_path / "small", KEYS[:2], ("rgb", "normal")))
    describe(root)
    with pytest.raises(DataError, match="is there already"):
        describe(root)
    assert main(["data", "taskonomy", str(tmp_path / "nowhere")]) == 2
