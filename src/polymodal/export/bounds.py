"""What an exported file may do where it is run, whoever wrote it: a computation that ends, in a share of the memory."""

import os
from contextlib import suppress
from functools import cache
from types import ModuleType
from typing import Any

from polymodal.errors import CheckpointError

UNBOUNDED = (
    "StringConcat", "StringSplit", "StringNormalizer", "RegexFullMatch", "TfIdfVectorizer", "ImageDecoder", "RoiAlign",
)  # fmt: skip
"""Operators that take more than their tensors: texts have any length, and RoiAlign samples as often as it is told."""

MEMORY = (os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**34) // 2
"""Bytes that all networks of a process may hold between their layers: half of the machine's."""


def check_operators(onnx: ModuleType, path: str | os.PathLike[str]) -> Any:
    """Refuse a graph that may compute without end: one with graphs within it, such as loops, or words of its own.

    Functions are such words, of which each may stand for twice the one before.

    Args:
        onnx: The package.
        path: The file.

    Returns:
        The file as the package reads it, without weights that lie beside it.

    Raises:
        CheckpointError: With what it holds.
        Exception: It is no ONNX file; of the classes of the package onnx.
    """
    model = onnx.load(os.fspath(path), load_external_data=False)
    within = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    found = [f"the function {function.name}" for function in model.functions]
    found += [
        f"the operator {node.domain}{'.' if node.domain else ''}{node.op_type}"
        for node in model.graph.node
        if node.domain not in ("", "ai.onnx")
        or node.op_type in UNBOUNDED
        or any(attribute.type in within for attribute in node.attribute)
    ]
    if found:
        raise CheckpointError(
            f"{path}: its graph has {found[0][:80]!r}, and it is run with plain operators alone: others may compute "
            "without end. Predict with the model folder that it was made of."
        )
    return model


def session_options(runtime: ModuleType, threads: int | None) -> Any:
    """How ONNX Runtime shall run a file: within `MEMORY`.

    Args:
        runtime: The package.
        threads: How many it uses; as it sees fit if not given.
    """
    _limit_memory(runtime)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 4  # what it logs below that, it raises, too
    options.add_session_config_entry("session.use_env_allocators", "1")
    return options


def beyond_memory(error: Exception) -> bool:
    """Whether ONNX Runtime had no memory left; its errors have no classes of their own."""
    return "bfc_arena" in str(error) or "allocate memory" in str(error)


@cache
def _limit_memory(runtime: ModuleType) -> None:
    """Bound what the sessions of this process have together, of which ONNX Runtime can be told once."""
    place = runtime.OrtMemoryInfo("Cpu", runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT)
    with suppress(Exception):  # whoever uses this library has told it already
        runtime.create_and_register_allocator(place, runtime.OrtArenaCfg({"max_mem": MEMORY}))
