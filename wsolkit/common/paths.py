"""Where the project and its notebooks are."""

from __future__ import annotations

from pathlib import Path

from wsolkit.common.code import PACKAGE

MARKS = ("sweep.yaml", "pyproject.toml")  # beside notebooks/: a folder that `wsolkit init` made, or a checkout


def project_folder() -> Path | None:
    """The folder, here or above, that holds notebooks/ and sweep.yaml or pyproject.toml; None where there is none."""
    folders = (folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "notebooks").is_dir())
    return next((folder for folder in folders if any((folder / mark).is_file() for mark in MARKS)), None)


def project_path(path: str | Path) -> Path:
    """Absolute path of `path`; a relative one starts at the project's folder, else at the current one."""
    path = Path(path).expanduser()
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
    return project / "notebooks" if project and (project / MARKS[0]).is_file() else packaged_notebooks()
