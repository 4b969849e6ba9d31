"""Named recipes: the published ones and a short one, as values of a `RunConfig`. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_PLAIN = {"label_smoothing": 0.0, "lr_classifier_ratio": 1.0, "lr_period": 0, "lr_gamma": 0.1, "warmup_epochs": 0}


@dataclass(frozen=True)
class NamedRecipe:
    """Values of one recipe, what a backbone (by the beginning of its name) changes in them, and where they come from.
    All recipes use SGD with Nesterov momentum 0.9."""

    source: str
    values: dict[str, Any]
    backbones: dict[str, dict[str, Any]]
    scratch: dict[str, Any]  # for a network that starts from random weights


RECIPES = {
    "rethinking_cam": NamedRecipe(
        "Bae, Noh and Kim, ECCV 2020, as published for CUB and VGG16",
        {**_PLAIN, "epochs": 200, "batch_size": 40, "lr": 3e-3, "weight_decay": 5e-4, "backbone_grad_scale": 0.1,
         "schedule": "step", "lr_steps": (60, 120, 180)}, {}, {},
    ),
    "wsolevaluation": NamedRecipe(
        "Choe et al., CVPR 2020, CAM on CUB, from third-party copies of its hyper-parameter sheet (VGG16 and ResNet50; other "
        "backbones take the values of ResNet50)",
        {**_PLAIN, "epochs": 50, "batch_size": 32, "lr": 2.322e-4, "weight_decay": 1e-4, "backbone_grad_scale": 1.0,
         "lr_classifier_ratio": 10.0, "schedule": "step", "lr_period": 15},
        {"vgg": {"lr": 1.268e-5, "weight_decay": 5e-4}, "resnet50": {"stride": 8}}, {},
    ),
    "quick": NamedRecipe(
        "this package's own, for a first look: ten epochs with a rate that falls to zero",
        {**_PLAIN, "epochs": 10, "batch_size": 16, "lr": 3e-3, "weight_decay": 5e-4, "backbone_grad_scale": 0.1,
         "schedule": "cosine", "warmup_epochs": 1}, {}, {"lr": 0.03, "backbone_grad_scale": 1.0},
    ),
}  # fmt: skip
_OWN = {
    "imagenet": "values of Bae, Noh and Kim, ECCV 2020, with the epochs of the dataset, and a batch and a rate that suit the "
    "number of its images",
    "none": "this package's own for networks from scratch",
}


def recipe_values(name: str, backbone: str, weights: str) -> dict[str, Any]:
    """Parameters of a `RunConfig` that the recipe decides; none for the name "".

    Raises:
        ValueError: for a name that is none.
    """
    if not name:
        return {}
    if name not in RECIPES:
        raise ValueError(f"unknown recipe '{name}'; choose from {', '.join(RECIPES)}, or leave it empty")
    recipe = RECIPES[name]
    special = [values for start, values in recipe.backbones.items() if backbone.startswith(start)]
    return {**recipe.values, **(special[0] if special else {}), **(recipe.scratch if weights == "none" else {})}


def recipe_source(config: dict[str, Any]) -> str:
    """Where the values of a complete configuration come from, in words, and which of a named recipe's it replaces."""
    if not config["recipe"]:
        return _OWN.get(config["weights"], _OWN["imagenet"])
    values = recipe_values(config["recipe"], config["backbone"], config["weights"])
    replaced = [name for name, value in values.items() if _plain(config[name]) != _plain(value)]
    source = RECIPES[config["recipe"]].source
    return source + (f"; replaced here: {', '.join(replaced)}" if replaced else "")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
