"""Training with image labels only: recipe, loop, checkpoints, and the objectives of training-time WSOL methods."""

from .acol import ACoL
from .adl import ADL
from .checkpoints import load_checkpoint
from .cutmix import CutMix
from .has import HaS
from .loop import fit
from .objective import Objective
from .recipe import Recipe
from .validation import classify

OBJECTIVES = {kind.name: kind for kind in (HaS, CutMix, ADL, ACoL)}

__all__ = ["ADL", "OBJECTIVES", "ACoL", "CutMix", "HaS", "Objective", "Recipe", "classify", "fit", "load_checkpoint"]
