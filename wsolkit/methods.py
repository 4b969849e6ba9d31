"""Which notebook reports a method, and which trainings it looks at. No torch here: the sweep plans with it."""

from __future__ import annotations

from pathlib import Path

from .config import notebooks_folder

NOTEBOOKS = {
    "cam": "02_cam.ipynb",
    "rethinking_cam": "03_rethinking_cam.ipynb",
    "grad_cam": "04_grad_cam.ipynb",
    "grad_cam++": "05_grad_cam_plusplus.ipynb",
    "score_cam": "06_score_cam.ipynb",
}
ANY_NOTEBOOK = "07_any_cam.ipynb"  # every other method the grad-cam package offers
TRAIN_NOTEBOOK = "01_train.ipynb"
STUDY_METHODS = tuple(NOTEBOOKS)


def method_slug(method: str) -> str:
    """The method's name in file names: grad_cam++ is grad_cam_plusplus."""
    return method.replace("++", "_plusplus")


def canonical(method: str) -> str:
    """One spelling per method: grad_cam_plusplus and gradcam++ are grad_cam++."""
    name = method.strip().lower().replace("-", "_").replace("_plusplus", "++").replace("plusplus", "++")
    aliases = {known.replace("_", ""): known for known in NOTEBOOKS}
    return aliases.get(name.replace("_", ""), name)


def notebook_of(method: str) -> Path:
    return notebooks_folder() / NOTEBOOKS.get(method, ANY_NOTEBOOK)


def poolings_of(method: str, backbone: str) -> tuple[str, ...]:
    """The trainings that a report looks at, the one it scores first. RethinkingCAM's also shows the plain network, whose
    pooling it changes; networks with fully connected layers have one pooling of their own."""
    if backbone == "vgg16_fc":
        return ("fc",)
    return ("tap", "gap") if method == "rethinking_cam" else ("gap",)


def undefined(method: str, backbone: str) -> str:
    """Why a method has no meaning on a backbone, or ""."""
    if backbone == "vgg16_fc" and method in ("cam", "rethinking_cam"):
        return (f"{method} weighs the channels of the feature map with the classifier's weights; on vgg16_fc three fully "
                "connected layers stand between the two, so there is no such weight")  # fmt: skip
    return ""
