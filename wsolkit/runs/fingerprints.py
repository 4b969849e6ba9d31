"""Digests of what a result was made from: code, notebooks, page templates, data files, start weights. No torch here.

Code counts by wing. A training run depends on the wings of training and, where a method changes its step, on that
method's file; the values that a variant chooses (pooling, recipe, settings) are in its key themselves. The numbers of a
report depend also on the wings of scoring, on what all methods share, and on the files of its method and of plain CAM,
to which it is compared. What draws and writes pages computes nothing: a change there writes pages again, and no more.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from wsolkit.common.code import PACKAGE, code_state
from wsolkit.common.files import digest, files_below
from wsolkit.methods.registry import METHODS, Method, Variant, resolve

TRAINING_WINGS = ("common", "data", "networks", "training")
SCORING_WINGS = ("boxes", "localisation", "evaluation")  # beside those of the training runs that a report scores
NATIVE_FOLDERS = ("CUB_200_2011", "tiny-imagenet-200")
TEXTS = (".txt", ".csv", ".json", ".xml", ".yaml", ".yml", ".tsv")  # annotations: their whole content counts
END = 1024  # bytes at each end of any other file that count


def training_code(variant: Variant) -> str:
    """Digest of the code that trains a variant."""
    objective = variant.objective()
    own = [type(objective).__module__] if objective else []
    return code_state((*TRAINING_WINGS, *_files(own)))


def localising_code(method: Method) -> str:
    """Digest of the code that makes a method's score maps, training included."""
    return code_state((*TRAINING_WINGS, "localisation", *_method_files(method)))


def scoring_code(method: Method) -> str:
    """Digest of the code that scores a method, without that of training."""
    files = [*_method_files(resolve("cam")), *_method_files(method)]
    return code_state((*SCORING_WINGS, *dict.fromkeys(files)))


def _method_files(method: Method) -> list[str]:
    """What methods share, the file that declares a method, and the files of other methods that this one uses."""
    wanted, used = [method.module, method.function.__module__], set(_shared())
    while wanted:
        if (module := wanted.pop()) not in used:
            used.add(module)
            wanted += _imports(module)
    return _files(sorted(used))


@cache
def _shared() -> tuple[str, ...]:
    """Modules of the wing that declare no method."""
    declaring = {method.module for method in METHODS.values()}
    names = [f"wsolkit.methods.{path.stem}" for path in sorted((PACKAGE / "methods").glob("*.py"))]
    return tuple(name for name in names if name not in declaring and not name.endswith("__init__"))


@cache
def _imports(module: str) -> tuple[str, ...]:
    """Modules of the wing that a module imports names from."""
    nodes = [node for name in _files([module]) for node in ast.walk(ast.parse((PACKAGE / name).read_text("utf-8")))]
    names = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return tuple(name for name in names if name.startswith("wsolkit.methods."))


def _files(modules: list[str]) -> list[str]:
    """The files of modules, relative to the package; a method that is none of the package's has none."""
    return [name.removeprefix("wsolkit.").replace(".", "/") + ".py" for name in modules if name.startswith("wsolkit.")]


@cache
def page_state() -> str:
    """Digest of the style, the templates and the code of report pages (the index is written anew by every sweep)."""
    files = [path for wing in ("figures", "report") for path in sorted((PACKAGE / wing).rglob("*.*"))]
    files = [path for path in files if not path.name.startswith("index")]
    total = hashlib.sha256(code_state(tuple(str(path) for path in files if path.suffix == ".py")).encode())
    for path in files:
        if path.suffix in (".css", ".j2", ".js", ".mplstyle"):
            total.update(path.read_bytes())
    return total.hexdigest()[:16]


def notebook_state(path: Path) -> str:
    """Digest of a notebook's cells (outputs and metadata do not count)."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return digest([[cell["cell_type"], "".join(cell["source"])] for cell in cells])


@cache
def data_state(root: str) -> str:
    """Digest of the files below a folder of data; "" where there is none. A copy elsewhere has the same one.

    Names, sizes, the whole content of annotation files and both ends of all others count: of 12,000 images of 100 KB
    that takes 0.4 s, where to read all of them takes 1.5 s (more from a disk), in every process. An image cannot change
    in its middle and keep its size and its ends: PNG ends in checksums, and the rest of a JPEG stream follows from what
    is before. Links are followed.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not root:
        return ""
    base = Path(root).resolve()
    inside = (base / name for name in NATIVE_FOLDERS if (base / name).is_dir())
    base = next(inside, base)  # a parent folder is a root too
    if not base.is_dir():
        raise FileNotFoundError(f"folder of data '{root}' not found; expected a folder in the dataset's own layout")
    total = hashlib.sha256()
    for name, path in files_below(str(base)):
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            total.update(f"{name}|{size}\n".encode())
            if path.endswith(TEXTS):
                total.update(hashlib.file_digest(file, "sha256").digest())
            else:
                total.update(file.read(END))
                file.seek(max(0, size - END))
                total.update(file.read(END))
    return total.hexdigest()[:16]


@cache
def weights_state(weights: str) -> str:
    """Digest of the start weights: a name, or the content of a file."""
    if weights in ("none", "imagenet"):
        return weights
    if not Path(weights).is_file():
        need = "expected 'imagenet', 'none' or a .safetensors or .pth file"
        raise FileNotFoundError(f"weights '{weights}' not found; {need}")
    with open(weights, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def changes(old: dict[str, Any], new: dict[str, Any], notebook: str) -> list[str]:
    """What differs between the parts of two results (`RunConfig.training_parts`, `report_parts`) but for training runs.

    As text: the parameters first, with both values, then digests; `notebook` makes the new result."""
    told = {"data": "data", "metadata": "metadata", "masks": "masks", "start": "start weights"}
    told |= {"code": f"code of {'scoring' if 'trainings' in new else 'training'}", "notebook": f"notebook {notebook}"}
    lines = []
    for name in [name for name in new | old if name not in (*told, "trainings")] + list(told):
        before, now = (list(v) if isinstance(v, tuple) else v for v in (old.get(name), new.get(name)))
        if before != now:
            values = "" if name in told else f" from {_shown(before)} to {_shown(now)}"
            lines.append(f"{told.get(name, f'parameter {name}')} changed{values}")
    return lines


def _shown(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else "nothing" if value in (None, "") else str(value)
    return text if len(text) <= 40 else text[:37] + "..."
