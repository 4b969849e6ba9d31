"""Where the project and its notebooks are."""

from __future__ import annotations

from pathlib import Path

from wsolkit.common.code import PACKAGE


def project_path(path: str | Path) -> Path:
    """Absolute path of `path`; a relative one starts at the project's folder (the one that holds notebooks/ and
    pyproject.toml), also when the caller works in a folder below it, else at the current folder."""
    path = Path(path).expanduser()
    if path.is_absolute():
        return path
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "pyproject.toml").is_file():
            return folder / path
    return here / path


def notebooks_folder() -> Path:
    """The folder of the notebooks: beside the package in a checkout."""
    folder = PACKAGE.parent / "notebooks"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} not found: the notebooks belong to the repository; install it with pip -e")
    return folder
