"""`python -m polymodal.child`: the command line as a child process that ends when its parent has ended.

Whoever starts it keeps the other end of its standard input open. A training must not outlive the command that started
it: the command may be started again and would then write to the same folder.
"""

import os
import sys
import threading

from polymodal.cli import main


def _end_with_parent() -> None:
    # Nothing is ever written to it: reading returns when the other end is closed, which a killed process does, too.
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(main())
