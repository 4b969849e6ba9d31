"""Localisation methods: every one is a function of the feature map and of the rest of the network.

`score_maps` computes the maps, `method_names` lists the methods, `is_defined` says whether one applies to a model, and
`register` adds one (how: see `wsolkit.methods.registry`).
"""

from __future__ import annotations

from wsolkit.methods import activation, gradient, score, transformers
from wsolkit.methods.acol_objective import ACoL
from wsolkit.methods.adl import ADL
from wsolkit.methods.cutmix import CutMix
from wsolkit.methods.has import HaS
from wsolkit.methods.maps import feature_map, score_maps, timed_maps
from wsolkit.methods.registry import (
    METHODS,
    Context,
    Method,
    MethodNotDefined,
    is_defined,
    method_names,
    register,
    resolve,
)
from wsolkit.methods.smoothing import SMOOTHINGS, eigen_projection

# isort: split
from wsolkit.methods import acol  # after the others: methods are listed in the order of registration

OBJECTIVES = {kind.name: kind for kind in (HaS, CutMix, ADL, ACoL)}
