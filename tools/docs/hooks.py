"""Pages of the documentation that are made from the code and from files of the repository, for MkDocs.

Nothing is written beside the sources: every page goes from here to the site.
"""

import re
from collections.abc import Iterator
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import api
import browser
import commands
import dataset
import notebooks
import repository


def generated() -> Iterator[tuple[str, str | bytes]]:
    """Every made file, by its place in the site's sources."""
    for maker in (repository, api, browser, commands, dataset, notebooks):
        yield from maker.pages()


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the made pages; of a notebook's source its pages are shown alone."""
    for source in [file for file in files if file.src_uri.startswith("notebooks/")]:
        files.remove(source)
    for place, content in generated():
        files.append(File.generated(config, place, content=content))
    return files


def on_page_content(html: str, **about: Any) -> str:
    """Keep each figure of a table on one line, with its deviation or its per cent."""
    del about
    return re.sub(r"<td.*?</td>", lambda cell: re.sub(r"(?<=\d) (?=[±%])|(?<=±) ", "&nbsp;", cell[0]), html)
