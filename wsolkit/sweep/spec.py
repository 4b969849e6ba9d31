"""What a sweep is asked for as a YAML file: read, checked, joined with the command line, and stored with the results.

Keys are the parameters of `RunConfig` by name, and

    backbones, methods, seeds   lists (seeds: the first in OUT, the others in OUT/seed-N)
    limits                      images per method, a mapping; `limit` is for all others
    jobs                        runs at a time
    datasets                    a mapping name -> keys that replace the common ones there, instead of `dataset`

Relative paths start at the file's folder. No torch import here.
"""

from __future__ import annotations

import difflib
import math
import reprlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from wsolkit.common.files import atomic_write_text
from wsolkit.methods.registry import declared, study_methods
from wsolkit.runs.config import DATASETS, RunConfig, convert
from wsolkit.sweep.jobs import Grid

BACKBONES = ("vgg16", "resnet18")
PARAMETERS = {item.name: item.default for item in fields(RunConfig) if item.name != "given"}
LISTS = ("backbones", "methods", "seeds")
ONCE = ("dataset", "datasets", "out", "jobs", "seed", "seeds", "device")  # not in a section of `datasets`
PATHS = ("root", "metadata", "masks", "out", "weights")


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses a key that stands twice in a mapping (the first would be lost)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise ValueError(f"key '{key.value}' stands twice (again in line {key.start_mark.line + 1})")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read(path: str | Path) -> dict[str, Any]:
    """The content of a sweep file, checked and in the form that `grids` takes.

    Raises:
        ValueError, FileNotFoundError: names file, key, value and what is expected.
    """
    path = Path(path)
    if not path.is_file():
        problem = "is no file" if path.exists() else "not found"
        raise FileNotFoundError(f"sweep file '{path}' {problem}; expected a YAML file, see `wsolkit sweep --help`")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
        found = _section(content, path.resolve().parent)
        grids(found)  # what is wrong in it is found before it is joined with anything
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = str(getattr(error, "problem", error)).splitlines()[0]
        raise ValueError(f"{path} is not readable YAML{where}: {problem}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file in UTF-8") from None
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"{path}: {error}") from None
    return found


def _section(content: Any, base: Path, inside: str = "") -> dict[str, Any]:
    """Check the keys of the file, or of a section of `datasets` (whose name stands in `inside`)."""
    if not isinstance(content, dict):
        raise ValueError(f"{inside or 'the file'} must be a mapping of keys to values, but is {_shown(content)}")
    allowed = [*PARAMETERS, *LISTS, "limits", *([] if inside else ["jobs", "datasets"])]
    allowed = [key for key in allowed if not (inside and key in ONCE)]
    found: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{inside}.{key}" if inside else f"{key}"
        if key not in allowed:
            near = difflib.get_close_matches(str(key), allowed, 1)
            what = "cannot be set for one data set" if inside and key in ONCE else "is unknown"
            hint = f"did you mean '{near[0]}'?" if near else "`wsolkit sweep --help` lists the parameters"
            raise ValueError(f"key '{name}' {what}; " + ("set it for all" if "cannot" in what else hint))
        if key in LISTS:
            found[key] = _list(name, key, value)
        elif key == "limits":
            found[key] = _limits(name, value)
        elif key == "jobs":
            found[key] = _whole(name, value, 0)
        elif key == "datasets":
            found[key] = _datasets(value, base)
        else:
            found[key] = _parameter(name, key, value, base)
    for one, many in (("seed", "seeds"), ("backbone", "backbones"), ("dataset", "datasets")):
        if one in found and many in found:
            raise ValueError(f"{inside + ': ' if inside else ''}give '{one}' or '{many}', not both")
    return _joined(found)


def _joined(values: dict[str, Any]) -> dict[str, Any]:
    """One way to say it: a single seed or backbone is a list of one, a limit for all is the limit of the method ""."""
    for one, many in (("seed", "seeds"), ("backbone", "backbones")):
        if one in values:
            values[many] = [values.pop(one)]
    if values.get("limit"):
        values["limits"] = {"": values.pop("limit"), **values.get("limits", {})}
    return values


def _parameter(name: str, key: str, value: Any, base: Path) -> Any:
    default = PARAMETERS[key]
    kind = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}.get(type(default), "a list")
    kind = "a number or a list of names or numbers" if key == "classes" else kind
    wrong = f"{name} must be {kind}, but is {_shown(value)}"
    if isinstance(value, bool) and isinstance(default, str):
        wrong += "; YAML takes yes, no, on and off for true and false unless they are quoted"
    kinds = (str, int, float, type(None), *((list,) if key in ("classes", "lr_steps") else ()))
    if not isinstance(value, kinds) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(wrong)
    if key == "classes" and isinstance(value, bool):
        raise ValueError(wrong)
    if key == "classes" and isinstance(value, list):
        if any(isinstance(item, bool) or not isinstance(item, str | int) for item in value):
            raise ValueError(wrong)
        value = [str(item) for item in value]
    elif key == "classes" and isinstance(value, float):
        raise ValueError(wrong)
    try:
        value = convert(key, value, default)
    except ValueError:
        raise ValueError(wrong) from None
    if key == "limit":
        value = _whole(name, value, 0)
    if key in PATHS and value not in ("", "none", "imagenet"):
        try:
            value = str((base / Path(value).expanduser()).resolve())
        except (RuntimeError, ValueError) as error:  # ~ of nobody, a null character
            raise ValueError(f"{name} is no path: {_shown(value)} ({error})") from None
    return value


