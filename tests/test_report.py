"""The page of a run: complete, escaped, self-contained, drawn by a real browser, and calm when pieces are missing."""

import html
import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures_run import CLASSES, SITES, write_run
from polymodal import Exchange, fuse
from polymodal.errors import ConfigError
from polymodal.fusion import RandomExchange
from polymodal.models import create
from polymodal.report import write_report
from polymodal.report.charts import Series, channel_strip, line_chart, scale_histogram, tick_values
from polymodal.runs.recorder import Recorder

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
BROWSER_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--v=0",
    "--window-size=1400,1000",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [write_run(root / "exchange"), write_run(root / "none", exchanging=False, seed=1)]


def page(run, tmp_path, **arguments):
    return write_report([run], tmp_path / "report.html", **arguments).read_text()


def images(text):
    return re.findall(r"<img src=\"([^\"]{20})[^\"]*\" alt=\"([^\"]+)\"", text)


def test_one_run_shows_every_figure(runs, tmp_path):
    text = page(runs[0], tmp_path)
    for heading in ("Scores", "Scenes", "Exchanged channels", "Training", "Classes", "How it was made"):
        assert f"<h2>{heading}</h2>" in text
    for chart in ("scales of rgb", "scales of depth", "exchanged channels, %", "loss", "ensemble weight, %"):
        assert re.search(rf"<h4>{chart}</h4>\s*<svg", text), chart
    assert 'class="missing"' not in text
    assert {"351 k", "1 min 17 s"} <= set(re.findall(r"<dd>([^<]+)</dd>", text))
    for name in CLASSES:
        assert re.search(rf"</i>{name}</b>", text), f"no bars for {name}"
    assert "absent" in text
    assert len(re.findall('<svg class="strip"', text)) == 2 * len(SITES)
    # 6 scenes of 2 inputs, 1 truth, 3 predictions and 3 error maps
    assert len(images(text)) == 6 * 9


def test_channels_are_told_in_both_directions(runs, tmp_path):
    text = page(runs[0], tmp_path)
    with np.load(runs[0] / "scales.npz") as scales:
        for site in SITES:
            rgb, depth = (int(n) for n in (~scales[f"keep:{site}"]).sum(1))
            assert f"{site}: {rgb} of {SITES[site]} channels of rgb come from depth" in text
            assert f"{site}: {depth} of {SITES[site]} channels of depth come from rgb" in text


def test_several_runs_are_compared_before_each_is_shown(runs, tmp_path):
    text = write_report(runs, tmp_path / "report.html", notes="One seed <only>.\n\nNo claim.").read_text()
    assert text.index("<h2>Comparison</h2>") < text.index("<p>One seed &lt;only&gt;.</p><p>No claim.</p>")
    assert text.index("<p>No claim.</p>") < text.index('id="run-1"') < text.index('id="run-2"')
    ensembles = [json.loads((run / "scores.test.json").read_text())["predictions"]["ensemble"] for run in runs]
    first, second = (scores["mean_iou"] for scores in ensembles)
    assert f'<td class="n">{first:.1f}</td>' in text
    assert "best" not in text.partition("<h2>Comparison</h2>")[2].partition("</table>")[0]  # of one seed each, none is
    assert f"+{first - second:.1f}</td>" in text
    assert "ensemble mean IoU on val, per cent: exchange" in text


def translation(folder, target, **ensemble):
    """A run that predicts images, with scores alone."""
    folder.mkdir()
    (folder / "config.yaml").write_text(f"data: {{class_path: FolderData, init_args: {{root: r, target: {target}}}}}")
    (folder / "scores.test.json").write_text(json.dumps({"predictions": {"ensemble": ensemble}}))
    return folder


