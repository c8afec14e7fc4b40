"""Makes the figures and the numbers of docs/theory.md: theorem 1 and corollary 1 of CEN, and where they break.

    python tools/theory.py --out docs/theory                               # everything, some minutes on one core
    python tools/theory.py --out docs/theory --parts theorem frozen        # some of it
    python tools/theory.py --out elsewhere --seeds 7 8                     # other seeds

Every part writes PART.png and PART.json into the folder. It uses one thread, and the seeds decide everything else: the
same machine and library versions give the same numbers. The data are the embedded rooms, colour and depth, made small.

Source: Wang et al., "Deep Multimodal Fusion by Channel Exchanging", NeurIPS 2020 (arXiv 2011.05005).
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from theorems.corollary import corollary
from theorems.frozen import frozen
from theorems.monte_carlo import monte_carlo
from theorems.summary import Numbers
from theorems.theorem import theorem

PARTS: dict[str, Callable[[Path, list[int]], Numbers]] = {
    "monte_carlo": monte_carlo,
    "theorem": theorem,
    "corollary": corollary,
    "frozen": frozen,
}
"""Each draws its figure and returns its numbers."""


def rounded(value: Any) -> Any:
    """Numbers to four significant digits, in whatever holds them."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures and numbers")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for part in arguments.parts:
        start = time.monotonic()
        numbers = {"seeds": arguments.seeds, **rounded(PARTS[part](arguments.out, arguments.seeds))}
        (arguments.out / f"{part}.json").write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n")
        print(f"{part}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
