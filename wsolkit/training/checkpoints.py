"""Files of a training run: best.pt, the model; last.pt, from which it goes on; previous.pt, should last.pt be damaged.

Every file carries a checksum of its content and takes its place by rename. last.pt is written first and holds the best
weights too; best.pt follows it, and is written again from last.pt when a training run goes on. So whenever the process
dies, one of last.pt and previous.pt is whole, and best.pt is the best epoch of a training run that did take place.
"""

from __future__ import annotations

import hashlib
import os
import time
import warnings
import zipfile
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from wsolkit.common.errors import WsolkitError, reason, require
from wsolkit.common.files import atomic_path, atomic_write_text, keep_foreign
from wsolkit.common.processes import agreed, rank
from wsolkit.networks.models import WSOLModel, rebuild
from wsolkit.training import CHECKPOINT, EARLIER, HISTORY, HISTORY_COLUMNS, WEIGHTS

FORMAT = 2
MARK = "formatq\x01K"  # near the beginning of a best.pt: the pickled key and a small number


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> tuple[WSOLModel, dict]:
    """Rebuild a trained model from best.pt: the model in evaluation mode and {"classes", "geometry",
    "epoch", "recipe", "spec"}."""
    content = checkpoint(path)
    return restored(content, device), content


def checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a best.pt; WsolkitError names a file that is none."""
    content = read(Path(path))
    if not {"spec", "classes", "model"} <= set(content):
        raise WsolkitError(f"{path} is no wsolkit model checkpoint (best.pt); point to the best.pt of a training run")
    return content


def restored(content: dict[str, Any], device: str | torch.device = "cpu") -> WSOLModel:
    """The network of a best.pt's content, whose weights are taken out."""
    model: Any = rebuild(**content["spec"])
    model.load_state_dict(content.pop("model"))
    return model.to(device).eval()


@dataclass
class Progress:
    """How far a training run is.

    Attributes:
        epoch: finished epochs.
        step, sums, seconds: done in the epoch after them; sums are loss times images, right ones, images.
        history: one dictionary per finished epoch, keys HISTORY_COLUMNS.
        best: {"score": [top1, -loss], "epoch": int, "model": weights} of the best finished epoch.
    """

    epoch: int = 0
    step: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    seconds: float = 0.0
    history: list[dict] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)


class Files:
    """Writes the folder of a training run (None: nothing is written); of several processes the first does it alone.

    Args:
        identity: of recipe, network and data; only last.pt of the same identity is gone on from.
        about: what best.pt says of the model beside its weights.
        every: seconds after which last.pt is `due` within an epoch; 0 is never.
    """

    def __init__(self, folder: Path | None, identity: str, about: dict[str, Any], every: float) -> None:
        self.folder, self.every = folder if rank() == 0 else None, every if folder is not None else 0.0
        self.identity, self.about, self.written = identity, about, time.monotonic()

    def due(self) -> bool:
        """Whether last.pt is older than `every` seconds; all processes get the first one's answer."""
        return self.every > 0 and agreed(time.monotonic() - self.written >= self.every)

    def write_last(self, now: Progress, model: WSOLModel, optimiser: torch.optim.Optimizer) -> None:
        """Replace last.pt; the one before it stays as previous.pt."""
        if self.folder is None:
            return
        last, previous = self.folder / CHECKPOINT, self.folder / EARLIER
        states = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
        with atomic_path(last) as part:
            _write(part, {"identity": self.identity, "progress": dict(vars(now)), **states})
            if last.exists():
                previous.unlink(missing_ok=True)
                try:
                    os.link(last, previous)
                except OSError:  # a file system without hard links
                    os.replace(last, previous)
        self.written = time.monotonic()

    def write_results(self, now: Progress, improved: bool = True) -> None:
        """history.csv and, where the last epoch was the best, best.pt, from what last.pt knows; never before it."""
        if self.folder is None:
            return
        if improved and now.best:
            with atomic_path(self.folder / WEIGHTS) as part:
                _write(part, {**self.about, "epoch": now.best["epoch"], "model": now.best["model"]})
        history = pd.DataFrame(now.history, columns=[*HISTORY_COLUMNS])
        atomic_write_text(self.folder / HISTORY, history.to_csv(index=False, lineterminator="\n"))


def load_state(folder: Path, identity: str, resume: bool = True) -> dict | None:
    """Content of last.pt, or of previous.pt (which takes its place, with a warning) where last.pt is damaged or
    foreign; None where there is neither. Half-written files are removed, and without `resume` all files.

    Raises: ValueError: where neither can be used, saying why; where a file that would be replaced is not the kit's.
    """
    last, previous = folder / CHECKPOINT, folder / EARLIER
    # other tools call their files so, too; beside a checkpoint it is ours, and what is no archive at all is damaged
    alone = not last.exists() and not previous.exists()
    own = {folder / WEIGHTS: MARK} if alone and zipfile.is_zipfile(folder / WEIGHTS) else {}
    keep_foreign(own | {folder / HISTORY: ",".join(HISTORY_COLUMNS[:3])})
    others = [] if resume else [last, previous, folder / WEIGHTS, folder / HISTORY]
    for stale in (*folder.glob(".*.part"), *others):
        stale.unlink(missing_ok=True)
    problems = []
    for path in filter(Path.exists, (last, previous)):
        try:
            state = read(path, "")
            require(state.get("identity") == identity, f"{path} belongs to another recipe, network or data")
        except ValueError as error:
            problems.append(str(error))
            continue
        if path == previous:
            os.replace(previous, last)
            reason = problems[0] if problems else f"{last} is missing"
            warnings.warn(f"{reason}; the training run goes on from previous.pt, a little earlier", stacklevel=3)
        return state
    if problems:
        advice = "; delete them (or pass resume=False) to train anew, or choose another out"
        raise WsolkitError("; ".join(problems) + advice)
    return None


def _write(path: Path, content: dict) -> None:
    content = {"format": FORMAT, **content}
    torch.save({**content, "checksum": checksum(content)}, path)


def read(path: Path, advice: str = "; delete it and train again") -> dict:
    """The content of a file of `Files`, on the CPU; pickled code is never run.

    Raises: FileNotFoundError, ValueError: no such file; cut off, changed or foreign (`advice` says what to do).
    """
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} not found; train first, e.g. with `wsolkit train`")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise WsolkitError("not a checkpoint of this version")
        require(content.pop("checksum", "") == checksum(content), "its content does not fit its checksum")
        return content
    except Exception as error:  # a truncated or foreign file fails in many ways
        raise WsolkitError(f"checkpoint {path} cannot be read ({reason(error)}){advice}") from error


def checksum(content: Any) -> str:
    """SHA-256 of nested dicts, lists, tuples, tensors and plain values; the same on every device and memory format."""
    digest = hashlib.sha256()

    def take(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(value, dict | list | tuple):
            kind = "dict" if isinstance(value, dict) else type(value).__name__
            digest.update(f"{kind}{len(value)}".encode())
            for item in chain.from_iterable(value.items()) if isinstance(value, dict) else value:
                take(item)
        else:
            digest.update(f"{type(value).__name__} {value!r};".encode())

    take(content)
    return digest.hexdigest()
