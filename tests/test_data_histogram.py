"""What a user is told of the classes before hours of training: their shares, and which of them cannot be learned."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fixtures_data import edit, make_folder
from polymodal.cli import main
from polymodal.data import FolderData, check
from polymodal.errors import DataError
from polymodal.runs.classes import Classes


@pytest.fixture
def root(tmp_path):
    return make_folder(tmp_path / "data", modalities=["rgb"], splits={"train": 4, "val": 2})


def repaint(root, change, keys: str = "*") -> None:
    for file in (root / "label").glob(f"{keys}.png"):
        label = np.array(Image.open(file))
        Image.fromarray(change(label).astype(np.uint8)).save(file)


def begin(root, **settings) -> None:
    """What happens at the start of `fit`."""
    data = FolderData(str(root), batch_size=2, **settings)
    data.setup("fit")
    Classes().on_fit_start(SimpleNamespace(datamodule=data, is_global_zero=True), None)


def notes(root) -> list[str]:
    return [defect.problem for defect in check(root) if defect.note]


def test_check_prints_the_shares(root, capsys):
    repaint(root, lambda label: np.where(np.arange(32) < 8, 1, 0) + 0 * label)
    assert main(["data", "check", str(root)]) == 0
    printed = capsys.readouterr().out
    assert "classes in per cent of the labelled pixels of train (4 samples), val (2 samples):" in printed
    assert "class 0  75.00  75.00   class 1  25.00  25.00" in printed


REMEDY = "If 255, which is ignored, is the class 'class 1', write `map: {0: 0, 255: 1}` and leave `ignore` out."


def test_masks_of_0_and_255_with_255_ignored_are_a_defect(root):
    """All that is left to learn is background, and every network would score 100."""
    repaint(root, lambda label: np.where(label == 1, 255, 0))
    (defect,) = check(root)
    assert defect.file == "dataset.yaml"
    assert not defect.note
    assert "only the class 'class 0' occurs" in defect.problem
    assert defect.problem.endswith(REMEDY)
    assert main(["data", "check", str(root)]) == 1
    with pytest.raises(DataError, match="only the class 'class 0' occurs"):
        begin(root)
    edit(root, lambda d: (d["target"].pop("ignore"), d["target"].update(map={0: 0, 255: 1})))
    assert check(root) == []
    begin(root)


def test_a_background_that_is_ignored_is_a_defect(root):
    repaint(root, lambda label: np.minimum(label, 1))
    edit(root, lambda d: d["target"].update(ignore=0))
    (defect,) = check(root)
    assert "If 0, which is ignored, is the class 'class 0', leave `ignore` out." in defect.problem


def test_classes_that_occur_nowhere_or_not_everywhere_are_notes(root, capsys):
    edit(root, lambda d: d["target"].update(classes=["a", "b", "rare", "never"]))
    repaint(root, lambda label: np.where(label == 1, 2, label), "0005")
    repaint(root, lambda label: np.where(label == 1, 0, label), "0004")
    found = notes(root)
    assert found[0].startswith("target: no pixel is labelled as 'never'.")
    assert "{0: 0, 1: 1, 2: 2, 255: 3}" in found[0]
    assert found[1] == "target: no pixel of the split 'train' is labelled as 'rare': they are not learned."
    assert found[2].startswith("target: no pixel of the split 'val' is labelled as 'b'")
    begin(root)
    assert "note: no pixel of the split 'train' is labelled as 'rare'" in capsys.readouterr().out


def test_a_split_without_labels_lacks_no_class(root):
    """Benchmarks withhold the labels of their test images."""
    repaint(root, lambda label: np.full_like(label, 255), "000[45]")
    assert notes(root) == []


def test_a_class_that_is_ignored_itself_is_not_missed(root):
    edit(root, lambda d: d["target"].update(classes=["a", "b", "void"], ignore=[2, 255]))
    assert notes(root) == []


def test_start_of_a_training_looks_at_few_samples_and_says_so(root, monkeypatch, capsys):
    monkeypatch.setattr("polymodal.data.module.HISTOGRAM_SAMPLES", 2)
    begin(root)
    assert "train (2 of 4 samples), val (2 samples)" in capsys.readouterr().out
    repaint(root, lambda label: np.minimum(label, 0), "000[02]")
    begin(root)
    assert "train (4 samples)" in capsys.readouterr().out  # both that were looked at show one class, the others do not


def test_labels_counted_for_class_weights_are_not_read_again(root, monkeypatch):
    data = FolderData(str(root), batch_size=2)
    data.setup("fit")
    frequencies = data.class_frequencies()
    histogram = data.class_histogram()
    monkeypatch.setattr("polymodal.data.module.count", lambda *_: pytest.fail("read again"))
    train = histogram.splits["train"]
    assert frequencies.tolist() == pytest.approx((train.classes / train.classes.sum()).tolist())
    assert data.class_frequencies().equal(frequencies)
