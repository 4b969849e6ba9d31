"""`make bench`: an epoch of `wk.fit` beside the bare training step, and beside a DataLoader with torchvision.

All contestants take turns in one process, round after round, so that whatever else the machine does meets them alike; a
ratio is the median of the ratios within a round. The images are JPEGs of random smooth patterns with some noise, about
500 x 375 px, made for the occasion, and read by the kit's public dataset (metadata layout) and by the DataLoader alike.
The bare step works on one random tensor of the batch's shape over and over: no epoch can be faster.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import io
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from localisation import goal, machine, rounds, synchronise, table
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import wsolkit as wk
from wsolkit.data import decoded
from wsolkit.data.base import IMAGENET_MEAN, IMAGENET_STD

CLASSES = 200
BAR = 1.15
SHARED_MAPS = ["cam", "rethinking_cam", "grad_cam", "grad_cam++"]  # of the study; score_cam is timed on its own
CUB = {"train": 5994, "test": 5794}
EPOCHS = 50


# -- images ------------------------------------------------------------------------------------------------------------


def paint(folder: Path, index: int) -> str:
    """One JPEG of about 500 x 375 px; its name."""
    rng = np.random.default_rng(index)
    width, height = 500 - int(rng.integers(40)), 375 - int(rng.integers(40))
    smooth = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    pixels = np.asarray(smooth, np.int16) + rng.integers(-12, 13, (height, width, 1), dtype=np.int16)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index:05d}.jpg", quality=90)
    return f"{index:05d}.jpg"


def make_images(folder: Path, count: int) -> None:
    """`count` images, and metadata that names them all for training and the first few for validation and test."""
    images = folder / "images"
    images.mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        names = list(pool.map(partial(paint, images), range(count)))
    for split, some in (("train", names), ("val", names[: max(2, count // 5)]), ("test", names)):
        part = folder / "metadata" / split
        part.mkdir(parents=True)
        (part / "image_ids.txt").write_text("".join(f"{name}\n" for name in some))
        (part / "class_labels.txt").write_text("".join(f"{name},{k % CLASSES}\n" for k, name in enumerate(some)))
        (part / "localization.txt").write_text("".join(f"{name},40,40,300,250\n" for name in some))
    (folder / "metadata" / "classes.txt").write_text("".join(f"class {k}\n" for k in range(CLASSES)))


class Images(Dataset):
    """What a tutorial writes."""

    def __init__(self, folder: Path, side: int) -> None:
        self.paths = sorted((folder / "images").iterdir())
        self.transform = transforms.Compose([
            transforms.Resize((round(side * 256 / 224),) * 2), transforms.RandomCrop(side),
            transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB")), index % CLASSES


# -- contestants -------------------------------------------------------------------------------------------------------


class Step:
    """Forward, backward and update of a network of its own, with the optimiser of the default recipe."""

    def __init__(self, model: nn.Module, device: str, channels_last: bool = False) -> None:
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model = copy.deepcopy(model).train().to(device, memory_format=self.layout)
        recipe = wk.training.Recipe()
        self.optimiser = torch.optim.SGD(
            self.model.parameters(), lr=1e-4, momentum=recipe.momentum, nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
        )  # fmt: skip

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        functional.cross_entropy(self.model(images.contiguous(memory_format=self.layout)), labels).backward()
        self.optimiser.step()


def bare_epoch(step: Step, options: argparse.Namespace) -> None:
    images = torch.randn(options.batch, 3, options.side, options.side, device=options.device)
    images = images.contiguous(memory_format=step.layout)
    labels = torch.randint(CLASSES, (options.batch,), device=options.device)
    for start in range(0, options.images, options.batch):
        count = min(options.batch, options.images - start)
        step(images[:count], labels[:count])


def loader_epoch(step: Callable, loader: DataLoader, device: str) -> None:
    for images, labels in loader:
        step(images.to(device, non_blocking=True), labels.to(device, non_blocking=True))


def kit_epoch(step: Callable, data: wk.WSOLDataset, options: argparse.Namespace) -> None:
    for images, labels in data.train_batches(options.batch, 0, 0, device=options.device):
        step(images, labels)


def nothing(images: torch.Tensor, labels: torch.Tensor) -> None:
    """The step of the tables of the input alone."""


def fit_epochs(model: nn.Module, data: wk.WSOLDataset, options: argparse.Namespace, epochs: int = 1) -> list[float]:
    """Seconds of each epoch of the real loop."""
    changes = {"epochs": epochs, "batch_size": options.batch, "lr": 1e-4, **options.recipe}
    with contextlib.redirect_stdout(io.StringIO()):
        history = wk.fit(model, data, device=options.device, resume=False, **changes)
    return [row["seconds"] for row in history]


def opened(folder: Path, split: str, side: int) -> wk.WSOLDataset:
    return wk.load_dataset("metadata", split, root=folder / "images", metadata=folder / "metadata", size=side)


def decode(data: wk.WSOLDataset) -> None:
    """The once-only part: what the first epoch of the first run waits for."""
    start = time.perf_counter()
    data.prepare(data.geometry.enlarged)
    seconds = time.perf_counter() - start
    print(f"decoded once to the cache: {len(data)} images in {seconds:.1f} s, {len(data) / seconds:.0f} images/s")


def one_epoch(folder: Path, options: argparse.Namespace) -> None:
    data = opened(folder, "train", options.side)
    decode(data)
    model = wk.build_model(options.backbone, CLASSES, weights="none")
    images = Images(folder, options.side)
    loaders = {
        workers: DataLoader(
            images, options.batch, shuffle=True, num_workers=workers, pin_memory=options.device == "cuda"
        )
        for workers in (2, 0)
    }
    ours = copy.deepcopy(model).to(options.device)
    taken: list[float] = []
    contestants: dict[str, Callable] = {
        "bare step": partial(bare_epoch, Step(model, options.device), options),
        "bare step, channels last": partial(bare_epoch, Step(model, options.device, channels_last=True), options),
        "wsolkit, an epoch of fit": lambda: taken.extend(fit_epochs(ours, data, options)),
    }
    for workers, loader in loaders.items():
        name = f"DataLoader, {workers} workers"
        contestants[name] = partial(loader_epoch, Step(model, options.device), loader, options.device)
    seconds, _ = rounds(contestants, options.rounds, options.device)
    seconds["wsolkit, the whole call of fit"] = seconds["wsolkit, an epoch of fit"]
    seconds["wsolkit, an epoch of fit"] = np.array(taken[1:])  # the loop's own clock, without the first call
    title = f"{options.backbone}, epoch of {options.images} images of {options.side} px, batch {options.batch}"
    table(f"{title}, {options.device}", seconds, options.images, "bare step")
    epoch = seconds["wsolkit, an epoch of fit"]
    goal("epoch of fit / bare step", epoch, seconds["bare step"], BAR, at_most=True)
    goal("epoch of fit / bare step, channels last", epoch, seconds["bare step, channels last"], BAR, at_most=True)
    for workers in loaders:
        goal(f"faster than a DataLoader of {workers} workers", seconds[f"DataLoader, {workers} workers"], epoch, 1)

    alone: dict[str, Callable] = {"wsolkit, input alone": partial(kit_epoch, nothing, data, options)}
    for workers, loader in loaders.items():
        alone[f"DataLoader, {workers} workers"] = partial(loader_epoch, nothing, loader, options.device)
    seconds, _ = rounds(alone, options.rounds, options.device)
    table(f"The same epoch without a training step, {options.device}", seconds, options.images, "wsolkit, input alone")


# -- the whole study, on CUDA ------------------------------------------------------------------------------------------


def whole_study(folder: Path, options: argparse.Namespace) -> None:
    """Images per second of training and localising at full CUB size, and what the whole table would take.

    Two training runs per backbone: one network for cam, grad_cam, grad_cam++ and score_cam, one for rethinking_cam. An
    epoch counts as all 5,994 images trained on, though a fifth of them is validation.
    """
    data, test = opened(folder, "train", options.side), opened(folder, "test", options.side)
    decode(data)
    test.prepare()
    hours = 0.0
    recipe = options.recipe or "default recipe"
    print(f"\n{len(data)} random images of {options.side} px, batch {options.batch}, {recipe}")
    for backbone in ("resnet50", "vgg16"):
        model = wk.build_model(backbone, CLASSES, weights="none").to(options.device)
        epochs = fit_epochs(model, data, options, epochs=4)
        train = len(data) / float(np.median(epochs[1:]))
        speed = {}
        for title, methods, count in (("maps", SHARED_MAPS, len(test)), ("score_cam", ["score_cam"], 64)):
            count = min(count, len(test))
            precision = options.recipe.get("precision", "float32")
            for some in (min(128, count), count):  # first to warm up
                synchronise(options.device)
                start = time.perf_counter()
                wk.localise(model, test, methods, indices=range(some), batch_size=64, precision=precision)
                synchronise(options.device)
            speed[title] = count / (time.perf_counter() - start)
        training = 2 * EPOCHS * CUB["train"] / train
        localising = 2 * (CUB["test"] + CUB["train"] // 5) / speed["maps"]
        hours += (training + localising) / 3600
        print(f"  {backbone:<9} first epoch {epochs[0]:.1f} s, then {train:.0f} images/s of training;")
        print(f"    {speed['maps']:.0f} images/s for the maps of {len(SHARED_MAPS)} methods,")
        print(f"    {speed['score_cam']:.1f} images/s for score_cam;")
        print(f"    two training runs of {EPOCHS} epochs {training / 60:.1f} min, localising {localising / 60:.1f} min")
    print(f"  whole table (2 backbones x 5 methods, {EPOCHS} epochs, full CUB) without Score-CAM:")
    print(f"    {60 * hours:.1f} min on one device; {'met' if 60 * hours < 10 else 'MISSED'}, aim < 10")


def _pair(text: str) -> tuple[str, object]:
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--images", type=int, help="of an epoch (default 64 on the CPU, 2048 on cuda)")
    parser.add_argument("--rounds", type=int, default=5, help="paired rounds (default 5)")
    parser.add_argument("--recipe", nargs="*", type=_pair, default=[], metavar="NAME=VALUE",
                        help="values of the recipe of fit; the bare step stays in float32")  # fmt: skip
    parser.add_argument("--whole", type=int, default=CUB["train"], help="images of the whole study, cuda only; 0 none")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device here")
    if options.images is None:
        options.images = 64 if options.device == "cpu" else 2048
    if options.images < 2 or options.rounds < 1 or options.batch < 2:
        parser.error("--images and --batch are at least 2, --rounds at least 1")
    options.recipe = dict(options.recipe)
    decoded.SMALL_BYTES = 0  # few images take the way of many: through the file
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # two workers on purpose
    machine(options.device)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["WSOLKIT_CACHE"] = str(Path(folder) / "cache")
        make_images(Path(folder) / "few", options.images)
        one_epoch(Path(folder) / "few", options)
        if options.device == "cuda" and options.whole:
            make_images(Path(folder) / "many", options.whole)
            whole_study(Path(folder) / "many", options)


if __name__ == "__main__":
    main()
