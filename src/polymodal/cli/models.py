"""Commands on what was trained: validate, predict, app, calibrate, export, import-cen, inspect, report."""

import argparse
from pathlib import Path
from typing import Any

from polymodal.cli import typed


def add(commands: Any) -> None:
    """Add these commands."""
    validate = commands.add_parser(
        "validate",
        help="score a run's model on a split of its data set, or of another",
        description="Score a run's model on a split. Nothing in the run folder is executed: of its config.yaml only "
        "the settings of the data are read. Training by that config.yaml, fit --config, runs what it names.",
    )
    validate.add_argument(
        "folder",
        type=Path,
        metavar="RUN",
        help="run folder; with --root, a model folder, the name of a packaged model or hf://user/name, too",
    )
    validate.add_argument("--split", choices=("val", "test"), default="val", help="which scenes (%(default)s)")
    validate.add_argument("--root", help="data set instead of the one in the run's config.yaml")
    validate.add_argument(
        "--subsets",
        metavar="SETS",
        help="score what is left without some modalities: all, or sets such as rgb,rgb+depth",
    )
    validate.add_argument(
        "--corrupt",
        metavar="FAULTS",
        help="score under faults of a sensor: all, or such as dark, depth/holes, rgb/noise:3 (of five strengths)",
    )
    validate.add_argument("--scales", metavar="F,F", help="average over these sizes, such as 0.5,0.75,1,1.25,1.5,1.75")
    validate.add_argument("--flip", action="store_true", help="average with the mirrored scenes, too")
    validate.add_argument("--window", metavar="H,W", help="slide a window of this size over large scenes")
    validate.add_argument("--stride", metavar="H,W", help="of the window; two thirds of it if not given")
    validate.add_argument("--resize", default="bilinear", help="of logits: bilinear, or cubic as in CEN's code")
    validate.set_defaults(run=_validate)

    predict = commands.add_parser("predict", help="predictions and pictures for files, or for folders matched by name")
    predict.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="RUN",
        help="run folder, model folder, name of a model that comes with the package (such as nyudv2-39), "
        "hf://user/name on the Hugging Face Hub, or exported .onnx file",
    )
    predict.add_argument(
        "--input",
        nargs="+",
        action="extend",
        required=True,
        metavar="MODALITY=PATH",
        help="a file or a folder of each modality",
    )
    predict.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the pictures")
    predict.add_argument("--subset", action="store_true", help="allow some of the model's modalities to be absent")
    predict.add_argument(
        "--certainty", action="store_true", help="write maps of confidence, entropy and disagreement, too"
    )
    _add_scale(predict)
    predict.add_argument(
        "--window",
        metavar="H,W",
        help="predict large pictures in windows of this size that overlap, with bounded memory; a window is resized "
        "as the training's pictures were",
    )
    predict.add_argument("--stride", metavar="H,W", help="from window to window; two thirds of one if not given")
    predict.set_defaults(run=_predict)

    app = commands.add_parser(
        "app",
        help="try a model in the browser: drop a picture of each modality, or take an example",
        description="Serve a page on this machine on which a model can be tried, with and without a modality or what "
        "the fusion does, until interrupted. pip install 'polymodal[app]'",
    )
    app.add_argument(
        "model",
        type=Path,
        nargs="?",
        default=Path("rooms"),
        metavar="MODEL",
        help="run folder, model folder, name of a model that comes with the package, hf://user/name or exported .onnx "
        "file (%(default)s)",
    )
    _add_scale(app)
    app.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 lets other machines in (%(default)s)"
    )
    app.add_argument("--port", type=int, metavar="N", help="the first free one from 7860 on if not given")
    app.add_argument("--share", action="store_true", help="make a public link, which passes through Gradio's servers")
    app.set_defaults(run=_app)

    calibrate = commands.add_parser(
        "calibrate",
        help="fit on the validation split how sure a run's model may be of itself",
        description="Fit a temperature for each prediction on the validation split and keep it with the model. No "
        "class map changes; the confidence of predict, Predictor and validate does.",
    )
    calibrate.add_argument("folder", type=Path, metavar="RUN", help="run folder; with --root, a model folder, too")
    calibrate.add_argument("--root", help="data set instead of the one in the run's config.yaml")
    calibrate.set_defaults(run=_calibrate)

    export = commands.add_parser("export", help="write a run's network as a file that runs without polymodal")
    export.add_argument("model", type=Path, metavar="RUN", help="run folder, model folder, or name of a packaged model")
    export.add_argument("out", type=Path, metavar="OUT", help="the file: .onnx, .pt2, or .xml for openvino")
    export.add_argument("--format", default="onnx", help="onnx, pt2 or openvino (%(default)s)")
    export.add_argument("--fold", action="store_true", help="absorb norms and exchange into the convolutions")
    export.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), help="for images of this height and width alone (any size)"
    )
    export.add_argument("--weights", metavar="TYPE", help="kept in 16 bits, fp16 or bf16; onnx and pt2 (32 bits)")
    export.add_argument(
        "--raw", action="store_true", help="takes images as they are stored, returns class numbers; onnx alone"
    )
    export.add_argument("--int8", action="store_true", help="compute with 8 bits; onnx or openvino, with --calibrate")
    export.add_argument(
        "--calibrate",
        metavar="DIR|SPLIT",
        help="for --int8: train or val of the run's data, or the folder of another, or rooms",
    )
    export.add_argument("--images", type=int, metavar="N", help="for --int8: to calibrate with (64, or all of fewer)")
    export.add_argument(
        "--max-drop", type=float, metavar="D", help="for --int8: how much worse scores may be (0.5 points of mean IoU)"
    )
    export.set_defaults(run=_export)

    import_cen = commands.add_parser("import-cen", help="turn a released checkpoint of CEN or AsymFusion into a model")
    import_cen.add_argument("file", type=Path, metavar="FILE", help="a .pth.tar of RefineNet on colour and depth")
    import_cen.add_argument("out", type=Path, metavar="OUT", help="the model folder, new or empty")
    import_cen.add_argument(
        "--fusion",
        choices=("exchange", "asymmetric"),
        default="exchange",
        help="which the file does not say: exchange for CEN, asymmetric for AsymFusion (%(default)s)",
    )
    import_cen.set_defaults(run=_import_cen)

    import_tokens = commands.add_parser(
        "import-tokenfusion", help="turn a released checkpoint of TokenFusion into a model"
    )
    import_tokens.add_argument("file", type=Path, metavar="FILE", help="a .pth.tar of SegFormer on colour and depth")
    import_tokens.add_argument("out", type=Path, metavar="OUT", help="the model folder, new or empty")
    import_tokens.set_defaults(run=_import_tokenfusion)

    inspect = commands.add_parser("inspect", help="what can be exchanged in a network, or is exchanged in a model")
    inspect.add_argument(
        "network", metavar="NAME|RUN", help="name of a network or of a packaged model, run folder or model folder"
    )
    inspect.add_argument(
        "--arguments", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="its, such as classes=40"
    )
    inspect.set_defaults(run=_inspect)

    report = commands.add_parser("report", help="write the page of a run, or of several side by side")
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    report.add_argument("--out", type=Path, help="the page; report.html in the first run folder if not given")
    report.set_defaults(run=_report)


