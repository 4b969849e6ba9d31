"""Two stages: `localise` turns a model and a dataset into score maps (a file), `evaluate` scores such maps."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import nn

from . import cams
from .cams.modules import evaluation_mode
from .cams.networks import network_for
from .cams.parts import rest_of
from .cams.smoothing import parse_smooth
from .data.base import WSOLDataset
from .files import atomic_save_npz
from .progress import progress as shown
from .protocols import PAS_PERCENTILE, protocol_named
from .results import EvalResult
from .scoring import score


@dataclass(eq=False)
class ScoreMaps:
    """What localisation leaves behind: everything that metrics, reports and other thresholds need, without the model.

    Attributes:
        ids: N strings; labels: (N,) int64; logits: (N, K) float32.
        maps: (N, h, w) float32, the unscaled map of each image's ground-truth class at feature-map resolution.
        seconds_per_image: body, rest and map of one image, without decoding; peak_memory_mb: growth over the idle model.
    """

    ids: list[str]
    labels: np.ndarray
    logits: np.ndarray
    maps: np.ndarray
    seconds_per_image: float = 0.0
    peak_memory_mb: float = 0.0

    def __len__(self) -> int:
        return len(self.ids)

    def save(self, path: str | Path) -> None:
        cost = np.array([self.seconds_per_image, self.peak_memory_mb])
        atomic_save_npz(path, ids=np.array(self.ids), labels=self.labels, logits=self.logits, maps=self.maps, cost=cost)

    @classmethod
    def load(cls, path: str | Path) -> ScoreMaps:
        try:
            with np.load(path, allow_pickle=False) as content:
                cost = content["cost"].tolist()
                return cls(content["ids"].tolist(), content["labels"], content["logits"], content["maps"], *cost)
        except FileNotFoundError:
            raise FileNotFoundError(f"score maps {path} not found; localise first") from None
        except Exception as error:  # a truncated archive fails in many ways
            raise ValueError(
                f"score maps {path} cannot be read ({error}); delete the file and localise again"
            ) from error


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
            those of the pass and of the method's own part; the memory is that of the whole loop.
        batch_size: images in one pass; does not change the maps (each image is on its own).
        precision: "float32" or "bf16", see `score_maps`.
        progress: wraps the iterable of batches, for example tqdm; None is `wsolkit.progress.progress`.
        options: passed to `score_maps` (chunk, channels, nwc, layer, ...); in a list to the methods that have them.
    """
    indices = np.arange(len(dataset)) if indices is None else np.asarray(indices, dtype=np.int64)
    if len(indices) == 0:
        raise ValueError(f"no images to localise in {dataset}")
    names = list(method) if isinstance(method, list | tuple) else [method]
    chosen_smooth = tuple(sorted(parse_smooth(smooth)))
    device = next(model.parameters()).device
    example = dataset.images(indices[:1], device)
    model = network_for(
        model, options.pop("layer", None), options.pop("reshape", None), example
    )  # once for all batches
    maps: dict[str, list[np.ndarray]] = {name: [] for name in names}
    logits = []
    starts = range(0, len(indices), batch_size)
    shared, seconds = 0.0, dict.fromkeys(names, 0.0)
    what = f"localise {len(indices)} {dataset.split} images"
    with evaluation_mode(model), PeakMemory(device) as memory:
        for start in shown(starts, what, unit="batches") if progress is None else progress(starts):
            chosen = indices[start : start + batch_size]
            images, labels = dataset.images(chosen, device), torch.from_numpy(dataset.labels[chosen]).to(device)
            begin = _clock(device)
            features = cams.feature_map(model, images, precision)
            with torch.inference_mode():
                logits.append(rest_of(model, images)(features.clone()).float().cpu().numpy())
            shared += _clock(device) - begin
            found, taken = cams.timed_maps(
                model, images, labels, names, chosen_smooth, features=features, precision=precision,
                clock=lambda: _clock(device), **options,
            )  # fmt: skip
            for name in names:
                seconds[name] += taken[name]
                maps[name].append(found[name].float().cpu().numpy())
    ids, labels, logits = [dataset.samples[i].id for i in indices], dataset.labels[indices], np.concatenate(logits)
    results = {
        name: ScoreMaps(
            ids, labels, logits, np.concatenate(maps[name]), (shared + seconds[name]) / len(indices), memory.megabytes
        )
        for name in names
    }
    return results if isinstance(method, list | tuple) else results[method]


