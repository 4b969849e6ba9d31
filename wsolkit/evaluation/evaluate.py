"""Localise one method on a split and score it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from wsolkit.boxes.preparation import remove_inferior
from wsolkit.boxes.protocols import IVR_SHARE, PAS_PERCENTILE, protocol_named
from wsolkit.boxes.shares import boxes_of_shares
from wsolkit.common.errors import WsolkitError, require
from wsolkit.data.base import WSOLDataset
from wsolkit.evaluation.found_boxes import box_statistics, found_boxes
from wsolkit.evaluation.metrics import best_threshold, plateau_middle
from wsolkit.evaluation.results import FEWEST, EvalResult, aside
from wsolkit.evaluation.scoring import Maps, Rule, Truth, cut_boxes, rule_curves, score
from wsolkit.localisation.localise import ScoreMaps, localise
from wsolkit.methods.registry import CHOSEN, IVR, resolve

SHARES = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75)  # of IVR, from which validation boxes choose; with 0 it is the min-max
Pseudo = Sequence[Any] | Callable[[WSOLDataset, Any], Sequence[Any]]


@dataclass
class Evaluation(EvalResult):
    """A result with what it was measured on.

    Attributes:
        maps: the score maps (or boxes) by split: "test" and, where a threshold was chosen on it, "val".
        variant: the trained network of a run ("gap", "tap", "has", ...); "" for a network that no run trained.
        limit: at most so many images of each split; None or 0 is all.
        found: the boxes of all images at the reported threshold, or the fixed one where none was measured: a table of
            `wsolkit.evaluation.found_boxes`, whose statistics are in extra["boxes"].
        faithfulness: the numbers of `wsolkit.study.chapter.show_faithfulness` by map; {} where they were not measured.
    """

    maps: dict[str, ScoreMaps] = aside(default_factory=dict)
    variant: str = aside("")
    limit: int | None = aside()
    found: pd.DataFrame | None = aside()
    faithfulness: dict[str, dict[str, Any]] = aside(default_factory=dict)


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
    view: int | None = None,
    localiser: Callable[..., Any] = localise,
    pseudo: Pseudo | None = None,
    **options: Any,
) -> Evaluation:
    """Localise and score one method: `result.gt_known_loc`, `.top1_loc`, `.max_box_acc_v2`, ... in percent.

    GT-known and Top-k Loc use the threshold that is best on the validation split; where it has no boxes, the method's
    own fixed one, if it declares one, else the one that is best on `pseudo` boxes; without these the fixed one.
    Of a method that gives boxes and no map, the boxes are scored as they are.
    Where some images have no ground-truth box, everything but Top-1 and Top-5 Cls is of those that have one; where none
    has one, there are no localisation numbers. The result's conditions say so. The boxes of some validation images
    choose the threshold where there are at least ten.

    Args:
        dataset: the split to report, usually "test".
        method: a name, or a row with smoothing and options of its own, such as "grad_cam[eigen+aug]".
        val: the split that chooses the threshold; "auto" opens the dataset's own "val" split; None is none.
        pas: percentile thresholding (PaS); None is the method's own way: only rethinking_cam uses it. The protocol
            rethinking_cam uses it for every method.
        protocol: "wsolevaluation" or "rethinking_cam" (which needs a dataset with geometry "crop" and ignores `val`);
            see `wsolkit.boxes.protocols`.
        limit: at most so many images of each split, balanced over the classes; None or 0 is all.
        view: the side at which the network sees the images, None is the dataset's. Boxes are scored in the frame of the
            dataset in any case.
        localiser: called as `localise` for each split; one that keeps maps, say, instead of making them again.
        pseudo: boxes of the validation images that no person gave, an array (n, 4) of inclusive corners in the frame of
            `val` for each, in its order; one without rows leaves its image out. Or a function of (val, indices) that
            gives those of some images, such as `Run.pseudo_boxes`; it is called where they choose a threshold.
        options: passed to `score_maps`, e.g. nwc=False, channels=64, chunk=16; batch_size, precision and progress to
            `localise`. With ivr="val" the share of IVR is chosen on the boxes of `val`, together with the threshold (by
            true boxes, and then the operating point of pseudo boxes is left out, or else by pseudo boxes).

    Raises: MethodNotDefined: the method has no meaning on this network.
    """
    require(isinstance(dataset, WSOLDataset), f"dataset must be one of load_dataset(...), but is {dataset!r}")
    if isinstance(val, str):
        require(val == "auto", f"val must be a dataset, None or 'auto', but is {val!r}")
        val = dataset.sibling("val") if dataset.opener is not None and dataset.split != "val" else None
    require(pseudo is None or val is not None, "pseudo boxes are those of validation images: give val")
    rules = protocol_named(protocol)
    if not rules.curves and dataset.geometry.kind != rules.geometry:
        need = f"open the dataset with geometry={rules.geometry!r}"
        raise WsolkitError(f"protocol {protocol!r} scores on a centre crop: {need}")
    entry = resolve(method)
    entry.refuse(smooth=tuple(smooth), pas=pas)
    ivr, plain = entry.ivr(options.pop(IVR, None)), entry.without(IVR).name  # others read the maps without it
    pas = PAS_PERCENTILE in (entry.percentile, rules.percentile) if pas is None else pas
    percentile = PAS_PERCENTILE if pas else 100.0
    own = entry.threshold is not None and percentile == entry.percentile
    rule = Rule(protocol, percentile, entry.fixed_threshold(percentile), own=own)
    indices = dataset.spread(limit or None, seed)
    targets = [dataset.target(int(i)) for i in indices]
    boxes = [target.boxes.numpy() for target in targets]
    masks = [None if target.mask is None else target.mask.numpy() for target in targets]
    masked = rules.curves and any(mask is not None for mask in masks)
    boxed = np.flatnonzero([len(truths) > 0 for truths in boxes])
    partly = 0 < len(boxed) < len(boxes) and not masked
    view = view or dataset.geometry.size
    notes = conditions(dataset.at(view), model, limit, entry.settings | options)
    notes |= {"score map": "none, the method gives boxes"} if entry.gives == "boxes" else {}
    if len(boxed) < len(boxes):
        notes["boxes"] = _on_boxes(len(boxed), len(boxes), partly, masked)

    def localised(split: WSOLDataset, rows: np.ndarray) -> ScoreMaps:
        return localiser(model, split.at(view), plain, smooth, rows, **options)

    maps, validation, guessed, extra = {"test": localised(dataset, indices)}, None, None, {}
    if val is not None and rules.curves:  # images with labels only can choose an epoch, but no threshold
        chosen_on = val.spread(limit or None, seed)
        known = _known(val, chosen_on)
        guesses = _guesses(pseudo, val, chosen_on) if pseudo is not None and entry.gives == "map" else {}
        if entry.gives == "map" and (known or guesses):
            maps["val"] = localised(val, chosen_on)
        validation, guessed = (_pair(maps.get("val"), some, val.geometry.size) for some in (known, guesses))
    if ivr is not None:
        share, how = (ivr, "given") if ivr != CHOSEN else best_share(validation, guessed, rule)
        guessed = None if ivr == CHOSEN and validation else guessed  # true boxes had a part in these maps
        notes["normalisation"], extra = f"IVR, share {share:g} {how}", {IVR: share}
        maps = {split: replace(made, maps=remove_inferior(made.maps, share), path=None) for split, made in maps.items()}
        validation, guessed = (
            pair and (Maps(remove_inferior(pair[0].maps, share)), pair[1]) for pair in (validation, guessed)
        )
    every = maps["test"]
    made = maps["test"] = _rows(every, boxed) if partly else every
    scored = [boxes[row] for row in boxed] if partly or len(boxed) == len(boxes) else None
    truth = Truth(dataset.geometry.size, made.labels, scored, masks if masked else None)
    fields: dict[str, Any] = {"dataset": dataset.name, "split": dataset.split, "method": entry.name, "seed": seed}
    fields |= {"backbone": getattr(model, "backbone", type(model).__name__), "pooling": getattr(model, "pooling", "")}
    fields |= {name: getattr(made, name) for name in ("seconds_per_image", "peak_memory_mb")}
    fields |= {"conditions": notes, "extra": extra}
    result = score(_answers(made, truth.size), truth, rule, validation, guessed, **fields)
    if partly:
        whole, result.n_classified = score(_answers(every, truth.size), Truth(truth.size, every.labels)), len(every)
        result.top1_cls, result.top5_cls = whole.top1_cls, whole.top5_cls
        result.intervals |= whole.intervals
    tau, point = result.threshold, result.operating_point
    if tau is None and entry.gives == "map":  # no true box says how good the boxes are, but there are boxes
        guessed = None if rule.own else guessed
        choice, point = validation or guessed, "validation" if validation else "pseudo_boxes" if guessed else "fixed"
        tau = (
            best_threshold(rule_curves(*choice, rule, delta=0.5), interval=rule.interval)[0]
            if choice
            else rule.threshold
        )
    boxes = _found(every, rule, tau, result)
    result.extra = result.extra | {"boxes": box_statistics(boxes, result.frame) | {"threshold": tau, "chosen": point}}
    return Evaluation(**vars(result), maps=maps, limit=limit, found=boxes)


def _on_boxes(boxed: int, images: int, partly: bool, masked: bool) -> str:
    """Which images the localisation numbers are of, where not all have a box."""
    if partly:
        return f"on {boxed} of {images} images, those with a ground-truth box; classes on all"
    empty = images - boxed
    if masked:
        return f"not used: the masks of {empty} image{'s' * (empty > 1)} show no object"
    return f"not used: {empty} of {images} images {'has' if empty == 1 else 'have'} no ground-truth box"


def _pair(made: ScoreMaps | None, boxes: dict[int, np.ndarray], size: Any) -> tuple[Maps, Truth] | None:
    """The maps that choose and the boxes by which they do, of the images that have some; no maps where the method gives
    boxes."""
    maps = Maps() if made is None else Maps(made.maps[list(boxes)])
    return (maps, Truth(size, boxes=list(boxes.values()))) if boxes else None


def _rows(made: ScoreMaps, rows: np.ndarray) -> ScoreMaps:
    """The score maps of some images."""
    return replace(made, ids=[made.ids[row] for row in rows], **{name: own[rows] for name, own in made.arrays.items()})


def _answers(made: ScoreMaps, size: int | Sequence[int]) -> Maps:
    boxes = None if made.boxes is None else boxes_of_shares(made.boxes, size)
    return Maps(made.maps, made.ids, made.logits, boxes=boxes)


def _found(made: ScoreMaps, rule: Rule, tau: float | None, result: EvalResult) -> pd.DataFrame:
    """The table of all images' boxes at a threshold, that of the result where it has one."""
    answers = _answers(made, result.frame)
    if answers.boxes is not None:
        boxes, empty = answers.boxes, np.zeros(len(made), bool)
    elif result.boxes is not None and len(result.boxes) == len(made):  # cut already
        boxes, empty = result.boxes, result.empty
    else:
        boxes, empty = cut_boxes(answers, result.frame, rule, tau)
    return found_boxes(made.ids, boxes, empty)


