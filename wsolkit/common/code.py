"""The package's code: digests of what its modules do, and functions compiled by numba."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def code_state(sources: tuple[str, ...]) -> str:
    """Digest of what the named modules and folders of modules do: comments, layout and docstrings do not count."""
    total = hashlib.sha256()
    for source in sources:
        path = PACKAGE / source
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            total.update(_state(file).encode())
    return total.hexdigest()[:16]


@cache
def _state(file: Path) -> str:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        named = ast.FunctionDef | ast.ClassDef | ast.Module | ast.AsyncFunctionDef
        if isinstance(node, named) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def compiled(function):
    """`function` compiled by numba on first use, to run without Python's lock. The machine code is kept beside the
    module (or in the user's cache folder)."""
    from numba import njit

    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba found no folder that it can write to: compile for this process alone
        return njit(nogil=True)(function)
