"""The reference of dataset.yaml, from the code that reads it: its tables of keys, and what it says when it refuses."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import griffe

from polymodal.data import parts
from polymodal.data.section import Section
from polymodal.data.spec import __doc__ as about
from polymodal.errors import DataError
from repository import read


def pages() -> Iterator[tuple[str, str]]:
    """The one page of dataset.yaml."""
    text = f"# dataset.yaml\n\n{about}\n## A modality\n\nIts name is the key; `modalities` has one for each.\n\n"
    text += _table(parts._INPUT_KEYS, lambda values: parts.modality_of(Section("", "", {"m": values}), "m"))
    text += "\n## A target\n\n`target` is one, or the name of a modality; `targets` has several by name.\n\n"
    text += _table(parts._TARGET_KEYS, lambda values: parts.target_of(Section("", "", values)))
    text += "\n## Splits\n\n`splits` maps a name, such as `train`, `val` or `test`, to a text file of one key a line.\n"
    yield "reference/dataset.md", text


def _table(keys: Mapping[str, tuple[str, ...]], read: Callable[[dict[str, Any]], object]) -> str:
    kinds = list(keys)
    rows = ["| key | of kind | expected | what it says |", "|---|---|---|---|"]
    meanings = _meanings()
    for key in dict.fromkeys(key for of_kind in keys.values() for key in of_kind):
        having = [kind for kind in kinds if key in keys[kind]]
        where = "each" if having == kinds else ", ".join(having)
        rows.append(f"| `{key}` | {where} | {_expected(key, having[0], read)} | {meanings[key]} |")
    return "\n".join([*rows, ""])


def _expected(key: str, kind: str, read: Callable[[dict[str, Any]], object]) -> str:
    """What the reader says that it expects, given what no key can be."""
    values: dict[str, Any] = {"kind": kind, "folder": "x"} | ({"classes": ["a", "b"]} if kind == "label" else {})
    try:
        read(values | {key: {}})
    except DataError as error:
        return re.search(r"expected (.*), got \{\}", str(error))[1]  # type: ignore[index]
    raise AssertionError(f"dataset.yaml: {key}: a mapping is taken")


def _meanings() -> dict[str, str]:
    """What the classes that hold a part of dataset.yaml say of their arguments."""
    found: dict[str, str] = {}
    for path in ("data.content.FileSpec", "data.parts.ModalitySpec", "data.labels.LabelCode"):
        module, _, name = f"polymodal.{path}".rpartition(".")
        documented = read(module)[name].docstring.parse("google", warnings=False)
        for section in documented:
            if section.kind is griffe.DocstringSectionKind.parameters:
                for argument in section.value:
                    found.setdefault(argument.name, _of_a_file(" ".join(argument.description.split())))
    return found | {"ignore": found["ignored"]}


def _of_a_file(text: str) -> str:
    """What is said of an argument, for people who write a file, which knows no names of Python."""
    for pattern, said in ((r",? one of `[A-Z]+`", ""), ("; None ", "; left out, it "), (r"\bNone ", "Left out, it ")):
        text = re.sub(pattern, said, text)
    return text
