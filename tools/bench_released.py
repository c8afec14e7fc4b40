"""The released code of CEN beside ours: `polymodal bench` with a further variant, `peer`.

    git clone https://github.com/yikaiw/CEN
    python tools/bench_released.py CEN --task inference --no-memory --variants peer,exchange+auto+amp

The options are those of `polymodal bench`. The code in the folder is run. See docs/performance.md.
"""

import sys
from functools import partial
from pathlib import Path

from polymodal.bench.network import DEFAULT
from polymodal.bench.variants import BASES, Base
from polymodal.cli import main
from released import Peer, check_peer


def add_peer(code: Path) -> None:
    """Let `bench` know the variant `peer`, the released code in a folder."""
    about = f"the released code of CEN in {code}, eager, float32"
    BASES["peer"] = Base(about, (), like="exchange", check=partial(check_peer, code), build=partial(Peer, code))


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    add_peer(Path(sys.argv[1]))
    options = sys.argv[2:]
    if not any(option.startswith("--variants") for option in options):
        options += ["--variants", ",".join(("peer", *DEFAULT))]
    sys.exit(main(["bench", *options]))
