"""A page to try a trained model on: pictures in, maps out, with and without a modality or what the fusion does."""

import os
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup

from polymodal.data import DatasetSpec, InputSpec, Store
from polymodal.errors import ConfigError, PolymodalError, first_line
from polymodal.runs.parts import step_of
from polymodal.runs.predict import picture_of, read_scene
from polymodal.runs.predicted import Predicted
from polymodal.runs.predictor import Predictor
from polymodal.runs.scenes import Scene
from polymodal.tasks.overlay import enlarged

EXAMPLES = 4
HUES = ("#c2500a", "#0067a8", "#00805c", "#a8457f", "#8a6d00", "#2c8fc4")
CSS = """
.model { overflow-wrap: anywhere; }
.model h1 { font-size: 1.4rem; }
.pictures .grid-wrap { height: auto !important; max-height: none !important; min-height: 0 !important; }
.examples .grid-wrap { padding-top: 1.7rem !important; }
.pictures .caption-label { max-width: 100% !important; padding: 1px 5px !important; font-size: .7rem; }
.said { padding: .5rem .8rem; border-left: 4px solid #c2500a; overflow-wrap: anywhere; }
@media (max-width: 640px) {
  .pictures .grid-container { grid-template-columns: repeat(2, 1fr) !important; }
}
.sites { width: 100%; font-size: .85rem; }
.sites, .sites tr { border: 0 !important; }
.sites td:not(:first-child) { white-space: nowrap; }
.sites td, .sites th { padding: .15rem .5rem .15rem 0 !important; border: 0 !important; text-align: left; }
.sites td:first-child { overflow-wrap: anywhere; }
.sites .bar { display: inline-block; height: .7em; margin-right: .4em; }
"""