def evaluate(
    model: nn.Module,
    dataset: WSOLDataset,
    method: str = "cam",
    val: WSOLDataset | str | None = "auto",
    smooth: Sequence[str] = (),
    pas: bool | None = None,
    protocol: str = "wsolevaluation",
    limit: int | None = None,
    seed: int = 0,
    keep: Callable[[str, ScoreMaps], None] | None = None,
    localiser: Callable[..., ScoreMaps] = localise,
    **options: Any,
) -> EvalResult:
    """Localise and score one method: `result.gt_known_loc`, `.top1_loc`, `.max_box_acc_v2`, ... in percent.

    GT-known and Top-k Loc use the threshold that is best on the validation split; without one they use the fixed one.

    Args:
        dataset: the split to report, usually "test".
        val: the split that chooses the threshold; "auto" opens the dataset's own "val" split; with None, or where it has
            no boxes, the fixed threshold is used.
        pas: percentile thresholding (PaS); None is the method's own way: only rethinking_cam uses it. The protocol
            rethinking_cam uses it for every method.
        protocol: "wsolevaluation" or "rethinking_cam" (which needs a dataset with geometry "crop" and ignores `val`);
            see `wsolkit.protocols`.
        limit: at most so many images of each split, balanced over the classes; None or 0 is all.
        keep: called with "test" and "val" and the score maps, for example to save them.
        localiser: called as `localise` for each split; one that keeps maps, say, instead of making them again.
        options: passed to `score_maps`, e.g. nwc=False, channels=64, chunk=16; batch_size, precision and progress to
            `localise`.

    Raises:
        MethodNotDefined: the method has no meaning on this network.
    """
    if isinstance(val, str):
        if val != "auto":
            raise ValueError(f"val must be a dataset, None or 'auto', but is {val!r}")
        val = dataset.sibling("val") if dataset.opener is not None and dataset.split != "val" else None
    if val is not None and not val.localised:
        val = None  # images with labels only can choose an epoch, but no threshold
    if not dataset.localised:
        raise ValueError(f"{dataset} has images without a ground-truth box: they cannot be scored")
    rules = protocol_named(protocol)
    if not rules.curves:
        val = None
        if dataset.geometry.kind != rules.geometry:
            raise ValueError(
                f"protocol {protocol!r} scores on a centre crop: open the dataset with geometry={rules.geometry!r}"
            )
    method = cams.resolve(method).name  # one spelling: what follows depends on the name
    if pas is None:
        pas = method == "rethinking_cam" or rules.percentile == PAS_PERCENTILE
    indices = dataset.spread(limit or None, seed)
    test_maps = localiser(model, dataset, method, smooth, indices, **options)
    targets = [dataset.target(int(i)) for i in indices]
    val_maps, val_boxes = None, None
    if val is not None:
        val_indices = val.spread(limit or None, seed)
        val_maps = localiser(model, val, method, smooth, val_indices, **options)
        val_boxes = [val.target(int(i)).boxes.numpy() for i in val_indices]
    if keep is not None:
        keep("test", test_maps)
        if val_maps is not None:
            keep("val", val_maps)
    masks = [None if target.mask is None else target.mask.numpy() for target in targets]
    masks = None if all(mask is None for mask in masks) or not rules.curves else masks
    truths = [target.boxes.numpy() for target in targets]
    words = conditions(dataset, model, limit, options)
    if masks is not None and (empty := sum(len(boxes) == 0 for boxes in truths)):
        words["boxes"] = f"not used: the masks of {empty} images show no object"
        truths, val_maps, val_boxes = None, None, None
    return score(
        test_maps.maps, truths, test_maps.logits, test_maps.labels, test_maps.ids,
        size=dataset.geometry.size, masks=masks,
        val_maps=None if val_maps is None else val_maps.maps, val_gt_boxes=val_boxes,
        percentile=PAS_PERCENTILE if pas else 100.0, seed=seed, protocol=protocol,
        dataset=dataset.name, backbone=getattr(model, "backbone", type(model).__name__), method=method,
        pooling=getattr(model, "pooling", ""), split=dataset.split,
        seconds_per_image=test_maps.seconds_per_image, peak_memory_mb=test_maps.peak_memory_mb,
        conditions=words,
    )  # fmt: skip


def conditions(dataset: WSOLDataset, model: nn.Module, limit: int | None, options: dict[str, Any]) -> dict[str, str]:
    """What the numbers rest on, in words, for tables."""
    size, geometry = dataset.geometry.size, dataset.geometry.kind
    words = {
        "input": f"{size} x {size}, "
        + ("resized" if geometry == "resize" else f"resized to {dataset.geometry.side}, centre crop"),
        "score map": "ground-truth class" + (f", stride {model.stride}" if hasattr(model, "stride") else ""),
    }
    if limit and limit < len(dataset):
        words["images"] = f"{limit} of {len(dataset)}, balanced over classes"
    if options.get("channels"):
        words["channels"] = f"the {options['channels']} of largest energy (approximate)"
    if options.get("precision", "float32") != "float32":
        words["precision"] = options["precision"]
    return words


@dataclass
class PeakMemory:
    """Megabytes (2**20 bytes) by which memory grew above its level at the start: CUDA's own count, else the process's
    resident memory, sampled every 5 ms in a thread."""

    device: torch.device
    megabytes: float = 0.0
    _done: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._start = torch.cuda.memory_allocated(self.device)
            return self
        gc.collect()
        with contextlib.suppress(
            OSError, AttributeError
        ):  # glibc: give freed memory back, or a warm allocator hides growth
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        self._process = psutil.Process()
        self._start = self._peak = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self._peak = max(self._peak, self._process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
        else:
            self._done.set()
            self._thread.join()
            peak = max(self._peak, self._process.memory_info().rss)
        self.megabytes = (peak - self._start) / 2**20


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
