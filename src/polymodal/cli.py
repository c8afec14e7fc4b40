"""The command line: says what the floors below can do, and loads them only when they are asked.

Exit status: 0 when all went well, 1 when `data check` found defects or something broke in polymodal itself, 2 when
something has to be mended by the user.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from polymodal.allocator import keep_freed_memory

DESCRIPTION = "Several aligned images of one scene in, one dense map out: any batch-norm CNN made multimodal."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The words after `polymodal`; those of the process when not given.

    Returns:
        The exit status.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    with_traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    keep_freed_memory()
    try:
        # The parser of `fit` is made of the classes that a recipe names, so the front only passes the words on.
        if words[:1] == ["fit"] and words[1:] not in (["-h"], ["--help"]):
            return _fit(words[1:])
        parser = _parser()
        parsed, settings = parser.parse_known_args(words)
        # The tool's own defaults have replaced what was given before it.
        if words[0] == "bench" and parsed.tool and words[1] != parsed.tool:
            parser.error(f"bench {parsed.tool}: expected its options behind it, got {words[1]!r} before it")
        if settings and parsed.run not in (_compare, _bench_data):
            parser.error(f"unrecognized arguments: {' '.join(settings)}")
        parsed.settings = settings
        return int(parsed.run(parsed) or 0)
    except KeyboardInterrupt:
        print("polymodal: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe has seen enough; without this Python complains while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        to_mend = _is_for_the_user(error)
        if with_traceback or not to_mend:
            traceback.print_exc()
        else:
            print(f"polymodal: {_message(error)}", file=sys.stderr)
        return 2 if to_mend else 1


def _is_for_the_user(error: Exception) -> bool:
    from pickle import UnpicklingError

    from polymodal.errors import PolymodalError

    # A checkpoint that would have executed something is refused as an UnpicklingError.
    return isinstance(error, PolymodalError | OSError | UnpicklingError)


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(part for part in (str(error.filename or ""), error.strerror) if part)
    return str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("polymodal", description=DESCRIPTION)
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error came from")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    demo = commands.add_parser("demo", help="train on the embedded rooms with and without exchange, and compare")
    demo.add_argument("--out", type=Path, help="folder of it all (runs/demo, or runs/demo-translation)")
    demo.add_argument("--seed", type=int, default=0, help="of all trainings (%(default)s)")
    demo.add_argument(
        "--task",
        choices=("segmentation", "translation"),
        default="segmentation",
        help="predict classes, or images from images (%(default)s)",
    )
    demo.set_defaults(run=_demo)

    commands.add_parser(
        "fit",
        usage="polymodal fit --config RECIPE.yaml [--SETTING VALUE ...]",
        help="train by a recipe: --config RECIPE.yaml, then anything to override in it",
        description="Train by a recipe into the run folder trainer.default_root_dir. Every setting of the recipe can "
        "be overridden by its dotted name, such as --data.root DIR or --trainer.max_epochs 2.",
        epilog="All settings with their values: polymodal fit --config RECIPE.yaml --print_config. What they mean: "
        "polymodal fit --model.help polymodal.tasks.Segmentation (or Translation), "
        "--data.help polymodal.data.FolderData; of trainer, Lightning's documentation of its Trainer says it.",
    )

    compare = commands.add_parser(
        "compare",
        usage="polymodal compare --config RECIPE.yaml --methods NAME[,NAME ...] [--SETTING VALUE ...]",
        help="train methods of fusion with the same recipe, seeds and budget, and write one table",
        description="Train every method with every seed by a recipe and write table.md, table.csv and report.html. "
        "Started again, it goes on where it was. Every setting of the recipe can be overridden by its dotted name.",
        allow_abbrev=False,
    )
    compare.add_argument("--config", type=Path, required=True, metavar="RECIPE.yaml", help="what all methods share")
    compare.add_argument("--methods", required=True, metavar="NAMES", help="ablation, baselines, all, or names")
    compare.add_argument("--seeds", default="0,1,2", metavar="S,S", help="each method runs with each (%(default)s)")
    compare.add_argument("--out", type=Path, default=Path("runs/compare"), help="folder of it all (%(default)s)")
    compare.add_argument("--jobs", type=int, metavar="N", help="runs at a time; one on each GPU if not given")
    compare.add_argument("--split", choices=("val", "test"), default="val", help="which scores (%(default)s)")
    compare.set_defaults(run=_compare)

    validate = commands.add_parser("validate", help="score a run's model on a split of its data set, or of another")
    validate.add_argument("folder", type=Path, metavar="RUN", help="run folder; with --root, a model folder, too")
    validate.add_argument("--split", choices=("val", "test"), default="val", help="which scenes (%(default)s)")
    validate.add_argument("--root", help="data set instead of the one in the run's config.yaml")
    validate.add_argument("--scales", metavar="F,F", help="average over these sizes, such as 0.5,0.75,1,1.25,1.5,1.75")
    validate.add_argument("--flip", action="store_true", help="average with the mirrored scenes, too")
    validate.add_argument("--window", metavar="H,W", help="slide a window of this size over large scenes")
    validate.add_argument("--stride", metavar="H,W", help="of the window; two thirds of it if not given")
    validate.add_argument("--resize", default="bilinear", help="of logits: bilinear, or cubic as in CEN's code")
    validate.set_defaults(run=_validate)

    predict = commands.add_parser("predict", help="predictions and pictures for files, or for folders matched by name")
    predict.add_argument(
        "--model", type=Path, required=True, metavar="RUN", help="run folder, model folder or exported .onnx file"
    )
    predict.add_argument(
        "--input", nargs="+", required=True, metavar="MODALITY=PATH", help="a file or a folder of each modality"
    )
    predict.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the pictures")
    predict.add_argument("--subset", action="store_true", help="allow some of the model's modalities to be absent")
    predict.set_defaults(run=_predict)

    export = commands.add_parser("export", help="write a run's network as a file that runs without polymodal")
    export.add_argument("model", type=Path, metavar="RUN", help="run folder or model folder")
    export.add_argument("out", type=Path, metavar="OUT", help="the file: .onnx, .pt2, or .xml for openvino")
    export.add_argument("--format", default="onnx", help="onnx, pt2 or openvino (%(default)s)")
    export.add_argument("--fold", action="store_true", help="fold norms and exchange into the convolutions")
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

    inspect = commands.add_parser("inspect", help="what can be exchanged in a network, or is exchanged in a model")
    inspect.add_argument("network", metavar="NAME|RUN", help="name of a network, run folder or model folder")
    inspect.add_argument("--arguments", nargs="+", default=[], metavar="KEY=VALUE", help="its, such as classes=40")
    inspect.set_defaults(run=_inspect)

    report = commands.add_parser("report", help="write the page of a run, or of several side by side")
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    report.add_argument("--out", type=Path, help="the page; report.html in the first run folder if not given")
    report.set_defaults(run=_report)

    _add_bench(commands)

    data = commands.add_parser("data", help="check, measure or prepare a data set, or unpack the embedded one")
    tools = data.add_subparsers(metavar="TOOL", required=True)
    check = tools.add_parser("check", help="read every file once and name each defect; exit status 1 if there is any")
    check.add_argument("root", metavar="DIR", help="folder or .zip with a dataset.yaml, or the word rooms")
    check.set_defaults(run=_check)
    stats = tools.add_parser("stats", help="measure mean and standard deviation of each modality")
    stats.add_argument("root", metavar="DIR", help="folder or .zip with a dataset.yaml, or the word rooms")
    stats.add_argument("--output", type=Path, metavar="FILE", help="statistics.json beside dataset.yaml if not given")
    stats.set_defaults(run=_stats)
    taskonomy = tools.add_parser("taskonomy", help="write a dataset.yaml, and splits, beside Taskonomy's own files")
    taskonomy.add_argument("root", metavar="DIR", help="folder of rgb/point_0_view_1_domain_rgb.png and so on")
    taskonomy.set_defaults(run=_taskonomy)
    derive = tools.add_parser("derive", help="compute further domains from colour and metric depth into a new data set")
    derive.add_argument("root", metavar="ROOT", help="folder or .zip with a dataset.yaml")
    derive.add_argument("out", type=Path, metavar="OUT", help="a new folder, or one to continue")
    derive.add_argument("--domains", metavar="NAMES", help="normal,reshading,...; all that ROOT lacks if not given")
    derive.add_argument(
        "--intrinsics", metavar="fx,fy,cx,cy", help="of the depth camera; a Kinect's, scaled, if absent"
    )
    derive.set_defaults(run=_derive)
    rooms = tools.add_parser("rooms", help="unpack the embedded data set")
    rooms.add_argument("out", type=Path, metavar="OUT", help="a new or empty folder")
    rooms.set_defaults(run=_rooms)
    prepare = tools.add_parser("prepare", help="turn the official download of a known data set into a data set folder")
    prepare.add_argument("name", metavar="NAME", help="nyudv2, sunrgbd, cityscapes or cen (the folder of its authors)")
    prepare.add_argument("source", type=Path, metavar="SOURCE", help="the download, unpacked; nothing in it is changed")
    prepare.add_argument("out", type=Path, metavar="OUT", help="a new or empty folder, or one to finish")
    prepare.add_argument("--classes", type=int, metavar="N", help="nyudv2: 40, 37 or 13 (40)")
    prepare.add_argument("--depth", metavar="KIND", help="nyudv2 and sunrgbd: filled or raw (filled)")
    prepare.set_defaults(run=_prepare)
    return parser


def _add_bench(commands: Any) -> None:
    bench = commands.add_parser("bench", help="measure how fast a network is in several ways, beside each other")
    tools = bench.add_subparsers(
        metavar="TOOL", dest="tool", help="measure a network in several ways if not given; its options go behind it"
    )
    scaling = tools.add_parser("scaling", help="time and memory for each modality, from one modality to several")
    for parser in (bench, scaling):
        parser.add_argument("--network", default="refinenet", metavar="NAME", help="name of a network (%(default)s)")
        parser.add_argument("--network-args", nargs="+", default=[], metavar="KEY=VALUE", help="its arguments")
        parser.add_argument("--classes", type=int, default=40, metavar="N", help="(%(default)s)")
        parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"), help="(480 640)")
        parser.add_argument("--batch", type=int, default=1, metavar="N", help="samples (%(default)s)")
        parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (%(default)s)")
        parser.add_argument(
            "--task", choices=("inference", "training", "both"), default="both", help="what to measure (%(default)s)"
        )
        parser.add_argument(
            "--share", type=float, default=0.3, metavar="S", help="of the penalised channels is exchanged (%(default)s)"
        )
        parser.add_argument(
            "--statistics", choices=("frozen", "batch"), default="frozen", help="of the norms in training (%(default)s)"
        )
        parser.add_argument("--repeats", type=int, default=5, metavar="N", help="timed rounds (%(default)s)")
        parser.add_argument("--warmup", type=int, default=1, metavar="N", help="rounds before (%(default)s)")
        parser.add_argument("--no-memory", dest="memory", action="store_false", help="do not measure memory")
    bench.add_argument("--modalities", type=int, default=2, metavar="M", help="(%(default)s)")
    bench.add_argument("--variants", metavar="NAME,NAME", help="the first is what the others are compared with")
    bench.add_argument(
        "--peer", type=Path, metavar="PATH", help="folder of the released code of CEN, for a variant peer"
    )
    bench.set_defaults(run=_bench)
    scaling.add_argument("--modalities", type=int, default=6, metavar="M", help="the most of them (%(default)s)")
    scaling.add_argument("--variant", default="exchange", metavar="NAME", help="(%(default)s)")
    scaling.set_defaults(run=_bench_scaling)
    data = tools.add_parser(
        "data",
        usage="polymodal bench data --config RECIPE.yaml [--SETTING VALUE ...]",
        help="samples a second of a recipe's loader alone",
        description="Load the training samples of a recipe for some epochs. Every setting of the recipe can be "
        "overridden by its dotted name.",
        allow_abbrev=False,
    )
    data.add_argument("--config", type=Path, required=True, metavar="RECIPE.yaml", help="what is loaded, and how")
    data.add_argument("--cache", default="false,true", metavar="V,V", help="values of data.cache (%(default)s)")
    data.add_argument("--workers", default="0", metavar="N,N", help="values of data.workers (%(default)s)")
    data.add_argument("--repeats", type=int, default=3, metavar="N", help="timed epochs (%(default)s)")
    data.set_defaults(run=_bench_data)
    for parser in (bench, scaling, data):
        parser.add_argument("--out", type=Path, metavar="DIR", help="folder for bench.md and bench.json, too")


def _demo(parsed: argparse.Namespace) -> None:
    if parsed.task == "translation":
        from polymodal.tasks.demo_translation import run_translation_demo

        run_translation_demo(parsed.out or Path("runs/demo-translation"), parsed.seed)
        return
    from polymodal.tasks.demo import run_demo

    run_demo(parsed.out or Path("runs/demo"), parsed.seed)


def _fit(words: list[str]) -> int:
    from polymodal.tasks.training import fit

    fit(words)
    return 0


def _compare(parsed: argparse.Namespace) -> None:
    from polymodal.errors import ConfigError
    from polymodal.tasks.compare import compare

    try:
        seeds = [int(word) for word in parsed.seeds.split(",") if word.strip()]
    except ValueError as error:
        raise ConfigError(f"--seeds: expected numbers such as 0,1,2, got {parsed.seeds!r}.") from error
    methods = [word.strip() for word in parsed.methods.split(",") if word.strip()]
    compare(parsed.config, methods, seeds, parsed.out, parsed.jobs, parsed.split, parsed.settings)


def _validate(parsed: argparse.Namespace) -> None:
    from polymodal.tasks.protocol import Protocol
    from polymodal.tasks.validate import validate

    protocol = Protocol(
        _numbers(parsed.scales, float, "--scales") or (1.0,),
        parsed.flip,
        _numbers(parsed.window, int, "--window") or None,
        _numbers(parsed.stride, int, "--stride") or None,
        parsed.resize,
    )
    validate(parsed.folder, parsed.split, parsed.root, protocol)


def _predict(parsed: argparse.Namespace) -> None:
    from polymodal.tasks.predict import predict

    paths = {name: Path(path) for name, path in _pairs(parsed.input, "--input", "MODALITY=PATH").items()}
    written = predict(parsed.model, paths, parsed.out, subset=parsed.subset)
    print(f"{len(written)} pictures in {parsed.out}")


def _export(parsed: argparse.Namespace) -> None:
    from polymodal.tasks.export import export_model

    print(export_model(parsed.model, parsed.out, parsed.format, folded=parsed.fold))


def _import_cen(parsed: argparse.Namespace) -> None:
    from polymodal.tasks.import_cen import import_cen

    print(f"{import_cen(parsed.file, parsed.out, parsed.fusion)}: {parsed.out}")


def _bench(parsed: argparse.Namespace) -> None:
    from polymodal.bench import bench

    _make_folder(parsed.out)
    case = _case(parsed, peer=parsed.peer)
    words = [word.strip() for word in (parsed.variants or "").split(",") if word.strip()]
    _show(bench(case, words, _tasks(parsed), parsed.repeats, parsed.warmup, with_memory=parsed.memory), parsed.out)


def _bench_scaling(parsed: argparse.Namespace) -> None:
    from polymodal.bench import bench_scaling

    _make_folder(parsed.out)
    case, tasks = _case(parsed), _tasks(parsed)
    found = bench_scaling(case, parsed.variant, tasks, parsed.repeats, parsed.warmup, with_memory=parsed.memory)
    _show(found, parsed.out)


def _bench_data(parsed: argparse.Namespace) -> None:
    from polymodal.bench import bench_data

    _make_folder(parsed.out)
    caches = [word.strip() for word in parsed.cache.split(",") if word.strip()]
    workers = _numbers(parsed.workers, int, "--workers")
    _show(bench_data(parsed.config, caches, workers, parsed.repeats, parsed.settings), parsed.out)


def _case(parsed: argparse.Namespace, **more: Any) -> Any:
    """What a benchmark's options describe."""
    from polymodal.bench import Case

    arguments = _values(parsed.network_args, "--network-args")
    names = ("network", "classes", "modalities", "batch", "device", "share", "statistics")
    given = {name: getattr(parsed, name) for name in names}
    return Case(arguments=arguments, size=tuple(parsed.size), **given, **more)


