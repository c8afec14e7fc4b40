"""The embedded set as files, to look at and to copy from."""

import shutil
import zipfile
from pathlib import Path

from polymodal.data.files import Store
from polymodal.data.spec import FILE
from polymodal.errors import DataError
from polymodal.files import new_folder, workplace


def unpack_rooms(out: Path) -> None:
    """Write the embedded set into a folder, all of it or nothing.

    Args:
        out: A folder that is empty or does not exist yet, or one in which this was interrupted.

    Raises:
        DataError: The folder holds something.
        OSError: It cannot be written.
    """
    # Made within the folder, which stays the one that a shell may stand in.
    with new_folder(out, "data rooms", DataError), workplace(out / "rooms") as place:
        with zipfile.ZipFile(Store("rooms").path) as archive:
            archive.extractall(place)
            parts = {name.split("/")[0] for name in archive.namelist()}
        # The description comes last: what has none is no data set.
        for part in sorted(parts, key=lambda part: (part == FILE, part)):
            if (out / part).is_dir():  # left by a process that was killed
                shutil.rmtree(out / part)
            (place / part).replace(out / part)
