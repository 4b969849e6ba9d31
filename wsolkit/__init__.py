"""wsolkit: a notebook-first study kit for weakly supervised object localisation.

The public names are loaded when they are first used, so that planning a sweep does not wait for torch. They are listed
in `__init__.pyi`, which type checkers and editors read.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
from pathlib import Path
from typing import Any

_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_MODULE_OF = {
    alias.name: node.module
    for node in _STUB.body
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wsolkit")
    for alias in node.names
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value = importlib.metadata.version("wsolkit")
    elif name not in _MODULE_OF:
        raise AttributeError(f"module 'wsolkit' has no attribute '{name}'")
    elif _MODULE_OF[name] == "wsolkit":
        value = importlib.import_module(f"wsolkit.{name}")
    else:
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
