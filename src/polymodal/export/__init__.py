"""A trained network leaves Python: folded, exported to a file, and run from it."""

from polymodal.export.fold import Folded, fold
from polymodal.export.formats import FORMATS, save
from polymodal.export.saving import Saving, saving
from polymodal.export.session import Session

__all__ = ["FORMATS", "Folded", "Saving", "Session", "fold", "save", "saving"]
