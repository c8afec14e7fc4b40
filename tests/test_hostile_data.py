"""A data set from a stranger: nothing in it reaches outside, hangs, fills the memory or ends in a traceback."""

import json
import os
import socket
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from fixtures_data import edit, make_archive, make_folder
from polymodal.data import DatasetSpec, FolderDataset, Store, check
from polymodal.data.labels import LabelCode, class_numbers
from polymodal.documents import DocumentError, parse_json
from polymodal.errors import ConfigError, DataError, FusionError
from polymodal.names import inside, one_part, path_below, twins
from polymodal.preconditions import checked_names
from polymodal.runs.training import fit, recipe
from polymodal.yaml_documents import parse_yaml


@pytest.fixture
def root(tmp_path):
    return make_folder(tmp_path / "data", modalities=("rgb", "depth"), splits={"train": 2, "val": 1})


OUTSIDE = ("../x", "/etc", "a/../../x", "..", "a\\..\\b", "a\0b", "a\nb", "x" * 300)


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_folder_a_split_file_and_a_key_stay_below_the_root(root, path):
    with pytest.raises(ValueError, match="a path"):
        path_below(path)
    for change in (
        lambda d: d["modalities"]["rgb"].update(folder=path),
        lambda d: d["target"].update(folder=path),
        lambda d: d["splits"].update(val=path),
    ):
        content = (root / "dataset.yaml").read_bytes()
        edit(root, change)
        with pytest.raises(DataError, match=r"folder|splits\.val"):
            DatasetSpec.load(root)
        (root / "dataset.yaml").write_bytes(content)
    if "\n" not in path:
        (root / "splits/val.txt").write_text(f"0002\n{path}\n")
        with pytest.raises(DataError, match=r"val.txt, line 2: expected a path"):
            DatasetSpec.load(root)


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", "", ".", "..", ".x", "-x", "a\0", "x" * 201, "a b", "a\n", 3])
def test_a_split_and_a_prediction_have_names_that_are_one_part_of_a_file_name(root, name):
    with pytest.raises(ValueError, match="a name"):
        one_part(name)
    edit(root, lambda d: d["splits"].update({name: "splits/val.txt"}))
    with pytest.raises(DataError, match=r"dataset.yaml: splits: expected"):
        DatasetSpec.load(root)


@pytest.mark.parametrize("part", ["prefix", "suffix"])
@pytest.mark.parametrize("text", ["../", "/etc/", "a\\", "a\0", "x" * 201])
def test_a_prefix_and_a_suffix_lead_to_no_folder(root, part, text):
    edit(root, lambda d: d["modalities"]["rgb"].update({part: text}))
    with pytest.raises(DataError, match=rf"rgb\.{part}: expected a text"):
        DatasetSpec.load(root)


def test_names_that_are_one_on_another_disk_are_refused(root):
    assert twins(["rgb", "depth"]) is None
    assert twins(["e\u0301", "\u00e9"]) == ("e\u0301", "\u00e9")
    edit(root, lambda d: d["modalities"].update(RGB=d["modalities"]["rgb"]))
    with pytest.raises(DataError, match="'rgb' and 'RGB' would be one name"):
        DatasetSpec.load(root)


