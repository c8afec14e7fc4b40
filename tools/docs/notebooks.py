"""Notebooks as pages: the sources are scripts (jupytext, py:percent); each page offers the notebook itself, too."""

from collections.abc import Iterator

import jupytext

from repository import ROOT, fenced


def pages() -> Iterator[tuple[str, str]]:
    """A page and an .ipynb file for each source in docs/notebooks."""
    for source in sorted((ROOT / "docs" / "notebooks").glob("*.py")):
        notebook = jupytext.read(source)
        place = f"notebooks/{source.stem}"
        cells = [
            cell.source if cell.cell_type == "markdown" else fenced(cell.source, "python") for cell in notebook.cells
        ]
        title, *rest = cells
        yield f"{place}.md", "\n\n".join([title, f"[As a notebook]({source.stem}.ipynb)", *rest])
        yield f"{place}.ipynb", jupytext.writes(notebook, fmt="ipynb")