def test_runs_of_different_targets_stand_in_tables_of_their_own(tmp_path):
    """If this breaks, the best of all is whichever target has the smaller errors, and the FID is left out."""
    scores = {
        "both": ("rgb", {"MAE": 0.2, "FID[lite0]": 30.0}),
        "one": ("rgb", {"MAE": 0.3, "FID[lite0]": 20.0}),
        "two": ("depth", {"MAE": 0.01, "FID[lite0]": 9.0}),
        "three": ("depth", {"MAE": 0.02, "FID[lite0]": 8.0}),
        "four": ("depth", {"MAE": 0.03, "FID[lite0]": 8.0}),
    }
    runs = [translation(tmp_path / name, target, **figures) for name, (target, figures) in scores.items()]
    text = write_report(runs, tmp_path / "report.html").read_text()
    first, second = re.findall(r"<table>.*?</table>", text, re.DOTALL)[:2]
    assert "<h3>To predict rgb</h3>" in text.partition(first)[0]
    assert "<h3>To predict depth</h3>" in text.partition(first)[2].partition(second)[0]
    for table in (first, second):
        assert re.findall(r'colspan="1">([^<]+)<', table) == ["MAE", "FID[lite0]"]
    figures = [re.findall(r'<td class="n">(\d+\.\d+)<', table) for table in (first, second)]
    assert figures == [["0.2000", "30.0", "0.3000", "20.0"], ["0.0100", "9.0", "0.0200", "8.0", "0.0300", "8.0"]]
    differences = first.partition("both − one")[2]
    assert re.findall(r'<td class="n">([^<]+)<', differences) == ["−0.1000", "+10.0"]
    assert "FID[lite0]: how far" in text


@pytest.mark.parametrize(
    "change", [{"truth": "b" * 32}, {"samples": 20, "split_samples": 150}, {"truth_size": [48, 64]}]
)
def test_runs_scored_on_other_scenes_or_truth_stand_in_tables_of_their_own(change, tmp_path):
    """If this breaks, a run on easier scenes is the better one, by a difference that the page itself computes.

    Images are scored at the size of the inputs, where what is coarse is predicted more easily.
    """
    runs = [write_run(tmp_path / name, splits=("val",)) for name in ("here", "there", "elsewhere")]
    for run, more in zip(runs, ({}, {}, change), strict=True):
        file = run / "scores.val.json"
        content = (
            json.loads(file.read_text()) | {"scored_on": "rooms/val", "truth": "a" * 32, "truth_size": [96, 128]} | more
        )
        file.write_text(json.dumps(content))
    text = write_report(runs, tmp_path / "report.html").read_text()
    first, second = re.findall(r"<table>.*?</table>", text.partition('id="run-1"')[0], re.DOTALL)
    assert [re.findall(r"<tr><th>(\w+)</th>\s+<td", table) for table in (first, second)] == [
        ["here", "there"],
        ["elsewhere"],
    ]
    assert "150 scenes of rooms/val at 128x96 (aaaaaaaa)</h3>" in text.partition(first)[0]
    assert "rows of different tables are not comparable" in text
    assert "here − there" in first


def test_runs_whose_folders_are_called_alike_are_told_apart(tmp_path):
    """As seed-0 of two methods of a comparison: else nobody knows which row is whose."""
    runs = [write_run(tmp_path / method / "seed-0", splits=("val",)) for method in ("exchange", "none")]
    text = write_report(runs, tmp_path / "report.html").read_text()
    assert "exchange/seed-0 − none/seed-0" in text


def test_a_score_that_no_table_knows_is_shown_as_its_file_says(tmp_path):
    """If this breaks, a metric of one's own is trained by and never seen."""
    run = write_run(tmp_path / "run", splits=("val",))
    file = run / "scores.val.json"
    content = json.loads(file.read_text())
    score = {"key": "RMSE", "name": "RMSE of depth", "unit": "m", "higher_is_better": False, "digits": 3}
    content["scores"] = [score | {"headline": "how far depths are off", "per_class": ""}]
    content["predictions"] = {"rgb": {"RMSE": 1.25}, "ensemble": {"RMSE": 0.5}}
    file.write_text(json.dumps(content))
    text = write_report([run, run], tmp_path / "out.html").read_text()
    assert text.count("RMSE of depth") > 4
    for said in ("0.500", "how far depths are off; lower is better", "RMSE: less is better"):
        assert said in text
    content["scores"] = [score | {"headline": "", "per_class": ""}]
    file.write_text(json.dumps(content))
    text = write_report([run, run], tmp_path / "out.html").read_text()
    assert "RMSE of depth in m: lower is better." in text, "else two runs end in a message of Python's"
    for wrong in ({"key": "RMSE"}, "RMSE", score | {"digits": "3"}):
        content["scores"] = [wrong]
        file.write_text(json.dumps(content))
        with pytest.raises(ConfigError, match=r"scores\.val\.json cannot be read"):
            write_report([run], tmp_path / "out.html")


