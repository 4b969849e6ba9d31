"""Work in chunks: what is held at once depends on the chunk alone, and a full accelerator makes the chunk smaller."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def in_chunks(look: Callable[..., Any], chunk: int, *inputs: Tensor, name: str = "chunk={}") -> Any:
    """`look` applied to at most `chunk` rows of the inputs at a time, the results one after the other.

    Where that runs out of CUDA memory, the chunk is halved, down to one row, and the same rows are computed again: the
    result is that of a smaller chunk. One RuntimeWarning says so at the end, with the chunk that fitted.

    Args:
        look: takes as many tensors as there are inputs, (n, ...) each with n <= chunk, and returns (n, ...) or a tuple of
            such. Rows must not depend on one another, and a call that fails must leave nothing behind.
        chunk: at least 1.
        inputs: tensors of equal length, (N, ...); at least one.
        name: how the warning calls the chunk, with {} for its number.

    Returns:
        (N, ...), or a tuple of such; an empty float32 tensor where N is 0, as nothing says then what `look` returns.

    Raises:
        torch.OutOfMemoryError: one row alone does not fit.
    """
    results, start, first = [], 0, chunk
    while start < len(inputs[0]):
        rows = [tensor[start : start + chunk] for tensor in inputs]
        try:
            results.append(look(*rows))
        except torch.OutOfMemoryError as error:
            if len(rows[0]) == 1:
                raise torch.OutOfMemoryError(
                    "the device's memory does not hold even one image at a time (chunk=1): use smaller images or a "
                    f'smaller network, precision="bf16", or device="cpu". The device said: {error}'
                ) from error
            chunk = len(rows[0]) // 2
        else:
            start += chunk
            continue
        torch.cuda.empty_cache()  # only now: the traceback of the exception held the tensors of the call that failed
    if chunk != first:
        warnings.warn(
            f"{name.format(first)} ran out of device memory and became {chunk}; the results are the same, but "
            f"{name.format(chunk)} from the start saves the attempts",
            RuntimeWarning,
            stacklevel=2,
        )
    if len(results) < 2:
        return results[0] if results else torch.zeros(0, device=inputs[0].device)
    if isinstance(results[0], tuple):
        return tuple(map(torch.cat, zip(*results, strict=True)))
    return torch.cat(results)
