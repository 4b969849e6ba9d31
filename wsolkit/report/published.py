"""Published numbers on CUB-200-2011, each with its source, to stand beside measured ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wsolkit.methods.registry import LIST, METHODS, TABLE, Published, declared
from wsolkit.report.groups import Group, means

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
    """What separates a measured row from the published protocol, in words."""
    config, words = row["config"], []
    if row["backbone"] != network:
        words.append(f"network {row['backbone']}")
    if row["n_images"] != TEST_IMAGES:
        words.append(f"{row['n_images']} of {TEST_IMAGES} test images")
    if row["result"].get("n_classes") not in (None, 0, 200):
        words.append(f"{row['result']['n_classes']} of 200 classes")
    if config.get("size") not in (None, 224):
        words.append(f"input {config['size']}")
    if config.get("epochs") is not None:
        words.append(f"{config['epochs']} epochs")
    if config.get("weights") not in (None, "imagenet"):
        words.append("weights from a file" if config["weights"] != "none" else "not pretrained")
    if declared(row["method"]).differs:
        words.append(declared(row["method"]).differs)
    if seeds > 1:
        words.append(f"mean of {seeds} seeds")
    return ", ".join(words) or "training details"


def published_table(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Rows {"method", "measured_method", "backbone", "network", "source", "published", "measured", "differs"}; numbers as text,
    in FIELDS' order. measured_method and backbone are those of the measured group, None where there is none."""
    table = []
    own = [(method.label, entry, method.name) for method in METHODS.values() for entry in method.published]
    for label, entry, method in [*own, *((label, entry, None) for label, entry in OTHERS)]:
        network = entry.network
        group = _measured(groups, method if entry.comparable else None, network)
        line = {"method": f"{label} {entry.note}".strip(), "network": network, "source": entry.source}
        line |= {"published": _text(entry.values)}
        line |= {"measured": None, "differs": "", "measured_method": None, "backbone": None}
        if group is not None:
            row = means(group)
            line |= {"measured": _text(row), "differs": _differences(row, network, len(group.done))}
            line |= {"measured_method": group.method, "backbone": group.backbone}
        table.append(line)
    # measured ones first: they are what the table is for
    return sorted(table, key=lambda line: line["measured"] is None)
