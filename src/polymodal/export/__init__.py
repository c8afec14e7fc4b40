"""A trained network leaves Python: folded, exported to a file, and run from it."""

from polymodal.export.fold import Folded, Saving, fold, saving

__all__ = ["Folded", "Saving", "fold", "saving"]
