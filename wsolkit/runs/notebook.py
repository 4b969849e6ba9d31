"""The parameters of a run among a notebook's variables, whoever executes the notebook. No torch import here."""

from __future__ import annotations

import ast
import difflib
from dataclasses import fields
from typing import Any

from wsolkit.runs.config import RunConfig


def of_notebook(namespace: dict[str, Any]) -> dict[str, Any]:
    """Every variable of a notebook's globals() that has the name of a parameter of `RunConfig`.

    Raises:
        ValueError: papermill has set a variable that the notebook's cell of parameters does not know. It only warns, and
            the value would be lost. Or `weights` is None, which is what papermill makes of the word on a command line.
    """
    cells = [cell for cell in namespace.get("In", ()) if isinstance(cell, str)]  # IPython's record of what was executed
    injected = [number for number, cell in enumerate(cells) if cell.startswith("# Parameters\n")]  # papermill's mark
    if injected:
        known = {name for cell in cells[: injected[-1]] for name in _assigned(cell)}
        if unknown := [name for name in _assigned(cells[injected[-1]]) if name not in known]:
            near = difflib.get_close_matches(unknown[0], known, 1)
            raise ValueError(
                f"this notebook has no parameter {', '.join(unknown)}"
                + (f"; did you mean '{near[0]}'?" if near else f"; it has {', '.join(sorted(known))}")
            )
    if namespace.get("weights", "") is None:
        raise ValueError("weights is None; write none (lower case) for random weights, imagenet, or a file")
    names = {item.name for item in fields(RunConfig)} - {"given"}
    return {name: value for name, value in namespace.items() if name in names}


def _assigned(source: str) -> list[str]:
    """Names that the plain assignments of a cell set."""
    try:
        statements = ast.parse(source).body
    except SyntaxError:  # a magic command, say
        return []
    targets = [target for statement in statements if isinstance(statement, ast.Assign) for target in statement.targets]
    return [target.id for target in targets if isinstance(target, ast.Name)]
