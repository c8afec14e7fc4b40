"""What a plain network is made of, and what runs when in it: all that is asked of it without changing it."""

from polymodal.anatomy.anatomy import Anatomy
from polymodal.anatomy.dry_run import DryRun
from polymodal.anatomy.entrance import Entrance
from polymodal.anatomy.meta import ghost
from polymodal.anatomy.shapes import ByShapes

__all__ = ["Anatomy", "ByShapes", "DryRun", "Entrance", "ghost"]
