"""What is asked in 02_cam to 07_any_cam: maps, weights and thresholds, tried on random feature maps and small networks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wsolkit.boxes.extract import extract_box
from wsolkit.methods.context import Context
from wsolkit.methods.maps import feature_map, score_maps
from wsolkit.networks.models import unit_range
from wsolkit.networks.pooling import thresholded_average_pool
from wsolkit.study.exercises import call, chosen, differs, exercise
from wsolkit.study.exercises.networks import CLASSES, Positive, small_network


def _case() -> tuple[Tensor, Tensor, Tensor]:
    """Random features (3, 6, 4, 5), head weights (K, 6) and labels (3,)."""
    return torch.randn(3, 6, 4, 5).relu(), torch.randn(CLASSES, 6), torch.randint(CLASSES, (3,))


# ------------------------------------------------------------------------------------------------ 02_cam


@exercise("cam-second", "a function (features (B, C, h, w), weight (K, C), logits (B, K)) -> maps (B, h, w)")
def _second(answer) -> str:
    features, weight, _ = _case()
    logits = features.mean(dim=(2, 3)) @ weight.T
    order = logits.argsort(dim=1, descending=True)
    maps = [torch.einsum("bc,bchw->bhw", weight[order[:, place]], features) for place in (0, 1)]
    found = call(answer, features, weight, logits)
    if hint := differs(found, maps[1]):
        first = not differs(found, maps[0])
        return "That is the map of the most probable class." if first else f"{hint} Try logits.argsort(dim=1)[:, -2]."
    return ""


@exercise("cam-bias", 'one word, "yes" or "no"')
def _bias(answer) -> str:
    drawn = np.random.default_rng(0).normal(size=(20, 6, 6))
    same = all(np.array_equal(extract_box(one, 0.4, size=48), extract_box(one + 3.0, 0.4, size=48)) for one in drawn)
    hint = "Twenty random maps have the same boxes with 3 added. Which step between map and threshold takes a constant away?"
    return chosen(answer, "no" if same else "yes", ("yes", "no"), hint)


@exercise("cam-logit", "a function (maps (B, h, w), bias (B,)) -> logits (B,)")
def _logit(answer) -> str:
    model, images, labels = small_network()
    with torch.no_grad():
        model.head.bias.normal_()
        logits = model(images).gather(1, labels[:, None])[:, 0]
    maps = score_maps(model, images, labels, "cam")
    found = call(answer, maps, model.head.bias.detach()[labels])
    if not differs(found, maps.sum(dim=(1, 2)) + model.head.bias.detach()[labels]):
        return "That is the sum over positions; pooling takes their mean."
    hint = differs(found, logits, 1e-3)
    return hint and f"{hint} Read the formula from right to left: the mean of the map, and what was left out of it."


# ------------------------------------------------------------------------------------------------ 03_rethinking_cam


@exercise("rethinking-rest", "a function (features (B, C, h, w), weight (K, C), labels (B,)) -> maps (B, h, w)")
def _rest(answer) -> str:
    features, weight, labels = _case()
    plain, clamped = (torch.einsum("bc,bchw->bhw", w[labels], features) for w in (weight, weight.clamp(min=0)))
    found = call(answer, features, weight, labels)
    if not differs(found, clamped):
        return "That is the map that is kept. Asked is what clamping takes away, so that both together are CAM."
    hint = differs(found, plain - clamped)
    return hint and f"{hint} Together with the clamped map it must give CAM: which weights are left?"


@exercise("rethinking-level", "a function (score_map (h, w), theta, percentile) -> number")
def _level(answer) -> str:
    for theta, percentile in ((0.35, 90), (0.5, 100), (0.2, 70)):
        drawn = torch.rand(9, 9)
        found, truth = call(answer, drawn, theta, percentile), theta * float(np.percentile(drawn.numpy(), percentile))
        if hint := differs(found, truth):
            of_maximum = not differs(found, theta * drawn.max())
            return (
                "That is a share of the maximum, for any percentile." if of_maximum else f"{hint} See numpy.percentile."
            )
    return ""


@exercise("rethinking-tau", "one of max, mean, sum, min")
def _tau(answer) -> str:
    features = torch.rand(4, 3, 5, 5)
    nearly = thresholded_average_pool(features, 0.999999)
    others = {"max": features.amax, "mean": features.mean, "sum": features.sum, "min": features.amin}
    truth = min(others, key=lambda name: float((others[name](dim=(2, 3)) - nearly).abs().max()))
    return chosen(
        answer, truth, others, "With tau close to 1, which positions exceed tau times the maximum of their channel?"
    )


# ------------------------------------------------------------------------------------------------ 04_grad_cam


@exercise("grad-weights", "a function (features (B, C, h, w), rest, labels (B,)) -> weights (B, C)")
def _grad_weights(answer) -> str:
    for pooling, backbone in (("gap", "resnet18"), ("tap", "resnet18"), ("fc", "vgg16_fc")):
        model, images, labels = small_network(pooling, backbone)
        features = feature_map(model, images)
        truth = Context(model, images, labels, features, 8).gradients.mean(dim=(2, 3))
        if hint := differs(call(answer, features, model.rest, labels), truth, 1e-3):
            return (f"On a network with pooling '{pooling}': {hint} requires_grad_ on the features, the logit of each image's own "
                    "label, summed over images, torch.autograd.grad, mean over positions.")  # fmt: skip
    return ""


@exercise("grad-factor", "a function (h, w) -> number")
def _factor(answer) -> str:
    for height, width in ((2, 3), (4, 4)):
        features, rest = torch.rand(1, 6, height, width), Positive(6)
        labels = torch.tensor([2])
        cam = torch.einsum("bc,bchw->bhw", rest.head.weight[labels], features)
        grad = score_maps(rest, None, labels, "grad_cam", features=features)
        place = cam.flatten().argmax()
        truth = float((cam.flatten() / grad.flatten())[place])
        if differs(call(answer, height, width), truth, 1e-3):
            return f"For a feature map of {height} x {width} the factor is {truth:.4g}: by what does the mean divide?"
    return ""


@exercise("grad-hires", "a function (features, gradients, both (B, C, h, w)) -> maps (B, h, w)")
def _hires(answer) -> str:
    model, images, labels = small_network("fc", "vgg16_fc")
    context = Context(model, images, labels, feature_map(model, images), 8)
    found = call(answer, context.features, context.gradients)
    if not differs(found, score_maps(model, images, labels, "grad_cam"), 1e-3):
        return "That is Grad-CAM: take no mean of the gradient."
    hint = differs(found, score_maps(model, images, labels, "hires_cam"), 1e-3)
    return hint and f"{hint} Multiply position by position, sum over channels, and cut off what is negative."


# ------------------------------------------------------------------------------------------------ 05_grad_cam_plusplus


@exercise("plusplus-closed", "a function (weight (B, C), pooled (B, C)) -> weights (B, C)")
def _closed(answer) -> str:
    weight, features = torch.randn(3, 6, dtype=torch.float64), torch.rand(3, 6, 4, 5, dtype=torch.float64)
    gradient = (weight / 20)[:, :, None, None].expand_as(features)
    alpha = gradient**2 / (2 * gradient**2 + features.sum(dim=(2, 3), keepdim=True) * gradient**3)
    truth = (alpha * gradient.clamp(min=0)).sum(dim=(2, 3))
    hint = differs(call(answer, weight, features.mean(dim=(2, 3))), truth)
    return hint and f"{hint} W / (2 + W p) for positive weights, and 0 for the others, whatever their denominator is."


@exercise("plusplus-scale", "a list of names, of cam, grad_cam and grad_cam++")
def _scale(answer) -> str:
    model, images, labels = small_network()
    names = ("cam", "grad_cam", "grad_cam++")
    before = score_maps(model, images, labels, names)
    with torch.no_grad():
        model.head.weight.mul_(100), model.head.bias.mul_(100)
    after = score_maps(model, images, labels, names)
    changed = [name for name in names if differs(unit_range(after[name]), unit_range(before[name]), 1e-3)]
    return chosen(answer, changed, names, "A map that is multiplied by one positive number has the same boxes. In which of the "
                  "formulas does the weight stand more than once?")  # fmt: skip


@exercise("plusplus-tap", 'one word, "yes" or "no"')
def _plusplus_tap(answer) -> str:
    model, images, labels = small_network("tap")
    context = Context(model, images, labels, feature_map(model, images), 8)
    product = context.features.sum(dim=(2, 3)) * context.gradients.amax(dim=(2, 3)).where(
        context.class_weights > 0, context.gradients.amin(dim=(2, 3))
    )
    same = not differs(product, context.class_weights * model.pool(context.features))
    return chosen(answer, "yes" if same else "no", ("yes", "no"), "S_c sums all positions, also those that TAP leaves out. Are "
                  "they all zero?")  # fmt: skip


# ------------------------------------------------------------------------------------------------ 06_score_cam


@exercise("score-effective", "a function: weights (C,) with sum 1 -> number")
def _effective(answer) -> str:
    for weights in (torch.full((8,), 1 / 8), torch.randn(12).softmax(0), torch.tensor([1.0, 0.0, 0.0])):
        truth = float(torch.special.entr(weights).sum().exp())
        if hint := differs(call(answer, weights), truth):
            return f"{hint} exp(-sum w log w); a weight of 0 adds nothing to the sum (0 log 0 is 0, not NaN)."
    return ""


@exercise("score-passes", "a function (images, channels) -> number of masked images that the body sees")
def _passes(answer) -> str:
    for count, chosen_channels in ((1, 4), (3, 10)):
        model, images, labels = small_network()
        features, seen = torch.rand_like(feature_map(model, images)), []  # no channel is flat
        hook = model.body.register_forward_hook(lambda _, inputs, output, seen=seen: seen.append(len(inputs[0])))
        score_maps(
            model, images[:count], labels[:count], "score_cam", features=features[:count], channels=chosen_channels
        )
        hook.remove()
        if differs(call(answer, count, chosen_channels), sum(seen)):
            return f"For {count} images and {chosen_channels} channels the body saw {sum(seen)} masked images: one mask per what?"
    return ""


@exercise("score-softmax", 'a list of what changes the weights, of "add" and "multiply"')
def _softmax(answer) -> str:
    scores = torch.randn(10)
    weights = scores.softmax(0)
    changed = [
        name for name, other in (("add", scores + 7), ("multiply", scores * 7)) if differs(other.softmax(0), weights)
    ]
    return chosen(
        answer, changed, ("add", "multiply"), "exp(s + a) = exp(s) exp(a), and the softmax divides. What of exp(a s)?"
    )


# ------------------------------------------------------------------------------------------------ 07_any_cam


@exercise("any-max", "a function: context -> weights (B, C)")
def _any_max(answer) -> str:
    model, images, labels = small_network("fc", "vgg16_fc")
    context = Context(model, images, labels, feature_map(model, images), 8)
    mean, largest = (
        context.gradients.mean(dim=(2, 3)),
        context.gradients.flatten(2).amax(dim=2),
    )  # before an answer has it
    found = call(answer, context)
    if not differs(found, mean, 1e-3):
        return "That is the mean of the gradient over positions, the weight of grad_cam."
    hint = differs(found, largest, 1e-3)
    return hint and f"{hint} context.gradients is (B, C, h, w); see torch.amax with two axes."


@exercise("any-mean", "a function (first (B, h, w), second (B, h, w)) -> (B, h, w)")
def _any_mean(answer) -> str:
    first, second = torch.randn(3, 4, 4), 1000 * torch.rand(3, 4, 4)
    found = call(answer, first, second)
    if not differs(found, (first + second) / 2):
        return "The second map is a thousand times larger, so the first one plays no part: scale both to [0, 1], map by map."
    hint = differs(found, (unit_range(first) + unit_range(second)) / 2)
    return hint and f"{hint} Each map has its own minimum and maximum: amin and amax over (1, 2), with keepdim."


@exercise("any-twins", "a list of names, of layer_cam, hires_cam, xgrad_cam, eigen_cam and grad_cam++")
def _any_twins(answer) -> str:
    offered = ("layer_cam", "hires_cam", "xgrad_cam", "eigen_cam", "grad_cam++")
    twins = set(offered)
    for seed in (0, 1):
        model, images, labels = small_network(seed=seed)
        maps = score_maps(model, images, labels, ("grad_cam", *offered))
        twins &= {name for name in offered if not differs(unit_range(maps[name]), unit_range(maps["grad_cam"]), 1e-3)}
    return chosen(answer, twins, offered, "Behind GAP the gradient is the same number at every position of a channel. For which "
                  "of them does then the same weighted sum remain, negative weights included?")  # fmt: skip
