"""`make bench`: score maps against grad-cam's and torch-cam's own classes, on the same networks, side by side.

All contestants take turns in one process, round after round, so that whatever else the machine does meets them alike; a
ratio is the median of the ratios within a round. Weights and images are random: neither speed nor equality of the maps
depends on them. Maps that should be equal are compared (1e-4 after min-max) while they are timed. torch-cam is no
dependency of the kit: `pip install --no-deps torchcam` beforehand adds its rows.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"  # grad-cam shows a progress bar per image; read when tqdm is imported

import numpy as np
import pytorch_grad_cam
import torch
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor

from wsolkit import build_model, score_maps
from wsolkit.common.cores import cores
from wsolkit.networks.models import unit_range

TOGETHER = ["cam", "rethinking_cam", "grad_cam", "grad_cam++", "hires_cam", "layer_cam", "xgrad_cam", "eigen_cam"]
TOGETHER += ["eigen_grad_cam", "grad_cam_elementwise", "fem"]
PACKAGE = {"grad_cam": "GradCAM", "grad_cam++": "GradCAMPlusPlus", "score_cam": "ScoreCAM"}
TORCHCAM = {"grad_cam": "GradCAM", "grad_cam++": "GradCAMpp"}  # its ++ has another denominator: timed, not compared
CLASSES = 200


class Network:
    """A model, images and labels, and the contestants on them."""

    def __init__(self, backbone: str, count: int, side: int, device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        self.model = build_model(backbone, CLASSES, weights="none").eval().to(device)
        self.images = torch.randn(count, 3, side, side, generator=generator).to(device)
        self.labels = torch.randint(CLASSES, (count,), generator=generator).to(device)

    def bare(self, channels_last: bool = False) -> Tensor:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        with torch.inference_mode():
            return self.model(self.images.contiguous(memory_format=layout))

    def ours(self, method: str | list[str], precision: str = "float32") -> Tensor | dict[str, Tensor]:
        return score_maps(self.model, self.images, self.labels, method, precision=precision)

    def package(self, method: str) -> Callable[[], np.ndarray]:
        """A class of grad-cam, on a copy: it leaves hooks and gradients behind."""
        model = copy.deepcopy(self.model)
        made = getattr(pytorch_grad_cam, PACKAGE[method])(model, [list(model.body.children())[-1]])
        targets = [ClassifierOutputTarget(label) for label in self.labels.tolist()]
        return lambda: made(self.images, targets=targets)

    def torchcam(self, method: str) -> Callable[[], Tensor]:
        import torchcam.methods

        model = copy.deepcopy(self.model)
        made = getattr(torchcam.methods, TORCHCAM[method])(model, list(model.body.children())[-1])
        labels = self.labels.tolist()
        return lambda: made(class_idx=labels, scores=model(self.images))[0]


def rounds(contestants: dict[str, Callable], count: int, device: str) -> tuple[dict[str, np.ndarray], dict]:
    """Seconds (count,) of each contestant, in turns, after a first call each; and what that first call returned."""
    answers = {name: function() for name, function in contestants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(count):
        for name, function in contestants.items():
            synchronise(device)
            start = time.perf_counter()
            function()
            synchronise(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(taken) for name, taken in seconds.items()}, answers


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def spread(values: np.ndarray, digits: int = 2) -> str:
    low, middle, high = np.percentile(values, [10, 50, 90])
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def table(title: str, seconds: dict[str, np.ndarray], images: int, reference: str) -> None:
    print(f"\n{title}\n{'':<34} {'ms per call':>26} {'images/s':>9} {'time / ' + reference:>26}")
    for name, taken in seconds.items():
        ratio = spread(taken / seconds[reference])
        print(f"{name:<34} {spread(1e3 * taken, 1):>26} {images / np.median(taken):9.2f} {ratio:>26}")


def goal(text: str, slow: np.ndarray, fast: np.ndarray, bar: float, at_most: bool = False) -> None:
    """One line: the paired ratio slow / fast, its spread, and whether its median meets the bar."""
    middle = np.median(slow / fast)
    met = middle <= bar if at_most else middle >= bar
    print(f"  {'met   ' if met else 'MISSED'} {text}: {spread(slow / fast)} x, bar {'<=' if at_most else '>='} {bar}")


def assert_equal(ours: Tensor, theirs: np.ndarray | Tensor, name: str) -> None:
    """1e-4 after min-max, at the resolution of the other's map."""
    maps = ours.cpu().numpy()
    if theirs.shape[-1] == maps.shape[-1]:
        maps, theirs = unit_range(ours).cpu().numpy(), unit_range(theirs.detach()).cpu().numpy()
    else:
        maps = scale_cam_image(scale_cam_image(maps, theirs.shape[:0:-1]))
    assert np.ptp(maps) > 0.9, f"{name}: the maps are flat, nothing is compared"
    np.testing.assert_allclose(maps, theirs, atol=1e-4, err_msg=name)