def test_sites_without_exchange_take_one_line(tmp_path):
    """If this breaks, fifty empty strips hide the three sites at which something happens."""
    run = write_run(tmp_path / "run")
    with np.load(run / "scales.npz") as scales:
        arrays = dict(scales)
    idle, busy, *_ = SITES
    arrays[f"keep:{idle}"][:] = True
    arrays[f"keep:{busy}"][0, 0] = False
    np.savez_compressed(run / "scales.npz", **arrays)
    text = page(run, tmp_path)
    assert f"<h4>1 site without exchange</h4><p>{idle}</p>" in text
    assert f"<h4>{idle}</h4>" not in text
    assert f"<h4>{busy}</h4>" in text


@pytest.mark.parametrize(("key", "value"), [("threshold", -1.0), ("threshold", np.nan), ("scale", np.inf)])
def test_scales_that_no_network_has_are_refused(tmp_path, key, value):
    """If this breaks, a damaged file ends in a message of mathematics."""
    run = write_run(tmp_path / "run", scenes=1, size=(8, 8))
    with np.load(run / "scales.npz") as scales:
        arrays = dict(scales)
    name = key if key == "threshold" else f"scale:{next(iter(SITES))}"
    arrays[name] = np.full_like(arrays[name], value)
    np.savez_compressed(run / "scales.npz", **arrays)
    with pytest.raises(ConfigError, match=r"scales.npz cannot be read: .* negative or not finite"):
        page(run, tmp_path)


def test_classes_stand_above_the_maps_of_channels(runs, tmp_path):
    text = page(runs[0], tmp_path)
    heads = ["<h2>Scores</h2>", "<h2>Scenes</h2>", "<h2>Classes</h2>", "<h2>Exchanged channels</h2>"]
    places = [text.index(head) for head in heads]
    assert places == sorted(places)


def test_truth_and_ensemble_stay_in_sight(runs, tmp_path):
    """If this breaks, a telephone shows inputs and single modalities, and what they should be is out of the picture."""
    kept = re.findall(r'<figure class="kept"><img[^>]*><figcaption>([^<]+)<', page(runs[0], tmp_path))
    assert kept[:2] == ["truth", "ensemble says"]
    assert kept[2].endswith("wrong")
    assert len(kept) == 3 * 6


def test_runs_without_a_common_split_are_not_called_comparable(runs, tmp_path):
    other = write_run(tmp_path / "validated", splits=("val",))
    shutil.copytree(runs[0], tmp_path / "tested")
    (tmp_path / "tested" / "scores.val.json").unlink()
    text = write_report([tmp_path / "tested", other], tmp_path / "report.html").read_text()
    assert "not comparable" in text


def test_text_from_data_is_never_markup(tmp_path):
    hostile = "<b>\"'&"
    run = write_run(tmp_path / "a<i>b", classes=["wall", hostile], modalities=["rgb", "d<u>"], sites={"x<s>": 16})
    (run / "config.yaml").write_text("data: {root: rooms}\n# </pre><script>alert(1)</script>\n")
    text = page(run, tmp_path, notes="<blink>")
    for raw in ("<script", "<i>b", "d<u>", "x<s>", "<blink>", "<b>&#34;", '<b>"'):
        assert raw not in text, raw
    for escaped in ("a&lt;i&gt;b", "d&lt;u&gt;", "x&lt;s&gt;", "&lt;blink&gt;", "&lt;b&gt;"):
        assert escaped in text, escaped


def test_nothing_is_loaded_from_elsewhere(runs, tmp_path):
    text = write_report(runs, tmp_path / "report.html").read_text()
    references = re.findall(r"(?:src|href|url|@import)\s*[=(]\s*[\"']?([^\"')\s>]+)", text)
    assert references
    assert all(r.startswith(("data:", "#")) for r in references)
    assert "<script" not in text
    assert "://" not in text


@pytest.mark.slow
def test_six_full_size_scenes_stay_a_light_page(tmp_path):
    run = write_run(tmp_path / "run", size=(480, 640), classes=[f"class {i}" for i in range(39)])
    assert write_report([run], tmp_path / "report.html").stat().st_size < 1.5e6


