"""If these break, who tries a model in the browser sees nothing, or something else than the model says."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from polymodal import Predictor
from polymodal.cli import main
from polymodal.data import InputSpec
from polymodal.runs import app
from polymodal.runs.predict import predict
from predict_tools import save, write_scene
from test_predict import refused

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def files(tmp_path):
    return {name: str(file) for name, file in write_scene(tmp_path, "a").items()}


def test_files_are_predicted_as_by_the_command(model, files, tmp_path):
    predict(model, {name: Path(file) for name, file in files.items()}, tmp_path / "out")
    found, warned = app._predict(Predictor(model), files, meets=True)
    assert np.array_equal(found["labels"], np.array(Image.open(tmp_path / "out" / "a_ensemble.png")))
    assert not warned
    seen = {name: np.zeros((9, 9, 3), np.uint8) for name in files}
    assert app._details(found, seen | {"other": seen["rgb"]})[0][1] == "other"
    captions = [caption for _, caption in app._details(found, seen)]
    assert [caption.rpartition(" ")[2] for caption in captions] == ["depth"] * 3 + ["rgb"] * 3 + ["ensemble"] * 3


def test_without_meeting_is_the_network_without_its_fusion(model, files):
    predictor = Predictor(model)
    with torch.no_grad():
        next(iter(predictor.network.scales().values()))[0] = 0  # depth takes what rgb has
    apart = app._predict(predictor, files, meets=False)[0]
    for name in files:
        alone = app._predict(predictor, {name: files[name]}, meets=True)[0]
        assert torch.allclose(apart.scores[name], alone.scores[name], atol=1e-6)
    assert not torch.allclose(apart.scores["depth"], predictor.read(**files).scores["depth"], atol=1e-4)


def test_where_channels_come_from(model):
    predictor = Predictor(model)
    site, scale = next(iter(predictor.network.scales().items()))
    with torch.no_grad():
        scale.zero_()
    share = predictor.network.exchanged()[site]["rgb"]
    assert share == 1
    assert f"<td>{site}</td>" in app._sites(predictor, ["depth", "rgb"], meets=True)
    assert "100 %</td>" in app._sites(predictor, ["depth", "rgb"], meets=True)
    assert "alone" in app._sites(predictor, ["rgb"], meets=True)
    assert "kept apart" in app._sites(predictor, ["depth", "rgb"], meets=False)


def test_examples_are_those_whose_numbers_mean_the_same_to_the_model(tmp_path):
    rooms = {"rgb": InputSpec("image", 3, mean=(0.5,) * 3, std=(0.2,) * 3), "depth": InputSpec("depth", 1, scale=0.001)}
    found = app._examples(rooms, tmp_path)
    assert [list(scene) for scene in found] == [["rgb"]] * app.EXAMPLES
    assert app._seen(found[0], rooms).shape[2] == 3
    assert app._examples({"thermal": rooms["rgb"]}, tmp_path) == []


@pytest.mark.parametrize(("size", "shown"), [((24, 32), (480, 640)), ((1, 4000), (1, 1334)), ((9000, 30), (1800, 6))])
def test_pictures_have_a_size_that_a_page_can_show(size, shown):
    """If this breaks, one strip that a visitor drops fills the server's memory."""
    assert app._shown(np.zeros((*size, 3), np.uint8)).shape == (*shown, 3)


def test_names_of_a_model_are_text_on_the_page():
    assert "<b>" not in app._said(["<b>"])
    assert app._as_dropped("/x/a.png: bad", {"rgb": "/x/a.png"}) == "rgb: a.png: bad"


def test_a_missing_package_is_named_with_the_remedy(model, capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert "pip install 'polymodal[app]'" in refused(["app", model], capsys, tmp_path / "none")


@pytest.mark.slow
def test_a_page_in_chromium_takes_an_upload_and_a_click(files, tmp_path, capsys):
    """If this breaks, the page is broken for people, talks to other machines, or keeps what is no longer so."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'polymodal[app]'")
    browsers = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    save(tmp_path / "model")
    assert main(["app", str(tmp_path / "model"), "--port", "70000"]) == 2
    assert "from 1 to 65535" in capsys.readouterr().err
    asked: list[str] = []
    with app.served(tmp_path / "model") as served, browsers.sync_playwright() as playwright:
        assert served.local_url.startswith("http://127.0.0.1:")
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(served.local_url)
        drop, maps = page.locator("input[type=file]"), page.locator(".maps .thumbnail-item")
        drop.first.set_input_files(files["depth"])
        browsers.expect(maps).to_have_count(5)
        drop.first.set_input_files(files["rgb"])
        browsers.expect(maps).to_have_count(9)
        assert page.locator(".sites tr").count() > 1
        page.get_by_label("Let them meet in the network").click()
        browsers.expect(page.get_by_text("The modalities are kept apart")).to_be_visible()
        page.get_by_label("depth", exact=True).click()
        browsers.expect(maps).to_have_count(5)
        page.get_by_label("Clear").last.click()
        (tmp_path / "bad.png").write_bytes(b"no picture")
        drop.first.set_input_files(tmp_path / "bad.png")
        browsers.expect(page.get_by_role("alert")).to_contain_text("rgb: bad.png: cannot be read")
        browsers.expect(maps).to_have_count(0)
        browser.close()
    assert not [url for url in asked if not url.startswith((served.local_url, "data:", "blob:"))]
