"""Class activation methods: every one is a function of the feature map and of the rest of the network.

`score_maps` computes the maps, `method_names` lists the methods, `is_defined` says whether one applies to a model, and
`register` adds one (how: see `wsolkit.cams.registry`).
"""

from __future__ import annotations

from wsolkit.cams import activation, gradient, score
from wsolkit.cams.maps import feature_map, score_maps
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

__all__ = [
    "METHODS",
    "SMOOTHINGS",
    "Context",
    "Method",
    "MethodNotDefined",
    "activation",
    "eigen_projection",
    "feature_map",
    "gradient",
    "is_defined",
    "method_names",
    "register",
    "resolve",
    "score",
    "score_maps",
]