def one_look(backbone: str, options: argparse.Namespace, with_torchcam: bool) -> None:
    network = Network(backbone, options.batch, options.side, options.device)
    contestants: dict[str, Callable] = {
        "bare forward": network.bare,
        "bare forward, channels last": lambda: network.bare(channels_last=True),
        "wsolkit grad_cam": lambda: network.ours("grad_cam"),
        "wsolkit grad_cam++": lambda: network.ours("grad_cam++"),
        f"wsolkit, {len(TOGETHER)} methods together": lambda: network.ours(TOGETHER),
        "wsolkit grad_cam, bf16": lambda: network.ours("grad_cam", "bf16"),
    }
    together = f"wsolkit, {len(TOGETHER)} methods together"
    for method, name in PACKAGE.items():
        if method != "score_cam":
            contestants[f"grad-cam {name}"] = network.package(method)
            if with_torchcam:
                contestants[f"torch-cam {TORCHCAM[method]}"] = network.torchcam(method)
    seconds, answers = rounds(contestants, options.rounds, options.device)
    for method in ("grad_cam", "grad_cam++"):
        assert_equal(answers[f"wsolkit {method}"], answers[f"grad-cam {PACKAGE[method]}"], f"{backbone} {method}")
        assert torch.allclose(answers[together][method], answers[f"wsolkit {method}"], rtol=1e-4)
    if with_torchcam:
        assert_equal(answers["wsolkit grad_cam"], answers["torch-cam GradCAM"], f"{backbone} torch-cam")
    title = f"{backbone}, {options.batch} images of {options.side} px, {options.device}: one look"
    table(title, seconds, options.batch, "bare forward")
    for method in ("grad_cam", "grad_cam++"):
        ours = seconds[f"wsolkit {method}"]
        goal(f"{method} faster than grad-cam", seconds[f"grad-cam {PACKAGE[method]}"], ours, 4)
        if with_torchcam:
            goal(f"{method} faster than torch-cam", seconds[f"torch-cam {TORCHCAM[method]}"], ours, 1.5)
        goal(f"{method} / bare forward in the same layout", ours, seconds["bare forward, channels last"], 1.15, True)
    goal("all methods together / grad_cam alone", seconds[together], seconds["wsolkit grad_cam"], 1.5, True)


def many_looks(backbone: str, options: argparse.Namespace) -> None:
    network = Network(backbone, options.score_images, options.side, options.device)
    contestants = {
        "wsolkit score_cam": lambda: network.ours("score_cam"),
        "wsolkit score_cam, bf16": lambda: network.ours("score_cam", "bf16"),
        "grad-cam ScoreCAM": network.package("score_cam"),
    }
    seconds, answers = rounds(contestants, options.rounds, options.device)
    assert_equal(answers["wsolkit score_cam"], answers["grad-cam ScoreCAM"], f"{backbone} score_cam")
    correlation = rank_correlation(answers["wsolkit score_cam"], answers["wsolkit score_cam, bf16"])
    channels = network.model.head.in_features
    title = f"{backbone}, {options.score_images} image(s) of {options.side} px, {channels} channels, {options.device}"
    table(title, seconds, options.score_images, "grad-cam ScoreCAM")
    theirs = seconds["grad-cam ScoreCAM"]
    goal("score_cam faster than grad-cam", theirs, seconds["wsolkit score_cam"], 1.5)
    goal("score_cam in bf16 faster than grad-cam", theirs, seconds["wsolkit score_cam, bf16"], 3)
    met = "met   " if correlation >= 0.99 else "MISSED"
    print(f"  {met} rank correlation of the bf16 map with the float32 map: {correlation:.4f}, bar >= 0.99")


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's, of the positions of each map; the lowest of the batch."""
    ranks = [maps.flatten(1).argsort(dim=1).argsort(dim=1).double().cpu().numpy() for maps in (first, second)]
    return min(float(np.corrcoef(first, other)[0, 1]) for first, other in zip(*ranks, strict=True))


class _Enough(Exception):
    pass


