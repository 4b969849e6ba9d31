"""Options of commands, those made from declared parameters among them, and the values that they take."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from wsolkit.common.parameters import kind_of, told_of
from wsolkit.runs.parameters import RunConfig, absolute


def parameter_options(
    names: Iterable[str], model: type[RunConfig] = RunConfig, default: str = ""
) -> Callable[[Callable], Callable]:
    """A decorator that adds an option for each named parameter of a model; None means that it was not given.

    default: what counts then, of all of them, as text; "" is the default of each.
    """

    def decorate(function: Callable) -> Callable:
        for name in reversed(list(names)):
            field, flag = model.model_fields[name], name.replace("_", "-")
            kind, choices, own = kind_of(field), told_of(field, "choices"), default or model.shown_default(name)
            help = f"{field.description} (default {own})" if own else field.description
            option = f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}"
            type = click.Choice(choices) if choices else kind if kind in (int, float, bool) else str
            metavar = f"{name[0].upper()},..." if kind is tuple else None
            function = click.option(option, type=type, default=None, help=help, metavar=metavar)(function)
        return function

    return decorate


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given; paths count from where the caller stands.

    Raises: WsolkitError: 0 for a parameter that must be larger, which only in notebooks stands for the default.
    """
    told = {name: value for name, value in options.items() if value is not None}
    RunConfig(**{name: value for name, value in told.items() if value == 0 and name in RunConfig.model_fields})
    return absolute(told, Path.cwd())


def reports(name: str = "") -> Path:
    """Where a command writes if no option says: $WSOLKIT_OUT or the project's reports/, or the folder `name` there."""
    return RunConfig.make().out_folder.absolute() / name
