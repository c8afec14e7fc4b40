"""Commands that measure: bench, bench scaling, bench data."""

import argparse
from pathlib import Path
from typing import Any

from polymodal.cli import typed


def add(commands: Any) -> None:
    """Add these commands."""
    bench = commands.add_parser("bench", help="measure how fast a network is in several ways, beside each other")
    tools = bench.add_subparsers(
        metavar="TOOL", dest="tool", help="measure a network in several ways if not given; its options go behind it"
    )
    scaling = tools.add_parser("scaling", help="time and memory for each modality, from one modality to several")
    for parser in (bench, scaling):
        parser.add_argument("--network", default="refinenet", metavar="NAME", help="name of a network (%(default)s)")
        parser.add_argument(
            "--network-args", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="its arguments"
        )
        parser.add_argument("--classes", type=int, default=40, metavar="N", help="that are predicted (%(default)s)")
        parser.add_argument(
            "--size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"), help="of images (480 640)"
        )
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
        parser.set_defaults(run=_bench)
    bench.add_argument("--modalities", type=int, default=2, metavar="M", help="how many (%(default)s)")
    bench.add_argument("--variants", metavar="NAME,NAME", help="the first is what the others are compared with")
    scaling.add_argument("--modalities", type=int, default=6, metavar="M", help="the most of them (%(default)s)")
    scaling.add_argument("--variant", default="exchange", metavar="NAME", help="what is measured (%(default)s)")
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
    data.set_defaults(run=_bench_data, takes_settings=True)
    for parser in (bench, scaling, data):
        parser.add_argument("--out", type=Path, metavar="DIR", help="folder for bench.md and bench.json, too")


def _bench(parsed: argparse.Namespace) -> None:
    from polymodal.bench import bench, bench_scaling

    _make_folder(parsed.out)
    case, memory = _case(parsed), parsed.memory
    tasks: Any = ("inference", "training") if parsed.task == "both" else (parsed.task,)
    how = (tasks, parsed.repeats, parsed.warmup)
    if parsed.tool == "scaling":
        _show(bench_scaling(case, parsed.variant, *how, with_memory=memory), parsed.out)
    else:
        _show(bench(case, typed.names(parsed.variants), *how, with_memory=memory), parsed.out)


def _bench_data(parsed: argparse.Namespace) -> None:
    from polymodal.bench import bench_data

    _make_folder(parsed.out)
    workers = typed.numbers(parsed.workers, int, "--workers")
    _show(bench_data(parsed.config, typed.names(parsed.cache), workers, parsed.repeats, parsed.settings), parsed.out)


def _case(parsed: argparse.Namespace) -> Any:
    """What a benchmark's options describe."""
    from polymodal.bench import Case

    arguments = typed.values(parsed.network_args, "--network-args")
    names = ("network", "classes", "modalities", "batch", "device", "share", "statistics")
    given = {name: getattr(parsed, name) for name in names}
    return Case(arguments=arguments, size=tuple(parsed.size), **given)


def _make_folder(out: Path | None) -> None:
    """Make the folder of a benchmark's files, or refuse it: after hours of measuring is too late."""
    from polymodal.bench.report import FILES
    from polymodal.errors import ConfigError
    from polymodal.files import require_new

    if out is None:
        return
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out: expected a folder for {' and '.join(FILES)}, got the file {out}.")
    for name in FILES:
        require_new(out / name)
    out.mkdir(parents=True, exist_ok=True)


def _show(report: Any, out: Path | None) -> None:
    """Print what a benchmark found, and write it."""
    print(report.markdown(), end="")
    if out is not None:
        report.write(out)