def _add_scale(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--scale",
        nargs="+",
        action="extend",
        default=[],
        metavar="MODALITY=NUMBER",
        help="how much one step of its numbers is in the model's unit, where that is not as in the training's files: "
        "depth=0.001 for millimetres",
    )


def _validate(parsed: argparse.Namespace) -> None:
    from polymodal.runs.validate import validate
    from polymodal.tasks.protocol import Protocol

    protocol = Protocol(
        typed.numbers(parsed.scales, float, "--scales") or (1.0,),
        parsed.flip,
        *_window_and_stride(parsed),
        parsed.resize,
    )
    validate(parsed.folder, parsed.split, parsed.root, protocol, parsed.subsets, parsed.corrupt)


def _window_and_stride(parsed: argparse.Namespace) -> tuple[Any, Any]:
    window, stride = (typed.numbers(getattr(parsed, name), int, f"--{name}") for name in ("window", "stride"))
    return window or None, stride or None


def _predict(parsed: argparse.Namespace) -> None:
    from polymodal.runs.predict import predict
    from polymodal.tasks.windows import windows_of

    paths = {name: Path(path) for name, path in typed.pairs(parsed.input, "--input", "MODALITY=PATH").items()}
    written = predict(
        parsed.model,
        paths,
        parsed.out,
        subset=parsed.subset,
        certainty=parsed.certainty,
        scales=_scales(parsed),
        windows=windows_of(*_window_and_stride(parsed)),
    )
    print(f"{len(written)} pictures in {parsed.out}")


