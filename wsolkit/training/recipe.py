"""The values of a training run, the named recipes that give them, and what one step minimises. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from wsolkit.common.errors import WsolkitError
from wsolkit.common.parameters import Parameters, parameter

if TYPE_CHECKING:
    from torch import Tensor, nn

Criterion = Callable[["Tensor", "Tensor"], "Tensor"]  # logits (B, K), labels (B,) -> mean loss in nats

BATCH, LR = 40, 3e-3  # as published for CUB
SEEDS = 2**63 - 1  # the largest: torch and numpy take it
LEAST_STEPS = 16  # of an epoch, where the number of images decides the batch


class Recipe(Parameters):
    """Every value of a training run. The defaults are RethinkingCAM's for CUB (Bae et al., ECCV 2020), but for the
    epochs.

    These are also the parameters of a run (`wsolkit.runs.parameters.RunConfig`), the options of the command line and
    the keys of a sweep file: a value that is declared here is known everywhere.

    Attributes:
        frozen: the body keeps its start weights, and the head alone is fitted, to its end, with `weight_decay` (see
            `wsolkit.training.frozen`); of the other values only batch_size, precision and label_smoothing count.
        epochs, batch_size: passes over the images, and images in a step (over all processes together; at least 2, since
            batch normalisation cannot train on one value per channel).
        lr, momentum, nesterov, weight_decay: of SGD.
        lr_classifier_ratio: multiplies the learning rate of the layers that wsolevaluation calls the classifier: layer4
            and head of a ResNet, elsewhere what comes after torchvision's convolutions.
        schedule: "step" multiplies the rate by `lr_gamma` at the epochs `lr_steps`, or every `lr_period` epochs where
            that is not 0; "cosine" falls smoothly to zero over all epochs.
        warmup_epochs: epochs over which the rate rises to `lr`.
        backbone_grad_scale: multiplies the gradients of pretrained layers before weight decay is added, which is not
            the same as a smaller learning rate.
        label_smoothing: share of the target that is spread over all classes, in [0, 1). Validation knows none.
        precision: "float32", or "bf16" for bfloat16 autocast of network and loss in training and validation; weights,
            gradients and SGD stay float32.
        accumulate: cut a batch into so many parts, one after another, so that it fits a small memory. The gradient is
            that of the whole batch; batch normalisation sees the parts, and so do methods that mix a batch's images.
        seed: of order, crops, flips and whatever is drawn in the network.

    Raises: WsolkitError: an unknown name, or a value of the wrong kind or out of range.

    Example:
        >>> recipe = Recipe(epochs=90, lr="1e-2", lr_steps="30,60")
        >>> [round(recipe.rate(epoch), 6) for epoch in (0, 29, 30, 89)]
        [0.01, 0.01, 0.001, 0.0001]
        >>> recipe.changed(lr=0.1).lr
        0.1
    """

    frozen: bool = parameter(False, "keep the start weights of the body and fit the head alone", "training")
    epochs: int = parameter(50, "length of a training run", "training", ge=1)
    batch_size: int = parameter(BATCH, "images per training step", "training", ge=2)
    lr: float = parameter(LR, "learning rate", "training", gt=0)
    lr_classifier_ratio: float = parameter(
        1.0, "learning rate of head and added layers (ResNet: and layer4) over that of the others", "training", gt=0
    )
    momentum: float = parameter(0.9, "momentum of SGD", "training", ge=0)
    nesterov: bool = parameter(True, "Nesterov's momentum", "training")
    schedule: str = parameter("step", "how the learning rate falls", "training", choices=("step", "cosine"))
    lr_steps: tuple[Annotated[int, Field(ge=1)], ...] = parameter(
        (60, 120, 180), "epochs after which a step schedule lowers the rate, separated by commas", "training"
    )
    lr_period: int = parameter(0, "epochs between two steps, instead of lr_steps", "training", ge=0)
    lr_gamma: float = parameter(0.1, "factor on the learning rate at a step", "training", gt=0)
    warmup_epochs: int = parameter(0, "epochs over which the learning rate rises", "training", ge=0)
    weight_decay: float = parameter(5e-4, "weight decay of SGD", "training", ge=0)
    backbone_grad_scale: float = parameter(0.1, "factor on the gradients of pretrained layers", "training", ge=0)
    label_smoothing: float = parameter(0.0, "share of the target spread over all classes", "training", ge=0, lt=1)
    precision: str = parameter(
        "float32", "number format of training; bf16 is bfloat16 autocast", "training", choices=("float32", "bf16")
    )
    accumulate: int = parameter(
        1, "parts into which a batch is cut to fit the memory; batch norm sees the parts", "training", ge=1
    )
    seed: int = parameter(0, "of the split, of drawn images, of initialisation and of training", "data", ge=0, le=SEEDS)

    @model_validator(mode="after")
    def _parts_of_a_batch(self) -> Recipe:
        parts, batch = self.accumulate, self.batch_size
        if parts > batch > 0:  # 0: not yet known
            raise WsolkitError(f"accumulate={parts} parts are more than the {batch} images of a batch; choose fewer")
        return self

    @classmethod
    def of(cls, values: Any, images: int) -> Recipe:
        """The recipe of a run.

        Args:
            values: holds every value of a recipe under its name (`RunConfig`). batch_size 0 is the published 40, or
                fewer where the data is small, so that an epoch has at least 16 steps; lr 0 is the published 3e-3 of a
                batch of 40, in proportion.
            images: number of training images.
        """
        batch_size = values.batch_size or min(BATCH, max(8, images // LEAST_STEPS))
        lr = values.lr or LR * batch_size / BATCH  # fewer images in a step, a smaller step
        return cls(**{name: getattr(values, name) for name in cls.model_fields} | {"batch_size": batch_size, "lr": lr})

    def changed(self, **changes: Any) -> Recipe:
        """The same recipe with some other values."""
        return Recipe(**{**self.model_dump(), **changes})

    def plain(self) -> dict[str, Any]:
        """All values as JSON and a weights-only checkpoint hold them."""
        return self.model_dump(mode="json")

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        if epoch < self.warmup_epochs:
            return self.lr * (epoch + 1) / (self.warmup_epochs + 1)
        if self.schedule == "cosine":
            done = (epoch - self.warmup_epochs) / max(1, self.epochs - self.warmup_epochs)
            return self.lr * 0.5 * (1.0 + float(np.cos(np.pi * done)))
        falls = epoch // self.lr_period if self.lr_period else sum(epoch >= step for step in self.lr_steps)
        return self.lr * self.lr_gamma**falls


# named recipes and where they come from; all use SGD with Nesterov momentum 0.9
RECIPES = {
    "rethinking_cam": "Bae, Noh and Kim, ECCV 2020, as published for CUB and VGG16",
    "wsolevaluation": "Choe et al., CVPR 2020, CAM on CUB, from third-party copies of its hyper-parameter sheet (VGG16 "
    "and ResNet50; other backbones take the values of ResNet50)",
    "quick": "this package's own, for a first look: ten epochs with a rate that falls to zero",
    "frozen": "this package's own, for pretrained weights: the body stays as it is, and a linear head is fitted to its "
    "pooled features (a linear probe)",
}
# what each changes in the defaults of `Recipe`: everywhere, on backbones whose names begin so, or with these weights
_VALUES: list[tuple[str, str, dict[str, Any]]] = [
    ("rethinking_cam", "", {"epochs": 200}),
    ("wsolevaluation", "", {"batch_size": 32, "lr": 2.322e-4, "lr_classifier_ratio": 10.0, "lr_period": 15}),
    ("wsolevaluation", "", {"weight_decay": 1e-4, "backbone_grad_scale": 1.0}),
    ("wsolevaluation", "vgg", {"lr": 1.268e-5, "weight_decay": 5e-4}),
    ("wsolevaluation", "resnet50", {"stride": 8}),
    ("quick", "", {"epochs": 10, "batch_size": 16, "schedule": "cosine", "warmup_epochs": 1}),
    ("quick", "none", {"lr": 0.03, "backbone_grad_scale": 1.0}),
    ("frozen", "", {"frozen": True, "epochs": 1, "weight_decay": 5e-3}),
]


def recipe_values(name: str, backbone: str, weights: str) -> dict[str, Any]:
    """Parameters of a run that the recipe decides; none for the name ""."""
    values = Recipe().model_dump(exclude={"seed"}) if name else {}
    for recipe, special, changes in _VALUES:
        if recipe == name and (backbone.startswith(special) or weights == special):
            values |= changes
    return values


def recipe_source(config: Any) -> str:
    """Where the values of a complete `RunConfig` come from, as text, and which of a named recipe's it replaces."""
    if not config.recipe and config.weights == "none":
        return "this package's own for networks from scratch"
    if not config.recipe:
        published = "values of Bae, Noh and Kim, ECCV 2020, with the epochs of the dataset"
        return f"{published}, and a batch and a rate that suit the number of its images"
    values = recipe_values(config.recipe, config.backbone, config.weights)
    replaced = [name for name, value in values.items() if getattr(config, name) != value]
    return RECIPES[config.recipe] + (f"; replaced here: {', '.join(replaced)}" if replaced else "")


