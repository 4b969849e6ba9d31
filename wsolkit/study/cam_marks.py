"""Marks for a CAM method: what must hold for every method, tried on small networks, as a table. The networks, on which
exercises are tried too, are built in a moment, and what must hold on them is known.

Claims, hints and what is seen are text: they lie in cam_marks.yaml.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wsolkit.common.files import read_yaml
from wsolkit.evaluation.results import html_table
from wsolkit.methods.context import Context
from wsolkit.methods.maps import score_maps
from wsolkit.methods.registry import METHODS, Method, resolve
from wsolkit.networks.models import GlobalAveragePool, WSOLModel, build_model, unit_range

CLASSES = 5
STEPS = 4  # pixels of the image in one position of the feature map of `ring` and `lamps`
TRIAL = "method_on_trial"
CLAIMS: dict[str, dict[str, Any]] = read_yaml(Path(__file__).with_suffix(".yaml"))
SHARED = ("images", "features", "labels", "class_weights", "gradients")  # of a context, by all methods
SIGNS = {(True, True): "✓ holds", (True, False): "✗ fails", (False, True): "· holds", (False, False): "· does not"}


class Mark(NamedTuple):
    """One line of a grade: a claim, whether it holds, what was seen; asked: False where a method need not have it."""

    claim: str
    holds: bool
    seen: str
    asked: bool = True


@dataclass(frozen=True)
class Grade:
    """The marks of a method; prints as a table."""

    name: str
    marks: list[Mark]

    @property
    def passed(self) -> bool:
        return not self.failed

    @property
    def failed(self) -> list[str]:
        """Claims that do not hold and should."""
        return [mark.claim for mark in self.marks if mark.asked and not mark.holds]

    def verdict(self) -> str:
        asked, end = sum(mark.asked for mark in self.marks), "passed." if self.passed else "not passed yet."
        return f"{self.name}: {asked - len(self.failed)} of {asked} hold, {end}"

    def __str__(self) -> str:
        width = max(len(mark.claim) for mark in self.marks)
        lines = (f"{SIGNS[mark.asked, mark.holds]:<10} {mark.claim:<{width}}  {mark.seen}" for mark in self.marks)
        return "\n".join([self.verdict(), *map(str.rstrip, lines)])

    def _repr_html_(self) -> str:
        rows = [(mark.claim, SIGNS[mark.asked, mark.holds], mark.seen) for mark in self.marks]
        return html_table(self.verdict(), rows, ("what is asked", "", "what was seen"))


def grade(method: Callable[[Context], Tensor] | str) -> Grade:
    """Try a method on small networks with random and with planted weights; an error of the method is a failed mark.

    Args:
        method: a function that takes a `Context` and returns (B, C), (B, C, h, w) or (B, h, w) (see
            `wsolkit.methods.registry`), as it is or registered; or the name of a method.
    """
    if isinstance(method, str):
        entry = resolve(method)
    elif callable(method):
        known = next((entry for entry in METHODS.values() if entry.function is method), None)
        entry = known or Method(getattr(method, "__name__", "method"), method, "", "on trial", relu=False)
    else:
        kind = type(method).__name__
        return Grade(str(method)[:40], [Mark("is a function", False, f"this is {kind}: give the function itself")])
    return Grade(entry.name, [_mark(entry, name, **text) for name, text in CLAIMS.items()])


class Fails(Exception):
    """What does not hold, and a hint."""


def _mark(entry: Method, name: str, claim: str, seen: str, asked: bool = True, **hints: str) -> Mark:
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            for hint, wrong, *measured in getattr(_Tests(entry), name)():
                if wrong:
                    raise Fails(hints[hint].format(*measured) + (f" ({wrong})" if isinstance(wrong, str) else ""))
            return Mark(claim, True, seen.format(*measured), asked)
    except Fails as error:
        return Mark(claim, False, str(error), asked)
    except Exception as error:  # whatever a reader's method does
        return Mark(claim, False, f"{type(error).__name__}: {error}".splitlines()[0][:160])


def _networks() -> Iterator[tuple[str, Any, Tensor, Tensor]]:
    """Name, network, images and labels."""
    for pooling in ("gap", "tap"):
        yield f"resnet18 with {pooling.upper()}", *small_network(pooling)


def _differ(maps: Tensor, expected: Tensor, tolerance: float = 2e-3) -> str:
    worst = float((maps - expected).abs().max())
    return f"differs by {worst:.2g} of the range" if worst > tolerance else ""


@dataclass
class _Tests:
    """A method on trial. Each test has the name of a claim; it yields the key of a hint, whether (or in what) the claim
    does not hold, and what was measured."""

    entry: Method

    def maps(
        self, model: Any, images: Tensor, labels: Tensor, around: Callable = lambda made, case: made(case)
    ) -> Tensor:
        """Maps of a network, images and labels, made under a name that is registered for the time of the call only."""

        def function(context: Context) -> Tensor:
            made, (n, channels, *places) = around(self.entry.function, context), context.features.shape
            if made is None or made is Ellipsis:
                raise Fails("it returns nothing: is its last line, the return, missing?")
            if not isinstance(made, Tensor):
                raise Fails(f"it returns {type(made).__name__}, and a torch.Tensor is expected")
            if tuple(made.shape) not in ((n, channels), (n, channels, *places), (n, *places)):
                shapes = f"(B, C), (B, C, h, w) or (B, h, w) is expected, with (B, C, h, w) = {(n, channels, *places)}"
                raise Fails(f"it returns the shape {tuple(made.shape)}, and {shapes}")
            if not bool(torch.isfinite(made).all()):
                raise Fails("some values are NaN or infinite (a division by zero?)")
            return made

        METHODS[TRIAL] = replace(self.entry, name=TRIAL, function=function)
        try:
            maps: Any = score_maps(model, images, labels, TRIAL)
        finally:
            del METHODS[TRIAL]
        if not bool(torch.isfinite(maps.amax(dim=(1, 2)) - maps.amin(dim=(1, 2))).all()):
            raise Fails("the values are so large that their range is infinite")
        return maps

    def unit(self, *case: Any) -> Tensor:
        """Maps scaled to [0, 1], as boxes see them."""
        return unit_range(self.maps(*case))

    def shape(self) -> Iterator[tuple]:
        for _, *case in _networks():
            shape = tuple(self.maps(*case).shape)
            yield "", False, shape, shape[1:]

    def classes(self) -> Iterator[tuple]:
        for name, model, images, labels in _networks():
            of_class, of_another = (self.unit(model, images, y) for y in (labels, (labels + 1) % 5))
            yield "same", not _differ(of_class, of_another, 1e-3), name

    def planted(self) -> Iterator[tuple]:
        model, draw = lamps(), torch.Generator().manual_seed(1)
        for _ in range(6):
            places = torch.randperm(36, generator=draw)[:2].tolist()
            coarse = torch.zeros(1, 3, 36)
            coarse[0, [0, 1], places] = 1.0
            coarse[:, 2] = 0.3  # a channel that tells nothing
            image = coarse.reshape(1, 3, 6, 6).repeat_interleave(STEPS, 2).repeat_interleave(STEPS, 3)
            for label, (place, other) in enumerate((places, places[::-1])):
                score_map = self.maps(model, image, torch.tensor([label]))[0].flatten()
                yield "against", bool(score_map[other] >= score_map[place])
                yield "elsewhere", int(score_map.argmax()) != place

    def constant(self, scale: float = 1.0, shift: float = 5.0) -> Iterator[tuple]:
        for name, model, *case in _networks():
            before = self.unit(model, *case)
            with torch.no_grad():
                model.head.weight.mul_(scale)
                model.head.bias.mul_(scale).add_(shift)
            yield "differs", _differ(self.unit(model, *case), before), name

    def batch(self) -> Iterator[tuple]:
        for name, model, images, labels in _networks():
            together = self.unit(model, images, labels)
            alone = torch.cat([self.unit(model, *case) for case in zip(images.split(1), labels.split(1), strict=True)])
            yield "alone", _differ(alone, together), name
            yield "turned", _differ(self.unit(model, images.flip(0), labels.flip(0)).flip(0), together), name

    def again(self) -> Iterator[tuple]:
        _, *case = next(_networks())
        yield "differs", _differ(self.unit(*case), self.unit(*case), 1e-6)

    def mirror(
        self, change: Callable = lambda x: x.flip(3), back: Callable = lambda maps: maps.flip(2)
    ) -> Iterator[tuple]:
        model, images, labels = ring(), torch.randn(2, 3, 24, 24), torch.tensor([0, 3])
        yield "differs", _differ(back(self.unit(model, change(images), labels)), self.unit(model, images, labels))

    def untouched(self) -> Iterator[tuple]:
        shared: list[tuple] = []

        def watched(function: Callable, context: Context) -> Tensor:
            before = [(name, getattr(context, name).clone()) for name in SHARED]
            made = function(context)
            shared[:] = [("shared", not torch.equal(getattr(context, name), old), name) for name, old in before]
            return made

        for _, model, images, labels in _networks():
            model.train()  # somebody else's mode
            before = {name: value.clone() for name, value in model.state_dict().items()}
            self.maps(model, images, labels, around=watched)
            for name, value in model.state_dict().items():
                yield "weights", not torch.equal(value, before[name]), name
            yield "gradients", any(parameter.grad is not None for parameter in model.parameters())
            yield "mode", not all(module.training for module in model.modules())
            yield "hook", any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
            yield from shared

    def cost(self) -> Iterator[tuple]:
        (_, model, images, labels), seen, used = next(_networks()), [], []

        def watched(function: Callable, context: Context) -> Tensor:
            made = function(context)
            used.append(context.gradients_used)
            return made

        model.body.register_forward_hook(lambda _, inputs, output: seen.append(len(inputs[0])))
        self.maps(model, images, labels, around=watched)
        passes, needs = sum(seen) / len(images), self.entry.needs
        dear = (passes > 1 and needs in ("features", "gradient")) or (any(used) and needs == "features")
        cost = f"{passes:g} pass{'es' * (passes != 1)} of the body per image" + ", and one gradient" * any(used)
        yield "dear", dear, cost, needs

    def moved(self) -> Iterator[tuple]:
        return self.mirror(lambda x: x.roll((STEPS, 2 * STEPS), (2, 3)), lambda maps: maps.roll((-1, -2), (1, 2)))

    def scaled(self) -> Iterator[tuple]:
        return self.constant(3.0, 0.0)


def small_network(pooling: str = "gap", backbone: str = "resnet18", seed: int = 0) -> tuple[WSOLModel, Tensor, Tensor]:
    """A thin network of this package with random weights, images (3, 3, 32, 32) and labels (3,)."""
    stride = 16 if backbone == "vgg16_fc" else 8
    model = build_model(backbone, CLASSES, pooling, weights="none", stride=stride, width=0.0625, seed=seed).eval()
    draw = torch.Generator().manual_seed(seed)
    nn.init.normal_(model.head.weight, generator=draw)  # a fresh head is nearly zero
    return model, torch.randn(3, 3, 32, 32, generator=draw), torch.tensor([1, 4, 2])


def _with_gap(body: nn.Module, head: nn.Linear) -> WSOLModel:
    """Body, GAP and linear head."""
    spec = {"backbone": "toy", "pooling": "gap", "stride": STEPS, "num_classes": head.out_features}
    return WSOLModel(spec, (), body, pool=GlobalAveragePool(), head=head).eval()


def ring() -> WSOLModel:
    """Two convolutions with left-right symmetric kernels on an image without edges: mirrored in, mirrored out."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 6), (6, 8)):
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="circular")
        kernels = torch.randn_like(convolution.weight)
        convolution.weight.data = kernels + kernels.flip(3)
        layers += [convolution, nn.ReLU(), nn.AvgPool2d(2)]
    head = nn.Linear(8, 4)
    nn.init.normal_(head.weight)
    return _with_gap(nn.Sequential(*layers), head)


def lamps() -> WSOLModel:
    """The feature map is the image in coarse: channel 0 speaks for class 0 and against class 1, channel 1 the reverse
    (and more against than for), channel 2 for neither."""
    head = nn.Linear(3, 2)
    head.weight.data = torch.tensor([[1.0, -1.5, 0.1], [-1.5, 1.0, 0.1]])
    nn.init.zeros_(head.bias)
    return _with_gap(nn.Sequential(nn.AvgPool2d(STEPS), nn.ReLU()), head)


def positive(channels: int) -> WSOLModel:
    """The feature map is the image, and all weights of the head are positive: CAM's map has no negative value."""
    head = nn.Linear(channels, CLASSES)
    nn.init.uniform_(head.weight, 0.1, 1.0)
    return _with_gap(nn.Identity(), head).requires_grad_(False)
