"""`python -m polymodal`."""

import sys

if not sys.flags.safe_path:
    # Python puts the current folder before everything else; a data set's folder may hold a `tifffile.py`.
    del sys.path[0]

from polymodal.cli import main

sys.exit(main())
