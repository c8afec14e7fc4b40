"""The reference of the API: a page for each public package, with every name that it exports."""

from collections.abc import Iterator

from repository import read

PACKAGES = (
    *("", ".fusion", ".models", ".tasks", ".data", ".data.prepare", ".metrics", ".export", ".bench", ".report", ".nn"),
    ".anatomy",
)
"""Of `polymodal`, in the order of the pages: whoever looks for a name finds it in the first that exports it."""
MODULES = ("functional",)
"""Modules without a list of exported names: all that is public in them."""


def pages() -> Iterator[tuple[str, str]]:
    """A page for each package and module."""
    home: dict[str, str] = {}
    for name in PACKAGES:
        package = f"polymodal{name}"
        module = read(package)
        here, elsewhere = [], []
        for exported in module.exports or ():
            member = module.members[str(exported)]
            path = member.target_path if member.is_alias else member.path
            if home.setdefault(path, package) == package:
                here.append(path)
            else:
                elsewhere.append(f"`{exported}` ([{home[path]}]({home[path]}.md))")
        text = f"# {package}\n\n::: {package}\n    options: {{members: [], show_root_heading: false}}\n"
        if elsewhere:
            text += f"\nAlso here: {', '.join(elsewhere)}.\n"
        yield f"reference/api/{package}.md", text + "".join(f"\n::: {path}\n" for path in here)
    for name in MODULES:
        module_page = f"# polymodal.{name}\n\n::: polymodal.{name}\n    options: {{show_root_heading: false}}\n"
        yield f"reference/api/polymodal.{name}.md", module_page
