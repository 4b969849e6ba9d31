"""The flat parameters of a run, their defaults for each dataset, and what makes a finished run stale. No torch here."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from wsolkit.common.code import code_state
from wsolkit.common.files import digest
from wsolkit.common.paths import project_path
from wsolkit.methods.registry import VARIANTS
from wsolkit.networks.backbones import BACKBONES
from wsolkit.runs.fingerprints import SCORING_SOURCES, TRAINING_SOURCES, data_state, notebook_state, weights_state
from wsolkit.training.recipes import recipe_values

TRAINING_PREFIX = "train-"  # of the folders of trainings, which lie beside those of methods

# Where a parameter is left empty, the dataset and the start weights decide. Pretrained networks follow the recipe of Bae et
# al. (ECCV 2020); a network from scratch has no pretrained gradients to damp and needs a schedule that ends.
_PRETRAINED = {
    "backbone_grad_scale": 0.1, "schedule": "step", "warmup_epochs": 0, "batch_size": 0, "lr": 0.0, "width": 1.0,
    "batch_norm": "no", "stride": 16, "weight_decay": 5e-4, "lr_steps": (60, 120, 180), "lr_classifier_ratio": 1.0,
}  # fmt: skip
_SCRATCH = {
    "backbone_grad_scale": 1.0, "schedule": "cosine", "warmup_epochs": 2, "batch_size": 32, "lr": 0.02, "width": 1.0,
    "batch_norm": "auto", "stride": 8, "weight_decay": 5e-4, "lr_steps": (60, 120, 180), "lr_classifier_ratio": 1.0,
}  # fmt: skip
DATASETS: dict[str, dict[str, Any]] = {
    "synthetic": {"weights": "none", "size": 64, "epochs": 22},
    "cub": {"weights": "imagenet", "size": 224, "epochs": 50},
    "tiny_imagenet": {"weights": "none", "size": 64, "epochs": 20},
    "metadata": {"weights": "imagenet", "size": 224, "epochs": 50},
}


SCRATCH: dict[str, dict[str, Any]] = {"synthetic": {"width": 0.25, "batch_size": 16, "lr": 0.03}}


@dataclass(frozen=True)
class RunConfig:
    """Everything that defines one training and its reports, flat, as notebooks take it. Empty values mean "as the dataset".

    Attributes:
        dataset, root, metadata, masks, classes, size, geometry, val_share, per_class: see `load_dataset` (0, "" and []
            are empty).
        backbone, stride, width, batch_norm, weights, tau: see `build_model`; batch_norm is "yes", "no" or "auto"
            (VGG gets it only where it trains from scratch).
        batch_size: 0 is the published 40, or fewer where the data is small, so that an epoch has at least 16 steps.
        lr: 0 is the published 3e-3 of a batch of 40, in proportion for a smaller batch.
        tap_epochs: without pretrained weights a TAP training starts from the trained GAP network, as the published recipe
            starts from ImageNet's, and lasts this many epochs at a third of the learning rate (0: a quarter of epochs).
        recipe: name of a recipe (`wsolkit.training.recipes`), whose values fill what is empty before dataset and start weights do.
        epochs, schedule, lr_steps, lr_period, lr_gamma, lr_classifier_ratio, warmup_epochs, weight_decay,
            backbone_grad_scale, label_smoothing, precision, accumulate: see `Recipe`.
        compile, checkpoint_seconds: see `fit`; like the device they do not make a finished training stale.
        limit: number of test (and of validation) images to localise, balanced over classes; 0 is all.
        faithfulness: number of test images for deletion, insertion and ROAD curves; 0 leaves them out.
        seed: of split, drawing, initialisation and training.
        device: "cpu", "cuda" or "" for cuda where there is one.
        out: the folder of reports; relative paths start at the project's folder; where
            it is left at its default, the environment variable WSOLKIT_OUT replaces it.
    """

    dataset: str = "synthetic"
    root: str = ""
    metadata: str = ""
    masks: str = ""
    classes: Any = 0
    size: int = 0
    geometry: str = "resize"
    val_share: float = 0.2
    per_class: int = 0
    backbone: str = "resnet18"
    stride: int = 0
    width: float = 0.0
    batch_norm: str = ""
    weights: str = ""
    tau: float = 0.1
    epochs: int = 0
    tap_epochs: int = 0
    recipe: str = ""
    batch_size: int = 0
    lr: float = 0.0
    lr_classifier_ratio: float = 0.0
    schedule: str = ""
    lr_steps: tuple[int, ...] = ()
    lr_period: int = -1
    lr_gamma: float = 0.1
    warmup_epochs: int = -1
    weight_decay: float = -1.0
    backbone_grad_scale: float = 0.0
    label_smoothing: float = 0.0
    precision: str = "float32"
    accumulate: int = 1
    compile: bool = False
    checkpoint_seconds: float = 300.0
    limit: int = 0
    faithfulness: int = 0
    seed: int = 0
    device: str = ""
    out: str = "reports"
    given: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def make(cls, **given: Any) -> RunConfig:
        """Build a complete configuration: what is not given, or given empty, is filled from the dataset's defaults.

        Raises:
            ValueError: for an unknown parameter (naming the nearest known one) or a value of the wrong kind.
        """
        known = {item.name: item for item in fields(cls) if item.name != "given"}
        for name, value in given.items():
            if name not in known:
                import difflib

                near = difflib.get_close_matches(name, known, 1)
                raise ValueError(f"unknown parameter '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""))
            given[name] = convert(name, value, known[name].default)
        given = {name: value for name, value in given.items() if value != known[name].default}  # empty means not given
        dataset = given.get("dataset", cls.dataset)
        if dataset not in DATASETS:
            raise ValueError(f"unknown dataset '{dataset}'; choose from {', '.join(DATASETS)}")
        weights = given.get("weights", DATASETS[dataset]["weights"])
        filled = {**(_SCRATCH if weights == "none" else _PRETRAINED), **DATASETS[dataset]}
        filled |= SCRATCH.get(dataset, {}) if weights == "none" else {}
        filled |= recipe_values(given.get("recipe", ""), given.get("backbone", cls.backbone), weights)
        if "lr_steps" in given:
            filled["lr_period"] = 0  # the steps that were asked for, not the recipe's period
        values = {"lr_period": 0, **filled, **given, "weights": weights}
        if values["batch_norm"] == "auto":
            values["batch_norm"] = "yes" if weights == "none" and values.get("backbone", "").startswith("vgg") else "no"
        if weights == "none" and not values.get("tap_epochs"):
            values["tap_epochs"] = max(1, values["epochs"] // 4)
        if values["batch_norm"] not in ("yes", "no"):
            raise ValueError(f"batch_norm must be yes, no or auto, but is '{values['batch_norm']}'")
        backbone = values.get("backbone", cls.backbone)
        if backbone not in BACKBONES:
            raise ValueError(f"unknown backbone '{backbone}'; choose from {', '.join(BACKBONES)}")
        strides = BACKBONES[backbone].strides
        if "stride" not in given and values["stride"] not in strides:
            values["stride"] = strides[0]
        if values["stride"] not in strides:
            raise ValueError(f"{backbone} has no stride {values['stride']}; choose from {', '.join(map(str, strides))}")
        for name, low in (
            ("limit", 0),
            ("faithfulness", 0),
            ("per_class", 0),
            ("epochs", 1),
            ("tap_epochs", 0),
            ("batch_size", 0),
            ("size", 8),
            ("seed", 0),
        ):
            if values.get(name, low) < low:
                raise ValueError(f"{name} must be at least {low}, but is {values[name]}")
        if not 0.0 < values.get("val_share", 0.5) < 1.0:
            raise ValueError(f"val_share must lie strictly between 0 and 1, but is {values['val_share']}")
        if not 0.0 <= values.get("tau", 0.0) < 1.0:
            raise ValueError(f"tau is a share of the channel's maximum, in [0, 1), but is {values['tau']}")
        if not 0.0 < values.get("width", 1.0) <= 4.0:
            raise ValueError(f"width multiplies the channels and must lie in (0, 4], but is {values['width']}")
        for name in ("root", "metadata", "masks", "weights"):
            if values.get(name, "") not in ("", "none", "imagenet"):
                values[name] = str(project_path(values[name]))
        return cls(**values, given=given)

    def for_backbone(self, backbone: str) -> RunConfig:
        """The same wishes for another backbone: what this configuration filled in is filled in anew."""
        return RunConfig.make(**{**self.given, "backbone": backbone})

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self)
        del values["given"]
        values["lr_steps"] = list(self.lr_steps)
        return values

    # -- what makes a result stale ------------------------------------------------------------------------------------

    def training_parts(self, variant: str) -> dict[str, Any]:
        """All that a training depends on: parameters by name, and digests of data ("data", "metadata"), start weights
        ("start") and the code that does it ("code")."""
        skip = {"limit", "faithfulness", "device", "out", "root", "metadata", "masks", "weights"}
        skip |= {"compile", "checkpoint_seconds", "recipe"}  # a recipe's values count, not its name
        skip |= {name for other in VARIANTS.values() for name in other.parameters} - {*VARIANTS[variant].parameters}
        values = {key: value for key, value in self.to_dict().items() if key not in skip}
        described = {"metadata": data_state(self.metadata)} if self.metadata else {}
        return {**values, **described, "variant": variant, "data": data_state(self.root),
                "code": code_state(TRAINING_SOURCES), "start": weights_state(self.weights)}  # fmt: skip

    def training_key(self, variant: str) -> str:
        """Digest of `training_parts`."""
        return digest(self.training_parts(variant))

    def report_parts(self, method: str, variants: tuple[str, ...], notebook: Path) -> dict[str, Any]:
        """All that the numbers of one report depend on: its own parameters, the keys of its trainings, and digests of masks,
        notebook and the code of scoring (that of training is in the trainings' keys). The look of the page is not in it: a
        page is written again from what is there."""
        trainings = {variant: self.training_key(variant) for variant in variants}
        masks = {"masks": data_state(self.masks)} if self.masks else {}
        return {"method": method, "trainings": trainings, **masks, "limit": self.limit,
                "faithfulness": self.faithfulness, "tau": self.tau,
                "code": code_state(tuple(name for name in SCORING_SOURCES if name not in TRAINING_SOURCES)),
                "notebook": notebook_state(notebook)}  # fmt: skip

    def report_key(self, method: str, variants: tuple[str, ...], notebook: Path) -> str:
        """Digest of `report_parts`."""
        return digest(self.report_parts(method, variants, notebook))

    # -- where things lie ---------------------------------------------------------------------------------------------

    @property
    def out_folder(self) -> Path:
        if self.out == RunConfig.out and os.environ.get("WSOLKIT_OUT"):
            return Path(os.environ["WSOLKIT_OUT"])
        return project_path(self.out)

    @property
    def runs_folder(self) -> Path:
        return self.out_folder / "runs" / self.dataset / self.backbone

    def training_folder(self, variant: str) -> Path:
        return self.runs_folder / f"{TRAINING_PREFIX}{variant}-{self.training_key(variant)[:8]}"


def convert(name: str, value: Any, default: Any) -> Any:
    """Bring a value from a command line or a notebook to the kind of its default."""
    if name == "classes":
        if isinstance(value, str):
            value = value.strip()
            return int(value) if value.isdigit() else [item.strip() for item in value.split(",") if item.strip()] or 0
        return 0 if value is None or value == [] else value
    if value is None:
        return default
    if name == "lr_steps":
        items = value.split(",") if isinstance(value, str) else value
        try:
            return tuple(int(item) for item in items)
        except (TypeError, ValueError):
            raise ValueError(
                f"parameter 'lr_steps' must be whole numbers separated by commas, but is {value!r}"
            ) from None
    if name == "batch_norm" and isinstance(value, bool):
        return "yes" if value else "no"
    kind = type(default)
    if isinstance(value, bool) is not (kind is bool):
        raise ValueError(f"parameter '{name}' must be {kind.__name__}, but is {value!r}")
    try:
        converted = kind(value)
    except (TypeError, ValueError):
        raise ValueError(f"parameter '{name}' must be {kind.__name__}, but is {value!r}") from None
    if kind is int and isinstance(value, float) and converted != value:
        raise ValueError(f"parameter '{name}' must be int, but is {value!r}")
    if kind is float and not math.isfinite(converted):
        raise ValueError(f"parameter '{name}' must be a finite number, but is {value!r}")
    return converted