def test_what_is_written_under_a_name_stays_in_its_folder_through_links_too(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/link").symlink_to(tmp_path)
    assert inside(tmp_path / "out", "a/b.png") == tmp_path / "out/a/b.png"
    for name in ("../b.png", "/b.png"):
        with pytest.raises(ValueError, match="a path"):
            inside(tmp_path / "out", name)
    with pytest.raises(DataError, match="where a link leads"):
        inside(tmp_path / "out", "link/b.png")


def test_data_behind_links_are_read_as_from_a_scratch_disk(root, tmp_path):
    (root / "rgb").rename(tmp_path / "scratch")
    (root / "rgb").symlink_to(tmp_path / "scratch")
    assert len(FolderDataset(root, "train")[0]["inputs"]) == 2


def test_links_in_circles_and_links_that_double_end_at_once(tmp_path):
    below = tmp_path / "0"
    below.mkdir()
    (below / "a.png").touch()
    (below / "self").symlink_to(below)
    assert Store(below).keys(".") == {"a": ("a.png",)}
    for level in range(1, 30):
        folder = tmp_path / str(level)
        folder.mkdir()
        for name in "ab":
            (folder / name).symlink_to(below)
        below = folder
    with pytest.raises(DataError, match="links within each other"):
        Store(below).keys(".")


@pytest.mark.parametrize("file", ["rgb/0000.jpg", "splits/train.txt", "dataset.yaml", "statistics.json"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "device"])
def test_what_is_no_file_is_named_and_never_opened(root, file, kind, monkeypatch):
    (root / file).unlink(missing_ok=True)
    monkeypatch.chdir((root / file).parent)  # a socket's path must be short
    if kind == "pipe":
        os.mkfifo(root / file)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(Path(file).name)
    elif kind == "folder":
        (root / file).mkdir()
    else:
        (root / file).symlink_to("/dev/zero")
    said = "no file for the key" if (file, kind) == ("rgb/0000.jpg", "folder") else f"{file}: expected a file, got a"
    with pytest.raises(DataError, match=said):
        FolderDataset(root, "train")[0]


def behind_aliases(first, form):
    """Nine lines, of which each holds the one before nine times."""
    return f"a0: &a0 {first}\n" + "".join(f"a{n}: &a{n} {form.format(f'*a{n - 1}, ' * 9)}\n" for n in range(1, 9))


YAML = {
    "values behind aliases": behind_aliases("[1, 1, 1]", "[{}]"),
    "merged aliases": behind_aliases("{x: 1}", "{{<<: [{}]}}"),
    "a list in itself": "&a [*a]",
    "a mapping merged into itself": "&a {<<: *a}",
    "nested lists": "[" * 500,
    "nested mappings": "".join(f"{' ' * level}a:\n" for level in range(2000)),
    "a long number": f"a: {'9' * 5000}",
    "a number beyond 64 bits": f"a: 0x{'f' * 17}",
    "a long number of base 60": f"a: 1{':1' * 50000}",
    "an impossible date": "a: 2026-13-45",
    "no number": "a: !!int x",
    "no date": "a: !!timestamp x",
    "a call": "a: !!python/object/apply:os.system [exit]",
    "a key twice": "a: 1\na: 2",
    "a list as a key": "? [a]\n: 1",
    "nothing seen": "a: \0",
    "half of a character": 'a: "\\ud800"',
    "two documents": "a: 1\n---\nb: 2",
    "no such alias": "*x",
    "a long document": "#" * 2**20,
}  # fmt: skip


@pytest.mark.parametrize("content", YAML.values(), ids=YAML)
def test_a_yaml_bomb_is_refused_in_one_line(content):
    with pytest.raises(DocumentError) as caught:
        parse_yaml(content)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_thousands_of_names_cost_seconds_and_not_their_square(root):
    """If this breaks, a document of a few hundred kilobytes, or labels of many classes, occupy a core for minutes."""
    since = time.process_time()
    with pytest.raises(DocumentError, match="'k49999' is there twice"):
        parse_json("{" + "".join(f'"k{number}": 1, ' for number in range(50_000)) + '"k49999": 2}')
    every = range(9_000)
    code = LabelCode(tuple(map(str, every)), tuple((2 * number, number) for number in every), ignored=(*every[1::2],))
    code.check(str)
    array = np.arange(90_000, dtype=np.int32).reshape(1, 300, 300)
    with pytest.raises(DataError, match="got 9001, 9003, "):
        class_numbers(array, code, "file")
    assert (class_numbers(array[:, :30], code, "file")[0, :10:2] == every[:5]).all()
    with pytest.raises(FusionError, match="'9' is named twice"):
        checked_names([*map(str, every), "9"])
    assert time.process_time() - since < 5


def test_a_recipe_holds_a_bounded_number_of_values():
    """jsonargparse copies a list for each of its items. If this breaks, ten thousand names take it minutes."""
    with pytest.raises(ConfigError, match="it holds more than 600 values"):
        fit([f"--config={recipe('folder')}", f"--data.modalities=[{'a,' * 9999}]"])


def test_plain_yaml_is_read_as_ever():
    text = "a: &a {x: 1, y: 2026-11-28}\nb: {<<: *a, x: .nan, z: [1.5, yes, ~, 0x10]}"
    assert repr(parse_yaml(text)) == repr(yaml.safe_load(text))


JSON = {
    "nested lists": "[" * 100_000,
    "nested lists that end": "[" * 100 + "]" * 100,
    "a long number": "9" * 5000,
    "a number beyond 64 bits": "9" * 30,
    "a key twice": '{"a": 1, "a": 2}',
    "half of a character": '"\\ud800"',
    "no UTF-8": b"\xff",
    "cut off": "{",
    "empty": "",
    "many values": f"[{'1,' * 210_000}1]",
    "a long document": " " * 2**24,
}


@pytest.mark.parametrize("content", JSON.values(), ids=JSON)
def test_a_json_bomb_is_refused_in_one_line(content):
    with pytest.raises(DocumentError) as caught:
        parse_json(content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "mode", "compression", "said"),
    [
        ("../x", 0, zipfile.ZIP_DEFLATED, "a member is called '../x'"),
        ("/x", 0, zipfile.ZIP_DEFLATED, "a member is called '/x'"),
        ("a\\..\\x", 0, zipfile.ZIP_DEFLATED, "a member is called"),
        ("dataset.yaml", 0, zipfile.ZIP_DEFLATED, "two members are called 'dataset.yaml'"),
        ("x", 0o120777, zipfile.ZIP_DEFLATED, "is a link"),
        ("x", 0, zipfile.ZIP_LZMA, "stored or deflated"),
        ("x", 0, zipfile.ZIP_BZIP2, "stored or deflated"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_that_leads_out_or_misleads_is_refused(root, name, mode, compression, said):
    file = make_archive(root)
    member = zipfile.ZipInfo(name)
    member.external_attr, member.compress_type = mode << 16, compression
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(member, "../../etc/passwd")
    with pytest.raises(DataError, match=said.replace("\\", ".")):
        Store(file).read("x")


@pytest.mark.parametrize("claimed", [100, 2**32 - 16])
def test_a_member_that_lies_about_its_length_takes_no_memory(tmp_path, claimed):
    file, length = tmp_path / "data.zip", 10**7
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", bytes(length))
    file.write_bytes(file.read_bytes().replace(struct.pack("<I", length), struct.pack("<I", claimed)))
    with pytest.raises(DataError, match=r"x: (cannot be read|has \d+ bytes)"):
        Store(file).read("x")


def test_a_file_beyond_its_bounds_is_refused_before_it_is_read(root):
    for file, size in (("splits/val.txt", 2**26), ("dataset.yaml", 2**20), ("rgb/0000.jpg", 2**31)):
        kept = (root / file).read_bytes()
        with (root / file).open("ab") as stream:
            stream.truncate(size)  # no byte is written
        with pytest.raises(DataError, match=rf"{file}: has {size} bytes"):
            FolderDataset(root, "train")[0]
        (root / file).write_bytes(kept)


@pytest.mark.parametrize("folder", ["label", "./label", "label/", "linked", "rgb/../label"])
def test_the_truth_is_no_input(root, folder):
    (root / "linked").symlink_to(root / "label")
    edit(root, lambda d: d["modalities"]["rgb"].update(folder=folder))
    with pytest.raises(DataError, match=r"predicted from the truth|without \.\."):
        FolderDataset(root, "train")
    if ".." not in folder:
        assert len(FolderDataset(root, "train", ["depth"])) == 2
        assert any("can be no input" in defect.problem for defect in check(root))


def test_a_sample_counts_once(root):
    (root / "splits/train.txt").write_text("0000\n0001\n0000\n")
    with pytest.raises(DataError, match=r"lists 1 key.* more than once, such as '0000'"):
        FolderDataset(root, "train")


def test_statistics_of_two_meanings_are_refused(root):
    moments = json.dumps({"mean": [0], "std": [1]})
    (root / "statistics.json").write_text(f'{{"rgb": {moments}, "rgb": {moments}}}')
    with pytest.raises(DataError, match=r"statistics.json: .*'rgb' is there twice"):
        FolderDataset(root, "train")
