"""Marks for a CAM method: what must hold for every method, tried on small networks, as a table."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wsolkit.evaluation.results import html_table
from wsolkit.methods.context import Context
from wsolkit.methods.maps import score_maps
from wsolkit.methods.registry import METHODS, Method, resolve
from wsolkit.networks.models import unit_range
from wsolkit.study.small_networks import STEPS, lamps, ring, small_network

TRIAL = "method_on_trial"
SIGNS = {(True, True): "✓ holds", (True, False): "✗ fails", (False, True): "· holds", (False, False): "· does not"}


class Mark(NamedTuple):
    """One line of a grade: a claim, whether it holds, and what was seen. asked: False where a method need not have it."""

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
        asked = sum(mark.asked for mark in self.marks)
        result = "passed." if self.passed else "not passed yet."
        return f"{self.name}: {asked - len(self.failed)} of {asked} hold, {result}"

    def __str__(self) -> str:
        width = max(len(mark.claim) for mark in self.marks)
        lines = (f"{SIGNS[mark.asked, mark.holds]:<10} {mark.claim:<{width}}  {mark.seen}" for mark in self.marks)
        return "\n".join([self.verdict(), *map(str.rstrip, lines)])

    def _repr_html_(self) -> str:
        rows = [(mark.claim, SIGNS[mark.asked, mark.holds], mark.seen) for mark in self.marks]
        return html_table(self.verdict(), rows, ("what is asked", "", "what was seen"))


class Fails(Exception):
    """What does not hold, and a hint."""


TESTS: list[
    tuple[str, bool, Callable[[Method], str]]
] = []  # claim, asked, the function that says what it saw, or Fails


def _claims(claim: str, asked: bool = True) -> Callable:
    def decorate(test: Callable[[Method], str]) -> Callable[[Method], str]:
        TESTS.append((claim, asked, test))
        return test

    return decorate


def grade(method: Callable[[Context], Tensor] | str) -> Grade:
    """Try a method on small networks with random and with planted weights; an error of the method is a failed mark.

    Args:
        method: a function that takes a `Context` and returns (B, C), (B, C, h, w) or (B, h, w) (see `wsolkit.methods.registry`),
            as it is or registered; or the name of a method.
    """
    if isinstance(method, str):
        entry = resolve(method)
    elif not callable(method):
        mark = Mark("is a function", False, f"this is {type(method).__name__}: give the function itself")
        return Grade(str(method)[:40], [mark])
    else:
        known = next((entry for entry in METHODS.values() if entry.function is method), None)
        entry = known or Method(getattr(method, "__name__", "method"), method, "", "on trial", relu=False)
    marks = []
    for claim, asked, test in TESTS:
        try:
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.manual_seed(0)
                marks.append(Mark(claim, True, test(entry), asked))
        except Fails as error:
            marks.append(Mark(claim, False, str(error), asked))
        except Exception as error:  # whatever a reader's method does
            marks.append(Mark(claim, False, f"{type(error).__name__}: {error}".splitlines()[0][:160]))
    return Grade(entry.name, marks)


# ------------------------------------------------------------------------------------------------ how a method is tried


def _maps(entry: Method, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The method's maps, made under a name that is registered for the time of the call only."""

    def function(context: Context) -> Tensor:
        made, (n, channels, *places) = entry.function(context), context.features.shape
        if made is None or made is Ellipsis:
            raise Fails("it returns nothing: is its last line, the return, missing?")
        if not isinstance(made, Tensor):
            raise Fails(f"it returns {type(made).__name__}, and a torch.Tensor is expected")
        if tuple(made.shape) not in ((n, channels), (n, channels, *places), (n, *places)):
            raise Fails(f"it returns the shape {tuple(made.shape)}, and (B, C), (B, C, h, w) or (B, h, w) is expected, with "
                        f"(B, C, h, w) = {tuple(context.features.shape)}")  # fmt: skip
        return made

    METHODS[TRIAL] = replace(entry, name=TRIAL, function=function)
    try:
        maps = score_maps(model, images, labels, TRIAL)
    finally:
        del METHODS[TRIAL]
    if not bool(torch.isfinite(maps).all()):
        raise Fails("some values are NaN or infinite (a division by zero?)")
    if not bool(torch.isfinite(maps.amax(dim=(1, 2)) - maps.amin(dim=(1, 2))).all()):
        raise Fails("the values are so large that their range is infinite")
    return maps


