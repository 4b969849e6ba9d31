"""Score maps of a large set of images, made in parts: by several processes, and again only where one was interrupted.

The images are cut into batches, always the same ones, whoever localises them, so the maps do not depend on the number of
processes. Each process writes parts (some batches, a file each, by rename) into a folder beside the result; process 0 puts
them together in the dataset's order. Nothing else goes from process to process but the list of what is to be done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from torch import nn

from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import atomic_save_npz, digest
from wsolkit.common.processes import rank, world_size
from wsolkit.data.base import WSOLDataset
from wsolkit.localisation.localise import ScoreMaps, localise

PART_SECONDS = 10.0  # of work that an interruption may cost
LAG_SECONDS = 60.0  # that a shared folder may take to show what another machine wrote


class Parts:
    """The parts of one localisation in a folder.

    Args:
        identity: what the maps are made from (weights, data, settings); parts of anything else are not used.
        indices: the images, in the order of the result.
    """

    def __init__(
        self, folder: Path, identity: dict[str, Any], dataset: WSOLDataset, indices: np.ndarray, methods: Sequence[str],
        batch_size: int,
    ) -> None:  # fmt: skip
        self.folder, self.dataset, self.indices = folder, dataset, indices
        self.methods, self.batch_size = list(methods), batch_size
        # boxes distinguish drawings of another seed, labels belong to the maps
        data = [(s.id, s.label, s.boxes) for s in (dataset.samples[i] for i in indices)]
        self.identity = digest({**identity, "methods": self.methods, "batch_size": batch_size, "samples": data})
        self.batches = -(-len(indices) // batch_size)

    def rows(self, batches: Sequence[int]) -> np.ndarray:
        """Positions in the result of the images of some batches."""
        rows = np.add.outer(np.asarray(batches, np.int64) * self.batch_size, np.arange(self.batch_size)).ravel()
        return rows[rows < len(self.indices)]

    def missing(self) -> list[int]:
        """Batches that no part holds. Parts that cannot be used (another identity, torn, double) are removed."""
        left = set(range(self.batches))
        for path in sorted(self.folder.glob("part-*.npz")):
            try:
                held = self.load(path)["batches"].tolist()
            except ValueError:
                held = []
            if held and left.issuperset(held):
                left.difference_update(held)
            else:
                path.unlink()
        return sorted(left)

    def load(self, path: Path) -> dict[str, np.ndarray]:
        """The arrays of a part: batches, logits (n, K), maps (n, M, h, w), cost (M, 2). WsolkitError for what is none of these."""
        try:
            with np.load(path, allow_pickle=False) as content:
                part = {name: content[name] for name in content.files}
            images, methods = len(self.rows(part["batches"])), len(self.methods)
            complete = len(part["logits"]) == images and part["maps"].shape[:2] == (images, methods)
            known = str(part["identity"]) == self.identity and part["cost"].shape == (methods, 2)
        except Exception as error:  # a torn archive fails in many ways
            raise WsolkitError(f"{path} cannot be read ({error})") from error
        if not (known and complete):
            raise WsolkitError(f"{path} belongs to another localisation")
        return part

    def save(self, batches: Sequence[int], made: dict[str, ScoreMaps]) -> None:
        """Write a part: the results of some batches."""
        results = [made[method] for method in self.methods]
        cost = np.array([(maps.seconds_per_image * len(maps), maps.peak_memory_mb) for maps in results])
        maps = np.stack([maps.maps for maps in results], axis=1)
        atomic_save_npz(self.folder / f"part-{batches[0]:07d}.npz", identity=np.array(self.identity),
                        batches=np.array(batches), logits=results[0].logits, maps=maps, cost=cost)  # fmt: skip

    def merged(self) -> dict[str, ScoreMaps]:
        """All parts in the order of `indices`, one part in memory at a time beside the result. It waits for parts of other
        machines, whose folder may lag behind; WsolkitError where some stay away."""
        end = time.monotonic() + LAG_SECONDS
        while missing := len(self.missing()):
            if time.monotonic() > end:
                raise WsolkitError(
                    f"{self.folder}: parts with {missing} of {self.batches} batches are not there, though every process has "
                    "written its own; do all see the same folder? Start it again: what is there is kept"
                )
            time.sleep(0.5)
        ids, labels = [self.dataset.samples[i].id for i in self.indices], self.dataset.labels[self.indices]
        whole: dict[str, np.ndarray] = {}
        costs = []
        for path in sorted(self.folder.glob("part-*.npz")):
            part = self.load(path)
            for name in ("logits", "maps"):
                if name not in whole:
                    whole[name] = np.empty((len(ids), *part[name].shape[1:]), part[name].dtype)
                whole[name][self.rows(part["batches"])] = part[name]
            costs.append(part["cost"])
        seconds, peaks = np.sum(costs, axis=0)[:, 0] / len(ids), np.max(costs, axis=0)[:, 1]
        return {
            method: ScoreMaps(
                ids, labels, whole["logits"], whole["maps"][:, k].copy(), float(seconds[k]), float(peaks[k])
            )
            for k, method in enumerate(self.methods)
        }


def localise_in_parts(
    model: nn.Module,
    dataset: WSOLDataset,
    methods: Sequence[str],
    folder: str | Path,
    identity: dict[str, Any],
    indices: Sequence[int] | None = None,
    batch_size: int = 16,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **options: Any,
) -> dict[str, ScoreMaps] | None:
    """`localise` by all processes of the group (or this one alone), continued where an earlier call was interrupted.

    Args:
        folder: for the parts, the same for all processes; the caller removes it when the result is saved.
        identity: JSON-like; all that the maps depend on beside methods, images and batch size.
        progress: called with the number of images done by this process, and of those it has to do.
        options: smooth, precision and what else `localise` takes.

    Returns:
        the maps of each method in the order of `indices` on process 0, None on the others.
    """
    indices = np.arange(len(dataset)) if indices is None else np.asarray(indices, np.int64)
    if len(indices) == 0:
        raise WsolkitError(f"no images to localise in {dataset}")
    parts = Parts(Path(folder), identity, dataset, indices, methods, batch_size)
    parts.folder.mkdir(parents=True, exist_ok=True)
    todo = [parts.missing() if rank() == 0 else None]
    if world_size() > 1:  # one process counts, or some would count what others have just made
        dist.broadcast_object_list(todo, src=0)
    mine = np.array_split(np.array(todo[0], np.int64), world_size())[rank()].tolist()
    total, done, count = len(parts.rows(mine)), 0, 1
    while mine:
        part, mine, begin = mine[:count], mine[count:], time.perf_counter()
        rows = indices[parts.rows(part)]
        made = localise(model, dataset, parts.methods, indices=rows, batch_size=batch_size, progress=iter, **options)
        parts.save(part, made)
        done += len(rows)
        progress(done, total)
        count = max(1, int(count * PART_SECONDS / (time.perf_counter() - begin)))
    if world_size() > 1:
        dist.barrier()
    return parts.merged() if rank() == 0 else None
