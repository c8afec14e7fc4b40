"""Values and arrays of a run as files that appear whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from polymodal.data.files import complete_file, write_file


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, complete or not at all."""
    write_file(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a compressed .npz file, complete or not at all."""
    with complete_file(path) as file, file.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
