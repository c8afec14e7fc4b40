"""Commands that are run in a folder of somebody else's, such as a data set's: nothing that lies there is imported."""

import subprocess
import sys

import pytest

from polymodal.runs.children import fit_command

MODULES = ("tifffile", "yaml", "torch", "numpy", "lightning", "multiprocessing", "argparse", "json")


@pytest.fixture
def hostile(tmp_path):
    """A folder with modules of the names that ours are looked for under."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in MODULES:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'a').write({name!r})")
    return folder


def executed(folder):
    file = folder.parent / "executed"
    return file.read_text() if file.exists() else ""


def test_the_command_line_imports_nothing_from_the_current_folder(hostile):
    """If this breaks, `python -m polymodal` in an unpacked data set runs the data set."""
    subprocess.run([sys.executable, "-m", "polymodal", "--help"], cwd=hostile, check=True, capture_output=True)
    assert executed(hostile) == ""


@pytest.mark.slow
def test_processes_that_a_command_starts_import_nothing_from_the_current_folder(hostile):
    """If this breaks, `compare` and `demo`, or workers that are spawned, run what lies in the folder."""
    spawning = (
        "import sys; from multiprocessing import get_context; from polymodal.cli import main; sys.argv[1:] = []; main()"
        "\nprocess = get_context('spawn').Process(target=print); process.start(); process.join()"
    )
    for command in (fit_command(["--config=missing.yaml"])[1:], ["-P", "-c", spawning], ["-m", "polymodal", "fit"]):
        ended = subprocess.run(
            [sys.executable, *command], cwd=hostile, stdin=subprocess.PIPE, capture_output=True, text=True
        )
        assert executed(hostile) == "", (command, ended.stderr)
