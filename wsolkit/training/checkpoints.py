"""Files of a training: best.pt, which is the model, and last.pt, from which it goes on."""

from __future__ import annotations

from pathlib import Path

import torch

from ..files import atomic_path
from ..models import WSOLModel


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> tuple[WSOLModel, dict]:
    """Rebuild a trained model from best.pt: the model in evaluation mode and {"classes", "geometry",
    "epoch", "recipe", "spec"}."""
    from ..models import build_model
    from ..tscam import rebuild

    content = read(Path(path))
    if not {"spec", "classes", "model"} <= set(content):
        raise ValueError(f"{path} is no wsolkit model checkpoint (best.pt); point to the best.pt of a training run")
    spec = content["spec"]
    model = rebuild(**spec) if spec["backbone"] == "ts_cam" else build_model(**spec, weights="none")
    model.load_state_dict(content.pop("model"))
    return model.to(device).eval(), content


def load_state(path: Path, identity: str) -> dict:
    state = read(path)
    if state.get("identity") != identity:
        raise ValueError(
            f"{path} belongs to another recipe, network or data; pass resume=False to train anew, or another out"
        )
    return state


def read(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} not found; train first, e.g. with `wsolkit train`")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict) or content.get("format") != 1:
            raise ValueError("not a checkpoint of this package")
        return content
    except Exception as error:  # a truncated or foreign file fails in many ways
        raise ValueError(f"checkpoint {path} cannot be read ({(str(error) or type(error).__name__).splitlines()[0][:150]}); "
                         "delete it and train again") from error  # fmt: skip


def save(path: Path, content: dict) -> None:
    with atomic_path(path) as part:
        torch.save(content, part)
