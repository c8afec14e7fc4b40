"""Commands on data sets: data init, check, stats, taskonomy, derive, rooms, prepare."""

import argparse
from pathlib import Path
from typing import Any

from polymodal.cli import typed


def add(commands: Any) -> None:
    """Add these commands."""
    data = commands.add_parser("data", help="check, measure or prepare a data set, or unpack the embedded one")
    tools = data.add_subparsers(metavar="TOOL", required=True)
    init = tools.add_parser("init", help="propose a dataset.yaml and splits from what a folder holds")
    init.add_argument("root", type=Path, metavar="DIR", help="folder of the files of all modalities")
    init.set_defaults(run=_init)
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


def _init(parsed: argparse.Namespace) -> None:
    from polymodal.data.propose import propose

    proposal = propose(parsed.root)
    proposal.write(parsed.root)
    for guess in proposal.guesses:
        print(guess)
    print(f"{parsed.root / 'dataset.yaml'}: mend what was guessed wrong, then run polymodal data check {parsed.root}")


def _check(parsed: argparse.Namespace) -> int:
    from polymodal.data import check

    found = check(parsed.root)
    for defect in found:
        print(f"{'note: ' if defect.note else ''}{defect.file}: {defect.problem}")
    for line in found.classes.lines() if found.classes else ():
        print(line)
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

    domains = None if parsed.domains is None else typed.names(parsed.domains)
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
