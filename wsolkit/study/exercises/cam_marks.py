"""Marks for a CAM method: what must hold for every method, tried on small networks, as a table."""

from __future__ import annotations

import html
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from wsolkit.methods.context import Context
from wsolkit.methods.maps import score_maps
from wsolkit.methods.registry import METHODS, Method, resolve
from wsolkit.networks.models import unit_range
from wsolkit.study.exercises.networks import STEPS, Lamps, Ring, small_network

TRIAL = "method_on_trial"


@dataclass(frozen=True)
class Mark:
    """One line of a grade. asked: False for a property that a method need not have, which is only told."""

    what: str
    holds: bool
    found: str
    asked: bool = True


@dataclass(frozen=True)
class Grade:
    """What `grade` found; prints as a table."""

    name: str
    marks: list[Mark] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.failed

    @property
    def failed(self) -> list[str]:
        """What did not hold."""
        return [mark.what for mark in self.marks if mark.asked and not mark.holds]

    def verdict(self) -> str:
        asked = [mark.holds for mark in self.marks if mark.asked]
        return f"{self.name}: {sum(asked)} of {len(asked)} hold" + (", passed." if self.passed else ", not passed yet.")

    def _rows(self) -> list[tuple[str, str, str]]:
        signs = {
            (True, True): "✓ holds",
            (True, False): "✗ fails",
            (False, True): "· holds",
            (False, False): "· does not",
        }
        return [(signs[mark.asked, mark.holds], mark.what, mark.found) for mark in self.marks]

    def __str__(self) -> str:
        width = max((len(what) for _, what, _ in self._rows()), default=0)
        return "\n".join(
            [self.verdict(), *(f"{sign:<10} {what:<{width}}  {found}".rstrip() for sign, what, found in self._rows())]
        )

    def _repr_html_(self) -> str:
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in ("", "what is asked", "what was found"))
        cells = "".join(
            "<tr>"
            + "".join(
                f"<td style='text-align:left{'; white-space:nowrap' * (not k)}'>{html.escape(cell)}</td>"
                for k, cell in enumerate(row)
            )
            + "</tr>"
            for row in self._rows()
        )
        caption = f"<caption style='text-align:left'>{html.escape(self.verdict())}</caption>"
        return f"<table class='wsolkit-grade'>{caption}<thead><tr>{head}</tr></thead><tbody>{cells}</tbody></table>"


class Fails(Exception):
    """What does not hold, and a hint."""


def grade(method: Callable[[Context], Tensor] | str) -> Grade:
    """Try a method on small networks with random and with planted weights; an error of the method is a failed mark.

    Args:
        method: a function that takes a `Context` and returns (B, C), (B, C, h, w) or (B, h, w) (see `wsolkit.methods.registry`),
            as it is or registered; or the name of a method.
    """
    if isinstance(method, str):
        entry = resolve(method)
    elif not callable(method):
        return Grade(
            str(method)[:40],
            [Mark("is a function", False, f"this is {type(method).__name__}: give the function itself")],
        )
    else:
        known = next((entry for entry in METHODS.values() if entry.function is method), None)
        entry = known or Method(getattr(method, "__name__", "method"), method, "", "on trial", relu=False)
    marks = []
    for what, asked, test in _TESTS:
        try:
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.manual_seed(0)
                found = test(_Trial(entry))
            marks.append(Mark(what, True, found, asked))
        except Fails as error:
            marks.append(Mark(what, False, str(error), asked))
        except Exception as error:  # whatever a reader's method does
            said = f"{type(error).__name__}: {error}".splitlines()[0][:160]
            marks.append(Mark(what, False, said))
    return Grade(entry.name, marks)


