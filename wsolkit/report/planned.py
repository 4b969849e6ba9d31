"""Runs that a sweep has planned (OUT/runs/<dataset>/sweep.yaml) and that have left nothing: the rows "missing"."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from wsolkit.methods.registry import declared
from wsolkit.report.rows import empty_row

MOST = 20_000  # planned runs of one file: more is a mistake in it


def _list(content: dict, name: str, default: list) -> list[str]:
    value = content.get(name, default)
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list) or not all(isinstance(item, str | int) for item in value):
        raise ValueError(f"{name} should be a list of names or numbers, got {value!r}")
    return list(dict.fromkeys(str(item).strip() for item in value))


def _grid(path: Path) -> tuple[list[int], list[str], list[str]]:
    """Seeds, backbones and methods of a stored specification; ValueError says what is wrong with it."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"it is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"it should hold a mapping, got {type(content).__name__}")
    seeds = [int(seed) for seed in _list(content, "seeds", [content.get("seed", 0)]) or ["0"]]
    backbones = _list(content, "backbones", [])
    methods = [declared(method).name for method in _list(content, "methods", [])]
    if any(not name or "/" in name or name.startswith(".") for name in (*backbones, *methods)):
        raise ValueError("a name of a backbone or method is empty, begins with a dot or has a slash")
    if len(seeds) * len(backbones) * len(methods) > MOST:
        raise ValueError(f"it plans more than {MOST} runs")
    return seeds, backbones, methods


def missing_rows(out: str | Path, rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """What was planned under OUT and is not among `rows` (`read_rows`), and a sentence about each plan that cannot be read.

    A row says "missing", or "undefined" where the method has no meaning on the network; `error` says why.
    """
    out = Path(out)
    folders = {row["source"].parent for row in rows}
    known = {(row["dataset"], row["backbone"], row["slug"], row["seed"]) for row in rows}
    found, notes = [], []
    for path in sorted(out.glob("runs/*/sweep.yaml")):
        dataset = path.parent.name
        try:
            seeds, backbones, methods = _grid(path)
        except (ValueError, OSError) as error:
            notes.append(
                f"{path.relative_to(out)} cannot be used ({error}), so missing runs of {dataset} are not shown."
            )
            continue
        for seed, backbone, method in product(seeds, backbones, methods):
            home = out if seed == seeds[0] else out / f"seed-{seed}"
            row = empty_row(home, out, dataset, backbone, declared(method).slug) | {"seed": seed, "method": method}
            if row["source"].parent in folders or (dataset, backbone, row["slug"], seed) in known:
                continue
            reason = declared(method).undefined(backbone)
            text = f"planned in runs/{dataset}/sweep.yaml, without a result yet; run the sweep again"
            found.append(row | {"status": "undefined" if reason else "missing", "error": reason or text})
    return found, notes
