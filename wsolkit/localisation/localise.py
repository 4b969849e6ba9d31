"""`localise`: a model and a dataset become score maps (a file), which is all that later stages need."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import nn

from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import atomic_save_npz
from wsolkit.common.progress import progress as shown
from wsolkit.data.base import WSOLDataset
from wsolkit.methods.maps import feature_map, parse_smooth, score_maps
from wsolkit.methods.registry import resolve
from wsolkit.networks.modules import evaluation_mode
from wsolkit.networks.split import network_for, rest_of


@dataclass(eq=False)
class ScoreMaps:
    """What localisation leaves behind: everything that metrics, reports and other thresholds need, without the model.

    Attributes:
        ids: N strings; labels: (N,) int64; logits: (N, K) float32.
        maps: (N, h, w) float32, the unscaled map of each image's ground-truth class at feature-map resolution.
        seconds_per_image: body, head and map of one image, without decoding; peak_memory_mb: growth over the idle model
            while the first batch is localised, by this method alone.
        path: the file that holds them, None where there is none yet.
    """

    ids: list[str]
    labels: np.ndarray
    logits: np.ndarray
    maps: np.ndarray
    seconds_per_image: float = 0.0
    peak_memory_mb: float = 0.0
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def save(self, path: str | Path) -> None:
        cost = np.array([self.seconds_per_image, self.peak_memory_mb])
        atomic_save_npz(path, ids=np.array(self.ids), labels=self.labels, logits=self.logits, maps=self.maps, cost=cost)
        self.path = Path(path)

    @classmethod
    def load(cls, path: str | Path) -> ScoreMaps:
        try:
            with np.load(path, allow_pickle=False) as content:
                arrays = (content["labels"], content["logits"], content["maps"])
                return cls(content["ids"].tolist(), *arrays, *content["cost"].tolist(), path=Path(path))
        except FileNotFoundError:
            raise FileNotFoundError(f"score maps {path} not found; localise first") from None
        except Exception as error:  # a truncated archive fails in many ways
            raise WsolkitError(f"score maps {path} cannot be read ({error}); delete it and localise again") from error


def localise(
    model: nn.Module,
    dataset: WSOLDataset,
    method: str | Sequence[str] = "cam",
    smooth: Sequence[str] = (),
    indices: Sequence[int] | None = None,
    batch_size: int = 16,
    precision: str = "float32",
    progress: Callable | None = None,
    **options: Any,
) -> ScoreMaps | dict[str, ScoreMaps]:
    """Score maps of the ground-truth classes and logits, in the order of `indices` (None: all images).

    Args:
        method: a name, or a list of names: then a dict of results, made from one pass of the body per image. Seconds are
            those of the pass and of the method's own part.
        batch_size: images in one pass; does not change the maps (each image is on its own).
        precision: "float32" or "bf16", see `score_maps`.
        progress: wraps the iterable of batches, for example tqdm; None is `wsolkit.common.progress.progress`.
        options: passed to `score_maps` (chunk, channels, nwc, layer, ...); in a list to the methods that have them.
    """
    indices = np.arange(len(dataset)) if indices is None else np.asarray(indices, dtype=np.int64)
    if len(indices) == 0:
        raise WsolkitError(f"no images to localise in {dataset}")
    names = list(method) if isinstance(method, list | tuple) else [method]
    smooth = tuple(sorted(parse_smooth(smooth)))
    device = next(model.parameters()).device
    clock = partial(_clock, device)
    settings = {"precision": precision, "clock": clock, "chunk": options.pop("chunk", 32)}
    layer, reshape = options.pop("layer", None), options.pop("reshape", None)
    model = network_for(model, layer, reshape, dataset.images(indices[:1], device))  # once for all batches
    takes = {name: {option for option in options if {option, "*"} & set(resolve(name).options)} for name in names}
    alone = set().union(*takes.values()) == set(options)  # else an option is wrong, and `score_maps` says so
    maps: dict[str, list[np.ndarray]] = {name: [] for name in names}
    logits, shared, seconds, peaks = [], 0.0, dict.fromkeys(names, 0.0), {}
    starts = range(0, len(indices), batch_size)
    title = f"localise {len(indices)} {dataset.split} images"
    with evaluation_mode(model), PeakMemory(device) as memory:
        for start in shown(starts, title, unit="batches") if progress is None else progress(starts):
            chosen = indices[start : start + batch_size]
            images, labels = dataset.images(chosen, device), torch.from_numpy(dataset.labels[chosen]).to(device)
            begin = clock()
            features = feature_map(model, images, precision)
            with torch.inference_mode():
                logits.append(rest_of(model, images)(features.clone()).float().cpu().numpy())
            shared += clock() - begin
            network = memory.lap() if start == 0 else 0.0
            by_itself = start == 0 and alone  # in the first batch each method runs alone
            for group in [[name] for name in names] if by_itself else [names]:
                own = {option: options[option] for option in (takes[group[0]] if by_itself else options)}
                made = score_maps(
                    model, images, labels, group, smooth, features=features, seconds=seconds, **settings, **own
                )
                for name in group:
                    maps[name].append(made[name].float().cpu().numpy())
                if start == 0:
                    peaks[group[0]] = max(network, memory.lap())
    ids, labels, scores = [dataset.samples[i].id for i in indices], dataset.labels[indices], np.concatenate(logits)
    results = {}
    for name in names:
        cost = (shared + seconds[name]) / len(indices), peaks[name]
        results[name] = ScoreMaps(ids, labels, scores, np.concatenate(maps[name]), *cost)
    return results if isinstance(method, list | tuple) else results[method]


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
        gc.collect()
        # glibc: give freed memory back, or a warm allocator hides growth
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        self._resident = psutil.Process()
        self._start = self._peak = self._resident.memory_info().rss
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self._peak = max(self._peak, self._resident.memory_info().rss)

    def lap(self) -> float:
        """The most since the start or the last call, above the level at the start."""
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            now = self._resident.memory_info().rss
            peak, self._peak = max(self._peak, now), now
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
