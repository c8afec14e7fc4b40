"""What the page "Try it in the browser" needs beside docs/browser: scenes of the rooms, and ONNX Runtime Web."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from polymodal.data import DatasetSpec, Store

SCENES = 4
RUNTIME = Path(sys.prefix) / "share" / "onnxruntime-web"
"""Where `make install` puts it; the page says so where it is missing."""
FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")


def pages() -> Iterator[tuple[str, str | bytes]]:
    """Every file by its place."""
    rooms, store = DatasetSpec.load("rooms"), Store("rooms")
    keys = rooms.splits["test"][:SCENES]
    yield "browser/scenes.json", json.dumps(keys)
    for key in keys:
        for name in ("rgb", "depth"):
            file = store.find(rooms.modalities[name].folder, key)
            yield f"browser/scenes/{name}-{key}{Path(file).suffix}", store.read(file)
    for file in FILES if RUNTIME.is_dir() else ():
        yield f"browser/{file}", (RUNTIME / file).read_bytes()