@pytest.mark.parametrize("size", [(1, 700), (700, 1)])
def test_a_scene_of_one_line_is_drawn(tmp_path, size):
    """If this breaks, a run on line scans is trained, and ends without its page."""
    run = write_run(tmp_path / "run", size=size)
    assert "data:image/jpeg" in write_report([run], tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("scales.npz", "no exchange sites"),
        ("samples.npz", "kept no scenes"),
        ("metrics.csv", "No loss was logged"),
        ("config.yaml", "No config.yaml"),
        ("environment.json", "versions are unknown"),
        ("scores.test.json", "no test scores"),
    ],
)
def test_a_missing_piece_becomes_a_sentence(runs, tmp_path, file, sentence):
    shutil.copytree(runs[0], tmp_path / "run")
    (tmp_path / "run" / file).unlink()
    assert sentence in page(tmp_path / "run", tmp_path)


def test_a_run_that_exchanges_nothing_says_so(runs, tmp_path):
    shutil.copytree(runs[0], tmp_path / "run")
    with np.load(runs[0] / "scales.npz") as content:
        arrays = {key: np.ones_like(a) if key.startswith("keep:") else a for key, a in content.items()}
    np.savez(tmp_path / "run" / "scales.npz", **{**arrays, "threshold": np.array(0.0)})
    assert "because the threshold θ is 0" in page(tmp_path / "run", tmp_path)


@pytest.mark.parametrize(
    ("fusion", "said"),
    [
        (Exchange(0.5), "Left of θ a channel counts as given up."),
        (Exchange(0.5, share=0.25), "No θ decides, but the share: at every site each modality gives up 25 %"),
        (RandomExchange(0.25), "No θ decides, but the share"),
    ],
)
def test_a_threshold_is_drawn_only_where_it_decides(runs, tmp_path, fusion, said):
    """If this breaks, a page of a run by share explains the exchange by a line that nothing depends on."""
    net = fuse(create("rooms-unet", classes=2), ["rgb", "depth"], fusion)
    recorder = Recorder(tmp_path / "run")
    recorder.rows = [{"epoch": 1}]
    recorder.scales = {site: [state.scale] for site, state in net.exchange_state().items()}
    shutil.copytree(runs[0], tmp_path / "run")
    recorder.write_scales(net)
    text = page(tmp_path / "run", tmp_path)
    assert said in text
    assert ("θ = 0.5" in text) == ("Left of θ" in text) == ('class="theta"' in text) == (fusion == Exchange(0.5))


def test_one_epoch_one_modality_and_no_ensemble_are_enough(tmp_path):
    run = write_run(tmp_path / "run", modalities=["rgb"], epochs=1, splits=("val",))
    scores = json.loads((run / "scores.val.json").read_text())
    del scores["predictions"]["ensemble"]
    (run / "scores.val.json").write_text(json.dumps(scores))
    assert "mean IoU on val" in page(run, tmp_path)


def test_bare_scores_are_enough(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "scores.val.json").write_text('{"predictions": {"rgb": {"mean_iou": NaN}, "ensemble": {}}}')
    text = page(tmp_path / "run", tmp_path)
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)
    assert text.count('class="missing"') >= 5


def test_nan_and_empty_cells_leave_the_curves_standing(runs, tmp_path):
    shutil.copytree(runs[0], tmp_path / "run")
    (tmp_path / "run" / "metrics.csv").write_text(
        "epoch,step,train/loss,val/loss,val/mean_iou/rgb\n0,1,2.5,3.0,\n0,2,nan,,nan\n1,3,,2.0,9\n2,4,,inf,12\n"
    )
    text = page(tmp_path / "run", tmp_path)
    assert all(label in text for label in ("val 2.00", "rgb 12.0"))
    assert not re.search(r'(points|cx|cy|y)="[^"]*(nan|inf)', text)