@contextmanager
def served(
    model: Path,
    *,
    scales: Mapping[str, float] | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
) -> Iterator[Any]:
    """A page on which a trained model can be tried, served within the context.

    Nothing is sent elsewhere, and what people upload is deleted after an hour.

    Args:
        model: A run folder, a model folder, the name of a model that comes with the package, or a file that
            `polymodal export` wrote as ONNX.
        scales: As for `polymodal.Predictor`.
        host: The address to listen at; by default this machine alone can reach it.
        port: If not given, the first free one from 7860 on.
        share: Whether Gradio may make a public link to the page, which passes through its servers.

    Yields:
        The page, a `gradio.Blocks`.

    Raises:
        ConfigError: Gradio is missing, the model predicts several targets, or the port or a scale is none.
        CheckpointError: The model cannot be used.
        OSError: The port is taken.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # asked when gradio is imported, too
    try:
        import gradio
    except ImportError as error:
        raise ConfigError(f"the page needs the package {error.name}: pip install 'polymodal[app]'.") from error
    if port is not None and not 1 <= port <= 65535:
        raise ConfigError(f"--port {port}: expected a number from 1 to 65535.")
    predictor = Predictor(model, scales=scales)
    if len(predictor.targets) > 1:
        raise ConfigError(
            f"{model} predicts {', '.join(predictor.targets)}, and the page shows one target. Use polymodal predict."
        )
    predictor.network  # noqa: B018  (what is wrong with a model is said here, not on the page)
    with TemporaryDirectory(prefix="polymodal-app-") as folder:
        page = _page(predictor, model, _examples(predictor.modalities, Path(folder)))
        page.launch(
            server_name=host,
            server_port=port,
            share=share,
            prevent_thread_lock=True,
            footer_links=[],
            css=CSS,
            # The fonts of the system: those of the usual theme are loaded from elsewhere.
            theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        )
        try:
            yield page
        finally:
            page.close(verbose=False)


def _page(predictor: Predictor, model: Path, examples: Sequence[Mapping[str, Path]]) -> Any:
    import gradio

    specs, network = predictor.modalities, predictor.network
    switchable = network is not None and bool(network.sites) and (not network.fusion.merges or network.fusion.branches)
    columns = 3 if predictor.classes else 2
    how = f" ({network.fusion.name})" if network is not None else ""
    looks: dict[str, Any] = {"height": "auto", "object_fit": "contain", "buttons": []}
    with gradio.Blocks(title="polymodal", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gradio.HTML(_heading(predictor, model))
        with gradio.Row():
            with gradio.Column(scale=2, min_width=300):
                files = [gradio.File(label=_asked(name, spec), height=110) for name, spec in specs.items()]
                used = gradio.CheckboxGroup(list(specs), value=list(specs), label="Predict with")
                meets = gradio.Checkbox(True, label=f"Let them meet in the network{how}", visible=switchable)
                gallery = gradio.Gallery(
                    [_seen(scene, specs) for scene in examples],
                    label="Or take an example",
                    columns=EXAMPLES,
                    allow_preview=False,
                    interactive=False,
                    visible=bool(examples),
                    elem_classes=["pictures", "examples"],
                    **looks,
                )
            with gradio.Column(scale=3, min_width=300):
                said = gradio.HTML()
                overlay = gradio.Image(show_label=False, format="png", interactive=False, buttons=["download"])
                maps = gradio.Gallery(show_label=False, columns=columns, elem_classes=["pictures", "maps"], **looks)
        sites = gradio.HTML(_sites(predictor, list(specs), meets=True))

        def predict(*given: Any) -> tuple[Any, ...]:
            *paths, chosen, meeting = given
            there = {name: path for name, path in zip(specs, paths, strict=True) if path and name in chosen}
            shown = _sites(predictor, list(there) or list(chosen), meets=meeting)
            if not there:
                return "", None, None, shown
            try:
                found, warned = _predict(predictor, there, meets=meeting)
                seen = {name: _seen({name: path}, specs) for name, path in there.items()}
                pictures: tuple[Any, Any] = found.shown(), _details(found, seen)
            except Exception as error:  # nothing that was predicted before may stay beside it
                if not isinstance(error, PolymodalError):  # such as too little memory
                    traceback.print_exc()
                warned, pictures = [first_line(error)], (None, None)
            return _said([_as_dropped(one, there) for one in warned]), *pictures, shown

        def take(event: gradio.SelectData) -> list[Any]:
            scene = examples[event.index]
            return [str(scene[name]) if name in scene else None for name in specs]

        asked: dict[str, Any] = {
            "fn": predict,
            "inputs": [*files, used, meets],
            "outputs": [said, overlay, maps, sites],
            # The network's switches are its own, so that one scene is predicted at a time.
            "concurrency_id": "network",
            "concurrency_limit": 1,
            "api_visibility": "private",
        }
        changes = [event for file in files for event in (file.upload, file.clear, file.delete)]
        gradio.on([*changes, used.input, meets.input], **asked)
        gallery.select(take, None, files, api_visibility="private").then(**asked)
    return page


def _predict(predictor: Predictor, files: Mapping[str, str], *, meets: bool) -> tuple[Predicted, list[str]]:
    """What is predicted, and what was warned of."""
    network = predictor.network
    apart = nullcontext() if meets or network is None else network.fusion_disabled()
    with warnings.catch_warnings(record=True) as caught, apart:
        warnings.simplefilter("always", UserWarning)
        found = predictor.read(**files)
    return found, [str(one.message) for one in caught if one.category is UserWarning]


def _as_dropped(message: str, files: Mapping[str, str]) -> str:
    """A message with the names that people know their files by."""
    for name, path in files.items():
        message = message.replace(path, f"{name}: {Path(path).name}")
    return message


def _said(messages: Sequence[str]) -> Markup:
    return Markup("").join(Markup('<p class="said" role="alert">{}</p>').format(message) for message in messages)


def _details(found: Predicted, seen: Mapping[str, np.ndarray]) -> list[tuple[np.ndarray, str]]:
    """A row of pictures for each modality, what it shows and what it predicts, and one for all together."""
    shown = [(seen[name], name) for name in seen if name not in found.arrays]  # where the fusion makes one stream
    for name, arrays in found.arrays.items():
        if name in seen:
            shown.append((seen[name], name))
        shown.append((_shown(arrays["colors"]), f"predicted, {name}"))
        for what in ("confidence", "disagreement"):
            if what in arrays:
                heat = matplotlib.colormaps["viridis"](arrays[what], bytes=True)[..., :3]
                shown.append((_shown(heat), f"{100 * float(arrays[what].mean()):.0f} % {what}, {name}"))
    return shown


def _shown(picture: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) with sides that a page can show: a browser takes no more than some thousands of pixels."""
    height, width = picture.shape[:2]
    step = step_of((height, width))
    return enlarged(picture[::step, ::step])


