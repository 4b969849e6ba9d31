"""Training with image labels only: recipe, loop, checkpoints, and the objectives of training-time WSOL methods."""

from .checkpoints import load_checkpoint
from .loop import fit
from .objective import Objective
from .recipe import Recipe
from .validation import classify

__all__ = ["Objective", "Recipe", "classify", "fit", "load_checkpoint"]
