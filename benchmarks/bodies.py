"""The body of a network on a CPU, without gradients: which way to run it is fastest?

Contestants: the body itself in channels last; with batch normalisation folded into the convolutions, as
`wsolkit.networks.folded` runs it; and frozen and optimised by TorchScript (`torch.jit.freeze`,
`torch.jit.optimize_for_inference`). They take turns in one process, round after round, so that other work
meets them alike; a ratio is the median of the ratios within a round. Every result is compared with the body's own.

    python benchmarks/bodies.py --threads 1 --threads 2
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from wsolkit import build_model
from wsolkit.networks import folded

Run = Callable[[Tensor], Tensor]


def settled(backbone: str) -> nn.Module:
    """The body of full width in evaluation mode, in channels last, with batch norms that do something."""
    body = build_model(backbone, 200, weights="none").body.eval().to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return body


def contestants(body: nn.Module, images: Tensor) -> dict[str, Run]:
    """Each one's name and how it computes the feature map."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, which is an argument of its own
        traced = torch.jit.trace(copy.deepcopy(body), images)
        frozen = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
    return {"channels last": body, "folded norms": lambda x: folded.run(body, x), "jit frozen": frozen}


def seconds(run: Run, images: Tensor, repeats: int) -> float:
    begin = time.perf_counter()
    for _ in range(repeats):
        run(images)
    return (time.perf_counter() - begin) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["resnet50", "vgg16", "mobilenet_v2"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=224, help="pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3, help="passes in a round")
    parser.add_argument("--threads", type=int, action="append", help="of torch; may be given several times (default 1)")
    options = parser.parse_args()
    for threads in options.threads or [1]:
        torch.set_num_threads(threads)
        for backbone in options.backbones:
            measure(backbone, options)


@torch.no_grad()
def measure(backbone: str, options: argparse.Namespace) -> None:
    body = settled(backbone)
    images = torch.randn(options.batch, 3, options.side, options.side, generator=torch.Generator().manual_seed(1))
    images = images.contiguous(memory_format=torch.channels_last)
    runs = contestants(body, images)
    expected = body(images)
    apart = {}
    for name, run in runs.items():
        for _ in range(3):  # TorchScript optimises in its first passes, the folded copy is made in its first
            result = run(images)
        apart[name] = float((result - expected).abs().max() / expected.abs().max())
    rounds = []
    for number in range(options.rounds):
        order = list(runs)[number % len(runs) :] + list(runs)[: number % len(runs)]
        rounds.append({name: seconds(runs[name], images, options.repeats) for name in order})
    print(f"\n{backbone}, {options.batch} images of {options.side} px, {torch.get_num_threads()} threads")
    for name in runs:
        times = [1000 * times[name] for times in rounds]
        ratio = statistics.median(times["channels last"] / times[name] for times in rounds)
        print(f"  {name:<14} {statistics.median(times):8.1f} ms (from {min(times):.1f} to {max(times):.1f}), "
              f"{ratio:.2f} times as fast; differs by {apart[name]:.1e} of the largest value")  # fmt: skip


if __name__ == "__main__":
    main()
