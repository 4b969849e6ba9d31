"""Class activation methods: every one is a function of the feature map and of the rest of the network.

`score_maps` computes the maps, `method_names` lists the methods, `is_defined` says whether one applies to a model, and
`register` adds one (how: see `wsolkit.cams.registry`).
"""

from __future__ import annotations

from wsolkit.cams import activation, gradient, score, transformers
from wsolkit.cams.hooked import HookedModel, hooked
from wsolkit.cams.maps import feature_map, score_maps, timed_maps
from wsolkit.cams.networks import network_for, target_layer
from wsolkit.cams.registry import (
    METHODS,
    Context,
    Method,
    MethodNotDefined,
    is_defined,
    method_names,
    register,
    resolve,
)
from wsolkit.cams.smoothing import SMOOTHINGS, eigen_projection
from wsolkit.cams.split import CannotSplit, SplitModel, split

# isort: split
from wsolkit.cams import acol  # after the others: methods are listed in the order of registration

__all__ = [
    "METHODS",
    "SMOOTHINGS",
    "CannotSplit",
    "Context",
    "HookedModel",
    "Method",
    "MethodNotDefined",
    "SplitModel",
    "acol",
    "activation",
    "eigen_projection",
    "feature_map",
    "gradient",
    "hooked",
    "is_defined",
    "method_names",
    "network_for",
    "register",
    "resolve",
    "score",
    "score_maps",
    "split",
    "target_layer",
    "timed_maps",
    "transformers",
]