def _list(name: str, key: str, value: Any) -> list:
    items = [item.strip() for item in value.split(",")] if isinstance(value, str) else value
    items = [items] if isinstance(items, int) and not isinstance(items, bool) else items
    if not isinstance(items, list) or not items:
        raise ValueError(f"{name} must be a list with at least one entry, but is {_shown(value)}")
    if key == "seeds":
        return [_whole(name, item, 0) for item in items]
    if strange := [item for item in items if not isinstance(item, str) or not item]:
        raise ValueError(f"{name} must be a list of names, but holds {_shown(strange[0])}")
    return [declared(item).name for item in items] if key == "methods" else items


def _limits(name: str, value: Any) -> dict[str, int]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a mapping from methods to numbers of images, but is {_shown(value)}")
    limits: dict[str, int] = {}
    for method, number in value.items():
        if declared(str(method)).name in limits:
            raise ValueError(f"{name} has two entries for {declared(str(method)).name} (the second is '{method}')")
        limits[declared(str(method)).name] = _whole(f"{name}.{method}", number, 1)
    return limits


def _datasets(value: Any, base: Path) -> dict[str, dict[str, Any]]:
    if not isinstance(value, dict) or not value:
        raise ValueError(f"datasets must be a mapping from data sets to their keys, but is {_shown(value)}")
    for name in value:
        if name not in DATASETS:
            near = difflib.get_close_matches(str(name), DATASETS, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ValueError(f"datasets: '{name}' is none of {', '.join(DATASETS)}{hint}")
    return {name: _section({} if own is None else own, base, f"datasets.{name}") for name, own in value.items()}


def _whole(name: str, value: Any, low: int) -> int:
    number = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
    if isinstance(number, bool) or not isinstance(number, int) or number < low:
        raise ValueError(f"{name} must be a whole number of at least {low}, but is {_shown(value)}")
    return number


def _shown(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "empty"
    short = reprlib.Repr()  # a few lines of YAML can stand for a billion values
    short.maxlevel, short.maxlist, short.maxdict, short.maxstring, short.maxother = 2, 4, 4, 60, 60
    text = short.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def grids(content: dict[str, Any], given: dict[str, Any] | None = None) -> list[Grid]:
    """One grid for each data set.

    Args:
        content: of a file, as `read` returns it; {} without one.
        given: on the command line, in the same form without `datasets`; it wins over the file.

    Raises:
        ValueError: for a value that is none, or that does not go with the others.
    """
    given = _joined(dict(given or {}))
    sections = content.get("datasets") or {content.get("dataset", RunConfig.dataset): {}}
    if wanted := given.get("dataset"):
        if "datasets" in content and wanted not in sections:
            raise ValueError(f"dataset '{wanted}' is none of the file's datasets {', '.join(sections)}")
        sections = {wanted: sections.get(wanted, {})}
    common = {key: value for key, value in content.items() if key not in ("datasets", "dataset", "jobs")}
    found = [{**common, **own, **given, "dataset": name} for name, own in sections.items()]
    methods = list(dict.fromkeys(name for values in found for name in values.get("methods", study_methods())))
    # the command line may choose fewer methods than the file has limits for
    limited = dict.fromkeys(name for values in ([given] if given else found) for name in values.get("limits", ()))
    if strangers := [name for name in limited if name and name not in methods]:
        raise ValueError(f"a limit is for {', '.join(strangers)}, which is not among the methods {', '.join(methods)}")
    return [_grid(values) for values in found]


def _grid(values: dict[str, Any]) -> Grid:
    backbones, methods = (
        values.pop(key, some) for key, some in (("backbones", BACKBONES), ("methods", study_methods()))
    )
    seeds, limits = values.pop("seeds", [RunConfig.seed]), values.pop("limits", {})
    if not methods or not backbones:
        raise ValueError("give at least one method and one backbone")
    limits = {name: number for name, number in limits.items() if not name or name in methods}
    config = RunConfig.make(**{**values, "backbone": backbones[0], "seed": seeds[0]})
    for backbone in backbones:
        config.for_backbone(backbone)
    return Grid(config, tuple(backbones), tuple(methods), limits, tuple(seeds))


def store(grid: Grid) -> Path:
    """Write the specification of a sweep as OUT/runs/<dataset>/sweep.yaml, which `read` takes."""
    limits = {name: number for name, number in grid.limits.items() if name}
    values: dict[str, Any] = {
        "dataset": grid.config.dataset, "backbones": list(grid.backbones), "methods": list(grid.methods),
        "seeds": list(grid.seeds or (grid.config.seed,)), "limits": limits,
    }  # fmt: skip
    others = {
        name: value for name, value in grid.config.given.items() if name not in ("dataset", "backbone", "seed", "out")
    }
    values |= {name: list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
               for name, value in others.items()}  # fmt: skip
    values |= {"limit": grid.limits[""]} if "" in grid.limits else {}
    text = "# What the last sweep of this data set was asked for: `wsolkit sweep --file` takes it.\n"
    path = grid.home / "sweep.yaml"
    atomic_write_text(path, text + yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    return path
