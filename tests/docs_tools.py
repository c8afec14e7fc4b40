"""What the documentation shows: blocks of code, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(
    r'^(?P<indent> *)```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<code>.*?)^ *```$', re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """A block of code: where it stands, its language, the file that it is where it says so, and the code."""

    where: str
    language: str
    title: str
    code: str


def blocks(page: Path, *languages: str) -> list[Block]:
    """The blocks of a page, of some languages or of all."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        where = f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}"
        lines = [line.removeprefix(match["indent"]) for line in match["code"].splitlines(keepends=True)]
        found.append(Block(where, match["language"], match["title"] or "", "".join(lines)))
    return [block for block in found if not languages or block.language in languages]


def commands(block: Block) -> Iterator[list[str]]:
    """The commands of a block of bash as words, with the block's own variables put in."""
    variables: dict[str, str] = {}
    for line in block.code.replace("\\\n", " ").splitlines():
        line = re.sub(r"\$(\w+)", lambda name: variables.get(name[1], name[0]), line)
        words = shlex.split(line, comments=True)
        if len(words) == 1 and (given := re.fullmatch(r"(\w+)=(.*)", words[0])):
            variables[given[1]] = given[2]
        elif words:
            yield words


def own(words: list[str]) -> list[str] | None:
    """What is behind `polymodal`, also where something launches it; None where it is another program."""
    if "polymodal" not in words:
        return None
    behind = words[words.index("polymodal") + 1 :]
    return behind[:-1] if behind[-1:] == ["&"] else behind