def _heading(predictor: Predictor, model: Path) -> Markup:
    takes, classes = ", ".join(predictor.modalities), ", ".join(predictor.classes)
    return Markup(
        '<div class="model"><h1>{}</h1><p>From {}{}. Nothing that you drop here leaves the machine that serves '
        "the page.</p></div>"
    ).format(model, takes, f" to {classes}" if classes else "")


def _asked(name: str, spec: InputSpec) -> str:
    unit = f" in {spec.unit}" if spec.unit else ""
    return f"{name}: {spec.kind}{unit}; PNG, JPEG, TIFF or npy"


def _sites(predictor: Predictor, given: Sequence[str], *, meets: bool) -> Markup:
    """Which share of a modality's channels comes from the others, by layer."""
    network = predictor.network
    shares = network.exchanged() if network is not None else {}
    if not shares:
        return Markup("")
    title = Markup("<h3>Where channels come from</h3><p>{}</p>")
    if not meets or len(given) < 2:
        why = "The modalities are kept apart" if not meets else "One modality is alone"
        return title.format(f"{why}: every channel is its own.")
    head = Markup("").join(Markup("<th>{}</th>").format(name) for name in given)
    rows = [
        Markup("<tr><td>{}</td>{}</tr>").format(
            site, Markup("").join(_bar(own[name], list(own).index(name)) for name in given)
        )
        for site, own in shares.items()
    ]
    said = "Of the channels that a modality may exchange, the share that it takes from the others, layer by layer."
    table = Markup('<table class="sites"><tr><th>layer</th>{}</tr>{}</table>').format(head, Markup("").join(rows))
    return title.format(said) + table


def _bar(share: float, m: int) -> Markup:
    return Markup('<td><span class="bar" style="width: {:.0f}px; background: {}"></span>{:.0f} %</td>').format(
        40 * share, HUES[m % len(HUES)], 100 * share
    )


def _examples(specs: Mapping[str, InputSpec], folder: Path) -> list[dict[str, Path]]:
    """A few scenes of the embedded rooms, as files in a folder: those modalities that mean the same to the model."""
    rooms = DatasetSpec.load("rooms")
    known = [
        name
        for name, spec in specs.items()
        if name in rooms.modalities
        and replace(spec, mean=(), std=(), stored="", seen=None) == InputSpec.of(rooms.modalities[name], spec.channels)
    ]
    store = Store("rooms")
    scenes = []
    for key in rooms.splits["test"][:EXAMPLES] if known else ():
        scene = {}
        for name in known:
            file = store.find(rooms.modalities[name].folder, key)
            scene[name] = folder / f"{name}-{key}{PurePosixPath(file).suffix}"
            scene[name].write_bytes(store.read(file))
        scenes.append(scene)
    return scenes


def _seen(files: Mapping[str, str | Path], specs: Mapping[str, InputSpec]) -> np.ndarray:
    """What people see of a scene's files."""
    scene = Scene("", {name: Path(file) for name, file in files.items()})
    return _shown(picture_of(*read_scene(scene, {name: specs[name] for name in files})))
