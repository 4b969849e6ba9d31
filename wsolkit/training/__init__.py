"""Training with image labels only: recipe, loop, checkpoints, and what an objective is."""

from wsolkit.training.checkpoints import load_checkpoint
from wsolkit.training.loop import fit
from wsolkit.training.objective import Objective
from wsolkit.training.recipe import Recipe
from wsolkit.training.validation import classify

__all__ = ["Objective", "Recipe", "classify", "fit", "load_checkpoint"]
