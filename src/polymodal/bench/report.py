"""What a benchmark found, as Markdown for people and JSON for programs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polymodal.bench.timing import Timing
from polymodal.files import write_file

NONE = "–"

FILES = ("bench.md", "bench.json")
"""What a report is written to."""


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        title: Its heading.
        note: How to read it.
        headings: Of its columns.
        rows: The cells as they are printed.
        records: The same with numbers, a dict for each row.
    """

    title: str
    note: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    records: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Report:
    """Tables and how they were measured.

    Attributes:
        title: What was measured.
        facts: The settings.
        machine: See `machine`.
        tables: What was found.
    """

    title: str
    facts: Mapping[str, Any]
    machine: Mapping[str, Any]
    tables: Sequence[Table]

    def markdown(self) -> str:
        """The report for people."""
        lines = [f"# {self.title}", ""]
        lines += [f"- {name}: {_plain(value)}" for name, value in {**self.facts, **self.machine}.items()]
        for table in self.tables:
            ruler = ["---", *("---:" for _ in table.headings[1:])]
            cells = (table.headings, ruler, *table.rows)
            lines += ["", f"## {table.title}", "", *(f"| {' | '.join(row)} |" for row in cells), "", table.note]
        return "\n".join(lines) + "\n"

    def json(self) -> str:
        """The report for programs; times in seconds, memory in bytes, shares in 0..1."""
        tables = [{"title": table.title, "rows": list(table.records)} for table in self.tables]
        content = {"title": self.title, "settings": self.facts, "machine": self.machine, "tables": tables}
        return json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"

    def write(self, folder: Path) -> None:
        """Write `FILES`."""
        for name, text in zip(FILES, (self.markdown(), self.json()), strict=True):
            write_file(folder / name, text.encode())


def seconds(value: float) -> str:
    """A time with three digits: 6.21 s, 345 ms, 0.512 ms."""
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def timing(times: Timing) -> tuple[str, str]:
    """The median and the quartiles of a candidate's times."""
    low, high = times.quartiles
    return seconds(times.median), f"{seconds(low)} to {seconds(high)}"


def memory(value: int | None) -> str:
    """Bytes as GiB or MiB."""
    if value is None:
        return NONE
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def share(value: float) -> str:
    """A share in per cent; 100 % is said of all alone."""
    return "100 %" if value == 1 else f"{min(value * 100, 99.99):.2f} %"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={one}" for key, one in value.items()) or NONE
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