@pytest.mark.parametrize("make", [lambda f: None, lambda f: f.mkdir()])
def test_a_folder_that_is_no_run_names_what_is_missing_and_the_command(tmp_path, make):
    make(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"scores\.val\.json(.|\n)*polymodal fit"):
        write_report([tmp_path / "run"], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_no_runs_at_all_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="at least one run"):
        write_report([], tmp_path / "report.html")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("scores.test.json", b"{"),
        ("scores.test.json", b'{"predictions": {"rgb": 3}}'),
        ("metrics.csv", b"epoch,val/loss\nx,1\n"),
        ("metrics.csv", b"epoch,val/loss\n0,1,2\n"),
        ("scales.npz", b"PK no archive"),
        ("samples.npz", b""),
        ("config.yaml", b"data: ["),
        ("environment.json", b"[1]"),
        ("scores.test.json", b"[" * 100_000),
        ("scores.test.json", b'{"predictions": {"rgb": {"mean_iou": 1.0}}, "classes": 3}'),
        ("scores.test.json", b'{"predictions": {"rgb": {"mean_iou": 1.0}}, "samples": "many"}'),
        ("scores.test.json", b'{"predictions": {"rgb": {"mean_iou": 1.0}}, "epochs": ' + b"9" * 5000 + b"}"),
        ("metrics.csv", b"epoch,val/loss\ninf,1\n"),
        ("config.yaml", b"data: 2001-99-99"),
        ("scores.test.json", b'{"predictions": {"rgb": {"mean_iou": "high"}}}'),
        ("scores.test.json", b'{"predictions": {"rgb": {"mean_iou": 1.0, "iou": [{}]}}}'),
        ("scores.test.json", b'{"predictions": {"rgb": {"mean_iou": 1.0}}, "weights": {"rgb": []}}'),
        ("scores.test.json", b'{"predictions": {"rgb": {"mean_iou": 1.0}}, "exchanged": {"rgb": true}}'),
        ("scores.test.json", b'{"predictions": {"rgb": {"mean_iou": 1.0}}, "modalities": [1]}'),
    ],
)
def test_a_broken_file_is_named_and_the_old_page_stays(runs, tmp_path, file, content):
    run = Path(shutil.copytree(runs[0], tmp_path / "run"))
    out = tmp_path / "report.html"
    out.write_text("old")
    (run / file).write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(file)):
        write_report([run], out)
    assert out.read_text() == "old"


def test_scores_of_an_earlier_model_are_named(runs, tmp_path):
    """A finished run that was trained on and killed before it scored would show old figures as those of the model."""
    run = Path(shutil.copytree(runs[0], tmp_path / "run"))
    (run / "model").mkdir()
    scores = {file: json.loads(file.read_text()) for file in run.glob("scores.*.json")}
    for file, content in scores.items():
        file.write_text(json.dumps({**content, "model": "ab12"}))
    (run / "model" / "config.json").write_text(json.dumps({"weights": "ab12"}))
    write_report([run], tmp_path / "report.html")
    (run / "model" / "config.json").write_text(json.dumps({"weights": "cd34"}))
    with pytest.raises(
        ConfigError, match=r"scores\.test\.json has the scores of an earlier model .*polymodal validate"
    ):
        write_report([run], tmp_path / "report.html")


def test_pickled_arrays_are_refused(runs, tmp_path):
    run = Path(shutil.copytree(runs[0], tmp_path / "run"))
    np.savez(run / "samples.npz", keys=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ConfigError, match=r"samples\.npz"):
        write_report([run], tmp_path / "report.html")


def test_arrays_that_do_not_fit_are_refused(runs, tmp_path):
    run = Path(shutil.copytree(runs[0], tmp_path / "run"))
    with np.load(run / "scales.npz") as content:
        arrays = dict(content)
    site = next(iter(SITES))
    np.savez(run / "scales.npz", **{**arrays, f"keep:{site}": arrays[f"keep:{site}"][:, :-1]})
    with pytest.raises(ConfigError, match=re.escape(site)):
        write_report([run], tmp_path / "report.html")


