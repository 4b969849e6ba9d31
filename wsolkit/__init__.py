"""wsolkit: a notebook-first study kit for weakly supervised object localisation.

The public names are loaded when they are first used, so that planning a sweep does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_NAMES = {
    "data.catalogue": "load_dataset",
    "data.base": "WSOLDataset",
    "data.samples": "Geometry",
    "data.batches": "denormalise normalise",
    "networks.models": "build_model ts_cam WSOLModel",
    "networks.pooling": "thresholded_average_pool ThresholdedAveragePool GlobalAveragePool",
    "networks.split": "CannotSplit hooked network_for split",
    "training.loop": "fit",
    "training.recipe": "Recipe",
    "training.checkpoints": "load_checkpoint",
    "methods.registry": "MethodNotDefined",
    "methods": "register method_names is_defined",
    "methods.maps": "score_maps feature_map",
    "boxes.extract": "iou iou_curve extract_box",
    "boxes.preparation": "normalise_map resize_map",
    "boxes.protocols": "PROTOCOLS",
    "localisation.localise": "localise ScoreMaps",
    "localisation.predict": "predict Prediction",
    "evaluation.evaluate": "evaluate",
    "evaluation.scoring": "score Maps Truth Rule",
    "evaluation.results": "EvalResult",
    "evaluation.comparison": "compare",
    "evaluation.per_image": "failure_types slices",
    "evaluation.faithfulness": "faithfulness_table measure_faithfulness",
    "evaluation.file_evaluation": "evaluate_files export_score_maps",
    "figures": "show",
    "runs.run": "Run load_trained",
    "runs.parameters": "RunConfig",
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}
_WINGS = ("boxes", "data", "evaluation", "figures", "methods", "networks", "report", "training")

__all__ = sorted([*_MODULE_OF, *_WINGS])

if TYPE_CHECKING:
    from wsolkit.boxes.extract import extract_box, iou, iou_curve
    from wsolkit.boxes.preparation import normalise_map, resize_map
    from wsolkit.boxes.protocols import PROTOCOLS
    from wsolkit.data.base import WSOLDataset
    from wsolkit.data.batches import denormalise, normalise
    from wsolkit.data.catalogue import load_dataset
    from wsolkit.data.samples import Geometry
    from wsolkit.evaluation.comparison import compare
    from wsolkit.evaluation.evaluate import evaluate
    from wsolkit.evaluation.faithfulness import faithfulness_table, measure_faithfulness
    from wsolkit.evaluation.file_evaluation import evaluate_files, export_score_maps
    from wsolkit.evaluation.per_image import failure_types, slices
    from wsolkit.evaluation.results import EvalResult
    from wsolkit.evaluation.scoring import Maps, Rule, Truth, score
    from wsolkit.figures import show
    from wsolkit.localisation.localise import ScoreMaps, localise
    from wsolkit.localisation.predict import Prediction, predict
    from wsolkit.methods import is_defined, method_names, register
    from wsolkit.methods.maps import feature_map, score_maps
    from wsolkit.methods.registry import MethodNotDefined
    from wsolkit.networks.models import WSOLModel, build_model, ts_cam
    from wsolkit.networks.pooling import GlobalAveragePool, ThresholdedAveragePool, thresholded_average_pool
    from wsolkit.networks.split import CannotSplit, hooked, network_for, split
    from wsolkit.runs.parameters import RunConfig
    from wsolkit.runs.run import Run, load_trained
    from wsolkit.training.checkpoints import load_checkpoint
    from wsolkit.training.loop import fit
    from wsolkit.training.recipe import Recipe


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(f"wsolkit.{_MODULE_OF[name]}"), name)
    elif name == "__version__":
        from importlib.metadata import version

        value = version("wsolkit")
    elif name in _WINGS:
        value = importlib.import_module(f"wsolkit.{name}")
    else:
        raise AttributeError(f"module 'wsolkit' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
