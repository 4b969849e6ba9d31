"""Digests of what a result was made from: code, notebooks, page templates, data files, start weights. No torch here."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Any

from wsolkit.common.code import PACKAGE, code_state
from wsolkit.common.files import digest

# code counts by wing
TRAINING_SOURCES = ("common", "data", "networks", "training", "methods/has.py", "methods/cutmix.py", "methods/adl.py",
                    "methods/acol.py", "methods/rethinking_cam.py")  # fmt: skip
LOCALISING_SOURCES = (*TRAINING_SOURCES, "methods", "localisation")
SCORING_SOURCES = (*LOCALISING_SOURCES, "boxes", "evaluation")
# what writes pages and computes nothing: a change there writes pages again, and runs nothing
PAGE_SOURCES = tuple(
    sorted(
        f"report/{path.name}"
        for path in (PACKAGE / "report").glob("*.py")
        if not path.name.startswith(("index", "planned"))
    )
)
NATIVE_FOLDERS = ("CUB_200_2011", "tiny-imagenet-200")


@cache
def page_state() -> str:
    """Digest of the style, the templates and the code of report pages."""
    total = hashlib.sha256(code_state(PAGE_SOURCES).encode())
    for path in sorted(
        path for kind in ("css", "j2", "js") for path in (PACKAGE / "report" / "templates").glob(f"*.{kind}")
    ):
        if not path.name.startswith("index."):  # the index is written anew by every sweep
            total.update(path.read_bytes())
    return total.hexdigest()[:16]


def notebook_state(path: Path) -> str:
    """Digest of a notebook's cells (outputs and metadata do not count)."""
    import json

    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return digest([[cell["cell_type"], "".join(cell["source"])] for cell in cells])


@cache
def data_state(root: str) -> str:
    """Digest of names, sizes and modification times of all files below a folder of data; "" where there is none."""
    if not root:
        return ""
    base = Path(root).resolve()
    base = next(
        (base / name for name in NATIVE_FOLDERS if (base / name).is_dir()), base
    )  # a parent folder is a root too
    if not base.is_dir():
        raise FileNotFoundError(f"folder of data '{root}' not found; expected a folder in the dataset's own layout")
    total = hashlib.sha256()
    for folder, folders, files in os.walk(base):
        folders.sort()
        for name in sorted(files):
            path = os.path.join(folder, name)
            info = os.stat(path)
            total.update(f"{os.path.relpath(path, base)}|{info.st_size}|{info.st_mtime_ns}\n".encode())
    return total.hexdigest()[:16]


@cache
def weights_state(weights: str) -> str:
    """Digest of the start weights: a name, or the content of a file."""
    if weights in ("none", "imagenet"):
        return weights
    path = Path(weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"weights '{weights}' not found; expected 'imagenet', 'none' or a .safetensors or .pth file"
        )
    with open(path, "rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest()[:16] if hasattr(hashlib, "file_digest") else _sha256(file)
        )


def _sha256(file: Any) -> str:
    total = hashlib.sha256()
    for block in iter(lambda: file.read(1 << 20), b""):
        total.update(block)
    return total.hexdigest()[:16]