def memory_of(contestant: str, options: argparse.Namespace) -> None:
    """In a process of its own: print as JSON the MiB by which the peak grew over that of a bare forward pass."""
    network = Network("resnet50", 1, options.side, options.device)
    calls = 0

    def stop(*_) -> None:
        nonlocal calls
        calls += 1
        if calls > options.memory_passes > 0:
            raise _Enough

    network.model.pool.register_forward_pre_hook(stop)  # once a pass; the package's copy of the model takes it along
    call = network.package("score_cam") if contestant == "grad-cam" else lambda: network.ours("score_cam", contestant)
    network.bare(), network.bare(channels_last=True)
    before, calls = peak(options.device), 0
    with contextlib.suppress(_Enough):
        call()
    print(json.dumps({"mib": peak(options.device) - before}))


def peak(device: str) -> float:
    """MiB: resident memory of this process, or what was allocated on the device."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    # not getrusage: on Linux a child's ru_maxrss starts at what its parent held
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**10


def memory(options: argparse.Namespace) -> None:
    if options.device == "cpu" and not Path("/proc/self/status").exists():
        print("\nscore_cam, peak memory: measured through /proc, which this system does not have")
        return
    passes = f"first {options.memory_passes} passes of the body" if options.memory_passes else "to the end"
    print(
        f"\nscore_cam, resnet50, 2048 channels, 1 image of {options.side} px, {options.device}, {passes}: peak memory"
    )
    for contestant, bar in (("float32", 600), ("bf16", 600), ("grad-cam", None)):
        command = [sys.executable, __file__, "--memory-of", contestant, "--device", options.device]
        command += ["--side", str(options.side), "--memory-passes", str(options.memory_passes)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"  grad-cam does not finish: {done.stderr.strip().splitlines()[-1]}" if bar is None else done.stderr)
            continue
        grown = json.loads(done.stdout.splitlines()[-1])["mib"]
        verdict = "" if bar is None else f", bar <= {bar}: {'met' if grown <= bar else 'MISSED'}"
        print(f"  {contestant:<10} {grown:8.0f} MiB over a bare forward pass{verdict}")


def whole_set(options: argparse.Namespace) -> None:
    """Images per second of whole passes over random images made on the device."""
    batch = 64
    network = Network("resnet50", batch, options.side, options.device)
    print(f"\nresnet50, {options.images} random images of {options.side} px, batches of {batch}, {options.device}")
    methods: list[tuple[str, str | list[str], int]] = [(name, name, options.images) for name in TOGETHER]
    methods += [(f"{len(TOGETHER)} methods together", TOGETHER, options.images), ("score_cam", "score_cam", batch)]
    for precision in ("float32", "bf16"):
        for title, method, count in methods:
            network.ours("cam" if method == "score_cam" else method, precision)
            synchronise(options.device)
            start, seen = time.perf_counter(), 0
            while seen < count:
                network.images.normal_()
                network.ours(method, precision)
                seen += batch
            synchronise(options.device)
            speed = seen / (time.perf_counter() - start)
            print(f"  {title:<24} {precision:<8} {speed:10.1f} images/s over {seen} images")


def machine(device: str, with_torchcam: bool | None = None) -> None:
    """The lines above every table; torch-cam is named where a table could have rows of it."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    print(f"{name}, {cores()} cores, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    tools = [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    if with_torchcam is not None:
        tools += [f"grad-cam {version('grad-cam')}"]
        tools += [
            f"torch-cam {version('torchcam')}" if with_torchcam else "torch-cam is not installed: its rows are absent"
        ]
    print(", ".join(tools))
    print("median over rounds (10th to 90th percentile)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--networks", nargs="*", default=["resnet50", "vgg16"], help="of the one-look table")
    parser.add_argument("--score-networks", nargs="*", default=["resnet18"], help="of the score_cam table")
    parser.add_argument("--score-images", type=int, default=1, help="images of the score_cam table (default 1)")
    parser.add_argument("--full", action="store_true", help="score_cam on resnet50 and vgg16 too, memory to the end")
    parser.add_argument("--rounds", type=int, default=5, help="paired rounds (default 5)")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--images", type=int, default=5794, help="images of the whole-set table, cuda only")
    parser.add_argument("--memory-passes", type=int, default=8, help="stop measuring memory after as many; 0 never")
    parser.add_argument("--memory-of", choices=("float32", "bf16", "grad-cam"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device here")
    if options.memory_of:
        memory_of(options.memory_of, options)
        return
    if options.full:
        options.score_networks, options.memory_passes = ["resnet18", "resnet50", "vgg16"], 0
    with_torchcam = importlib.util.find_spec("torchcam") is not None
    machine(options.device, with_torchcam)
    for backbone in options.networks:
        one_look(backbone, options, with_torchcam)
    for backbone in options.score_networks:
        many_looks(backbone, options)
    memory(options)
    if options.device == "cuda":
        whole_set(options)


if __name__ == "__main__":
    main()
