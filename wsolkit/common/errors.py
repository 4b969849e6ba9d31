"""The package's own class of errors: what the user can put right; and checks of numbers that a user gave."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any


class WsolkitError(ValueError):
    """A mistake in what the package was given: a parameter, a file, a data set, an address.

    The message names the file or value, what was expected and what to do. The command line shows a `WsolkitError` (and
    an `OSError`) in one line; any other exception is a fault of the program and is shown with its trace. It is a
    `ValueError`, so that callers who catch that keep working.

    Example:
        >>> try:
        ...     raise WsolkitError("size is 0; expected a positive number of pixels")
        ... except ValueError as error:
        ...     print(error)
        size is 0; expected a positive number of pixels
    """


def require(good: object, message: str) -> None:
    """Raise a `WsolkitError` with this message unless `good` is true.

    Example:
        >>> require(2 > 1, "two is more than one")
        >>> require(0 > 1, "k must be at least 1, got 0")
        Traceback (most recent call last):
        wsolkit.common.errors.WsolkitError: k must be at least 1, got 0
    """
    if not good:
        raise WsolkitError(message)


def is_whole(value: Any, least: int = 0, most: int = 2**63 - 1) -> bool:
    """Whether a value is a whole number in a range; True and False, Python's 1 and 0, are none.

    Example:
        >>> is_whole(3), is_whole(True), is_whole("3"), is_whole(-1)
        (True, False, False, False)
    """
    return isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) <= most


def is_real(value: Any, least: float = -math.inf, most: float = math.inf) -> bool:
    """Whether a value is a finite number in a range; True and False are none."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    return number and -math.inf < value < math.inf and least <= value <= most


def is_digits(text: str) -> bool:
    """Whether a text is a whole number from 0 of at most nine digits: Python's `int` refuses thousands of them."""
    return text.isdecimal() and len(text) < 10


def reason(error: BaseException) -> str:
    """The first sentence of an error of a library: what follows is advice, such as to open pickles after all."""
    return (str(error) or type(error).__name__).splitlines()[0].split(". ")[0][:150]
