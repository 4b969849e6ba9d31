"""Files of a training: best.pt, which is the model; last.pt, from which it goes on; previous.pt, should last.pt be damaged.

Every file carries a checksum of its content and takes its place by rename. last.pt is written first and holds the best
weights too; best.pt follows it, and is written again from last.pt when a training goes on. So whenever the process dies,
one of last.pt and previous.pt is whole, and best.pt is the best epoch of a training that did take place.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import atomic_path
from wsolkit.networks.models import WSOLModel

FORMAT = 2  # 1 had no checksum


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> tuple[WSOLModel, dict]:
    """Rebuild a trained model from best.pt: the model in evaluation mode and {"classes", "geometry",
    "epoch", "recipe", "spec"}."""
    from wsolkit.networks.models import build_model
    from wsolkit.networks.ts_cam import rebuild

    content = read(Path(path))
    if not {"spec", "classes", "model"} <= set(content):
        raise WsolkitError(f"{path} is no wsolkit model checkpoint (best.pt); point to the best.pt of a training run")
    spec = content["spec"]
    model = rebuild(**spec) if spec["backbone"] == "ts_cam" else build_model(**spec, weights="none")
    model.load_state_dict(content.pop("model"))
    return model.to(device).eval(), content


def load_state(folder: Path, identity: str) -> dict | None:
    """Content of last.pt, or of previous.pt (which takes its place, with a warning) where last.pt is damaged or foreign;
    None where there is neither. Half-written files of a killed process are removed.

    Raises:
        ValueError: where neither can be used, saying why.
    """
    for stale in folder.glob(".*.pt.*.part"):
        stale.unlink(missing_ok=True)
    problems = []
    for path in (folder / "last.pt", folder / "previous.pt"):
        if not path.exists():
            continue
        try:
            state = read(path, "")
            if state.get("identity") != identity:
                raise WsolkitError(f"{path} belongs to another recipe, network or data")
        except ValueError as error:
            problems.append(str(error))
            continue
        if path.name == "previous.pt":
            os.replace(path, folder / "last.pt")
            reason = problems[0] if problems else f"{folder / 'last.pt'} is missing"
            warnings.warn(f"{reason}; the training goes on from previous.pt, a little earlier", stacklevel=3)
        return state
    if problems:
        raise WsolkitError(
            "; ".join(problems) + "; pass resume=False (or delete them) to train anew, or choose another out"
        )
    return None


def save_state(folder: Path, content: dict) -> None:
    """Replace last.pt; the one before it stays as previous.pt."""
    with atomic_path(folder / "last.pt") as part:
        _write(part, content)
        _keep_previous(folder / "last.pt", folder / "previous.pt")


def _keep_previous(last: Path, previous: Path) -> None:
    if last.exists():
        previous.unlink(missing_ok=True)
        try:
            os.link(last, previous)
        except OSError:  # a file system without hard links
            os.replace(last, previous)


def start_anew(folder: Path) -> None:
    """Remove what an earlier training left."""
    for name in ("last.pt", "previous.pt", "best.pt", "history.csv"):
        with suppress(FileNotFoundError):
            (folder / name).unlink()


def save(path: Path, content: dict) -> None:
    with atomic_path(path) as part:
        _write(part, content)


def _write(path: Path, content: dict) -> None:
    content = {"format": FORMAT, **_on_cpu(content)}
    torch.save({**content, "checksum": checksum(content)}, path)


def read(path: Path, advice: str = "; delete it and train again") -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} not found; train first, e.g. with `wsolkit train`")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict) or content.get("format") not in (1, FORMAT):
            raise WsolkitError("not a checkpoint of this package")
        if content["format"] == FORMAT and content.pop("checksum", "") != checksum(content):
            raise WsolkitError("its content does not fit its checksum")
        return content
    except Exception as error:  # a truncated or foreign file fails in many ways
        reason = (str(error) or type(error).__name__).splitlines()[0][:150]
        raise WsolkitError(f"checkpoint {path} cannot be read ({reason}){advice}") from error


def checksum(content: Any) -> str:
    """SHA-256 of nested dicts, lists, tuples, tensors and plain values; the same on every device and memory format."""
    found = hashlib.sha256()

    def take(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.update(f"{value.dtype}{tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        elif isinstance(value, dict):
            found.update(f"dict{len(value)}".encode())
            for key, item in value.items():
                take(key)
                take(item)
        elif isinstance(value, list | tuple):
            found.update(f"{type(value).__name__}{len(value)}".encode())
            for item in value:
                take(item)
        else:
            found.update(f"{type(value).__name__} {value!r};".encode())

    take(content)
    return found.hexdigest()


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_on_cpu(item) for item in value)
    return value
