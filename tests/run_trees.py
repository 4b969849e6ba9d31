"""Folders of made-up runs, as a sweep leaves them: what the index is tested with."""

from __future__ import annotations

import json

import numpy as np

from wsolkit import figures
from wsolkit.methods.registry import declared


def picture(seed=0, side=96):
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[:side, :side] / side
    bird = np.exp(-((xx - 0.3 - 0.3 * rng.random()) ** 2 + (yy - 0.5) ** 2) / 0.03)
    pixels = np.stack([90 + 120 * bird, 140 - 60 * yy * 0.5, 120 + 60 * yy], -1) + rng.normal(0, 6, (side, side, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8), bird[::8, ::8]


def result(gt=70.0, n=300, seconds=0.02):
    point = {"threshold": 0.35, "gt_known_loc": gt, "top1_loc": gt - 8, "top5_loc": gt - 1}
    return {
        "format": "wsolkit-result-2",
        "n_images": n,
        "n_val": 100,
        "n_classes": 8,
        "top1_cls": 93.3,
        "top5_cls": 99.0,
        "gt_known_loc": gt,
        "top1_loc": gt - 8,
        "top5_loc": gt - 1,
        "operating_point": "validation",
        "threshold": 0.35,
        "operating_points": {
            "fixed": point | {"threshold": 0.2, "gt_known_loc": gt - 10},
            "validation": point,
            "best_on_test": None,
        },
        "max_box_acc": gt + 2,
        "max_box_acc_v2": gt - 4,
        "mean_iou": 0.8 * gt,
        "pxap": None,
        "centre_box": {"gt_known_loc": 41.0, "top1_loc": 38.2, "best_on_test": 43.0, "side": 150},
        "intervals": {"gt_known_loc": [gt - 5, gt + 5], "centre_box": [36.0, 46.0]},
        "seconds_per_image": seconds,
        "peak_memory_mb": 512.5,
        "protocol": "wsolevaluation",
        "conditions": {"geometry": "resize", "maps": "ground-truth class"},
    }


def home_of(out, seed):
    """Where the runs of a seed lie: those of the first (0 here) in OUT itself."""
    return out / f"seed-{seed}" if seed else out


def run(out, dataset, backbone, method, images=(), seed=0, **changes):
    folder = home_of(out, seed) / "runs" / dataset / backbone / declared(method).slug
    (folder / "gallery").mkdir(parents=True)
    gallery = []
    for index, name in enumerate(images):
        pixels, score_map = picture(index)
        thumb = figures.thumbnail(pixels, score_map, [[20, 25, 70, 75]], [25, 30, 66, 70])
        (folder / "gallery" / f"{index}.jpg").write_bytes(thumb)
        gallery.append({"id": name, "file": f"gallery/{index}.jpg", "caption": "IoU 0.71"})
    taus = np.linspace(0, 0.99, 100)
    gt = changes.pop("gt", 70.0)
    values = {
        "status": "completed",
        "fingerprint": "abc",
        "config": {"dataset": dataset, "backbone": backbone, "method": method, "size": 224, "epochs": 12, "seed": seed}
        | {"weights": "imagenet", "stride": 16},
        "result": result(gt, changes.pop("n", 300), changes.pop("seconds", 0.02)),
        "gallery": gallery,
        "versions": {"torch": "2.8.0"},
        "wall_seconds": 12.5,
        "finished": "2025-01-01T00:00:00",
    } | changes
    accuracy = gt * np.exp(-((taus - 0.35) ** 2) / 0.08)
    values["result"].setdefault("curve", {"thresholds": taus.tolist(), "gt_known_loc": accuracy.tolist()})
    (folder / "metrics.json").write_text(json.dumps(values))
    (folder / "notebook.ipynb").write_text("{}")
    report = home_of(out, seed) / dataset / backbone / f"{declared(method).slug}.html"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text("<!DOCTYPE html><title>report</title>")
    return folder


def failure(out, dataset, backbone, method, status, error, seed=0):
    folder = home_of(out, seed) / "runs" / dataset / backbone / declared(method).slug
    folder.mkdir(parents=True, exist_ok=True)
    config = {"dataset": dataset, "backbone": backbone, "method": method, "seed": seed}
    values = {"status": status, "error": error, "config": config, "log": "log.txt"}
    (folder / "log.txt").write_text(error)
    (folder / "failure.json").write_text(json.dumps(values))


def differences(out):
    """Store in every run its differences to plain CAM of the same seed and to the centre box, as a finished run does, but
    for those that it has: a difference is significant here where the two intervals do not meet."""
    for path in sorted(out.glob("**/runs/*/*/*/metrics.json")):
        try:
            values = json.loads(path.read_text())
        except ValueError:  # a damaged one
            continue
        own, cam, against = values["result"], path.parents[1] / "cam" / path.name, {}
        others = {"centre_box": (own["centre_box"].get("gt_known_loc"), own["intervals"]["centre_box"])}
        if cam.exists() and cam != path:
            plain = json.loads(cam.read_text())["result"]
            others["cam"] = plain["gt_known_loc"], plain["intervals"]["gt_known_loc"]
        for name, (base, (base_low, base_high)) in others.items():
            if None not in (own["gt_known_loc"], base):
                low, high = own["intervals"]["gt_known_loc"]
                ends = {"low": low - base_high, "high": high - base_low, "n": own["n_images"]}
                against[name] = {"gt_known_loc": {"difference": own["gt_known_loc"] - base, **ends}}
        path.write_text(json.dumps(values | {"against": against | values.get("against", {})}))
