"""Which networks of other libraries can be fused, and whether each modality then has the plain network's predictions.

    python tools/networks_sweep.py --cache sweep.jsonl          # every network that is not in the file yet
    python tools/networks_sweep.py --cache sweep.jsonl --exports    # whether those that were fused leave Python
    python tools/networks_sweep.py --cache sweep.jsonl --page docs/networks.md
    python tools/networks_sweep.py timm/swin_tiny_patch4_window7_224

Each network is made as small as its library allows, with random weights, and fused for two modalities without exchange,
whose norms are then given values of their own. Its predictions are held against those of the plain network with each
modality's norms, in float64. About half an hour on one core. transformers and monai are used where they are installed.

With `--exports`, each of them is written as an ONNX file, which is compared with the network at several sizes: for
images of every size, or else of the one that it was made for. That takes from ten seconds to minutes of a core each.

What docs/networks.md says of networks that are not in the file stays, and need not be looked at again to be exported.
"""

import argparse
import copy
import json
import re
import signal
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from networks.catalogue import NETWORKS
from polymodal import ExportError, FusionError, export, fuse, inspect
from polymodal.nn import PrivateNorm

MODALITIES = ("one", "other")
TOLERANCE = 1e-9

PAGE = Path(__file__).parents[1] / "docs" / "networks.md"
"""What is known of networks."""

PATIENCE = 300
"""Seconds of processor time that an export may take."""


@dataclass
class Row:
    """What was seen of one network.

    Attributes:
        network: Its name, the library first.
        norms: The kinds of norms that become private.
        sites: How many of how many norms are sites by default, and the first of them.
        exact: The largest difference relative to the largest value; None where it was not fused.
        refused: Why not; empty where it was.
        seconds: What it took.
        exports: Whether it leaves Python, see `leaves`; empty where that was not tried.
    """

    network: str
    norms: str = ""
    sites: str = ""
    exact: float | None = None
    refused: str = ""
    seconds: float = 0.0
    exports: str = ""


class _TooLong(BaseException):
    """Ends an export; no exception that anything within it takes for a refusal."""


def look(name: str) -> Row:
    """Make a network, fuse it and hold it against the plain one."""
    began = time.monotonic()
    torch.manual_seed(0)
    plain, shape = NETWORKS[name]()
    plain = plain.double().eval()
    try:
        net = fuse(plain, MODALITIES, None)
    except FusionError as error:
        return Row(name, refused=str(error), seconds=time.monotonic() - began)
    found = inspect(plain)
    kinds = sorted({type(m).__name__ for m in plain.modules() if id(m) in _private(plain, found.norms)})
    sites = f"{len(found.sites)} of {len(found.candidates)}" + (f", `{found.sites[0].name}`" if found.sites else "")
    _tell_apart(net)
    images = {modality: torch.randn(2, *shape, dtype=torch.float64) for modality in MODALITIES}
    worst = 0.0
    with torch.no_grad():
        prediction = net(images)
        for m, (modality, image) in enumerate(images.items()):
            ours, theirs = tensors(prediction.per_modality[modality]), tensors(alone(net.network, plain, m)(image))
            assert len(ours) == len(theirs), f"{len(ours)} outputs against {len(theirs)}"
            for x, y in zip(ours, theirs, strict=True):
                assert x.shape == y.shape, f"{x.shape} against {y.shape}"
                assert bool(y.isfinite().all()), "the plain network's prediction is not finite"
                worst = max(worst, float((x - y).abs().max() / y.abs().max().clamp(min=1e-30)))
    return Row(name, ", ".join(kinds), sites, worst, "", time.monotonic() - began)


def leaves(name: str) -> str:
    """Whether a fused network becomes an ONNX file that predicts the same: "yes", at one size and why, or why not."""
    torch.manual_seed(0)
    plain, shape = NETWORKS[name]()
    net = fuse(plain.eval(), MODALITIES, None)
    _tell_apart(net)
    signal.signal(signal.SIGPROF, _give_up)
    reasons = []
    with tempfile.TemporaryDirectory() as folder:
        for size in (None, (shape[1], shape[-1])):
            signal.setitimer(signal.ITIMER_PROF, PATIENCE, 1)  # and again, should a callback have swallowed it
            try:
                export.save(net, Path(folder) / "net.onnx", size=size)
            except ExportError as error:
                reasons.append(_first(error))
            except _TooLong:
                reasons.append(f"still at work after {PATIENCE} s")
            else:
                return f"at one size: {reasons[0]}" if reasons else "yes"
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
    return f"no: {reasons[-1]}"


def _give_up(*_: Any) -> None:
    raise _TooLong


def _first(error: ExportError) -> str:
    """What is the matter, in a line."""
    said = str(error if error.__cause__ is None else error.__cause__).strip() or type(error.__cause__).__name__
    return re.sub(r"\S*/(?=net\.onnx)", "", said.partition("\n")[0].partition(". ")[0])[:160]


