"""Faithfulness: does the network's answer depend on the pixels that a score map names? Deletion, insertion and ROAD.

- Deletion (Petsiuk, Das, Saenko: RISE, BMVC 2018): the pixels of highest score are replaced first. A small area under
  the curve of the class probability is good. Insertion: they are put back first, into an image without detail. A
  large area is good.
- ROAD, remove and debias (Rong et al., ICML 2022): removed pixels are filled in from their neighbours, which is less of
  a new kind of image than a grey patch. Removal and imputation are those of the grad-cam package.

All numbers are softmax probabilities of the given class. They say nothing about where the object is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import chain, islice
from typing import Any

import numpy as np
import pandas as pd
import scipy  # its parts are imported when they are used: stats takes a second
import torch
from torch import Tensor, nn

from wsolkit.boxes.preparation import as_numpy, prepare_maps
from wsolkit.common.errors import WsolkitError, require
from wsolkit.common.files import listing
from wsolkit.common.progress import progress as shown
from wsolkit.data.base import WSOLDataset, normalise
from wsolkit.evaluation.metrics import bootstrap_mean
from wsolkit.localisation.localise import ScoreMaps, localise
from wsolkit.methods.context import in_chunks
from wsolkit.methods.maps import check_images, check_labels
from wsolkit.methods.registry import resolve
from wsolkit.networks.modules import evaluation_mode
from wsolkit.networks.split import differentiable, taken

BASELINES = ("blur", "mean", "black")
RISE = ("mean", "blur")  # what the authors' code puts in place of pixels, for deletion and for insertion
BLUR = 10 / 224  # standard deviation as a share of the side: Fong and Vedaldi, ICCV 2017, at 224 pixels
PERCENTILES = (10, 30, 50, 70, 90)  # grad-cam takes every tenth; each costs two sparse systems per image
RANDOM, CENTRE = "random map", "centre Gaussian"


@dataclass(eq=False)
class Faithfulness:
    """What the class probabilities of B images did while pixels were replaced, all float64 arrays.

    Attributes:
        shares: (S+1,) of the pixels replaced, 0 to 1. deletion, insertion: (B, S+1) probabilities at these shares.
        removed: (P,) shares of the pixels that ROAD removes. most_first, least_first: (B, P) probabilities without the
            most and without the least relevant pixels.
    """

    shares: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray
    removed: np.ndarray
    most_first: np.ndarray
    least_first: np.ndarray

    def __len__(self) -> int:
        return len(self.deletion)

    @property
    def deletion_area(self) -> np.ndarray:
        """(B,) in [0, 1], smaller is better: trapezoids under the deletion curve."""
        return np.trapezoid(self.deletion, self.shares, axis=1)

    @property
    def insertion_area(self) -> np.ndarray:
        """(B,) in [0, 1], larger is better: trapezoids under the insertion curve."""
        return np.trapezoid(self.insertion, self.shares, axis=1)

    @property
    def road(self) -> np.ndarray:
        """(B,) in [-0.5, 0.5], larger is better: half the mean of `least_first - most_first`, as in ROADCombined."""
        return (self.least_first - self.most_first).mean(axis=1) / 2

    def mean(self, name: str) -> tuple[np.ndarray, ...]:
        """The mean over images of one attribute, and the ends of its 95 % interval, e.g. (S+1,) each for "deletion"."""
        return bootstrap_mean(getattr(self, name))[:3]

    @classmethod
    def concatenate(cls, parts: Sequence[Faithfulness]) -> Faithfulness:
        """One of all images, from batches that were measured alike."""
        rows = {item.name: [getattr(part, item.name) for part in parts] for item in fields(cls)}
        alike = ("shares", "removed")
        return cls(**{name: own[0] if name in alike else np.concatenate(own) for name, own in rows.items()})


def faithfulness(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    maps,
    steps: int = 32,
    baseline: str | tuple[str, str] = RISE,
    percentiles: Sequence[float] = PERCENTILES,
    chunk: int = 32,
    seed: int = 0,
) -> Faithfulness:
    """Deletion and insertion curves and ROAD of score maps, whatever method made them.

    Maps are grown to the images as for boxes (cubic, then min-max). Pixels are taken in the order of their score, those
    of equal score in reading order, so a flat map is read from the top left. The same call gives the same numbers; the
    noise of ROAD's imputation is drawn anew from `seed` for every image, so nothing depends on the batch. The global
    random state stays as it was. The model computes in evaluation mode and is left as it was.

    Args:
        model: images -> logits (B, K), any network.
        images: (B, 3, H, W) float, normalised with ImageNet's mean and standard deviation, on the model's device.
        labels: (B,) class indices whose probabilities are followed. maps: (B, h, w), any range, array or tensor.
        steps: S; after step k the share k/S of the pixels is replaced. With 32, areas differ by 0.002 from 256 steps.
        baseline: what replaces pixels: "blur" (Gaussian of 10/224 of the side), "mean" (ImageNet's mean colour) or
            "black"; one for both curves, or a pair for deletion and insertion.
        percentiles: in (0, 100): ROAD keeps this share of the pixels and removes the others.
        chunk: images in one forward pass; bounds the memory, and is halved where a device's runs out. On the processor
            ROAD takes about 0.5 s per percentile for a 224-pixel image, 0.04 s for one of 64: the sparse systems, not
            the network.

    Raises: ValueError: wrong shapes, types or ranges; logits that are not finite.
    """
    images, model = check_images(model, images, None, "float32"), differentiable(model)
    images = taken(model, images)
    count, channels, height, width = images.shape
    require(channels == 3, f"images must be (B, 3, H, W), but got {tuple(images.shape)}")
    labels, maps, percentiles = check_labels(model, labels, count), as_numpy(maps), tuple(percentiles)
    shape = f"maps must be (B, h, w), one for each of {count} images, but got {maps.shape}"
    require(maps.ndim == 3 and len(maps) == count and maps.size, shape)
    for name, value in (("steps", steps), ("chunk", chunk)):
        require(type(value) is int and value >= 1, f"{name}={value!r}: give a whole number of at least 1")
    names = (baseline,) * 2 if isinstance(baseline, str) else tuple(baseline)
    known = f"choose from {', '.join(BASELINES)}, or a pair for deletion and insertion"
    require(len(names) == 2 and set(names) <= set(BASELINES), f"baseline={baseline!r}: {known}")
    inside = percentiles and all(0 < percentile < 100 for percentile in percentiles)
    require(inside, f"percentiles={percentiles}: give at least one number between 0 and 100, both excluded")
    fillings = [_filling(images, name) for name in names]
    orders = _removal_order(prepare_maps(maps, (height, width)))
    replaced = np.arange(steps + 1) * (height * width) // steps

    with evaluation_mode(model), torch.inference_mode():
        place = torch.from_numpy(orders).to(images.device)[:, None]
        limits = torch.from_numpy(replaced).to(images.device)[:, None, None, None]
        pairs, curves = torch.arange(count * (steps + 1), device=images.device), []
        for before, after in ((images, fillings[0]), (fillings[1], images)):

            def replaced_pixels(pairs: Tensor, before: Tensor = before, after: Tensor = after) -> Tensor:
                i, k = pairs // (steps + 1), pairs % (steps + 1)
                return _probabilities(model, torch.where(place[i] < limits[k], after[i], before[i]), labels[i])

            curves.append(in_chunks(replaced_pixels, chunk, pairs).reshape(count, steps + 1).numpy())
        imputed = _imputed(images, orders, percentiles, seed)
        wanted, rows = labels.repeat_interleave(2 * len(percentiles)), []
        for own in wanted.split(chunk):
            block = torch.stack(list(islice(imputed, len(own)))).to(images)
            rows.append(in_chunks(partial(_probabilities, model), chunk, block, own))
        least, most = torch.cat(rows).reshape(count, 2, len(percentiles)).numpy().transpose(1, 0, 2)
    removed = 1 - np.array(percentiles) / 100
    return Faithfulness(replaced / (height * width), curves[0], curves[1], removed, most, least)


def _removal_order(prepared: np.ndarray) -> np.ndarray:
    """(B, H, W) maps -> (B, H, W) int64: 0 for the pixel that goes first, H*W - 1 for the last."""
    ranks = scipy.stats.rankdata(-prepared.reshape(len(prepared), -1), method="ordinal", axis=1)
    return ranks.astype(np.int64).reshape(prepared.shape) - 1


def _filling(images: Tensor, name: str) -> Tensor:
    if name == "blur":
        from torchvision.transforms.functional import gaussian_blur

        sigma = max(images.shape[2:]) * BLUR
        sides = [min(2 * round(3 * sigma) + 1, 2 * side - 1) for side in images.shape[3:1:-1]]
        return gaussian_blur(images, sides, [sigma, sigma])
    if name == "mean":
        return torch.zeros_like(images)
    return normalise(np.zeros((1, 1, 1, 3), np.uint8)).to(images).expand_as(images)


def _imputed(images: Tensor, orders: np.ndarray, percentiles: tuple[float, ...], seed: int) -> Iterator[Tensor]:
    """Per image P images without the least relevant pixels, then P without the most relevant ones, on the processor."""
    from pytorch_grad_cam.metrics.road import ROADLeastRelevantFirst, ROADMostRelevantFirst

    # grad-cam compares a map with its percentile, where ties go together (all zeros of a ReLU): more than the share is
    # removed, in the end every pixel, and the system has no solution. Ranks have no ties.
    ranks = torch.from_numpy(1 - orders / (orders[0].size - 1))
    for image, rank in zip(images.float().cpu(), ranks, strict=True):
        with torch.random.fork_rng(devices=[]):  # grad-cam draws its noise from the processor's global generator
            torch.random.default_generator.manual_seed(seed)
            kinds = (ROADLeastRelevantFirst, ROADMostRelevantFirst)
            filled = [kind(percentile).perturbation(image, rank) for kind in kinds for percentile in percentiles]
        yield from filled


def _probabilities(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """(n,) float64, on the processor."""
    logits = model(images)
    if logits.ndim != 2 or int(labels.max()) >= logits.shape[1]:
        raise WsolkitError(f"labels reach {int(labels.max())}, the model's output has shape {tuple(logits.shape)}")
    shares = logits.double().softmax(dim=1).gather(1, labels[:, None])[:, 0].cpu()
    fault = "the network's logits are not finite: its training has diverged, or the images hold NaN"
    require(torch.isfinite(shares).all(), fault)
    return shares


def measure_faithfulness(
    model: nn.Module,
    dataset: WSOLDataset,
    methods: Sequence[str] | Mapping[str, ScoreMaps],
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 8,
    progress: Callable | None = None,
    **options: Any,
) -> dict[str, Faithfulness]:
    """`faithfulness` of several methods on the same images, by name, for the ground-truth classes.

    Two maps that know nothing of the network come last: "random map" (noise at the resolution of the first method's
    maps, seeded per image) and "centre Gaussian" (standard deviation a quarter of the side).

    Args:
        methods: names, whose maps are made here from one pass of the body per image; or name -> maps that `localise`
            made, with any smoothing and options, of these images at least.
        limit: at most so many images, the first of `dataset.spread(limit, seed)`; None or 0 is all.
        progress: wraps the iterable of batches, for example tqdm.
        options: of `faithfulness` (steps, baseline, percentiles, chunk).

    Raises: MethodNotDefined: a method has no meaning on this network; a ValueError, as for maps that lack an image.
    """
    indices = dataset.spread(limit or None, seed)
    require(methods, "no method to measure: give names of methods, or score maps by name")
    with evaluation_mode(model):
        if isinstance(methods, Mapping):
            made = dict(methods)
        else:
            names = [resolve(method).name for method in ([methods] if isinstance(methods, str) else methods)]
            made = localise(model, dataset, names, indices=indices)
        ids, rows = [dataset.samples[i].id for i in indices], {}
        for name, kept in made.items():
            require(kept.boxes is None, f"{name!r} gives boxes and no map, so there is nothing to delete or insert by")
            rows[name] = pd.Index(kept.ids).get_indexer(pd.Index(ids))
            absent = [ids[place] for place in np.flatnonzero(rows[name] < 0)]
            lacks = f"lack {len(absent)} of {len(ids)} images: {listing(absent)}"
            require(not absent, f"the maps of {name!r} {lacks}; localise them too")
        cells = next(iter(made.values())).maps.shape[1:]
        side, device = dataset.geometry.size, next(model.parameters()).device
        parts: dict[str, list[Faithfulness]] = {name: [] for name in (*made, RANDOM, CENTRE)}
        starts = range(0, len(indices), batch_size)
        for start in shown(starts, "delete and insert", unit="batches") if progress is None else progress(starts):
            batch = slice(start, start + batch_size)
            chosen = indices[batch]
            images, labels = dataset.images(chosen.tolist()).to(device), torch.from_numpy(dataset.labels[chosen])
            maps = {name: kept.maps[rows[name][batch]] for name, kept in made.items()}
            maps[RANDOM] = np.stack([np.random.default_rng([seed, int(i)]).random(cells) for i in chosen])
            maps[CENTRE] = np.stack([_centre_gaussian(side)] * len(chosen))
            for name, own in maps.items():
                parts[name].append(faithfulness(model, images, labels, own, seed=seed, **options))
    return {name: Faithfulness.concatenate(batches) for name, batches in parts.items()}


def faithfulness_table(measured: dict[str, Faithfulness]) -> pd.DataFrame:
    """A row per name: the means of deletion area (small is good), insertion area and ROAD (large is good), each with
    the ends of its 95 % interval as `_low` and `_high`, and n, the number of images."""
    columns = {"deletion": "deletion_area", "insertion": "insertion_area", "road": "road"}
    names = [f"{column}{end}" for column in columns for end in ("", "_low", "_high")]
    cells = {name: [*chain.from_iterable(map(own.mean, columns.values())), len(own)] for name, own in measured.items()}
    return pd.DataFrame.from_dict(cells, "index", columns=[*names, "n"]).rename_axis("method")


def _centre_gaussian(side: int) -> np.ndarray:
    bell = np.exp(-8 * ((np.arange(side) + 0.5) / side - 0.5) ** 2)  # 8 = 1 / (2 * 0.25^2)
    return np.outer(bell, bell)