def test_a_page_that_cannot_be_written_leaves_nothing_behind(runs, tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        write_report([runs[0]], tmp_path / "report.html")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_line_labels_never_overlap():
    series = [Series(f"m{i}", "red", {0: 1.0, 1: 2.0 + i / 100}) for i in range(6)]
    heights = sorted(float(y) for y in re.findall(r'class="end" x="[\d.]+" y="([\d.]+)"', line_chart("loss", series)))
    assert all(b - a > 12 for a, b in pairwise(heights))


@pytest.mark.parametrize("name", ["a", "depth-from-rgb-and-texture-edges", "x" * 100])
def test_line_labels_are_not_cut(name):
    """If this breaks, runs whose names begin alike cannot be told apart in a chart."""
    svg = str(line_chart("loss", [Series(name, "red", {1: 0.5, 2: 0.25})]))
    width = float(re.search(r'viewBox="0 0 (\d+) ', svg)[1])
    start = float(re.search(r'class="end" x="([\d.]+)"', svg)[1])
    assert start + 6.6 * len(f"{name} 0.2") < width  # bold digits at 11 px take 6.6
    assert min(float(x) for x in re.findall(r'x2="([\d.]+)"', svg)) > 180


@pytest.mark.parametrize("largest", [0.004, 0.5])
def test_the_threshold_lies_within_the_chart(largest):
    """When every scale is below θ, as at the end of a strong penalty, θ is what one has to see."""
    scales = np.linspace(0.001, largest, 8)
    svg = str(scale_histogram("depth", "red", scales, scales[:4], scales[4:], 0.02))
    width = float(re.search(r'viewBox="0 0 (\d+) ', svg)[1])
    (start,) = re.findall(r'class="end" x="([\d.]+)"', svg)
    assert float(start) + 6.6 * len("θ = 0.02") < width


@given(
    st.floats(0, 1e3) | st.floats(1e-300, 1e-12),
    st.floats(0, 1e-3) | st.floats(1e-300, 1e-12),
    st.integers(2, 9),
)
def test_ticks_of_almost_equal_values_are_apart(low, more, count):
    """Two methods whose scores differ in the last bit must not cost the whole table."""
    ticks = tick_values(low, low + more, count)
    assert len({f"{tick:g}" for tick in ticks}) == len(ticks) > 1
    slack = 1e-9 * (ticks[-1] - ticks[0])
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + more - slack


def test_one_epoch_makes_no_curve():
    """If this breaks, a page shows an axis with a single dot."""
    assert line_chart("loss", [Series("a", "red", {8: 1.0}), Series("b", "red", {8: 2.0, 9: float("nan")})]) is None
    assert line_chart("loss", [Series("a", "red", {8: 1.0}), Series("b", "red", {9: 2.0})]) is not None


def test_a_strip_has_one_cell_a_channel_however_wide_the_site():
    keep = np.random.default_rng(0).random(2048) > 0.5
    part = np.arange(2048) < 1024
    svg = str(channel_strip("", keep, part, "red", "blue", columns=128))
    kept, replaced, own = (path.count("h") for path in re.findall(r'<path d="([^"]*)"', svg))
    assert (kept, replaced, own) == (keep.sum(), (~keep).sum(), part.sum())
    assert len(svg) < 60_000


@pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on PATH to open the page with")
def test_a_browser_draws_everything_at_every_width(runs, tmp_path):
    """Frames of several widths hold the page; a script beside them writes down what was drawn."""
    five = write_run(tmp_path / "five", modalities=["rgb", "depth", "normal", "edges", "shade"], scenes=2)
    text = write_report([*runs, five], tmp_path / "report.html").read_text()
    widths = (360, 390, 768, 1280)
    frames = "".join(f'<iframe width="{w}" height="900" srcdoc="{html.escape(text)}"></iframe>' for w in widths)
    (tmp_path / "frames.html").write_text(f"""<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">
        {frames}<pre></pre><script>addEventListener("load", () => {{
          const seen = [...document.querySelectorAll("iframe")].map(({{contentDocument: page}}) => ({{
            images: page.images.length,
            drawn: [...page.images].filter((image) => image.complete && image.naturalWidth > 0).length,
            charts: [...page.querySelectorAll("svg")].filter((svg) => svg.getBoundingClientRect().height < 2).length,
            overflow: page.scrollingElement.scrollWidth - page.documentElement.clientWidth,
          }}));
          document.querySelector("pre").textContent = JSON.stringify(seen);
        }});</script>""")
    command = [str(BROWSER), *BROWSER_FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [*command, (tmp_path / "frames.html").as_uri()], capture_output=True, text=True, timeout=120, check=False
    )
    report = re.search(r"<pre>(\[.*\])</pre>", done.stdout)
    assert report, f"the browser did not load the page: {done.stderr[-2000:]}"
    assert "CONSOLE" not in done.stderr
    for width, seen in zip(widths, json.loads(report[1]), strict=True):
        assert seen["images"] == len(images(text)) > 0, width
        assert seen["drawn"] == seen["images"], width
        assert seen["charts"] == 0, f"{width}: a chart has no height"
        assert seen["overflow"] <= 0, f"{width}: the page is wider than the screen"
