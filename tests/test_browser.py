"""If these break, the page "Try it in the browser" shows something else than the model says, or nothing."""

import importlib
import io
import json
import shutil
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from docs_tools import ROOT
from polymodal.data import InputSpec, Store
from polymodal.data.inputs import prepare_input
from polymodal.export import Session

FILES = ROOT / "docs" / "browser"
MODEL = json.loads((FILES / "model.json").read_text(encoding="utf-8"))
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DECODE = """async bytes => {
  const {decodeGrey} = await import(new URL("browser/png.js", location));
  const {bits, width, height, values} = await decodeGrey(new Uint8Array(bytes).buffer);
  return [bits, width, height, ...values];
}"""
KEY = "0760"
"""A test scene that is none of the page's own."""


def test_what_the_page_knows_of_its_files_is_what_they_say():
    """If this breaks, the page reads pictures otherwise than the network was trained with, and nobody sees it."""
    for key, about in MODEL["files"].items():
        session = Session(FILES / about["file"])
        assert "+".join(session.modalities) == key
        assert session.step == 1
        assert session.absorbed
        assert session.metadata["inputs"] == MODEL["inputs"]
        assert session.metadata["target"] == MODEL["target"]
    assert sum(file.stat().st_size for file in FILES.iterdir()) < 4e6


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The page as `make docs` builds it, without the other pages, served as files."""
    config, building = (
        pytest.importorskip(f"mkdocs.{name}", reason="pip install mkdocs-material")
        for name in ("config", "commands.build")
    )
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tools" / "docs")
        browser = importlib.import_module("browser")
    if not browser.RUNTIME.is_dir():
        pytest.skip("ONNX Runtime Web is not there: make docs fetches it by npm")
    shutil.copytree(FILES, folder / "docs" / "browser")
    shutil.copy(ROOT / "docs" / "in-the-browser.md", folder / "docs" / "index.md")
    for place, content in browser.pages():
        (folder / "docs" / place).parent.mkdir(exist_ok=True)
        (folder / "docs" / place).write_bytes(content.encode() if isinstance(content, str) else content)
    places = {"docs_dir": str(folder / "docs"), "site_dir": str(folder / "site")}
    # Links to the pages that are not here are looked at where the whole site is built.
    rest = {"nav": [{"Try it": "index.md"}], "plugins": [], "hooks": [], "watch": [], "strict": False}
    building.build(config.load_config(str(ROOT / "mkdocs.yml"), **places, **rest))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder / "site"))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that says nothing."""

    def log_message(self, *args):
        pass


@pytest.fixture
def page(site):
    """The page in Chromium, which reaches nothing but this server; what else it asks for fails the test."""
    browsers = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    elsewhere: list[str] = []

    def only_here(route):
        if route.request.url.startswith((site, "data:", "blob:")):
            route.continue_()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    with browsers.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = chromium.new_page(viewport={"width": 1280, "height": 900})
        opened.set_default_timeout(60_000)
        opened.route("**/*", only_here)
        opened.goto(site)
        yield opened
        chromium.close()
    assert not elsewhere


def pair(tmp_path):
    """A real pair: colours as JPEG, depth in millimetres as PNG of 16 bits; and the metres that it holds."""
    store = Store("rooms")
    rgb, depth = tmp_path / "rgb.jpg", tmp_path / "depth.png"
    rgb.write_bytes(store.read(f"rgb/{KEY}.jpg"))
    stored = np.array(Image.open(io.BytesIO(store.read(f"depth/{KEY}.png"))))
    millimetres = np.rint(stored * MODEL["inputs"]["depth"]["scale"] * 1000).astype(np.uint16)
    assert millimetres.max() > 255
    Image.fromarray(millimetres).save(depth)
    return rgb, depth, millimetres


def expected(rgb, millimetres, used):
    """The classes that ONNX Runtime predicts in Python, by prediction."""
    depth = InputSpec.from_dict(MODEL["inputs"]["depth"] | {"scale": 0.001, "stored": "integer"})
    colours = np.array(Image.open(rgb)).transpose(2, 0, 1)
    images = {
        "rgb": prepare_input(colours, InputSpec.from_dict(MODEL["inputs"]["rgb"]), "rgb")[0],
        "depth": prepare_input(millimetres[None], depth, "depth")[0],
    }
    session = Session(FILES / MODEL["files"]["+".join(used)]["file"])
    return {name: logits[0].argmax(0) for name, logits in session({name: images[name][None] for name in used}).items()}


def shown(page, what):
    """The classes on a canvas of the page, by their colours."""
    read = "c => [c.width, c.height, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    width, height, *values = page.locator(f"canvas[data-what='{what}']").evaluate(read)
    colours = np.array(values).reshape(height, width, 4)[..., :3]
    known = (colours[..., None, :] == np.array(MODEL["target"]["colors"])).all(-1)
    assert known.any(-1).all()
    return known.argmax(-1)