def _tasks(parsed: argparse.Namespace) -> Any:
    return ("inference", "training") if parsed.task == "both" else (parsed.task,)


def _make_folder(out: Path | None) -> None:
    """Make the folder of a benchmark's files, or refuse it: after hours of measuring is too late."""
    from polymodal.errors import ConfigError

    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"--out: expected a folder for bench.md and bench.json, got the file {out}.")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)


def _show(report: Any, out: Path | None) -> None:
    """Print what a benchmark found, and write it."""
    print(report.markdown(), end="")
    if out is not None:
        report.write(out)


def _inspect(parsed: argparse.Namespace) -> None:
    from polymodal import checkpoint, inspect, models
    from polymodal.errors import ConfigError
    from polymodal.models.registry import TRANSLATION

    folder = Path(parsed.network)
    if parsed.network in models.names():
        needed = {} if parsed.network == TRANSLATION else {"classes": 2}
        print(inspect(models.create(parsed.network, **needed | _values(parsed.arguments, "--arguments"))))
    elif folder.is_dir():
        from polymodal.tasks.predict import model_folder

        print(inspect(checkpoint.load(model_folder(folder))))
    else:
        raise ConfigError(
            f"{parsed.network} is neither a folder nor a network; the networks are {', '.join(models.names())}."
        )