def _unit(entry: Method, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Maps scaled to [0, 1], as boxes see them."""
    return unit_range(_maps(entry, model, images, labels))


def _networks() -> Iterator[tuple[str, nn.Module, Tensor, Tensor]]:
    for pooling in ("gap", "tap"):
        yield f"resnet18 with {pooling.upper()}", *small_network(pooling)


def _same(maps: Tensor, expected: Tensor, hint: str, tolerance: float = 2e-3) -> None:
    worst = float((maps - expected).abs().max())
    if worst > tolerance:
        raise Fails(f"{hint} (differs by {worst:.2g} of the range)")


def _same_with_another_head(entry: Method, change: Callable[[nn.Linear], None], hint: str) -> None:
    for name, model, images, labels in _networks():
        before = _unit(entry, model, images, labels)
        with torch.no_grad():
            change(model.head)
        _same(_unit(entry, model, images, labels), before, hint.format(name))


# ------------------------------------------------------------------------------------------------ what is asked


@_claims("the map has the size of the feature map and is finite")
def _shape(entry: Method) -> str:
    shapes = [tuple(_maps(entry, *case).shape) for _, *case in _networks()]
    return f"{shapes[-1]} for 3 images and a feature map of {shapes[-1][1:]}"


@_claims("it depends on the class")
def _classes(entry: Method) -> str:
    for name, model, images, labels in _networks():
        of_class, of_another = (_unit(entry, model, images, y) for y in (labels, (labels + 1) % 5))
        if float((of_class - of_another).abs().max()) < 1e-3:
            raise Fails(f"on {name} two classes have the same map: use the label, through class_weights or gradients")
    return "another class, another map"


@_claims("it lights the place of the class's own channel")
def _planted(entry: Method) -> str:
    model, draw = lamps(), torch.Generator().manual_seed(1)
    for _ in range(6):
        places = torch.randperm(36, generator=draw)[:2].tolist()
        coarse = torch.zeros(1, 3, 36)
        coarse[0, [0, 1], places] = 1.0
        coarse[:, 2] = 0.3  # a channel that tells nothing
        image = coarse.reshape(1, 3, 6, 6).repeat_interleave(STEPS, 2).repeat_interleave(STEPS, 3)
        for label, (place, other) in enumerate((places, places[::-1])):
            score_map = _maps(entry, model, image, torch.tensor([label]))[0].flatten()
            if score_map[other] >= score_map[place]:
                raise Fails(
                    "the brightest place is where a channel speaks against the class: mind the sign of the weight"
                )
            if int(score_map.argmax()) != place:
                raise Fails("the brightest place is not where the channel of the class is active")
    return "brightest where the channel of the class is active, in 12 of 12 trials"


@_claims("a constant added to all logits changes nothing")
def _constant(entry: Method) -> str:
    hint = "on {} a constant added to all logits changes the map"
    _same_with_another_head(entry, lambda head: head.bias.add_(5.0), hint)
    return "5 added to every logit changes nothing"


@_claims("an image's map depends on that image alone")
def _batch(entry: Method) -> str:
    for name, model, images, labels in _networks():
        together = _unit(entry, model, images, labels)
        alone = torch.cat([_unit(entry, model, *case) for case in zip(images.split(1), labels.split(1), strict=True)])
        turned = _unit(entry, model, images.flip(0), labels.flip(0)).flip(0)
        _same(alone, together, f"on {name} an image has another map alone than in a batch of 3: keep the first axis")
        _same(turned, together, f"on {name} the order of the batch matters: keep the first axis")
    return "alone, in a batch, in another order: the same map"


@_claims("it is the same each time")
def _again(entry: Method) -> str:
    _, *case = next(_networks())
    _same(_unit(entry, *case), _unit(entry, *case), "called twice, it gives two maps", 1e-6)
    return "called twice, one map"


@_claims("a mirrored image has the mirrored map")
def _mirror(entry: Method) -> str:
    model, images, labels = ring(), torch.randn(2, 3, 24, 24), torch.tensor([0, 3])
    mirrored = _unit(entry, model, images.flip(3), labels).flip(2)
    _same(mirrored, _unit(entry, model, images, labels), "a mirrored image does not have the mirrored map")
    return "a mirrored image has the mirrored map"


@_claims("network and feature map are left as they were")
def _untouched(entry: Method) -> str:
    names = ("features", "labels", "class_weights", "gradients")  # what methods share
    shared: list[list[Tensor]] = []

    def watched(context: Context) -> Tensor:
        shared[:] = [[getattr(context, name).clone() for name in names]]
        made = entry.function(context)
        shared.append([getattr(context, name) for name in names])
        return made

    for _, model, images, labels in _networks():
        model.train()  # somebody else's mode
        before = {name: value.clone() for name, value in model.state_dict().items()}
        copy = images.clone()
        _maps(replace(entry, function=watched), model, images, labels)
        if changed := [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]:
            raise Fails(f"it changes {changed[0]} of the network: work on a copy (clone)")
        if any(parameter.grad is not None for parameter in model.parameters()):
            raise Fails(
                "parameters have gradients afterwards: use context.gradients or torch.autograd.grad, not backward()"
            )
        if not all(module.training for module in model.modules()):
            raise Fails("the network is in another mode afterwards")
        if any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules()):
            raise Fails("a hook is left in the network")
        pairs = dict(zip((*names, "images"), zip((*shared[0], copy), (*shared[1], images), strict=True), strict=True))
        if changed := [name for name, (old, new) in pairs.items() if not torch.equal(old, new)]:
            raise Fails(f"it changes context.{changed[0]} in place: other methods share it")
    return "weights, gradients, modes, hooks and feature map as before"


@_claims("it costs what it says")
def _cost(entry: Method) -> str:
    _, model, images, labels = next(_networks())
    seen, used = [], []

    def watched(context: Context) -> Tensor:
        made = entry.function(context)
        used.append(context.gradients_used)
        return made

    model.body.register_forward_hook(lambda _, inputs, output: seen.append(len(inputs[0])))
    _maps(replace(entry, function=watched), model, images, labels)
    passes = sum(seen) / len(images)
    cost = f"{passes:g} pass{'es' * (passes != 1)} of the body per image" + ", and one gradient" * any(used)
    if (passes > 1 and entry.needs in ("features", "gradient")) or (any(used) and entry.needs == "features"):
        raise Fails(f'{cost}: more than needs="{entry.needs}" says')
    return cost


@_claims("a moved image has the moved map", asked=False)
def _shift(entry: Method) -> str:
    model, images, labels = ring(), torch.randn(2, 3, 24, 24), torch.tensor([0, 3])
    moved = _unit(entry, model, images.roll((STEPS, 2 * STEPS), (2, 3)), labels).roll((-1, -2), (1, 2))
    _same(moved, _unit(entry, model, images, labels), "enlarged masks have other borders then, as in Score-CAM")
    return "an image moved around its edges has the map moved"


@_claims("the scale of the logits does not matter", asked=False)
def _scaling(entry: Method) -> str:
    def three_times(head: nn.Linear) -> None:
        head.weight.mul_(3.0)
        head.bias.mul_(3.0)

    _same_with_another_head(entry, three_times, "as with Grad-CAM++ and Score-CAM")
    return "logits three times as large: the same scaled map"
