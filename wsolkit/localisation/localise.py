"""`localise`: a model and a dataset become score maps (a file), which is all that later stages need.

A large set of images is localised in parts, by several processes, and again only where one was interrupted. The images
are cut into batches, always the same ones, so the maps do not depend on the number of processes. Each process writes
parts (a few batches, a file each, by rename) into a folder beside the result; process 0 puts them together.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import psutil
import torch
from torch import nn

from wsolkit.common.errors import WsolkitError, is_whole, reason, require
from wsolkit.common.files import atomic_save_npz, digest
from wsolkit.common.processes import agreed, rank, share
from wsolkit.common.progress import progress as shown
from wsolkit.data.base import WSOLDataset
from wsolkit.methods.maps import answers, feature_map
from wsolkit.methods.registry import IVR, LAYER, parse_smooth, resolve
from wsolkit.networks.modules import evaluation_mode
from wsolkit.networks.split import network_for, rest_of

PART_SECONDS = 10.0  # of work that an interruption may cost
LAG_SECONDS = 60.0  # that a shared folder may take to show what another machine wrote


@dataclass(eq=False)
class ScoreMaps:
    """What localisation leaves behind: everything that metrics, reports and other thresholds need, without the model.

    Attributes:
        ids: N strings; labels: (N,) int64; logits: (N, K) float32.
        maps: (N, h, w) float32, the unscaled map of each image's ground-truth class at feature-map resolution; None
            where the method gives boxes.
        seconds_per_image: body, head and map of one image, without decoding; peak_memory_mb: growth over the idle model
            while the first batch is localised, by this method alone.
        path: the file that holds them, None where there is none yet.
        boxes: (N, 4) float32 in the place of maps: x0, y0, x1, y1 as shares of the image (`wsolkit.boxes.shares`).
    """

    ids: list[str]
    labels: np.ndarray
    logits: np.ndarray
    maps: Any = None
    seconds_per_image: float = 0.0
    peak_memory_mb: float = 0.0
    path: Path | None = None
    boxes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What there is for each image: labels, logits, and maps or boxes."""
        return {"labels": self.labels, "logits": self.logits, "maps" if self.boxes is None else "boxes": self.answer}

    @property
    def answer(self) -> np.ndarray:
        """The maps or the boxes."""
        return self.maps if self.boxes is None else self.boxes

    def save(self, path: str | Path) -> None:
        """Write one compressed .npz, by rename: ids, labels, logits, maps or boxes, and cost (seconds per image,
        megabytes)."""
        cost = np.array([self.seconds_per_image, self.peak_memory_mb])
        atomic_save_npz(path, ids=np.array(self.ids), cost=cost, **self.arrays)
        self.path = Path(path)

    @classmethod
    def load(cls, path: str | Path) -> ScoreMaps:
        """Read what `save` wrote.

        Raises: FileNotFoundError: there is no such file. WsolkitError: it cannot be read; it names the file.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                content = dict(archive)
            labels, logits, ids = (content[name] for name in ("labels", "logits", "ids"))
            seconds, megabytes = map(float, content["cost"][:2])
            maps, boxes = (content.get(name) for name in ("maps", "boxes"))
            require((maps is None) != (boxes is None), "it holds neither maps nor boxes, or both")
            made = cls(ids.tolist(), labels, logits, maps, seconds, megabytes, Path(path), boxes)
            shapes = {name: array.shape for name, array in made.arrays.items()}
            good = {len(made), *(shape[0] for shape in shapes.values())} == {len(made)}
            good = good and (made.maps.ndim == 3 if boxes is None else boxes.shape[1:] == (4,))
            require(good, f"{len(made)} ids do not go with shapes {shapes}")
            require(len(set(made.ids)) == len(made), "some ids are there more than once")
            require(np.isfinite(made.answer).all(), "some values are not finite")
            return made
        except FileNotFoundError:
            raise FileNotFoundError(f"score maps {path} not found; localise first") from None
        except Exception as error:  # a truncated archive fails in many ways
            raise WsolkitError(
                f"score maps {path} cannot be read ({reason(error)}); delete it and localise again"
            ) from error


@overload
def localise(model: nn.Module, dataset: WSOLDataset, method: str = "cam", *args: Any, **options: Any) -> ScoreMaps: ...
@overload
def localise(
    model: nn.Module, dataset: WSOLDataset, method: list[str] | tuple[str, ...], *args: Any, **options: Any
) -> dict[str, ScoreMaps]: ...
def localise(
    model: nn.Module,
    dataset: WSOLDataset,
    method: str | list[str] | tuple[str, ...] = "cam",
    smooth: Sequence[str] = (),
    indices: Sequence[int] | np.ndarray | None = None,
    batch_size: int = 16,
    precision: str = "float32",
    progress: Callable | None = None,
    **options: Any,
) -> ScoreMaps | dict[str, ScoreMaps]:
    """Score maps (or boxes, where that is what a method gives) of the ground-truth classes and logits, in the order of
    `indices` (None: all images).

    Args:
        method: a name, or a list of names: then a dict of results, made from one pass of the body per image (rows at
            layers of their own, such as "layer_cam[layer=layer3]", take a pass for each layer). Seconds are those of
            the pass and of the method's own part.
        batch_size: images in one pass; does not change the maps (each image is on its own).
        precision: "float32" or "bf16", see `score_maps`.
        progress: wraps the iterable of batches, for example tqdm; None is `wsolkit.common.progress.progress`.
        options: passed to `score_maps` (chunk, channels, nwc, layer, ivr, ...); in a list to the methods that have
            them.
    """
    indices = _chosen(dataset, indices)
    require(is_whole(batch_size, 1), f"batch_size must be a whole number of at least 1, but is {batch_size!r}")
    names = [method] if isinstance(method, str) else list(method)
    smooth = tuple(sorted(parse_smooth(smooth)))
    device = next(model.parameters()).device
    clock = partial(_clock, device)
    settings = {"precision": precision, "clock": clock, "chunk": options.pop("chunk", 32), IVR: options.pop(IVR, None)}
    layer, reshape, entries = options.pop(LAYER, None), options.pop("reshape", None), {n: resolve(n) for n in names}
    takes = {n: {option for option in options if {option, "*"} & {*entry.options}} for n, entry in entries.items()}
    layers = {n: entry.settings.get(LAYER) if layer is None else layer for n, entry in entries.items()}
    if len(set(layers.values())) > 1:
        several: dict[str, ScoreMaps] = {}
        for own in dict.fromkeys(layers.values()):
            group = [name for name in entries if layers[name] == own]
            others = set[str]().union(*takes.values()).difference(*(takes[name] for name in group))
            given = {option: value for option, value in options.items() if option not in others}
            given |= {"chunk": settings["chunk"], IVR: settings[IVR], "reshape": reshape, LAYER: own}
            several |= localise(model, dataset, group, smooth, indices, batch_size, precision, progress, **given)
        return {name: several[name] for name in names}
    layer = next(iter(layers.values()), None)
    model = network_for(model, layer, reshape, dataset.images(indices[:1].tolist(), device))  # once for all batches
    settings |= {} if layer is None else {LAYER: model.layer}  # which it is cut at already
    alone = set().union(*takes.values()) == set(options)  # else an option is wrong, and `answers` says so
    made: dict[str, list[np.ndarray]] = {name: [] for name in names}
    logits, shared, seconds, peaks = [], 0.0, dict.fromkeys(names, 0.0), {}
    starts, every = range(0, len(indices), batch_size), dataset.labels
    title = f"localise {len(indices)} {dataset.split} images"
    with evaluation_mode(model), PeakMemory(device) as memory:
        for start in shown(starts, title, unit="batches") if progress is None else progress(starts):
            chosen = indices[start : start + batch_size]
            images = dataset.images(chosen.tolist(), device)
            labels = torch.from_numpy(every[chosen]).to(device)
            begin = clock()
            features = feature_map(model, images, precision)
            with torch.inference_mode():
                logits.append(rest_of(model, images)(features.clone()).float().cpu().numpy())
            shared += clock() - begin
            network = memory.lap() if start == 0 else 0.0
            by_itself = start == 0 and alone  # in the first batch each method runs alone
            for group in [[name] for name in names] if by_itself else [names]:
                own = {option: options[option] for option in (takes[group[0]] if by_itself else options)}
                own |= settings | {"features": features, "seconds": seconds}
                for name, answer in answers(model, images, labels, group, smooth, **own).items():
                    made[name].append(answer.float().cpu().numpy())
                if start == 0:
                    peaks[group[0]] = max(network, memory.lap())
    ids, labels, scores = [dataset.samples[i].id for i in indices], every[indices], np.concatenate(logits)
    results = {}
    for name in names:
        kept: dict[str, Any] = {"boxes" if resolve(name).gives == "boxes" else "maps": np.concatenate(made[name])}
        kept |= {"seconds_per_image": (shared + seconds[name]) / len(indices), "peak_memory_mb": peaks[name]}
        results[name] = ScoreMaps(ids, labels, scores, **kept)
    return results[method] if isinstance(method, str) else results


def _chosen(dataset: WSOLDataset, indices: Sequence[int] | np.ndarray | None) -> np.ndarray:
    """Positions of the images to localise, at least one."""
    indices = np.arange(len(dataset)) if indices is None else np.asarray(indices, np.int64)
    require(len(indices), f"no images to localise in {dataset}")
    return indices


class PeakMemory:
    """Megabytes (2**20 bytes) by which memory grew above its level at the start: CUDA's own count, else the process's
    resident memory, sampled every 5 ms in a thread.

    Attributes:
        megabytes: the most so far.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.megabytes, self._done = device, 0.0, threading.Event()

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._start = torch.cuda.memory_allocated(self.device)
            return self
        gc.collect(1)  # not the oldest objects, among which torch's and matplotlib's take half a second
        self._resident = psutil.Process()
        self._start = self._peak = self._trimmed()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self._peak = max(self._peak, self._resident.memory_info().rss)

    def _trimmed(self) -> int:
        """Resident bytes without those that the C library keeps of freed memory, which would hide growth."""
        with contextlib.suppress(OSError, AttributeError):  # another one than glibc
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        return self._resident.memory_info().rss

    def lap(self) -> float:
        """The most since the start or the last call, above the level at the start."""
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            peak = max(self._peak, self._resident.memory_info().rss)
            self._peak = self._trimmed()
        megabytes = (peak - self._start) / 2**20
        self.megabytes = max(self.megabytes, megabytes)
        return megabytes

    def __exit__(self, *_: object) -> None:
        if self.device.type != "cuda":
            self._done.set()
            self._thread.join()
        self.lap()


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Parts:
    """The parts of one localisation in a folder: `ScoreMaps` of some batches and one method in a file each.

    Args:
        identity: what the maps are made from (weights, data, settings); parts of anything else are not used.
        indices: the images, in the order of the result.
    """

    def __init__(self, folder: Path, identity: dict, dataset: WSOLDataset, indices, methods, batch_size: int) -> None:
        samples = [dataset.samples[i] for i in indices]
        # boxes distinguish drawings of another seed, labels belong to the maps
        made_from = {"methods": list(methods), "samples": [(item.id, item.label, item.boxes) for item in samples]}
        self.identity = digest({**identity, **made_from, "batch_size": batch_size})
        self.folder, self.methods = folder / self.identity, list(methods)
        self.batches = np.split(indices, range(batch_size, len(indices), batch_size))
        self.places = {item.id: place for place, item in enumerate(samples)}
        self.batch_size = batch_size

    def held(self, method: str) -> Iterator[ScoreMaps]:
        """The parts with the maps of a method; one that is torn is removed."""
        for path in sorted(self.folder.glob(f"part-*-{self.methods.index(method)}.npz")):
            try:
                yield ScoreMaps.load(path)
            except WsolkitError:
                path.unlink()

    def missing(self) -> list[int]:
        """Batches that no part holds with all methods."""
        places = [{self.places[name] for part in self.held(method) for name in part.ids} for method in self.methods]
        known = {place // self.batch_size for place in set.intersection(*places)}
        return [number for number in range(len(self.batches)) if number not in known]

    def save(self, batches: Sequence[int], made: dict[str, ScoreMaps]) -> None:
        """Write a part: the results of some batches."""
        for number, method in enumerate(self.methods):
            made[method].save(self.folder / f"part-{batches[0]:07d}-{number}.npz")

    def merged(self) -> dict[str, ScoreMaps]:
        """All parts in the order of the images. It waits for parts of other machines, whose folder may lag behind;
        WsolkitError where some stay away."""
        end = time.monotonic() + LAG_SECONDS
        while missing := len(self.missing()):
            fault = f"parts with {missing} of {len(self.batches)} batches are not there, though every process has"
            need = "written its own; do all see the same folder? Start it again: what is there is kept"
            require(time.monotonic() < end, f"{self.folder}: {fault} {need}")
            time.sleep(0.5)
        results = {}
        for method in self.methods:
            parts = list(self.held(method))
            ids = [name for part in parts for name in part.ids]
            order = np.argsort([self.places[name] for name in ids])
            kept: dict[str, Any] = {name: [part.arrays[name] for part in parts] for name in parts[0].arrays}
            kept = {name: np.concatenate(arrays)[order] for name, arrays in kept.items()}
            kept["seconds_per_image"] = sum(part.seconds_per_image * len(part) for part in parts) / len(ids)
            kept["peak_memory_mb"] = max(part.peak_memory_mb for part in parts)
            results[method] = ScoreMaps(list(self.places), **kept)
        return results


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
    parts = Parts(Path(folder), identity, dataset, _chosen(dataset, indices), methods, batch_size)
    # one process counts, or some would count what others have just made
    todo = agreed(parts.missing() if rank() == 0 else None)
    mine = [todo[place] for place in share(len(todo))]
    total, done, count = sum(len(parts.batches[number]) for number in mine), 0, 1
    while mine:
        part, mine, begin = mine[:count], mine[count:], time.perf_counter()
        rows = np.concatenate([parts.batches[number] for number in part])
        made = localise(model, dataset, parts.methods, indices=rows, batch_size=batch_size, progress=iter, **options)
        parts.save(part, made)
        done += len(rows)
        progress(done, total)
        count = max(1, int(count * PART_SECONDS / (time.perf_counter() - begin)))
    agreed(None)
    return parts.merged() if rank() == 0 else None
