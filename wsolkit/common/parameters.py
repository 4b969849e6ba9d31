"""Parameters, each declared once: name, kind, default, range and help. pydantic checks values; an error is one line."""

from __future__ import annotations

import difflib
import os
import re
import reprlib
from collections.abc import Collection
from typing import Any, cast, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from wsolkit.common.errors import WsolkitError

KINDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
KINDS |= {dict: "a mapping", tuple: "whole numbers separated by commas"}
BOUNDS = {"ge": "at least", "gt": "greater than", "le": "at most", "lt": "less than"}


def parameter(default: Any, help: str, stage: str = "", choices: Collection[str] = (), **more: Any) -> Any:
    """Declare one parameter of a `Parameters` class.

    Args:
        default: its value where nothing else is said.
        help: a short text for the command line, tables and errors.
        stage: what depends on it; the class says which stages there are.
        choices: the names that a text may be; () is any text.
        more: range (ge, gt, le, lt) and whatever else `pydantic.Field` takes.
    """
    return Field(default, description=help, json_schema_extra={"stage": stage, "choices": list(choices)}, **more)


class Parameters(BaseModel):
    """A set of checked, unchangeable values.

    Text is read as a number or as a list of numbers where the parameter is one ("1e-2", "1,2"); true and false are no
    numbers, and numbers no truth values. NaN and infinity are refused.

    Raises:
        WsolkitError: an unknown name (with the nearest known one), or a value of the wrong kind or out of range: name,
            value and what is expected, in one line.

    Example:
        >>> class Walk(Parameters):
        ...     steps: int = parameter(1, "number of steps", ge=1)
        >>> Walk(steps="3").steps
        3
        >>> Walk(steps=0)
        Traceback (most recent call last):
        wsolkit.common.errors.WsolkitError: steps must be at least 1, but is 0 (number of steps)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise WsolkitError(self._message(error)) from None

    @field_validator("*", mode="before")
    @classmethod
    def _of_its_kind(cls, value: Any, info: Any) -> Any:
        field = cls.model_fields[info.field_name]
        kind, choices = kind_of(field), told_of(field, "choices")
        if kind is str and isinstance(value, os.PathLike):
            value = os.fspath(value)
        if kind is tuple and isinstance(value, str | int):
            value = names_in(str(value))
        items = value if isinstance(value, list | tuple) else value.values() if isinstance(value, dict) else [value]
        if kind in KINDS and any(isinstance(item, bool) is not (kind is bool) for item in items):
            raise PydanticCustomError("kind", "")  # pydantic would take True for 1
        if choices and isinstance(value, str) and value not in choices:
            raise ValueError(f"unknown {info.field_name} '{value}'; choose from {', '.join(choices)}")
        return value

    @classmethod
    def _message(cls, error: ValidationError) -> str:
        """The first error in one line."""
        first = cast(dict, error.errors(include_url=False)[0])
        name, kind = ".".join(str(part) for part in first["loc"] if not isinstance(part, int)), first["type"]
        if kind == "extra_forbidden":
            return f"unknown parameter '{name}'" + nearest(name, cls.model_fields)
        if kind == "value_error":  # a text of our own
            return str(first["ctx"]["error"])
        field = cls.model_fields[name.partition(".")[0]]
        if kind.startswith(("greater_than", "less_than")):
            bounds = bounds_of(field) or " and ".join(f"{BOUNDS[key]} {limit:g}" for key, limit in first["ctx"].items())
            return f"{name} must be {bounds}, but is {first['input']} ({field.description})"
        return f"{name} must be {field.title or KINDS[kind_of(field)]}, but is {shown(first['input'])}"


def kind_of(field: FieldInfo) -> Any:
    """int, float, bool, str, tuple, dict, or whatever else a parameter was declared as."""
    return get_origin(field.annotation) or field.annotation


def bounds_of(field: FieldInfo) -> str:
    """The range of a number, such as "at least 0 and at most 1"; "" without one."""
    known = {key: getattr(item, key) for item in field.metadata for key in BOUNDS if hasattr(item, key)}
    return " and ".join(f"{BOUNDS[key]} {limit:g}" for key, limit in known.items())


def told_of(field: FieldInfo, name: str) -> Any:
    """What `parameter` was told of it: its "stage" ("" for none), or its "choices" ([] where any text will do)."""
    return cast(dict, field.json_schema_extra)[name]


def names_in(text: str) -> list[str]:
    """The names of a list with commas; a comma in brackets separates none.

    >>> names_in("cam, grad_cam[eigen,aug],")
    ['cam', 'grad_cam[eigen,aug]']
    """
    return [name.strip() for name in re.split(r",(?![^][]*\])", text) if name.strip()]


def nearest(name: Any, known: Collection[str]) -> str:
    """'; did you mean "..."?' for the known name that a wrong one resembles, or ""."""
    near = difflib.get_close_matches(str(name), known, 1)
    return f"; did you mean '{near[0]}'?" if near else ""


def shown(value: Any) -> str:
    """A value in an error, 60 characters at most: a few lines of YAML can stand for a billion values."""
    if value is None or value in ("", [], {}):
        return "empty"
    short = reprlib.Repr()
    short.maxlevel, short.maxlist, short.maxdict, short.maxstring, short.maxother = 2, 4, 4, 60, 60
    text = short.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
