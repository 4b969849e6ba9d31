"""Exercises of the notebooks: `check(name, answer)` says whether an answer is right, and helps where it is not.

An answer is a number, an array or tensor, a word, a list of words, or a function. A function is tried on random input, and what
it returns is compared with what the package (or torch) computes from the same input; so no solution is stored here. The checks
themselves are in `basics` and `maps`, the marks for a CAM method of one's own in `cam_marks`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wsolkit.common.errors import WsolkitError

CHAPTERS = ("basics", "maps")


@dataclass(frozen=True)
class Exercise:
    """expects: what an answer is, in words. judge(answer): "" where it is right, else a hint; it may raise."""

    name: str
    expects: str
    judge: Callable[[Any], str]


EXERCISES: dict[str, Exercise] = {}


class NoAnswer(Exception):
    """The function is still empty."""


def exercise(name: str, expects: str) -> Callable[[Callable[[Any], str]], Callable[[Any], str]]:
    """Decorator: the function judges the answers of the exercise `name`."""

    def decorate(judge: Callable[[Any], str]) -> Callable[[Any], str]:
        EXERCISES[name] = Exercise(name, expects, judge)
        return judge

    return decorate


def names() -> list[str]:
    """All exercises, in the order of the notebooks."""
    for chapter in CHAPTERS:
        importlib.import_module(f".{chapter}", __package__)
    return list(EXERCISES)


def judge(name: str, answer: Any) -> tuple[str, str]:
    """("right", ""), ("wrong", a hint) or ("open", what is expected) for an answer; never raises for one.

    Raises:
        ValueError: no exercise has that name.
    """
    if name not in names():
        near = difflib.get_close_matches(str(name), EXERCISES, 1)
        raise WsolkitError(f"unknown exercise {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    expects = EXERCISES[name].expects
    if answer is None or answer is Ellipsis:
        return "open", f"Expected is {expects}."
    try:
        with torch.random.fork_rng(devices=[]):  # the reader's generators stay as they were
            torch.manual_seed(0)
            hint = EXERCISES[name].judge(answer)
    except NoAnswer:
        return "open", f"Expected is {expects}; this one returns nothing yet."
    except Exception as error:  # whatever the answer is or does
        said = f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
        return "wrong", f"Expected is {expects}. Yours led to {said}"
    return ("wrong", hint) if hint else ("right", "")


def check(name: str, answer: Any) -> None:
    """Print whether `answer` is right, with a hint where it is not; None (or a function that returns None) is no answer yet."""
    state, words = judge(name, answer)
    sign = {"right": "✓ Right.", "wrong": "✗ Not yet.", "open": "○ No answer yet."}[state]
    print(f"{name}: {sign} {words}".rstrip())


def grade(function: Callable | str, **options: Any):
    """Marks for a CAM method: see `cam_marks.grade`."""
    from wsolkit.study.exercises.cam_marks import grade as marks

    return marks(function, **options)


# ------------------------------------------------------------------------------------------------ for the judges


def call(answer: Any, *arguments: Any) -> Any:
    """What the reader's function returns; tensors are handed over as copies. TypeError for something that is no function."""
    if not callable(answer):
        raise TypeError(f"this is no function but {type(answer).__name__}: give the function itself, without brackets")
    copies = [item.clone() if isinstance(item, torch.Tensor) else item for item in arguments]
    found = answer(*copies)
    if found is None or found is Ellipsis:
        raise NoAnswer
    return found


def array(found: Any) -> np.ndarray:
    """Numbers as float64. TypeError for anything else."""
    if isinstance(found, torch.Tensor):
        found = found.detach().cpu().numpy()
    if isinstance(found, list | tuple) and any(isinstance(item, torch.Tensor) for item in found):
        found = [array(item) for item in found]
    if callable(found):
        raise TypeError("numbers were expected, and this is a function or a class: give what it returns")
    try:
        values = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"numbers were expected, and this is {type(found).__name__} {str(found)[:60]!r}") from None
    return values


def number(found: Any) -> float:
    """One number. TypeError for anything else."""
    values = array(found)
    if values.size != 1:
        raise TypeError(f"one number was expected, and this has the shape {values.shape}")
    return float(values.reshape(()))


def differs(found: Any, truth: Any, tolerance: float = 1e-4) -> str:
    """How `found` differs from `truth` (both become arrays), or "". The tolerance is a share of the largest true value."""
    found, truth = array(found), array(truth)
    if found.shape != truth.shape and found.size == truth.size == 1:
        found = found.reshape(truth.shape)
    if found.shape != truth.shape:
        return f"The shape is {found.shape}, and {truth.shape} is expected."
    scale = max(float(np.abs(truth).max(initial=0.0)), 1e-12)
    worst = np.abs(np.nan_to_num(found, nan=np.inf) - truth)
    if float(worst.max(initial=0.0)) <= tolerance * scale:
        return ""
    if truth.ndim == 0:
        return f"It is {float(found):.6g}, and should be something else."
    place = tuple(int(i) for i in np.unravel_index(int(worst.argmax()), worst.shape))
    return f"At {list(place)} it is {found[place]:.4g} instead of {truth[place]:.4g}."


def words(answer: Any) -> set[str]:
    """One word or several, as they are compared: lower case, `_` and `-` do not matter."""
    items = answer.replace(",", " ").split() if isinstance(answer, str) else answer
    if isinstance(items, bool | np.bool_):
        items = ["yes" if items else "no"]
    if not isinstance(items, Iterable) or not all(isinstance(item, str) for item in items):
        raise TypeError(f"words were expected, and this is {type(answer).__name__} {str(answer)[:60]!r}")
    return {item.strip().lower().replace("_", "").replace("-", "") for item in items}


def chosen(answer: Any, truth: str | Iterable[str], offered: Iterable[str], hint: str) -> str:
    """A choice among the words `offered`: "" where it is `truth`, else the hint."""
    given, unknown = words(answer), words(answer) - words(list(offered))
    if unknown:
        return f"Choose from {', '.join(offered)}; {', '.join(sorted(unknown))[:60]!r} is not among them."
    return "" if given == words([truth] if isinstance(truth, str) else list(truth)) else hint
