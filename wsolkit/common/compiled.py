"""numba, as this package uses it: compiled on first use, without Python's lock, kept on disk where that is possible."""

from __future__ import annotations

from numba import njit


def compiled(function):
    """`function` compiled by numba. The machine code is kept beside the module (or in the user's cache folder)."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba found no folder that it can write to: compile for this process alone
        return njit(nogil=True)(function)
