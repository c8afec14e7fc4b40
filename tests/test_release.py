"""What is released: one version everywhere, and a wheel that works where the repository is not."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import polymodal
from fixtures_data import make_folder

ROOT = Path(__file__).parents[1]
WORDS = [
    *("fit", "--config", "away/polymodal/recipes/folder.yaml", "--data.root", "own", "--data.batch_size", "2"),
    *("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"),
]


def test_one_version_everywhere():
    """If this breaks, people cite a version that is not the one they ran."""
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == polymodal.__version__
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] in ("Unreleased", polymodal.__version__)


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_trains_away_from_the_repository(tmp_path):
    """If this breaks, what people install lacks a recipe or the rooms, or brings what nobody asked for."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, timeout=300)
    [wheel] = tmp_path.glob("*.whl")
    expected = {f"polymodal/{path.relative_to(ROOT / 'src/polymodal')}" for path in (ROOT / "src").rglob("*.*")}
    expected |= {f"polymodal/{path.relative_to(ROOT)}" for path in (ROOT / "recipes").rglob("*.yaml")}
    about = f"polymodal-{polymodal.__version__}.dist-info"
    expected |= {f"{about}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    with zipfile.ZipFile(wheel) as archive:
        assert set(archive.namelist()) == {name for name in expected if not name.endswith(".pyc")}
        archive.extractall(tmp_path / "away")
    make_folder(tmp_path / "own", modalities=["rgb", "depth"])
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "away")}
    subprocess.run([sys.executable, "-m", "polymodal", *WORDS], cwd=tmp_path, env=environment, check=True, timeout=300)
    assert (tmp_path / "runs/folder/report.html").is_file()
    assert str(ROOT) not in (tmp_path / "runs/folder/config.yaml").read_text()
