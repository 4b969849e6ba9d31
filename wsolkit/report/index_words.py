"""What came out, in words: the first thing on the index page. Every sentence is written from the numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from wsolkit.report.index_groups import HEADLINE, Difference, Group, Value, comparable, difference, marks

MINUS = "\u2212"
BIRDS = ("synthetic", "cub")
MOST_NAMES = 4  # in one list
STATUS_WORDS = {"failed": "failed", "missing": "planned without a result", "undefined": "not defined"}


def number(value: float | None, digits: int = 1) -> str:
    return "\u2013" if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", MINUS) if round(value, 1) else "±0.0"


def with_spread(value: Value, digits: int = 1) -> str:
    """ "47.0", or "47.0 ± 1.2" over several seeds."""
    return number(value.mean, digits) + (f" ± {value.sd:.{digits}f}" if value.sd is not None else "")


def names(items: Sequence[str], most: int = MOST_NAMES) -> Markup:
    """A list in words: "a", "a and b", "a, b and c"; a long one ends with a count of the others."""
    shown = [Markup("<strong>{}</strong>").format(item) for item in items[:most]]
    if len(items) > most:
        shown.append(Markup("{} more").format(len(items) - most))
    return shown[0] if len(shown) == 1 else Markup("{} and {}").format(Markup(", ").join(shown[:-1]), shown[-1])


def answer(groups: Sequence[Group], full: int) -> dict[str, Any]:
    """What the page says first about one dataset: {"lead": one sentence or "", "lines": [{"backbone" (None: several), "text"}],
    "why": what the failure types say about RethinkingCAM and CAM, or ""}.

    full: the number of test images; only runs on all of them are compared.
    """
    backbones = list(dict.fromkeys(group.backbone for group in groups))
    members = {backbone: [group for group in groups if group.backbone == backbone] for backbone in backbones}
    found = {
        backbone: _line(members[backbone], full) for backbone in backbones if any(g.done for g in members[backbone])
    }
    lines = [
        {"backbone": backbone, "text": Markup("On <strong>{}</strong>, {}").format(backbone, text)}
        for backbone, (text, _) in found.items()
    ]
    if empty := [backbone for backbone in backbones if backbone not in found]:
        lines.append({"backbone": empty[0] if len(empty) == 1 else None, "text": _nothing(members, empty)})
    winners = {winner for _, winner in found.values()}
    lead = Markup("")
    if len(found) > 1 and len(winners) == 1 and "" not in winners:
        where = "both networks" if len(found) == 2 else f"all {len(found)} networks"
        where += " that have results" if empty else ""
        lead = Markup("<strong>{}</strong> is best on {}.").format(winners.pop(), where)
    return {"lead": lead, "lines": lines, "why": _why(groups, full)}


def _line(members: list[Group], full: int) -> tuple[Markup, str]:
    """The sentences about one network with results, and the name of its single best method or ""."""
    values = comparable(members, HEADLINE, full)
    if not values:
        if any(group.value(HEADLINE) is not None for group in members):
            return Markup("no method has looked at all {:.0f} images, so none is called best.").format(full), ""
        return Markup("no run has a GT-known Loc, so no method is called best."), ""
    top = max(value.mean for value in values.values())
    best = [method for method, value in values.items() if math.isclose(value.mean, top)]
    group = next(group for group in members if group.method == best[0])
    if len(values) == 1:
        rest = " on all images" + " and seeds" * (values[best[0]].n > 1)
        does = "is the only method with a result" + rest * (len(members) > 1)
    elif len(best) == len(values):
        does = "come out equal"
    else:
        does = "share the first place" if len(best) > 1 else "is best"
    text = Markup("{} {}: {} right on {}\u00a0% of the {:.0f} image{}{}.").format(
        names(best), does, "their boxes are" if len(best) > 1 else "its box is", with_spread(values[best[0]]), full, "s" * (full != 1),
        f" (mean of {values[best[0]].n} seeds)" if values[best[0]].n > 1 else "",
    )  # fmt: skip
    text += _compared(
        group, None if "cam" in best else next((one for one in members if one.method == "cam"), None), best
    )
    tied = [method for method, mark in marks(members, HEADLINE, full).items() if mark == "tie" and method != "cam"]
    if tied:
        others = names(tied) if len(tied) <= MOST_NAMES else f"{len(tied)} other methods"
        text += Markup(" {} {} too close to the best to be told apart.").format(
            others, "is" if len(tied) == 1 else "are"
        )
    return text, best[0] if len(best) == 1 and len(values) > 1 else ""


def _compared(group: Group, cam: Group | None, best: Sequence[str]) -> Markup:
    """The sentence that sets the best method beside plain CAM and the centre box."""
    to_cam = None if "cam" in best else difference(group, "cam", cam)
    pairs = [("plain CAM", to_cam), ("a box in the middle of the image", difference(group, "centre_box", None))]
    pairs = [(name, one) for name, one in pairs if one is not None]
    apart = [_apart(one) for _, one in pairs]
    parts = [f"{_amount(one)} than {name}" + (f" {one.note}" if one.note else "") for name, one in pairs]
    text = Markup("")
    if len(pairs) == 2 and apart[0] == apart[1]:
        text = Markup(" That is {} and {} ({}).").format(
            *parts, apart[0].replace("not", "neither", 1) if "not" in apart[0] else f"both {apart[0]}"
        )
    elif pairs:
        text = Markup(" That is {}.").format(
            " and ".join(f"{part} ({words})" for part, words in zip(parts, apart, strict=True))
        )
    if to_cam is None and "cam" not in best:
        text += Markup(" There is no comparable result of plain CAM.")
    return text


def _amount(one: Difference) -> str:
    mean = round(one.value.mean, 1)
    if not mean:
        return "no more"
    return f"{abs(mean):.1f} {'point' if abs(mean) == 1 else 'points'} {'more' if mean > 0 else 'less'}"


def _apart(one: Difference) -> str:
    """Whether a difference is told apart from none, in words that are true of every number of seeds."""
    n = one.value.n
    if one.told_apart:
        return "told apart" if n == 1 else f"told apart in each of {n} seeds"
    if not one.above and not one.below:
        return "not told apart" if n == 1 else f"not told apart in any of {n} seeds"
    if not (one.below if one.value.mean > 0 else one.above):  # all in the direction of the mean
        return f"told apart in {one.above or one.below} of {n} seeds"
    words = [f"{side} in {count}" for count, side in ((one.above, "better"), (one.below, "worse")) if count]
    return f"told apart as {' and '.join(words)} of {n} seeds"


def _nothing(members: dict[str, list[Group]], empty: list[str]) -> Markup:
    """The sentence about the networks without any completed run."""
    counts = Counter(row["status"] for backbone in empty for group in members[backbone] for row in group.runs)
    words = [f"{counts[status]} {text}" for status, text in STATUS_WORDS.items() if counts[status]]
    return Markup("On {}, no run has completed ({}).").format(names(empty), ", ".join(words))


def _why(groups: Sequence[Group], full: int) -> Markup | str:
    """How much of the object RethinkingCAM and CAM find: said only where the numbers show that the one finds more.

    That is so on a network where RethinkingCAM's GT-known Loc is told apart from plain CAM's in every seed, plain CAM's
    most frequent kind of miss is "part only", and RethinkingCAM's boxes are "part only" less often.
    """
    shown = []
    for group in groups:
        cam = next((one for one in groups if one.backbone == group.backbone and one.method == "cam"), None)
        if group.method != "rethinking_cam" or cam is None or not group.n_images == cam.n_images == full:
            continue
        gained = difference(group, "cam", cam)
        parts = cam.share_of("part only"), group.share_of("part only")
        if gained is None or gained.above < gained.value.n or None in parts or parts[0] <= parts[1]:
            continue
        others = [cam.share_of(name) or 0 for name in ("too large", "multiple instances", "background")]
        if parts[0] > max(others):
            shown.append((group.backbone, *parts))
    if not shown:
        return ""
    thing = "bird" if groups[0].dataset in BIRDS else "object"
    text = Markup(
        "On {}, plain CAM's box covers only a part of the {} in {:.0f}\u00a0% of the images, RethinkingCAM's in {:.0f}\u00a0%"
    ).format(shown[0][0], thing, *shown[0][1:])
    for one in shown[1:]:
        text += Markup("; on {} in {:.0f}\u00a0% and {:.0f}\u00a0%").format(*one)
    head = (
        " The species of these birds differ in the head: bill, mask or crest."
        if groups[0].dataset == "synthetic"
        else ""
    )
    return text + "." + head