def alone(fused: nn.Module, plain: nn.Module, m: int) -> nn.Module:
    """The plain network with the m-th modality's norms."""
    state, own = fused.state_dict(), copy.deepcopy(plain)
    values = {k: state[k][m] if state[k].dim() == v.dim() + 1 else state[k] for k, v in own.state_dict().items()}
    own.load_state_dict(values)
    return own


def tensors(output: Any) -> list[Tensor]:
    """All tensors of an output, in order."""
    if isinstance(output, Tensor):
        return [output]
    if output is None:
        return []
    return [t for value in (output.values() if isinstance(output, dict) else output) for t in tensors(value)]


def page(rows: list[Row]) -> str:
    """The table for people."""
    lines = [
        "# Networks",
        "",
        "What `polymodal.fuse` makes of networks of other libraries, written by `tools/networks_sweep.py`. Each is",
        "made as small as its library allows, in float64, and fused for two modalities without exchange: *exact* is",
        "the largest difference of a modality's prediction from that of the plain network with this modality's norms,",
        "relative to its largest value.",
        '*Sites* are those of `sites="auto"`, of all norms behind which channels can be exchanged.',
        "*Exports* is whether the fused network, written as an ONNX file, predicts the same at several sizes, or at",
        "one alone and why.",
    ]
    for library in dict.fromkeys(row.network.partition("/")[0] for row in rows):
        own = [row for row in rows if row.network.startswith(f"{library}/")]
        fused = sum(row.exact is not None for row in own)
        lines += [
            "",
            f"## {library}: {fused} of {len(own)}",
            "",
            "| network | norms | sites | exact | exports |",
            "|---|---|---|---|---|",
        ]
        for row in own:
            said = f"refused: {row.refused.replace('|', '/')}" if row.exact is None else f"{row.exact:.0e}"
            exports = row.exports.replace("|", "/") or ("" if row.exact is None else "not tried")
            lines.append(f"| {row.network.partition('/')[2]} | {row.norms} | {row.sites} | {said} | {exports} |")
    return "\n".join(lines) + "\n"


def said_by(text: str) -> dict[str, Row]:
    """The rows of a page that `page` wrote, as exact as it says them."""
    rows, library = {}, ""
    for line in text.splitlines():
        if line.startswith("## "):
            library = line.removeprefix("## ").partition(":")[0]
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if not library or not cells or cells[0] in ("network", "---"):
            continue
        name, norms, sites, exact, exports = cells
        refused = exact.removeprefix("refused: ") if exact.startswith("refused: ") else ""
        row = Row(f"{library}/{name}", norms, sites, None if refused else float(exact), refused)
        rows[row.network] = replace(row, exports="" if exports == "not tried" else exports)
    return rows


def main() -> None:
    """Look at what is asked for, or at all that is not known yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", help="names such as timm/resnet18; all if none is given")
    parser.add_argument("--cache", type=Path, help="a file with a line for each network, which is added to")
    parser.add_argument("--exports", action="store_true", help="export those for which that is not known")
    parser.add_argument("--page", type=Path, help="write the table of what is known, and look at nothing")
    parsed = parser.parse_args()
    lines = parsed.cache.read_text().splitlines() if parsed.cache is not None and parsed.cache.is_file() else []
    looked = {row.network: row for row in (Row(**json.loads(line)) for line in lines)}
    known = said_by(PAGE.read_text()) | looked
    if parsed.page is not None:
        parsed.page.write_text(page([known[name] for name in NETWORKS if name in known]))
        return
    warnings.simplefilter("ignore")
    left = [name for name in NETWORKS if name not in looked]
    if parsed.exports:
        left = [
            name for name in NETWORKS if name in known and known[name].exact is not None and not known[name].exports
        ]
    for name in parsed.networks or left:
        try:
            row = replace(known[name], exports=leaves(name)) if parsed.exports else look(name)
        except Exception as error:  # to be looked at; not written
            print(f"{name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
            continue
        print(row, flush=True)
        if parsed.cache is not None:
            with parsed.cache.open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")


def _private(plain: nn.Module, norms: list[str]) -> set[int]:
    return {id(plain.get_submodule(name)) for name in norms}


def _tell_apart(net: nn.Module) -> None:
    """Give every modality's norms values of their own."""
    with torch.no_grad():
        for norm in (module for module in net.modules() if isinstance(module, PrivateNorm)):
            for name, tensor in (*norm.named_parameters(recurse=False), *norm.named_buffers(recurse=False)):
                if name == "running_var":
                    tensor.uniform_(0.8, 1.2)
                elif tensor.dim():
                    tensor.add_(0.1 * torch.randn_like(tensor))


if __name__ == "__main__":
    main()