def _report(parsed: argparse.Namespace) -> None:
    from polymodal.report import write_report

    print(write_report(parsed.runs, parsed.out or parsed.runs[0] / "report.html"))


def _check(parsed: argparse.Namespace) -> int:
    from polymodal.data import check

    found = check(parsed.root)
    for defect in found:
        print(f"{'note: ' if defect.note else ''}{defect.file}: {defect.problem}")
    defects = sum(not defect.note for defect in found)
    print(f"{defects} defect{'' if defects == 1 else 's'}")
    return 1 if defects else 0


def _stats(parsed: argparse.Namespace) -> None:
    from polymodal.data.statistics import compute, place, write

    place(parsed.root, parsed.output)
    statistics = compute(parsed.root)
    path = write(statistics, parsed.root, parsed.output)
    for name, moments in statistics.items():
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (moments.mean, moments.std))
        print(f"{name}: mean {mean}, std {std}")
    print(path)


def _taskonomy(parsed: argparse.Namespace) -> None:
    from polymodal.data.taskonomy import describe

    print(describe(parsed.root))


def _derive(parsed: argparse.Namespace) -> None:
    from polymodal.data.derive import derive
    from polymodal.data.geometry import parse_camera

    domains = None if parsed.domains is None else [name.strip() for name in parsed.domains.split(",") if name.strip()]
    camera = None if parsed.intrinsics is None else parse_camera(parsed.intrinsics)
    print(f"{len(derive(parsed.root, parsed.out, domains, camera))} files of derived domains in {parsed.out}")


