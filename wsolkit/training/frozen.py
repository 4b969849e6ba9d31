"""A frozen body: only the head learns, from pooled features that are computed once, so in one pass over the images.

Methods that are fitted to a frozen body (`Objective.frozen`: ddt, ...) see the feature maps in the same pass.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from wsolkit.common.errors import require
from wsolkit.common.progress import progress
from wsolkit.data.base import WSOLDataset
from wsolkit.networks import folded
from wsolkit.training.recipe import Objective, Recipe

STEPS = 500  # of LBFGS at most; it stops earlier where nothing changes any more, else a warning says so


def check_head(model: Any) -> None:
    """Raise a `WsolkitError` where a network has no pooling with one linear layer behind it."""
    good = isinstance(getattr(model, "head", None), nn.Linear) and getattr(model, "has_cam", False)
    kind = getattr(model, "backbone", type(model).__name__)
    require(good, f"frozen: only a linear head behind a pooling can be fitted, and {kind} has none here")


def fit_head(model: Any, train: WSOLDataset, recipe: Recipe, objective: Objective) -> tuple[float, float]:
    """Fit the linear head of `model` in place, by LBFGS from zero; all else stays. Needs N x C floats of memory.

    The images are those of evaluation (no crops, no flips), and the body is in evaluation mode, so that nothing is
    random. It minimises the mean cross-entropy plus weight_decay / 2 times the sum of the squared weights.

    Returns: cross-entropy (nats) and Top-1 Cls (percent) on the training images.

    Raises: WsolkitError: features are not finite.
    """
    head: Any = model.head
    model.eval()
    device, pooled = head.weight.device, []
    order = np.argsort(train.labels, kind="stable") if objective.frozen else np.arange(len(train))
    batches = np.split(order, range(recipe.batch_size, len(order), recipe.batch_size))
    labels = torch.from_numpy(train.labels[order]).to(device)
    with torch.inference_mode(False), torch.no_grad(), objective.observing(model, recipe) as observe:
        answers = iter(labels.split(recipe.batch_size))
        for chosen in progress(batches, f"features of {len(train)} {train.split} images", unit="batches"):
            images = train.images(chosen, device).contiguous(memory_format=torch.channels_last)
            maps = folded.run(model.body, images, recipe.precision).contiguous()
            pooled.append(model.pool(maps))
            observe(images, maps, next(answers))
        features = torch.cat(pooled)
        require(bool(features.isfinite().all()), "frozen: the body's features are not finite; check its start weights")
    with torch.inference_mode(False), torch.enable_grad():
        # of its own, as the head's may be frozen
        weight, bias = (torch.zeros(p.shape, device=device, requires_grad=True) for p in (head.weight, head.bias))
        optimiser = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimiser.zero_grad()
            value = cross_entropy(linear(features, weight, bias), labels, label_smoothing=recipe.label_smoothing)
            value = value + recipe.weight_decay / 2 * weight.square().sum()
            value.backward()
            return value

        optimiser.step(loss)  # type: ignore[arg-type]
    if optimiser.state[weight]["n_iter"] >= STEPS:
        text = f"frozen: the head was still changing after {STEPS} steps of LBFGS; a larger weight_decay settles sooner"
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
        logits = head(features)
        return float(cross_entropy(logits, labels)), 100.0 * float((logits.argmax(1) == labels).float().mean())
