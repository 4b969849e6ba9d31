"""Trained networks: a checkpoint with what its training run knows, and the threshold that suits maps made with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wsolkit.boxes.protocols import fixed_threshold
from wsolkit.common.errors import WsolkitError
from wsolkit.data.samples import Geometry
from wsolkit.methods.registry import METHODS, resolve
from wsolkit.networks.models import WSOLModel
from wsolkit.runs import folder as files
from wsolkit.training.checkpoints import load_checkpoint

MISFIT = (RuntimeError, TypeError, KeyError, AttributeError)  # what weights raise that do not fit their network
# what a report may differ in from the training run that it scores; its variant is compared on its own
OF_A_REPORT = ("limit", "device", "compile", "checkpoint_seconds", "out", "method", "variant")


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network with what its training run knows.

    Attributes:
        model: in evaluation mode. classes: its class names. geometry: of its input, None where nothing says.
        path: the checkpoint file. run: its run.json, {} where there is none.
    """

    model: WSOLModel
    classes: list[str]
    geometry: Geometry | None
    path: Path
    run: dict[str, Any]

    @property
    def view(self) -> dict[str, Any]:
        """The arguments of `predict` that this training run decides."""
        return {"geometry": self.geometry, "classes": self.classes}


def load_trained(path: str | Path, device: str | torch.device = "cpu") -> Trained:
    """Open a checkpoint (best.pt) or the folder of a training run that holds it; the run.json beside it says how large
    inputs are.

    Raises:
        FileNotFoundError: there is no best.pt. WsolkitError: it, or run.json, cannot be used.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        if not (path / files.WEIGHTS).is_file():
            inside = [str(weights.parent) for weights in sorted(path.glob(f"*/{files.WEIGHTS}"))]
            hint = f"choose one of {', '.join(inside)}" if inside else "give a best.pt or the folder of a training run"
            raise FileNotFoundError(f"{path} holds no best.pt; {hint}")
        path /= files.WEIGHTS
    try:
        model, content = load_checkpoint(path, device)
        classes = [str(name) for name in content["classes"]]
    except MISFIT as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:150]
        raise WsolkitError(
            f"checkpoint {path} cannot be used ({reason}); give the best.pt of a training run"
        ) from error
    if len(classes) != model.num_classes:
        raise WsolkitError(f"checkpoint {path} has {len(classes)} class names for {model.num_classes} classes")
    run = files.read_run(path.parent)
    try:
        known = content.get("geometry")
        if run and not known:
            known = {"size": run["config"]["size"], "kind": run["config"]["geometry"]}
        geometry = Geometry(**known) if known else None
    except (KeyError, TypeError) as error:
        record = path.parent / files.TRAINED
        raise WsolkitError(f"{record} is not the record of a training run ({error!r}); restore or remove it") from error
    return Trained(model, classes, geometry, path, run)


def default_threshold(
    trained: Trained, method: str, percentile: float, smooth: Sequence[str] = (), view: Geometry | None = None
) -> tuple[float, str]:
    """The threshold that suits, and where it comes from.

    It is the one that the report of this method chose on validation data, where a metrics.json of the same training run
    lies beside the folder of the training run, and maps are made and thresholded as there; else the published fixed one.
    view: how images reach the network, None is as in the training run.
    """
    fixed = fixed_threshold(percentile), "fixed"
    variant, own = trained.run.get("variant", ""), trained.run.get("config", {})
    entry, of_variant = resolve(method), METHODS.get(variant)
    if of_variant is not None and of_variant.map == entry.name:  # the report has the training-time method's name
        entry = of_variant
    folder = trained.path.parent.parent / entry.slug
    if smooth or not (folder / files.METRICS).is_file():
        return fixed
    report = files.read_metrics(folder)
    result = report.result
    same = report.config.get("variant") == variant and _comparable(report.config) == _comparable(own)
    chosen = result.operating_point == "validation"
    if result.threshold is None or not (same and chosen and result.percentile == percentile):
        return fixed
    known = trained.geometry
    if known is not None and view not in (None, known):
        return fixed[0], f"fixed (the one chosen on validation data is for {known.size} px, {known.kind})"
    return result.threshold, f"chosen on {result.n_val} validation images ({folder / files.METRICS})"


def _comparable(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in OF_A_REPORT}
