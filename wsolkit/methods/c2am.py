"""C2AM: a head learns to separate foreground from background by contrast between images, without labels."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np

from wsolkit.common.errors import require
from wsolkit.common.parameters import parameter
from wsolkit.methods.context import Context, Tensor
from wsolkit.methods.ddt import ENLARGED, around_zero, frozen_view, on_frozen_body, unfitted
from wsolkit.methods.registry import LIST, Published, Variant, register
from wsolkit.training.recipe import Objective

LEAST, MOST = 5e-4, 0.9995  # bounds of cosines, so that logarithms stay finite


class C2AM(Objective):
    """Fits P = sigmoid(BN(conv3x3(A))), one channel, to the feature maps A of a frozen body.

    With foreground and background of an image, fg = sum_p P A / (h w) and bg = sum_p (1 - P) A / (h w), a step on a
    batch minimises attraction(bg, bg) + repulsion(fg, bg) + attraction(fg, fg). Nothing says which of the two is the
    object: P is turned where its mean over the outermost positions of *all* training images exceeds that over the
    others. Feature maps lie in a temporary file meanwhile.

    Args:
        epochs, lr, batch: of SGD with momentum 0.9; the rate falls to 0 with power 0.9.
        alpha: how fast the weight of a pair falls with its rank.

    Source: Xie et al., "C2AM: Contrastive Learning of Class-agnostic Activation Map for Weakly Supervised Object
    Localization and Semantic Segmentation", CVPR 2022.
    """

    name, frozen = "c2am", True
    epochs: int = parameter(20, "passes over the kept feature maps", ge=1)
    lr: float = parameter(1e-3, "learning rate of the head", gt=0)
    batch: int = parameter(16, "images per step", ge=1)
    alpha: float = parameter(0.05, "how fast a pair's weight falls with its rank", ge=0)

    def prepare(self, model: Any) -> None:
        import torch

        shapes = {"c2am_kernel": (1, model.head.in_features, 3, 3), "c2am_offset": (1,), "c2am_facts": (2,)}
        model.keep(**{name: torch.full(shape, torch.nan) for name, shape in shapes.items()})

    @contextmanager
    def observing(self, model: Any, recipe: Any) -> Iterator[Callable[[Tensor, Tensor, Tensor], None]]:
        with tempfile.TemporaryFile() as file:
            shape: list[int] = []

            def observe(images: Tensor, features: Tensor, labels: Tensor) -> None:
                shape[:] = features.shape[1:]
                features.float().cpu().numpy().tofile(file)

            yield observe
            file.flush()
            kept = np.memmap(file, np.float32, "c")  # torch warns of arrays that it may not write
            self.fit(model, kept.reshape(-1, *shape), recipe.seed)

    def fit(self, model: Any, kept: np.ndarray, seed: int) -> None:
        """Fit the head of `model` to feature maps (N, C, h, w) float32, in memory or mapped from a file."""
        import torch
        from torch import nn
        from torch.nn.functional import conv2d

        need = "choose a larger input (frozen_size) or a smaller stride (frozen_stride)"
        require(kept[0, 0].size > 1, f"c2am separates positions, and these feature maps have one alone: {need}")
        device, generator = model.head.weight.device, np.random.default_rng([seed, 4])
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = nn.Sequential(nn.Conv2d(kept.shape[1], 1, 3, padding=1, bias=False), nn.BatchNorm2d(1)).to(device)
            optimiser = torch.optim.SGD(head.parameters(), self.lr, momentum=0.9, weight_decay=1e-4)
            starts = range(0, len(kept), self.batch)
            schedule = torch.optim.lr_scheduler.PolynomialLR(optimiser, self.epochs * len(starts), power=0.9)
            for _ in range(self.epochs):
                order = generator.permutation(len(kept))
                for start in starts:
                    features = torch.from_numpy(kept[np.sort(order[start : start + self.batch])]).to(device)
                    optimiser.zero_grad()
                    contrast(features, head(features).sigmoid(), self.alpha).backward()
                    optimiser.step()
                    schedule.step()
        head.eval()
        convolution, norm = cast(Any, head)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        kernel = (convolution.weight * scale[:, None, None, None]).detach()
        offset = (norm.bias - norm.running_mean * scale).detach()
        require(bool(kernel.isfinite().all()), f"c2am: the head has diverged at lr={self.lr:g}; choose a smaller lr")
        total, count = np.zeros(2), np.zeros(2)  # of the outermost positions, and of the others
        for start in starts:
            features = torch.from_numpy(kept[start : start + self.batch]).to(device)
            values = (conv2d(features, kernel, padding=1) + offset).sigmoid()[:, 0].double().cpu().numpy()
            inner = values[:, 1:-1, 1:-1]
            total += [values.sum() - inner.sum(), inner.sum()]
            count += [values.size - inner.size, inner.size]
        border, inside = total / count.clip(1)
        sign = -1.0 if border > inside else 1.0
        facts = (border, inside) if sign > 0 else (1 - border, 1 - inside)
        for name, value in {"kernel": sign * kernel, "offset": sign * offset, "facts": torch.tensor(facts)}.items():
            getattr(model.fitted, f"c2am_{name}").copy_(value)


def contrast(features: Tensor, probability: Tensor, alpha: float = 0.05) -> Tensor:
    """The loss of a batch: features (B, C, h, w), foreground probability (B, 1, h, w) -> scalar."""
    from torch.nn.functional import normalize

    foreground, background = (
        normalize((share * features).mean((2, 3)), dim=1) for share in (probability, 1 - probability)
    )
    apart = -(1 - (foreground @ background.T).clamp(LEAST, MOST)).log().mean()
    return attraction(background, alpha) + apart + attraction(foreground, alpha)


def attraction(rows: Tensor, alpha: float) -> Tensor:
    """(B, C) of length 1 -> mean over all pairs of -w log(cosine), w = exp(-alpha rank): in each row the most similar
    other one has rank 0, so that pairs that hardly belong together count less."""
    cosines = (rows @ rows.T).clamp(LEAST, MOST)
    ranks = cosines.argsort(dim=1, descending=True).argsort(dim=1) - 1
    return -((-alpha * ranks).exp() * cosines.log()).mean()


@register(
    "c2am",
    needs="features",
    description="foreground by contrast between images, learnt without labels on a frozen body",
    label="C2AM",
    relu=False,
    eigen=False,
    uses_classes=True,
    check=unfitted("c2am", "c2am_kernel"),
    threshold=0.6,
    variants=(
        Variant("c2am", "C2AM", makes_objective=C2AM, start="gap", changes=on_frozen_body, view=frozen_view),
        "gap",
    ),
    chapter="13_c2am.ipynb",
    published=(
        Published(
            "resnet50", LIST, {"top1_loc": 76.36, "gt_known_loc": 93.40}, "boxes of a regressor (PSOL) on its maps"
        ),
    ),
    differs="the last layer's features alone, 448 px; supervised body",
)
def c2am(context: Context) -> Tensor:
    """P = sigmoid(BN(conv3x3(A))) of a head that was fitted to all training images (`C2AM`); no class has a part in it.

    The map is its logit, enlarged four times and scaled so that P = 0.5 is half of its range, as for `ddt`. There boxes
    hold much of what surrounds the object; the fixed threshold 0.6 was chosen on training and validation images of six
    CUB classes. Xie et al., CVPR 2022.
    """
    from torch.nn.functional import conv2d, interpolate

    fitted = context.model.fitted
    logits = conv2d(context.features.float(), fitted.c2am_kernel, fitted.c2am_offset, padding=1)
    return around_zero(interpolate(logits, scale_factor=ENLARGED, mode="bilinear", align_corners=False)[:, 0])
