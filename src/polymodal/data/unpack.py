"""The embedded set as files, to look at and to copy from."""

import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from polymodal.data.files import Store, require_empty
from polymodal.data.spec import FILE
from polymodal.errors import DataError


def unpack_rooms(out: Path) -> None:
    """Write the embedded set into a folder, all of it or nothing.

    Args:
        out: A folder that is empty or does not exist yet.

    Raises:
        DataError: The folder holds something.
        OSError: It cannot be written.
    """
    require_empty(out, DataError)
    out.mkdir(parents=True, exist_ok=True)
    # Within the folder, which stays the one that a shell may stand in.
    with TemporaryDirectory(dir=out, prefix=".unpacking-") as scratch:
        with zipfile.ZipFile(Store("rooms").path) as archive:
            archive.extractall(scratch)
        # The description comes last: what has none is no data set.
        for part in sorted(Path(scratch).iterdir(), key=lambda part: part.name == FILE):
            part.replace(out / part.name)
