"""wsolkit: a notebook-first study kit for weakly supervised object localisation.

The public names are loaded when they are first used, so that planning a sweep does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_NAMES = {
    "load_dataset": "data", "WSOLDataset": "data", "Geometry": "data", "denormalise": "data", "normalise": "data",
    "build_model": "models", "WSOLModel": "models",
    "thresholded_average_pool": "pooling", "ThresholdedAveragePool": "pooling", "GlobalAveragePool": "pooling",
    "fit": "training", "Recipe": "training", "load_checkpoint": "training",
    "score_maps": "cams", "feature_map": "cams", "register": "cams", "method_names": "cams", "is_defined": "cams",
    "MethodNotDefined": "cams",
    "iou": "boxes", "iou_curve": "boxes", "extract_box": "boxes", "normalise_map": "boxes", "resize_map": "boxes",
    "score": "scoring", "EvalResult": "results", "localise": "evaluation", "evaluate": "evaluation",
    "ScoreMaps": "evaluation", "evaluate_files": "file_evaluation", "export_score_maps": "map_files",
    "predict": "prediction", "Prediction": "prediction", "load_trained": "prediction",
    "evaluate_faithfulness": "faithfulness", "measure_faithfulness": "faithfulness",
    "split": "cams", "hooked": "cams", "CannotSplit": "cams", "network_for": "cams", "ts_cam": "tscam",
    "PROTOCOLS": "protocols", "compare": "comparison", "slices": "failures", "failure_types": "failures",
    "Run": "runs", "RunConfig": "config", "show": "figures",
}  # fmt: skip
_MODULES = ("boxes", "cams", "data", "figures", "metrics", "models", "pooling", "report", "training")

__all__ = sorted([*_NAMES, *_MODULES])

if TYPE_CHECKING:
    from .boxes import extract_box, iou, iou_curve, normalise_map, resize_map
    from .cams import (
        CannotSplit,
        MethodNotDefined,
        feature_map,
        hooked,
        is_defined,
        method_names,
        network_for,
        register,
        score_maps,
        split,
    )
    from .comparison import compare
    from .config import RunConfig
    from .data import Geometry, WSOLDataset, denormalise, load_dataset, normalise
    from .evaluation import ScoreMaps, evaluate, localise
    from .failures import failure_types, slices
    from .faithfulness import evaluate_faithfulness, measure_faithfulness
    from .figures import show
    from .file_evaluation import evaluate_files
    from .map_files import export_score_maps
    from .models import WSOLModel, build_model
    from .pooling import GlobalAveragePool, ThresholdedAveragePool, thresholded_average_pool
    from .prediction import Prediction, load_trained, predict
    from .protocols import PROTOCOLS
    from .results import EvalResult
    from .runs import Run
    from .scoring import score
    from .training import Recipe, fit, load_checkpoint
    from .tscam import ts_cam


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        value = getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    elif name in _MODULES:
        value = importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module 'wsolkit' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
