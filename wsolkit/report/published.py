"""Published numbers on CUB-200-2011, each with its source, to stand beside measured ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wsolkit.report.index_groups import Group, means

FIELDS = ["top1_cls", "gt_known_loc", "top1_loc", "max_box_acc_v2"]
STUDY = "the study this kit grew out of"
LIST = "public WSOL result list"
TABLE = "wsolevaluation, Choe et al., CVPR 2020"
TEST_IMAGES = 5794

# (method shown, method measured here or None, network, source, numbers in percent)
PUBLISHED: list[tuple[str, str | None, str, str, dict[str, float]]] = [
    ("CAM", "cam", "vgg16", LIST, {"top1_cls": 76.6, "gt_known_loc": 56.0, "top1_loc": 44.2}),
    ("CAM", "cam", "vgg16", TABLE, {"max_box_acc_v2": 63.7}),
    ("CAM", "cam", "resnet50", TABLE, {"max_box_acc_v2": 63.0}),
    ("Grad-CAM", "grad_cam", "vgg16_fc", STUDY, {"top1_cls": 77.91, "top1_loc": 42.51}),
    ("Grad-CAM + eigen_smooth + aug_smooth", None, "vgg16_fc", STUDY, {"top1_loc": 43.94}),
    ("Grad-CAM++", "grad_cam++", "vgg16_fc", STUDY, {"top1_cls": 77.91, "top1_loc": 57.34}),
    ("Score-CAM (retrained at batch 4)", "score_cam", "vgg16_fc", STUDY, {"top1_cls": 76.06, "top1_loc": 43.99}),
    ("SPG", None, "vgg16", LIST, {"top1_cls": 75.5, "gt_known_loc": 58.9, "top1_loc": 48.9}),
    ("ADL", "adl", "vgg16", LIST, {"top1_cls": 65.3, "gt_known_loc": 75.4, "top1_loc": 52.4}),
    ("CutMix", "cutmix", "vgg16", LIST, {"top1_loc": 52.5}),
    ("CutMix", "cutmix", "resnet50", LIST, {"top1_loc": 54.81}),
    ("HaS", "has", "vgg16", TABLE, {"max_box_acc_v2": 63.7}),
    ("HaS", "has", "resnet50", TABLE, {"max_box_acc_v2": 64.7}),
    ("ACoL", "acol", "vgg16", TABLE, {"max_box_acc_v2": 57.4}),
    ("ACoL", "acol", "resnet50", TABLE, {"max_box_acc_v2": 66.5}),
    ("SPG", None, "vgg16", TABLE, {"max_box_acc_v2": 56.3}),
    ("SPG", None, "resnet50", TABLE, {"max_box_acc_v2": 60.4}),
    ("ADL", "adl", "vgg16", TABLE, {"max_box_acc_v2": 66.3}),
    ("ADL", "adl", "resnet50", TABLE, {"max_box_acc_v2": 58.4}),
    ("CutMix", "cutmix", "vgg16", TABLE, {"max_box_acc_v2": 62.3}),
    ("CutMix", "cutmix", "resnet50", TABLE, {"max_box_acc_v2": 62.8}),
    ("Centre box", None, "any", TABLE, {"max_box_acc_v2": 59.7}),
]
# what separates a method here from the published one, beyond what the table sees in the parameters
OWN_WORDS = {
    "has": "cells of one size, values not searched",
    "cutmix": "values not searched",
    "adl": "values not searched",
    "acol": "no mean pooling before the branches, delta not searched",
}


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
    if row["method"] in OWN_WORDS:
        words.append(OWN_WORDS[row["method"]])
    if seeds > 1:
        words.append(f"mean of {seeds} seeds")
    return ", ".join(words) or "training details"


def published_table(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Rows {"method", "measured_method", "backbone", "network", "source", "published", "measured", "differs"}; numbers as text,
    in FIELDS' order. measured_method and backbone are those of the measured group, None where there is none."""
    table = []
    for label, method, network, source, values in PUBLISHED:
        group = _measured(groups, method, network)
        line = {"method": label, "network": network, "source": source, "published": _text(values)}
        line |= {"measured": None, "differs": "", "measured_method": None, "backbone": None}
        if group is not None:
            row = means(group)
            line |= {"measured": _text(row), "differs": _differences(row, network, len(group.done))}
            line |= {"measured_method": group.method, "backbone": group.backbone}
        table.append(line)
    # measured ones first: they are what the table is for
    return sorted(table, key=lambda line: line["measured"] is None)
