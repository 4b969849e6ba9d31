"""Localisation methods: every one is a function of the feature map and of the network behind it, declared in a file of its own.

`method_names` lists the methods, `resolve` gives one, `is_defined` says whether one applies to a model, and `register` adds one
(see `wsolkit.methods.registry`). `wsolkit.methods.maps` computes the maps. Nothing here imports torch before a map is made.
"""

from __future__ import annotations

import importlib
import pkgutil

from wsolkit.methods.registry import (
    METHODS,
    Method,
    MethodNotDefined,
    Variant,
    declared,
    is_defined,
    method_names,
    plain_variant,
    register,
    resolve,
    variant,
)

# every other module of this folder declares methods
_SHARED = ("chunks", "context", "maps", "registry", "smoothing")

for _module in pkgutil.iter_modules(__path__):
    if _module.name not in _SHARED:
        importlib.import_module(f"{__name__}.{_module.name}")
# the order of the study: by chapter, then by name
_ordered = sorted(METHODS.values(), key=lambda method: (method.chapter, method.name))
METHODS.clear()
METHODS.update({method.name: method for method in _ordered})
