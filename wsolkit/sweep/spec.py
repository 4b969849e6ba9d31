"""What a sweep is asked for as a YAML file: read, checked, joined with the command line, and stored with the results.

Keys are the parameters of `RunConfig` by name, and those of `SweepFile`. Relative paths start at the file's folder. No torch
import here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import atomic_write_text, read_yaml
from wsolkit.common.parameters import nearest, parameter, shown
from wsolkit.data.catalogue import DATASETS
from wsolkit.methods.registry import declared, study_methods, training_methods
from wsolkit.networks.backbones import BACKBONES
from wsolkit.runs.folder import SWEEP
from wsolkit.runs.parameters import RunConfig, absolute
from wsolkit.sweep.jobs import Grid

ONCE = ("dataset", "datasets", "out", "jobs", "seed", "seeds", "device")  # not in a section of `datasets`
NAMES, NUMBERS = (
    {"title": f"a list of {kind} with at least one entry", "min_length": 1} for kind in ("names", "whole numbers")
)


class SweepFile(RunConfig):
    """The keys of a sweep file: those of `RunConfig`, and lists of what is combined."""

    backbones: tuple[str, ...] = parameter(("vgg16", "resnet18"), f"of {', '.join(BACKBONES)}", **NAMES)
    methods: tuple[str, ...] = parameter(
        study_methods(), f"training-time methods ({', '.join(training_methods())}) and grad-cam's work too", **NAMES
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = parameter(
        (), "the same grid with each seed; the first in OUT, the others in OUT/seed-N", **NUMBERS
    )
    limits: dict[str, Annotated[int, Field(ge=1)]] = parameter(
        {}, "images per method; `limit` is for all others", title="a mapping from methods to numbers of images"
    )
    jobs: int = parameter(
        1, "runs at a time, with --dask one per thread of the cluster; 0 is one per core, at most 4, or per GPU", ge=0
    )
    datasets: dict[str, Any] = parameter(
        {}, "replace the common keys there, not `dataset`", title="a mapping from data sets to their keys", min_length=1
    )


def read(path: str | Path) -> dict[str, Any]:
    """The content of a sweep file, checked and in the form that `grids` takes.

    Raises:
        WsolkitError, FileNotFoundError: names file, key, value and what is expected.
    """
    path = Path(path)
    if not path.is_file():
        problem = "is no file" if path.exists() else "not found"
        raise FileNotFoundError(f"sweep file '{path}' {problem}; expected a YAML file, see `wsolkit sweep --help`")
    values = read_yaml(path)
    try:
        content = section(values, path.resolve().parent)
        grids(content)  # a mistake in it is reported before it is joined with anything
    except WsolkitError as error:
        raise WsolkitError(f"{path}: {error}") from None
    return content


def section(content: Any, base: Path, inside: str = "") -> dict[str, Any]:
    """Check keys and values, and give what is said in one form: a single seed or backbone is a list of one, a limit for all is
    the limit of the method "", paths are absolute.

    Args:
        content: of a file, of one of its `datasets` (whose name is in `inside`), or options of the command line.
        base: the folder where relative paths start.
    """
    prefix = f"{inside}: " if inside else ""
    if not isinstance(content, dict):
        raise WsolkitError(f"{inside or 'the file'} must be a mapping of keys to values, but is {shown(content)}")
    content = {str(key): value for key, value in content.items()}
    if inside and (once := [key for key in content if key in ONCE]):
        raise WsolkitError(f"key '{inside}.{once[0]}' cannot be set for one data set; set it for all")
    try:
        said = SweepFile(**{key: value for key, value in content.items() if not SweepFile.is_empty(key, value)})
        values = absolute({key: getattr(said, key) for key in content if key in said.model_fields_set}, base)
    except WsolkitError as error:
        text = f"{prefix}{error}"
        if text.endswith((" True", " False")):
            text += "; YAML takes yes, no, on and off for true and false unless they are quoted"
        elif "unknown parameter" in text and not text.endswith("?"):
            text += "; `wsolkit sweep --help` lists the parameters"
        raise WsolkitError(text) from None
    for single, several in (("seed", "seeds"), ("backbone", "backbones"), ("dataset", "datasets")):
        if single in values and several in values:
            raise WsolkitError(f"{prefix}give '{single}' or '{several}', not both")
        if single in values and single != "dataset":
            values[several] = (values.pop(single),)
    if "methods" in values:
        values["methods"] = tuple(declared(name).name for name in values["methods"])
    limits = {declared(name).name: number for name, number in values.get("limits", {}).items()}
    if len(limits) < len(values.get("limits", {})):
        raise WsolkitError(f"{prefix}limits has two entries for one method: {', '.join(values['limits'])}")
    limits = ({"": values.pop("limit")} if values.get("limit") else {}) | limits
    values |= {"limits": limits} if limits else {}
    for name, own in values.get("datasets", {}).items():
        if name not in DATASETS:
            raise WsolkitError(f"datasets: '{name}' is none of {', '.join(DATASETS)}{nearest(name, DATASETS)}")
        values["datasets"][name] = section({} if own is None else own, base, f"datasets.{name}")
    return values


def grids(content: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> list[Grid]:
    """One grid for each data set.

    Args:
        content: of a file, as `read` returns it; {} without one.
        given: on the command line, as `section` returns it; it wins over the file.

    Raises:
        WsolkitError: for a value that does not go with the others.
    """
    given = dict(given or {})
    sections = content.get("datasets") or {content.get("dataset", "synthetic"): {}}
    if wanted := given.get("dataset"):
        if "datasets" in content and wanted not in sections:
            raise WsolkitError(f"dataset '{wanted}' is none of the file's datasets {', '.join(sections)}")
        sections = {wanted: sections.get(wanted, {})}
    plain = {name: SweepFile.model_fields[name].default for name in ("backbones", "methods", "limits")}
    plain["seeds"] = (SweepFile.model_fields["seed"].default,)
    whole = [{**plain, **content, **own, **given, "dataset": name} for name, own in sections.items()]
    methods = list(dict.fromkeys(name for values in whole for name in values["methods"]))
    # the command line may choose fewer methods than the file has limits for
    limited = dict.fromkeys(name for values in ([given] if given else whole) for name in values.get("limits", ()))
    if strangers := ", ".join(name for name in limited if name and name not in methods):
        raise WsolkitError(f"a limit is for {strangers}, which is not among the methods {', '.join(methods)}")
    result = []
    for values in whole:
        shared = {name: value for name, value in values.items() if name in RunConfig.model_fields}
        several = [{"backbone": name, "seed": values["seeds"][0]} for name in values["backbones"]]
        configs = [RunConfig.make(**{**shared, **single}) for single in several]  # each backbone has its own mistakes
        limits = {name: number for name, number in values["limits"].items() if not name or name in values["methods"]}
        grid = Grid(configs[0], tuple(values["backbones"]), tuple(values["methods"]), limits, tuple(values["seeds"]))
        result.append(grid)
    return result


def store(grid: Grid) -> Path:
    """Write the specification of a sweep as OUT/runs/<dataset>/sweep.yaml, which `read` takes."""
    config = grid.config.to_dict()
    values = {"dataset": config["dataset"], "backbones": list(grid.backbones), "methods": list(grid.methods),
              "seeds": list(grid.seeds or (config["seed"],)), "limits": {n: k for n, k in grid.limits.items() if n}}  # fmt: skip
    left_out = ("dataset", "backbone", "seed", "out")
    values |= {name: config[name] for name in grid.config.given if name not in left_out}
    values |= {"limit": grid.limits[""]} if "" in grid.limits else {}
    text = "# What the last sweep of this data set was asked for: `wsolkit sweep --file` takes it.\n"
    path = grid.home / SWEEP
    atomic_write_text(path, text + yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    return path