class Objective(Parameters):
    """Plain classification. A training-time WSOL method is a subclass, which declares its parameters and overrides what
    it needs; the loop knows nothing else.

    Everything random is drawn from torch's global generator of the CPU, which the loop seeds, so that an epoch can be
    repeated exactly after an interruption.
    """

    name: ClassVar[str] = "plain"
    hooks: ClassVar[bool] = False  # whether `attached` hooks something into the network, which torch.compile misses
    code: ClassVar[tuple[str, ...]] = ()  # files and wings that it depends on, beyond its own and those of training
    frozen: ClassVar[bool] = (
        False  # whether it is fitted to the features of a frozen body, see `wsolkit.training.frozen`
    )

    def settings(self) -> dict[str, Any]:
        """Plain values that define the method beyond its name, and belong to the identity of a training run."""
        return self.model_dump()

    def lacks(self, backbone: str) -> str:
        """Why the method cannot train networks on a backbone, or ""."""
        return ""

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """What the method changes in the model while an epoch lasts (hooks); undone at its end, exceptions included."""
        yield

    def change(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Any]:
        """(B, 3, H, W) normalised images and (B,) labels -> what the network sees, and what `loss` needs to know."""
        return images, labels

    def loss(self, model: nn.Module, images: Tensor, target: Any, criterion: Criterion) -> tuple[Tensor, Tensor]:
        """Mean loss of the batch, and the logits (B, K) by which its Top-1 is counted."""
        logits = model(images)
        return criterion(logits, target), logits

    def prepare(self, model: Any) -> None:
        """Make room in the network (`WSOLModel.keep`) for what the method fits, before anything of it is known."""

    @contextmanager
    def observing(self, model: Any, recipe: Any) -> Iterator[Callable[[Tensor, Tensor, Tensor], None]]:
        """Of a frozen body: gives a function that takes each batch of training images (B, 3, H, W), their feature maps
        (B, C, h, w) and labels (B,), class by class; at its end the model keeps what was fitted."""
        yield lambda images, features, labels: None
