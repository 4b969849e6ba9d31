"""Published numbers on CUB-200-2011, each with its source, to stand beside measured ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wsolkit.methods.registry import LIST, METHODS, TABLE, Published, declared
from wsolkit.report.groups import Group
from wsolkit.report.rows import METRICS

FIELDS = ["top1_cls", "gt_known_loc", "top1_loc", "max_box_acc_v2"]
TEST_IMAGES = 5794
# methods that the kit does not have
OTHERS = [
    ("SPG", Published("vgg16", LIST, {"top1_cls": 75.5, "gt_known_loc": 58.9, "top1_loc": 48.9})),
    ("SPG", Published("vgg16", TABLE, {"max_box_acc_v2": 56.3})),
    ("SPG", Published("resnet50", TABLE, {"max_box_acc_v2": 60.4})),
    ("Centre box", Published("any", TABLE, {"max_box_acc_v2": 59.7})),
]


def _text(values: dict[str, Any]) -> list[str]:
    return ["\u2013" if values.get(name) is None else f"{values[name]:.1f}" for name in FIELDS]


def _measured(groups: Sequence[Group], method: str | None, network: str) -> Group | None:
    """The completed group of the same method: on the same network, or else on the first one there is."""
    same = [group for group in groups if group.method == method and group.done]
    return next((group for group in same if group.backbone == network), same[0] if same else None)


def _differences(row: dict, network: str, seeds: int) -> str:
    """What separates a measured row from the published protocol, as text."""
    config, classes = row["config"], row["result"].get("n_classes")
    weights = "not pretrained" if config.get("weights") == "none" else "weights from a file"
    texts = {
        f"network {row['backbone']}": row["backbone"] != network,
        f"{row['n_images']} of {TEST_IMAGES} test images": row["n_images"] != TEST_IMAGES,
        f"{classes} of 200 classes": classes not in (None, 0, 200),
        f"input {config.get('size')}": config.get("size") not in (None, 224),
        f"{config.get('epochs')} epochs": config.get("epochs") is not None,
        weights: config.get("weights") not in (None, "imagenet"),
        declared(row["method"]).differs: declared(row["method"]).differs != "",
        f"mean of {seeds} seeds": seeds > 1,
    }
    return ", ".join(text for text, holds in texts.items() if holds) or "training details"


def published_table(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Rows {"method", "measured_method", "backbone", "network", "source", "published", "measured", "differs"}; numbers as text,
    in FIELDS' order. measured_method and backbone are those of the measured group, None where there is none."""
    table = []
    own = [(method.label, entry, method.name) for method in METHODS.values() for entry in method.published]
    for label, entry, method in [*own, *((label, entry, None) for label, entry in OTHERS)]:
        group = _measured(groups, method if entry.comparable else None, entry.network)
        row = None
        if group:  # its first completed row, with the means over its seeds
            values = {name: group.value(name) for name in METRICS}
            row = group.done[0] | {name: value and value.mean for name, value in values.items()}
        table.append({
            "method": f"{label} {entry.note}".strip(), "network": entry.network, "source": entry.source,
            "published": _text(entry.values), "measured": _text(row) if row else None,
            "differs": _differences(row, entry.network, len(group.done)) if group and row else "",
            "measured_method": group.method if group else None, "backbone": group.backbone if group else None,
        })  # fmt: skip
    # measured ones first: they are what the table is for
    return sorted(table, key=lambda line: line["measured"] is None)