def _known(val: WSOLDataset, indices: np.ndarray) -> dict[int, np.ndarray]:
    """The true boxes that choose the threshold, by their image's place in `indices`: those of all of these images, or
    of the ones that have boxes, if that are `FEWEST`."""
    if not any(sample.boxes or sample.masks for sample in val.samples):
        return {}
    boxes = {row: own for row, index in enumerate(indices) if len(own := val.target(int(index)).boxes.numpy())}
    few = len(boxes) < len(indices) and (len(boxes) < FEWEST or any(sample.masks for sample in val.samples))
    return {} if few else boxes


def _guesses(pseudo: Pseudo, val: WSOLDataset, indices: np.ndarray) -> dict[int, Any]:
    """The pseudo boxes of some validation images, see `evaluate`, by their image's place in `indices`."""
    if callable(pseudo):
        boxes = pseudo(val, indices)
    else:
        fault = f"pseudo must have an array of boxes for each of {len(val)} validation images, but has {len(pseudo)}"
        require(len(pseudo) == len(val), fault)
        boxes = [pseudo[index] for index in indices.tolist()]
    return {row: own for row, own in enumerate(boxes) if len(own)}


def best_share(
    validation: tuple[Maps, Truth] | None, guessed: tuple[Maps, Truth] | None, rule: Rule
) -> tuple[float, str]:
    """The share of IVR out of `SHARES` whose best threshold is best on these maps and true boxes, else pseudo boxes (of
    equals the middle of the longest run, as for thresholds), and how it was chosen; the paper's without both."""
    chosen_from = validation or guessed
    if chosen_from is None:
        return IVR_SHARE, "fixed, as no validation boxes choose it"
    (maps, truth), pseudo = chosen_from, "" if validation else "pseudo boxes of "
    tried = (rule_curves(Maps(remove_inferior(maps.maps, share)), truth, rule, delta=0.5) for share in SHARES)
    accuracy = [best_threshold(hits, interval=rule.interval)[1] for hits in tried]
    return SHARES[plateau_middle(np.array(accuracy))], f"chosen on {pseudo}{len(truth.boxes)} validation images"


def conditions(dataset: WSOLDataset, model: nn.Module, limit: int | None, options: dict[str, Any]) -> dict[str, str]:
    """What the numbers rest on, as text for tables."""
    size, side = dataset.geometry.size, dataset.geometry.side
    view = "resized" if dataset.geometry.kind == "resize" else f"resized to {side}, centre crop"
    place = f", stride {model.stride}" if hasattr(model, "stride") else ""
    place = f", layer {options['layer']}" if isinstance(options.get("layer"), str) else place
    notes = {"input": f"{size} x {size}, {view}", "score map": f"ground-truth class{place}"}
    if limit and limit < len(dataset):
        notes["images"] = f"{limit} of {len(dataset)}, balanced over classes"
    if options.get("channels"):
        notes["channels"] = f"the {options['channels']} of largest energy (approximate)"
    if options.get("clusters"):
        notes["channels"] = f"one for each of {options['clusters']} clusters (approximate)"
    if options.get("precision", "float32") != "float32":
        notes["precision"] = options["precision"]
    return notes
