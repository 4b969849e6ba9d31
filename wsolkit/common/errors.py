"""The package's own class of errors: what the user can put right."""

from __future__ import annotations


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