@pytest.mark.docs
def test_the_classes_are_those_of_python(page, tmp_path):
    """If this breaks, the browser reads colours, depth of 16 bits or scores otherwise than the library."""
    rgb, depth, millimetres = pair(tmp_path)
    said = page.get_by_role("status")
    page.get_by_label("Depth PNG").set_input_files(depth)
    page.get_by_text("Predicted from depth in").wait_for()
    assert page.get_by_label("Depth of 1 in the file").input_value() == "0.001"
    assert agreeing(shown(page, "classes depth"), expected(rgb, millimetres, ["depth"])["depth"])
    page.get_by_label("Colour PNG").set_input_files(rgb)
    page.get_by_text("Predicted from colour and depth in").wait_for()
    found = expected(rgb, millimetres, ["rgb", "depth"])
    for name, classes in found.items():
        assert agreeing(shown(page, f"classes {name}"), classes), name
    first = MODEL["target"]["classes"][np.bincount(found["ensemble"].ravel()).argmax()]
    assert page.get_by_label("Classes that were found").inner_text().startswith(first)
    assert f"{MODEL['files']['rgb+depth']['mean_iou']['ensemble']:.1f} %" in said.inner_text()
    page.get_by_label("depth", exact=True).click()
    page.get_by_text("Predicted from colour in").wait_for()
    assert agreeing(shown(page, "classes rgb"), expected(rgb, millimetres, ["rgb"])["rgb"])
    page.get_by_label("depth", exact=True).click()
    page.get_by_label("Depth of 1 in the file").fill("1")
    page.get_by_label("Depth of 1 in the file").press("Enter")
    page.get_by_text("is the unit right?").wait_for()


def agreeing(one, other):
    """Whether two maps differ in less than a pixel of a thousand: equal scores may round apart."""
    assert one.shape == other.shape
    return (one != other).mean() < 1e-3


@pytest.mark.docs
def test_a_scene_is_one_key_away_and_what_is_wrong_is_said(page, tmp_path):
    """If this breaks, the page cannot be used without a mouse, or shows what was found before beside a refusal."""
    rgb, depth, _ = pair(tmp_path)
    maps, alert = page.locator("#try canvas"), page.get_by_role("alert")
    scene = page.get_by_role("button", name="Scene").first
    scene.press("Enter")
    page.get_by_text("Predicted from colour and depth in").wait_for()
    assert maps.count() == 9
    assert scene.get_attribute("aria-pressed") == "true"
    Image.new("RGB", (30, 20)).save(tmp_path / "other.png")
    page.get_by_label("Colour PNG").set_input_files(tmp_path / "other.png")  # the scene's depth goes with its colours
    page.get_by_text("Predicted from colour in").wait_for()
    page.get_by_label("Depth PNG").set_input_files(depth)
    alert.wait_for()
    assert "Colour has 30×20 pixels and depth 128×96" in alert.inner_text()
    assert maps.count() == 0
    for name, content, why in refused(rgb, depth):
        (tmp_path / name).write_bytes(content)
        page.get_by_label("Depth PNG").set_input_files(tmp_path / name)
        page.get_by_text(f"depth: {name}: {why}").wait_for()


def refused(rgb, depth):
    """Files that hold no depth, and what is said of them."""
    colours = io.BytesIO()
    Image.open(rgb).save(colours, "PNG")
    return [
        ("photo.png", rgb.read_bytes(), "expected a PNG file of one channel"),
        ("colours.png", colours.getvalue(), "expected one channel of grey, got RGB"),
        ("short.png", depth.read_bytes()[:200], "it is cut off"),
        ("bent.png", depth.read_bytes().replace(b"IDAT\x78", b"IDAT\x79", 1), "it is damaged"),
    ]


@pytest.mark.docs
def test_numbers_of_png_are_those_of_the_file(page):
    """If this breaks, depth is wrong by rows or by bits, and the map merely looks bad."""
    numbers = np.random.default_rng(0)
    slope = np.add.outer(np.arange(37) * 300, np.arange(51) * 700)
    for bits, image in (
        (16, slope % 65536),
        (16, numbers.integers(0, 65536, (37, 51))),
        (8, slope // 256 % 256),
        (1, slope % 2),
    ):
        file = io.BytesIO()
        stored = {16: np.uint16, 8: np.uint8, 1: bool}[bits]
        Image.fromarray(image.astype(stored)).save(file, "PNG")
        assert file.getvalue()[24] == bits
        assert page.evaluate(DECODE, [*file.getvalue()]) == [bits, 51, 37, *image.ravel()]
