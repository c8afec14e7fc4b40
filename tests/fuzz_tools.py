"""Files damaged at random: bytes, PNG chunks, arrays and documents. The same damage for the same generator."""

import copy
import io
import json
import random
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

Damage = Callable[[random.Random, bytes], bytes]

ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, -1, 3, 255, 256, 1.5, -0.5, 1e-320, 1e308, 2**31, 2**63 - 1, -(2**63), float("nan"),
    float("inf"), -float("inf"), "", " ", "x", "0", "nan", "1e5", "../x", "/", "é", "a\nb", "\0", "rgb", "ensemble",
    "label", [], [0], [[]], [None], [1, 2, 3], ["a", "a"], [0.5] * 40, {}, {"": None}, {"x": {"y": 1}},
)  # fmt: skip
"""What may stand where something else is expected."""

ODD_ARRAYS = (
    np.zeros(0), np.zeros((0, 3), np.float32), np.array(0), np.array(np.nan), np.array(-1), np.array(2**62),
    np.array("x"), np.array([""]), np.array(["a", "a"]), np.array([True]), np.array([1 + 2j]),
    np.zeros((1, 1, 1, 1, 1)),
    np.full((2, 2), np.inf), np.arange(3), np.arange(6).reshape(2, 3), np.zeros((2, 8, 8, 3), np.uint8), np.array(b"x"),
    np.array("2026-11-28", "datetime64[D]"), np.zeros(2, "i4, f8"), np.full(3, -1, np.int8), np.zeros((2, 8, 8), bool),
)  # fmt: skip


def damaged_bytes(rng: random.Random, data: bytes) -> bytes:
    """Flips, numbers at their ends, truncations, insertions, removals and parts that change places: up to four."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(content) + 1)
        few = at + rng.choice((1, 2, 4, 8, 64))
        match rng.randrange(8):
            case 0 | 1 if at < len(content):
                content[at] ^= 1 << rng.randrange(8)
            case 2 if at < len(content):
                content[at] = rng.choice((0, 1, 127, 128, 254, 255))
            case 3:
                size = rng.choice((1, 2, 4, 8))
                number = rng.choice((0, 1, 2 ** (8 * size - 1) - 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1))
                content[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
            case 4:
                del content[at:]
            case 5:
                content[at:at] = rng.randbytes(few - at)
            case 6:
                del content[at:few]
            case _:
                other = rng.randrange(len(content) + 1)
                content[at:few], content[other : other + few - at] = content[other : other + few - at], content[at:few]
    return bytes(content)


def damaged_png(rng: random.Random, data: bytes) -> bytes:
    """Like `damaged_bytes`, half of the time within one chunk, whose checksum is then right: else all stop at it."""
    if rng.random() < 0.5:
        return damaged_bytes(rng, data)
    chunks, position = [], 8
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        chunks.append((data[position + 4 : position + 8], data[position + 8 : position + 8 + size]))
        position += 12 + size
    chosen = rng.randrange(len(chunks))
    kind, body = chunks[chosen]
    if kind == b"IDAT" and rng.random() < 0.7:
        body = zlib.compress(damaged_bytes(rng, zlib.decompress(body)))
    else:
        body = damaged_bytes(rng, body)
    chunks[chosen] = kind, body
    if rng.random() < 0.1:
        rng.shuffle(chunks)
    packed = (
        len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big") for kind, body in chunks
    )
    return data[:8] + b"".join(packed)


def damaged_archive(rng: random.Random, data: bytes) -> bytes:
    """An npz file of whose arrays one or two are others, of another shape or type, missing, or damaged themselves."""
    if rng.random() < 0.3:
        return damaged_bytes(rng, data)
    with np.load(io.BytesIO(data)) as content:
        arrays: dict[str, np.ndarray] = dict(content)
    members = {}
    for name in rng.sample(sorted(arrays), rng.choice((1, 1, 2))):
        array = arrays[name]
        match rng.randrange(7):
            case 0:
                del arrays[name]
            case 1 if array.ndim:
                arrays[name] = array[: rng.randrange(len(array) + 1)]
            case 2:
                arrays[name] = array[None] if rng.random() < 0.5 or not array.ndim else np.concatenate([array, array])
            case 3 if array.dtype.kind in "buif":
                arrays[name] = array.astype(rng.choice(("u1", "i2", "f2", "f8", "c8", "U", "bool", "S")))
            case 4:
                arrays[name] = arrays[rng.choice(sorted(arrays))]
            case 5:
                members[name] = damaged_bytes(rng, _npy(array))
            case _:
                arrays[name] = rng.choice(ODD_ARRAYS)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", members.get(name) or _npy(array))
    return stream.getvalue()


def damaged_document(write: Callable[[Any], str], read: Callable[[str], Any]) -> Damage:
    """A document of whose values one to three are others, missing, twice, or have changed places; some: its bytes.

    Args:
        write: From values to text.
        read: The inverse.
    """

    def damage(rng: random.Random, data: bytes) -> bytes:
        if rng.random() < 0.35:
            return damaged_bytes(rng, data)
        values = read(data.decode())
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            places = list(_places(values))
            if not places:
                break
            holder, key = rng.choice(places)
            match rng.randrange(6):
                case 0:
                    del holder[key]
                case 1:
                    other, place = rng.choice(places)
                    holder[key] = copy.deepcopy(other[place])
                case 2 if isinstance(holder, dict):
                    holder[rng.choice(("x", "", "../x", "é", "ensemble", "kind", "0"))] = holder.pop(key)
                case 3 if isinstance(holder, list):
                    holder.insert(0, holder[key])
                case 4:
                    holder[key] = [holder[key]]
                case _:
                    holder[key] = copy.deepcopy(rng.choice(ODD))
        return write(values).encode(errors="surrogatepass")

    return damage


damaged_json = damaged_document(json.dumps, json.loads)


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _places(values: Any) -> Any:
    """Every place that holds a value: the list or mapping, and its index or key."""
    keys = list(values) if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()
    for key in keys:
        yield values, key
        yield from _places(values[key])
