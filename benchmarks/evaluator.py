"""`make bench`: the evaluator against OpenCV's contour search, side by side.

Compared are one search per threshold (1000, as the protocol is written down), one search per distinct mask (at most
256: the fair comparison, which is the number to quote) and the package. All get the same map (224 x 224, float64, in
[0, 1]) and ground-truth box, on one core, in turns, and must give equal curves, bit for bit. Then a whole set is scored
(resize, min-max, curves, boxes, pixels) with more threads.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from wsolkit.boxes.extract import iou_curve
from wsolkit.boxes.preparation import normalise_map, prepare_map
from wsolkit.common.cores import cores
from wsolkit.evaluation.scoring import Maps, Rule, Truth, measure, threads

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import straightforward

SIDE = 224


def network_like(rng: np.random.Generator, grid: int) -> np.ndarray:
    """A small map as CAM makes it: one or two soft blobs on a noisy ground, (grid, grid) float32."""
    ys, xs = np.mgrid[:grid, :grid] / grid
    scores = rng.normal(0, 0.08, (grid, grid))
    for _ in range(rng.integers(1, 3)):
        y, x, width = rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8), rng.uniform(0.08, 0.25)
        scores += np.exp(-((ys - y) ** 2 + (xs - x) ** 2) / (2 * width**2))
    return scores.astype(np.float32)


def kinds(rng: np.random.Generator, count: int) -> dict[str, list[np.ndarray]]:
    return {
        "14 x 14 grown": [prepare_map(network_like(rng, 14), SIDE) for _ in range(count)],
        "28 x 28 grown": [prepare_map(network_like(rng, 28), SIDE) for _ in range(count)],
        "pixel noise": [
            normalise_map(rng.random((SIDE, SIDE))) for _ in range(min(count, 3))
        ],  # seconds each for OpenCV
    }


def box(rng: np.random.Generator) -> np.ndarray:
    corner = rng.integers(0, SIDE // 2, 2)
    return np.array([[*corner, *np.minimum(corner + rng.integers(20, SIDE // 2, 2), SIDE - 1)]])


def seconds(function, repeats: int) -> tuple[float, np.ndarray]:
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        answer = function()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken)), answer


def spread(values, unit: str = "") -> str:
    low, middle, high = np.percentile(values, [10, 50, 90])
    return f"{middle:8.2f}{unit} ({low:.2f} to {high:.2f})"


def side_by_side(count: int) -> None:
    rng = np.random.default_rng(0)
    ways = {
        "per threshold, ms": (straightforward.iou_curve, 1),
        "per distinct mask, ms": (partial(straightforward.iou_curve, once=True), 3),
        "wsolkit, ms": (iou_curve, 3),
    }
    ratios = ("faster than per threshold", "faster than per mask")
    print(f"{'maps':<14} {'contours':<8} " + " ".join(f"{name:>26}" for name in (*ways, *ratios)))
    for name, maps in kinds(rng, count).items():
        truths = [box(rng) for _ in maps]
        for contours in ("all", "largest"):
            taken: dict[str, list[float]] = {way: [] for way in ways}
            for score_map, truth in zip(maps, truths, strict=True):
                curves = []
                for way, (function, repeats) in ways.items():
                    spent, curve = seconds(partial(function, score_map, truth, 0.001, contours), repeats)
                    taken[way].append(1e3 * spent)
                    curves.append(curve)
                assert all(np.array_equal(curve, curves[0]) for curve in curves), (
                    f"{name}, {contours}: the curves differ"
                )
            *slow, own = map(np.array, taken.values())
            cells = [spread(values) for values in (*slow, own)] + [spread(values / own, " x") for values in slow]
            print(f"{name:<14} {contours:<8} " + " ".join(f"{cell:>26}" for cell in cells))


def scaling(count: int, repeats: int) -> None:
    rng = np.random.default_rng(1)
    maps = np.stack([network_like(rng, 14) for _ in range(count)])
    masks = [(prepare_map(score_map, SIDE) > 0.5).astype(np.uint8) for score_map in maps]
    whole = Maps(maps), Truth(SIDE, boxes=[box(rng) for _ in maps], masks=masks), Rule(), [0.2]
    print(f"\nWhole set: {count} maps of 14 x 14, resize, min-max, both curves at 1000 thresholds, box, PxAP histogram")
    alone = None
    for workers in sorted({1, 2, threads() // 2, threads()} - {0}):
        if workers <= threads():
            taken = [seconds(partial(measure, *whole, workers), 1)[0] for _ in range(repeats)]
            alone = alone or float(np.median(taken))
            speed = spread(count / np.array(taken))
            print(f"{workers:3d} thread(s): {speed} images/s, {alone / np.median(taken):.2f} x one thread")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=20, help="maps of each kind (default 20)")
    parser.add_argument("--set", type=int, default=400, help="maps of the whole set (default 400)")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    print(f"Python {platform.python_version()}, OpenCV {cv2.__version__}, numpy {np.__version__}, {cores()} cores")
    print("median over maps (10th to 90th percentile)")
    for contours in ("all", "largest"):
        iou_curve(np.eye(SIDE), [[0, 0, 9, 9]], contours=contours)  # compiled now
    measure(Maps(np.random.default_rng(2).random((2, 7, 7))), Truth(SIDE, masks=[np.eye(SIDE)] * 2), Rule(), [])
    side_by_side(arguments.maps)
    scaling(arguments.set, 5)


if __name__ == "__main__":
    main()