def _rooms(parsed: argparse.Namespace) -> None:
    from polymodal.data.unpack import unpack_rooms

    unpack_rooms(parsed.out)
    print(parsed.out)


def _prepare(parsed: argparse.Namespace) -> int:
    from polymodal.data.prepare import prepare

    summary = prepare(parsed.name, parsed.source, parsed.out, classes=parsed.classes, depth=parsed.depth)
    print(summary)
    print(parsed.out)
    return 1 if summary.defects else 0


def _numbers(text: str | None, convert: Callable[[str], Any], option: str) -> tuple[Any, ...]:
    """The numbers between commas behind an option; none without it."""
    from polymodal.errors import ConfigError

    try:
        return () if text is None else tuple(convert(word) for word in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{option}: expected numbers between commas, got {text!r}.") from error


def _values(words: Sequence[str], option: str) -> dict[str, Any]:
    """The words KEY=VALUE behind an option, the values as in YAML."""
    import yaml

    from polymodal.errors import ConfigError

    try:
        return {name: yaml.safe_load(text) for name, text in _pairs(words, option, "KEY=VALUE").items()}
    except yaml.YAMLError as error:
        raise ConfigError(f"{option}: expected values as in YAML, got {' '.join(words)}.") from error


def _pairs(words: Sequence[str], option: str, form: str) -> dict[str, str]:
    """The words NAME=VALUE behind an option."""
    from polymodal.errors import ConfigError

    pairs: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise ConfigError(f"{option}: expected {form}, got {word!r}.")
        if name in pairs:
            raise ConfigError(f"{option}: {name!r} is named twice.")
        pairs[name] = value
    return pairs
