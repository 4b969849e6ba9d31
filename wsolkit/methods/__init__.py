"""Localisation methods: functions of the feature map and of the network behind it, each declared in its own file.

`method_names` lists the methods, `resolve` gives one, `is_defined` says whether one applies to a model, `register` adds
one (see `wsolkit.methods.registry`). `wsolkit.methods.maps` computes the maps, and nothing here imports torch before.
"""

from __future__ import annotations

import importlib
import pkgutil

from wsolkit.methods.registry import (
    METHODS,
    MethodNotDefined,
    declared,
    is_defined,
    method_names,
    plain_variant,
    register,
    resolve,
    variant,
)

for _module in pkgutil.iter_modules(__path__):
    if _module.name != "maps":  # it declares nothing, and imports torch
        importlib.import_module(f"{__name__}.{_module.name}")
# the order of the study: by chapter, then by name
_ordered = sorted(METHODS.values(), key=lambda method: (method.chapter, method.name))
METHODS.clear()
METHODS.update({method.name: method for method in _ordered})
