"""The package: digests of what its modules do, functions compiled by numba, and where notebooks and projects are."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

from wsolkit.common.files import given_path

PACKAGE = Path(__file__).resolve().parents[1]
MARKS = ("sweep.yaml", "pyproject.toml")  # beside notebooks/: a folder that `wsolkit init` made, or a checkout


def code_state(sources: tuple[str, ...]) -> str:
    """Digest of what the named modules, folders of modules, and functions or classes that are the only ones of their
    name in a module ("module.py#name") do: comments, layout and docstrings do not count."""
    total = hashlib.sha256()
    for source in sources:
        name, _, only = source.partition("#")
        path = PACKAGE / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            total.update(_state(file, only).encode())
    return total.hexdigest()[:16]


@cache
def _state(file: Path, only: str) -> str:
    tree: ast.AST = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        named = ast.FunctionDef | ast.ClassDef | ast.Module | ast.AsyncFunctionDef
        if isinstance(node, named) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    if only:
        kinds = ast.FunctionDef | ast.ClassDef
        (tree,) = [node for node in ast.walk(tree) if isinstance(node, kinds) and node.name == only]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def compiled(function):
    """`function` compiled by numba on first use, to run without Python's lock. The machine code is kept beside the
    module (or in the user's cache folder)."""
    from numba import njit

    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba found no folder that it can write to: compile for this process alone
        return njit(nogil=True)(function)


def project_folder() -> Path | None:
    """The folder, here or above, that holds notebooks/ and sweep.yaml or pyproject.toml; None where there is none."""
    folders = (folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "notebooks").is_dir())
    return next((folder for folder in folders if any((folder / mark).is_file() for mark in MARKS)), None)


def project_path(path: str | Path) -> Path:
    """Absolute path of `path`; a relative one starts at the project's folder, else at the current one."""
    path = given_path(path, "a path")
    return path if path.is_absolute() else (project_folder() or Path.cwd()) / path


def packaged_notebooks() -> Path:
    """The folder of the notebooks that came with the package: inside a wheel, beside the package in a checkout."""
    for folder in (PACKAGE / "notebooks", PACKAGE.parent / "notebooks"):
        if (folder / "01_train.ipynb").is_file():
            return folder
    raise FileNotFoundError(f"no notebooks in {PACKAGE} or beside it: install wsolkit again")


def notebooks_folder() -> Path:
    """The folder whose notebooks a sweep runs: of the project made by `wsolkit init` that one works in, else the
    package's."""
    project = project_folder()
    ours = project and (project / MARKS[0]).is_file() and (project / "notebooks" / "01_train.ipynb").is_file()
    return project / "notebooks" if project and ours else packaged_notebooks()
