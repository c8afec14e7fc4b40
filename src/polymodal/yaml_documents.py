"""The reader of YAML: plain values alone, within bounds, and every key once."""

from collections.abc import Iterable
from typing import Any

import yaml

from polymodal.documents import MAX_DEPTH, MAX_VALUES, DocumentError, check_bounds

MAX_YAML = 2**18
"""Bytes of a document: some thousands of lines, for which the reader needs seconds."""

MAX_NUMBER = 100
"""Letters of a number, a date or a time."""


def parse_yaml(content: str | bytes, most: int = MAX_VALUES) -> Any:
    """The values of a YAML document.

    Args:
        content: The document.
        most: Values that it may hold.

    Raises:
        DocumentError: It is not valid, a mapping has a key twice, or it is beyond the bounds; with the line.
    """
    if len(content) > MAX_YAML:
        raise DocumentError(f"it has {len(content)} bytes, and up to {MAX_YAML} are read")
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        values = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise DocumentError(error.problem or "not valid YAML", mark.line + 1 if mark else None) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DocumentError(f"not valid YAML ({' '.join(str(error).split())})") from error
    check_bounds(values, most)
    return values


class _Loader(yaml.SafeLoader):
    """YAML's last of two equal keys would silently replace the first, for example one of two modalities.

    Aliases stand for all that their anchor holds, so that ten lines can stand for a billion values.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Count what a node stands for, its aliases each time."""
        mark, alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _refusal(f"lists or mappings are nested more than {MAX_DEPTH} deep", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if not alias:
            self._sizes[id(node)] = 1 + sum(self._sizes[id(child)] for child in _children(node))
        elif id(node) not in self._sizes:
            raise _refusal("a list or mapping holds itself", mark)
        if self._sizes[id(node)] > MAX_VALUES:
            raise _refusal(f"more than {MAX_VALUES} values, counting those behind aliases each time", mark)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Say where a scalar stands that is no value of its type."""
        number = isinstance(node, yaml.ScalarNode) and node.tag.rpartition(":")[2] in ("int", "float", "timestamp")
        if number and len(node.value) > MAX_NUMBER:
            raise _refusal(f"a number of {len(node.value)} letters", node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
            shown = repr(node.value)[:60] if isinstance(node, yaml.ScalarNode) else "what is here"
            problem = f"{shown} is no {node.tag.rpartition(':')[2]}; put it in quotes if it is a text"
            raise _refusal(problem, node.start_mark) from error

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuse keys that are there twice."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refusal("a key is a list or a mapping; write a name", key.start_mark)
            if key.value in seen:
                raise _refusal(f"{key.value[:60]!r} is there twice; give each its own name", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _children(node: Any) -> Iterable[Any]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else ()


def _refusal(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(problem=problem, problem_mark=mark)
