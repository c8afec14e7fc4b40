"""What is there already: no command replaces a file that another command or a person wrote."""

import pytest

from fixtures_data import make_folder
from fixtures_run import write_run
from polymodal.cli import main
from polymodal.errors import ConfigError
from polymodal.runs.files import check_run_folder


def refused(capsys, file, *words):
    """The message of a command that must leave a person's file as it is."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"a person's")
    assert main([str(word) for word in words]) == 2
    assert file.read_bytes() == b"a person's"
    message = capsys.readouterr().err
    assert f"{file} is there already; name another file, or remove it first." in message


@pytest.mark.parametrize(("format", "ending", "taken"), [("onnx", ".onnx", ".onnx"), ("pt2", ".pt2", ".pt2")])
def test_an_exported_file_replaces_none(format, ending, taken, tmp_path, capsys):
    """If this breaks, the network that is in use is replaced by an experiment."""
    words = ["export", tmp_path / "run", tmp_path / f"net{ending}", "--format", format]
    refused(capsys, tmp_path / f"net{taken}", *words)


def test_weights_beside_an_exported_file_are_not_replaced(tmp_path, capsys):
    """If this breaks, net.xml may be new, and net.bin of something else is lost."""
    pytest.importorskip("openvino", reason="openvino is not installed: pip install openvino")
    words = ["export", tmp_path / "run", tmp_path / "net.xml", "--format", "openvino"]
    refused(capsys, tmp_path / "net.bin", *words)


def test_a_page_replaces_only_pages(tmp_path, capsys):
    """If this breaks, `report --out` writes over whatever file is named by mistake."""
    run = write_run(tmp_path / "run", epochs=2, scenes=1, size=(16, 16))
    refused(capsys, tmp_path / "page.html", "report", run, "--out", tmp_path / "page.html")
    (tmp_path / "page.html").write_text("<title>a recipe, compared · polymodal</title>")
    assert main(["report", str(run), "--out", str(tmp_path / "page.html")]) == 2
    (tmp_path / "page.html").unlink()
    for _ in range(2):
        assert main(["report", str(run), "--out", str(tmp_path / "page.html")]) == 0


def test_statistics_replace_only_statistics(tmp_path, capsys):
    """If this breaks, `data stats --output dataset.yaml` leaves a data set without its description."""
    root = make_folder(tmp_path / "set", modalities=["depth"])
    described = (root / "dataset.yaml").read_bytes()
    assert main(["data", "stats", str(root), "--output", str(root / "dataset.yaml")]) == 2
    assert (root / "dataset.yaml").read_bytes() == described
    for _ in range(2):
        assert main(["data", "stats", str(root), "--output", str(tmp_path / "figures.json")]) == 0
    refused(capsys, tmp_path / "other.json", "data", "stats", root, "--output", tmp_path / "other.json")


@pytest.mark.parametrize("tool", [[], ["scaling"], ["data", "--config", "recipe.yaml"]])
def test_measurements_replace_none(tool, tmp_path, capsys):
    """If this breaks, an hour of another measurement is lost."""
    refused(capsys, tmp_path / "out" / "bench.md", "bench", *tool, "--out", tmp_path / "out")


def test_a_run_replaces_only_what_runs_wrote(tmp_path):
    """If this breaks, training in the folder of a recipe replaces config.yaml, the recipe, or a person's models."""
    check_run_folder(tmp_path)
    (tmp_path / "config.yaml").write_text("# lightning.pytorch==2.5.0\nseed_everything: 0\n")
    (tmp_path / "checkpoints").mkdir()
    check_run_folder(tmp_path)
    (tmp_path / "config.yaml").write_text("seed_everything: 0\n")
    with pytest.raises(ConfigError, match=r"holds config\.yaml, checkpoints, which no training wrote"):
        check_run_folder(tmp_path)
