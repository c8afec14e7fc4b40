"""A trained network leaves Python: its norms absorbed, exported to a file, and run from it."""

from polymodal.export.absorb import Absorbed, Saving, absorb, saving
from polymodal.export.formats import FORMATS, save
from polymodal.export.session import Session

__all__ = ["FORMATS", "Absorbed", "Saving", "Session", "absorb", "save", "saving"]
