"""`make bench`: the evaluator against the straightforward OpenCV implementation of the protocol, side by side.

Both get the same map (224 x 224, float64, in [0, 1]), ground-truth boxes and 1000 thresholds, on one core, in turns, and
must give equal curves, bit for bit. Then a whole set is scored (resize, min-max, curves, boxes, pixels) with more threads.
"""

from __future__ import annotations

import argparse
import platform
import time
from functools import partial

import cv2
import numpy as np
import straightforward

from wsolkit.boxes.extract import iou_curve
from wsolkit.boxes.preparation import normalise_map, prepare_map
from wsolkit.boxes.protocols import PROTOCOLS
from wsolkit.common.cores import cores
from wsolkit.evaluation.measuring import Rule, checked_truths, default_workers, measure

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
    print(f"{'maps':<14} {'contours':<8} {'straightforward, ms':>28} {'wsolkit, ms':>26} {'times faster':>26}")
    for name, maps in kinds(rng, count).items():
        truths = [box(rng) for _ in maps]
        for contours in ("all", "largest"):
            slow, fast = [], []
            for score_map, truth in zip(maps, truths, strict=True):
                given = (score_map, truth, 0.001, contours)
                expected_time, expected = seconds(partial(straightforward.iou_curve, *given), 1)
                found_time, found = seconds(partial(iou_curve, *given), 3)
                assert np.array_equal(found, expected), f"{name}, {contours}: the curves differ"
                slow.append(1e3 * expected_time)
                fast.append(1e3 * found_time)
            ratio = np.array(slow) / np.array(fast)
            print(f"{name:<14} {contours:<8} {spread(slow):>28} {spread(fast):>26} {spread(ratio, ' x'):>26}")


def scaling(count: int, repeats: int) -> None:
    rng = np.random.default_rng(1)
    maps = np.stack([network_like(rng, 14) for _ in range(count)])
    truths = checked_truths([box(rng) for _ in maps], [str(index) for index in range(count)])
    masks = [(prepare_map(score_map, SIDE) > 0.5).astype(np.uint8) for score_map in maps]
    rule = Rule(PROTOCOLS["wsolevaluation"], SIDE)
    cores = default_workers()
    print(f"\nWhole set: {count} maps of 14 x 14, resize, min-max, both curves at 1000 thresholds, box, PxAP histogram")
    alone = None
    for workers in sorted({1, 2, cores // 2, cores} - {0}):
        if workers <= cores:
            taken = [
                seconds(lambda w=workers: measure(maps, truths, masks, rule, [0.2], w), 1)[0] for _ in range(repeats)
            ]
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
    measure(
        np.random.default_rng(2).random((2, 7, 7)),
        None,
        [np.eye(SIDE, dtype=np.uint8)] * 2,
        Rule(PROTOCOLS["wsolevaluation"], SIDE),
        [],
    )
    iou_curve(np.eye(SIDE), [[0, 0, 9, 9]]), iou_curve(np.eye(SIDE), [[0, 0, 9, 9]], contours="largest")  # compiled now
    side_by_side(arguments.maps)
    scaling(arguments.set, 5)


if __name__ == "__main__":
    main()