class _Trial:
    """Calls one method, under a name that is registered for the time of the call only."""

    def __init__(self, entry: Method) -> None:
        self.entry = entry

    def maps(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        METHODS[TRIAL] = Method(TRIAL, self._weights, self.entry.needs, "", self.entry.relu, project=self.entry.project)
        try:
            found = score_maps(model, images, labels, TRIAL)
        finally:
            del METHODS[TRIAL]
        if not bool(torch.isfinite(found).all()):
            raise Fails("some values are NaN or infinite (a division by zero?)")
        if not bool(torch.isfinite(found.amax(dim=(1, 2)) - found.amin(dim=(1, 2))).all()):
            raise Fails("the values are so large that their range is infinite")
        return found

    def _weights(self, context: Context) -> Tensor:
        """What the method returns, if it is a tensor of a shape that makes a map."""
        found, (n, channels, *places) = self.entry.function(context), context.features.shape
        if found is None or found is Ellipsis:
            raise Fails("it returns nothing: is its last line, the return, missing?")
        if not isinstance(found, Tensor):
            raise Fails(f"it returns {type(found).__name__}, and a torch.Tensor is expected")
        if tuple(found.shape) not in ((n, channels), (n, channels, *places), (n, *places)):
            raise Fails(f"it returns the shape {tuple(found.shape)}, and (B, C), (B, C, h, w) or (B, h, w) is expected, with "
                        f"(B, C, h, w) = {tuple(context.features.shape)}")  # fmt: skip
        return found

    def unit(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Scaled to [0, 1], as boxes see them."""
        return unit_range(self.maps(model, images, labels))


def _networks() -> Iterator[tuple[str, nn.Module, Tensor, Tensor]]:
    for pooling in ("gap", "tap"):
        yield f"resnet18 with {pooling.upper()}", *small_network(pooling)


def _same(found: Tensor, expected: Tensor, hint: str, tolerance: float = 2e-3) -> None:
    worst = float((found - expected).abs().max())
    if worst > tolerance:
        raise Fails(f"{hint} (differs by {worst:.2g} of the range)")


def _shape(trial: _Trial) -> str:
    for _, model, images, labels in _networks():
        found = trial.maps(model, images, labels)
    return f"{tuple(found.shape)} for 3 images and a feature map of {tuple(found.shape[1:])}"


def _classes(trial: _Trial) -> str:
    for name, model, images, labels in _networks():
        one, other = (trial.unit(model, images, y) for y in (labels, (labels + 1) % 5))
        if float((one - other).abs().max()) < 1e-3:
            raise Fails(f"on {name} two classes have the same map: use the label, through class_weights or gradients")
    return "another class, another map"


def _planted(trial: _Trial) -> str:
    model, draw = Lamps(), torch.Generator().manual_seed(1)
    for _ in range(6):
        places = torch.randperm(36, generator=draw)[:2].tolist()
        image = torch.zeros(1, 3, 6 * STEPS, 6 * STEPS)
        for channel, place in enumerate(places):
            row, column = STEPS * (place // 6), STEPS * (place % 6)
            image[0, channel, row : row + STEPS, column : column + STEPS] = 1.0
        image[:, 2] = 0.3  # a channel that tells nothing
        for label, place in enumerate(places):
            found = trial.maps(model, image, torch.tensor([label]))[0].flatten()
            if int(found.argmax()) != place or float(found.max()) <= float(found[places[1 - label]]):
                against = float(found[places[1 - label]]) >= float(found[place])
                raise Fails(
                    "the brightest place is where a channel speaks against the class: mind the sign of the weight"
                    if against
                    else "the brightest place is not where the channel of the class is active"
                )
    return "brightest where the channel of the class is active, in 12 of 12 trials"


def _constant(trial: _Trial) -> str:
    for name, model, images, labels in _networks():
        before = trial.unit(model, images, labels)
        with torch.no_grad():
            model.head.bias += 5.0
        _same(trial.unit(model, images, labels), before, f"on {name} a constant added to all logits changes the map")
    return "5 added to every logit changes nothing"


def _batch(trial: _Trial) -> str:
    for name, model, images, labels in _networks():
        together = trial.unit(model, images, labels)
        for index in range(len(images)):
            alone = trial.unit(model, images[index : index + 1], labels[index : index + 1])
            _same(
                alone[0],
                together[index],
                f"on {name} image {index} has another map alone than in a batch of 3: keep the first axis",
            )
        turned = trial.unit(model, images.flip(0), labels.flip(0)).flip(0)
        _same(turned, together, f"on {name} the order of the batch matters: keep the first axis")
    return "alone, in a batch, in another order: the same map"


def _again(trial: _Trial) -> str:
    _, model, images, labels = next(_networks())
    _same(trial.unit(model, images, labels), trial.unit(model, images, labels), "called twice, it gives two maps", 1e-6)
    return "called twice, one map"


def _mirror(trial: _Trial) -> str:
    model, images, labels = Ring(), torch.randn(2, 3, 24, 24), torch.tensor([0, 3])
    found = trial.unit(model, images.flip(3), labels).flip(2)
    _same(found, trial.unit(model, images, labels), "a mirrored image does not have the mirrored map")
    return "a mirrored image has the mirrored map"


def _shift(trial: _Trial) -> str:
    model, images, labels = Ring(), torch.randn(2, 3, 24, 24), torch.tensor([0, 3])
    found = trial.unit(model, images.roll((STEPS, 2 * STEPS), (2, 3)), labels).roll((-1, -2), (1, 2))
    _same(
        found,
        trial.unit(model, images, labels),
        "enlarged masks have other borders then, as in Score-CAM",
    )
    return "a picture moved around its edges has the map moved"


def _scaling(trial: _Trial) -> str:
    for _, model, images, labels in _networks():
        before = trial.unit(model, images, labels)
        with torch.no_grad():
            model.head.weight *= 3.0
            model.head.bias *= 3.0
        _same(trial.unit(model, images, labels), before, "as with Grad-CAM++ and Score-CAM")
    return "logits three times as large: the same scaled map"


def _untouched(trial: _Trial) -> str:
    for _, model, images, labels in _networks():
        model.train()  # somebody else's mode
        before = {name: value.clone() for name, value in model.state_dict().items()}
        copy = images.clone()
        shared: list[dict[str, Tensor]] = []
        watched = _Trial(_watching(trial.entry, shared))
        watched.maps(model, images, labels)
        changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
        if changed:
            raise Fails(f"it changes {changed[0]} of the network: work on a copy (clone)")
        if any(parameter.grad is not None for parameter in model.parameters()):
            raise Fails(
                "parameters have gradients afterwards: use context.gradients or torch.autograd.grad, not backward()"
            )
        if not all(module.training for module in model.modules()):
            raise Fails("the network is in another mode afterwards")
        if any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules()):
            raise Fails("a hook is left in the network")
        before, after = shared
        changed = [f"context.{name}" for name in before if not torch.equal(before[name], after[name])]
        if changed or not torch.equal(images, copy):
            raise Fails(f"it changes {changed[0] if changed else 'images'} in place: other methods share it")
    return "weights, gradients, modes, hooks and feature map as before"


def _cost(trial: _Trial) -> str:
    _, model, images, labels = next(_networks())
    seen, used = [], []
    handle = model.body.register_forward_hook(lambda _, inputs, output: seen.append(len(inputs[0])))

    def watched(context: Context) -> Tensor:
        found = trial.entry.function(context)
        used.append(context.gradients_used)
        return found

    try:
        _Trial(_like(trial.entry, watched)).maps(model, images, labels)
    finally:
        handle.remove()
    passes, needs = sum(seen) / len(images), trial.entry.needs
    words = f"{passes:g} pass{'es' * (passes != 1)} of the body per image" + ", and one gradient" * any(used)
    if (passes > 1 and needs in ("features", "gradient")) or (any(used) and needs == "features"):
        raise Fails(f'{words}: more than needs="{needs}" says')
    return words


def _like(entry: Method, function: Callable[[Context], Tensor]) -> Method:
    return Method(entry.name, function, entry.needs, "", entry.relu, project=entry.project)


def _watching(entry: Method, shared: list[dict[str, Tensor]]) -> Method:
    """The method, which leaves what methods share, before and after, in `shared`."""

    def watched(context: Context) -> Tensor:
        names = ("features", "labels", "class_weights", "gradients")
        shared[:] = [{name: getattr(context, name).clone() for name in names}]
        found = entry.function(context)
        shared.append({name: getattr(context, name) for name in names})
        return found

    return _like(entry, watched)


_TESTS = (
    ("the map has the size of the feature map and is finite", True, _shape),
    ("it depends on the class", True, _classes),
    ("it lights the place of the class's own channel", True, _planted),
    ("a constant added to all logits changes nothing", True, _constant),
    ("an image's map depends on that image alone", True, _batch),
    ("it is the same each time", True, _again),
    ("a mirrored image has the mirrored map", True, _mirror),
    ("network and feature map are left as they were", True, _untouched),
    ("it costs what it says", True, _cost),
    ("a moved picture has the moved map", False, _shift),
    ("the scale of the logits does not matter", False, _scaling),
)
