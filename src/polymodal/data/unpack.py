"""The embedded set as files, to look at and to copy from."""

import os
import shutil
import tempfile
import zipfile
from pathlib import Path

from polymodal.data.files import Store
from polymodal.errors import DataError


def unpack_rooms(out: Path) -> None:
    """Write the embedded set into a folder, all of it or nothing.

    Args:
        out: A folder that is empty or does not exist yet.

    Raises:
        DataError: The folder holds something.
        OSError: It cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is not empty; name a new or an empty folder.")
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        with zipfile.ZipFile(Store("rooms").path) as archive:
            archive.extractall(scratch)
        scratch.chmod(0o777 & ~_umask())  # temporary folders are private
        if out.exists():
            out.rmdir()
        scratch.replace(out)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
