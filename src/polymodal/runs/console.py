"""Tables on the terminal."""

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str | Text]], left: int = 1, width: int = 110
) -> None:
    """Print a table.

    Args:
        title: Stands above it.
        columns: Their headings.
        rows: Cells, as they are: nothing in them is markup, which "FID[lite0]" would be.
        left: How many columns are set to the left; the others hold numbers.
        width: Of the lines where no terminal says it; 80 columns would cut headings short.
    """
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2))
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right", no_wrap=number < left)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else width, markup=False).print(table)
