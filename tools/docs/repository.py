"""Pages that are files of the repository: README, changelog, example, recipes."""

from collections.abc import Iterator
from pathlib import Path

import griffe

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
HEADS = {"index.md": "---\nhide: [navigation]\n---\n\n"}
"""What the site must know of a page: the start has no others beside it."""
CODE = {
    "examples/train.py": ("examples/train.md", "A training in plain PyTorch", "python"),
    "examples/mri.py": ("examples/mri.md", "Four MRI sequences in 3-D", "python"),
    "CITATION.cff": ("citation.md", "How to cite", "yaml"),
}


def pages() -> Iterator[tuple[str, str]]:
    """Each page with its links as they are within the site."""
    moved = {f"]({file})": f"]({place})" for file, place in PAGES.items()}
    moved |= {f"]({file})": f"]({place})" for file, (place, _, _) in CODE.items()}
    for file, place in PAGES.items():
        text = (ROOT / file).read_text(encoding="utf-8")
        for before, after in moved.items():
            text = text.replace(before, after)
        yield place, HEADS.get(place, "") + text.replace("](docs/", "](")
    for file, (place, title, language) in CODE.items():
        text = (ROOT / file).read_text(encoding="utf-8")
        yield place, f"# {title}\n\n`{file}`\n\n{fenced(text, language)}"
    yield "reference/recipes.md", _recipes()


def _recipes() -> str:
    text = "# Recipes\n\nThey come with the package; `polymodal fit --config` takes one, or a changed copy.\n"
    for file in sorted(ROOT.glob("recipes/**/*.yaml")):
        recipe = file.read_text(encoding="utf-8")
        text += f"\n## {file.relative_to(ROOT)}\n\n{fenced(recipe, 'yaml')}"
    return text


def fenced(text: str, language: str) -> str:
    """A block of code."""
    return f"```{language}\n{text.rstrip()}\n```\n"


def read(module: str) -> griffe.Module:
    """What the source of a module says, without importing it."""
    file = ROOT / "src" / module.replace(".", "/")
    file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    return griffe.visit(module, filepath=file, code=file.read_text(encoding="utf-8"))
