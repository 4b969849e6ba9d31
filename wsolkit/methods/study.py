"""Which notebook reports a method, and which trainings it looks at. No torch here: the sweep plans with it."""

from __future__ import annotations

from pathlib import Path

from wsolkit.common.paths import notebooks_folder

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
TRAINING_NOTEBOOK = "09_training_time_methods.ipynb"
# Methods that change the training: the word for the training (a key of `training.OBJECTIVES`) is the method's name. The
# value is the pooling of the network that is trained; where it is "gap", the map is plain CAM.
TRAINING_METHODS = {"has": "gap", "cutmix": "gap", "adl": "gap", "acol": "acol"}


def method_slug(method: str) -> str:
    """The method's name in file names: grad_cam++ is grad_cam_plusplus."""
    return method.replace("++", "_plusplus")


def canonical(method: str) -> str:
    """One spelling per method: grad_cam_plusplus and gradcam++ are grad_cam++."""
    name = method.strip().lower().replace("-", "_").replace("_plusplus", "++").replace("plusplus", "++")
    aliases = {known.replace("_", ""): known for known in (*NOTEBOOKS, *TRAINING_METHODS)}
    return aliases.get(name.replace("_", ""), name)


def notebook_of(method: str) -> Path:
    name = TRAINING_NOTEBOOK if method in TRAINING_METHODS else NOTEBOOKS.get(method, ANY_NOTEBOOK)
    return notebooks_folder() / name


def label_of(word: str) -> str:
    """A method's or a training's name as papers write it: has is HaS, gap is GAP; longer names stay as they are."""
    return {"has": "HaS", "cutmix": "CutMix", "acol": "ACoL"}.get(word, word.upper() if len(word) <= 3 else word)


def map_of(method: str) -> str:
    """The method that draws the map: CAM for training-time methods on a plain network, else the method itself."""
    return "cam" if TRAINING_METHODS.get(method) == "gap" else method


def pooling_of(training: str) -> str:
    """The pooling of the network that a training trains: a training is called by its method, or else by its pooling."""
    return TRAINING_METHODS.get(training, training)


def poolings_of(method: str, backbone: str) -> tuple[str, ...]:
    """The trainings that a report looks at, the one it scores first. RethinkingCAM's and those of training-time methods
    also show the plain network; networks with fully connected layers have one pooling of their own."""
    if backbone == "vgg16_fc":
        return ("fc",)
    if method in TRAINING_METHODS:
        return (method, "gap")
    return ("tap", "gap") if method == "rethinking_cam" else ("gap",)


def undefined(method: str, backbone: str) -> str:
    """Why a method has no meaning on a backbone, or ""."""
    if backbone == "vgg16_fc" and method in TRAINING_METHODS:
        return (f"{method} is compared with plain CAM, and like CAM it needs a network that pools its feature map and ends "
                "in one linear layer; vgg16_fc has three fully connected layers there")  # fmt: skip
    if backbone == "vgg16_fc" and method in ("cam", "rethinking_cam"):
        return (f"{method} weighs the channels of the feature map with the classifier's weights; on vgg16_fc three fully "
                "connected layers stand between the two, so there is no such weight")  # fmt: skip
    return ""