def _scales(parsed: argparse.Namespace) -> dict[str, float]:
    words = typed.pairs(parsed.scale, "--scale", "MODALITY=NUMBER")
    return {name: typed.number(text, f"--scale {name}") for name, text in words.items()}


def _app(parsed: argparse.Namespace) -> None:
    from polymodal.runs.app import served

    scales = _scales(parsed)
    with served(parsed.model, scales=scales, host=parsed.host, port=parsed.port, share=parsed.share) as page:
        page.block_thread()


def _calibrate(parsed: argparse.Namespace) -> None:
    from polymodal.runs.calibrate import calibrate

    calibrate(parsed.folder, parsed.root)


def _export(parsed: argparse.Namespace) -> None:
    from polymodal.errors import ConfigError
    from polymodal.runs.export import export_model
    from polymodal.runs.quantised import Quantisation

    quantisation = None
    if parsed.int8:
        if parsed.weights is not None:
            raise ConfigError(f"--weights {parsed.weights}: with --int8 weights have 8 bits; leave one of them out.")
        if parsed.calibrate is None:
            raise ConfigError(
                "--int8: ranges are taken from data; give --calibrate train, or --calibrate DIR for another data set."
            )
        quantisation = Quantisation(parsed.calibrate, parsed.images, parsed.max_drop)
    for option in ("calibrate", "images", "max_drop"):
        if not parsed.int8 and getattr(parsed, option) is not None:
            raise ConfigError(f"--{option.replace('_', '-')}: belongs to --int8; give both, or leave it out.")
    size = None if parsed.size is None else (parsed.size[0], parsed.size[1])
    asked: dict[str, Any] = {"weights": parsed.weights, "raw": parsed.raw, "quantisation": quantisation}
    print(export_model(parsed.model, parsed.out, parsed.format, absorbed=parsed.fold, size=size, **asked))


def _import_cen(parsed: argparse.Namespace) -> None:
    from polymodal.runs.import_cen import import_cen

    print(f"{import_cen(parsed.file, parsed.out, parsed.fusion)}: {parsed.out}")


def _import_tokenfusion(parsed: argparse.Namespace) -> None:
    from polymodal.runs.import_tokenfusion import import_tokenfusion

    print(f"{import_tokenfusion(parsed.file, parsed.out)}: {parsed.out}")


def _inspect(parsed: argparse.Namespace) -> None:
    from polymodal import checkpoint, inspect, models
    from polymodal.errors import ConfigError
    from polymodal.models.registry import TRANSLATION
    from polymodal.sources import is_address, is_packaged

    folder = Path(parsed.network)
    if parsed.network in models.names():
        needed = {} if parsed.network == TRANSLATION else {"classes": 2}
        print(inspect(models.create(parsed.network, **needed | typed.values(parsed.arguments, "--arguments"))))
    elif folder.is_dir() or is_address(folder) or is_packaged(folder):
        if parsed.arguments:
            raise ConfigError(f"--arguments: {folder} is a model, which has its own. Leave them out.")
        print(inspect(checkpoint.load(folder)))
    else:
        raise ConfigError(
            f"{parsed.network} is neither a folder nor a network; the networks are {', '.join(models.names())}."
        )


def _report(parsed: argparse.Namespace) -> None:
    from polymodal.files import require_new
    from polymodal.report import is_report, write_report
    from polymodal.run_folder import REPORT

    if parsed.out:
        require_new(parsed.out, own=is_report)
    print(write_report(parsed.runs, parsed.out or parsed.runs[0] / REPORT))
