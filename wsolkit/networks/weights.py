"""Weights from files: safetensors or weights-only .pth, every key that does not fit is named."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from wsolkit.common.errors import WsolkitError


def read_state(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a flat dictionary of tensors; pickled code is never run."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"weights '{path}' not found; expected 'imagenet', 'none' or a .safetensors or .pth file"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged archives raise many kinds
        raise WsolkitError(
            f"weights '{path}' cannot be read ({_short(error)}); expected safetensors or a state_dict "
            "saved with torch.save that holds tensors only"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise WsolkitError(f"weights '{path}' hold no state_dict (a dictionary of tensors)")
    return state


def imagenet_state(name: str) -> dict[str, torch.Tensor]:
    import torchvision

    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # URLError, HTTPError, timeouts, a wrong hash: all mean that the file is not here
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise OSError(
            f"the ImageNet weights of {name} could not be downloaded ({_short(error)}). Fetch {weights.url} on a machine "
            f"with a network and put it into {folder}, or pass the file's path as weights, or weights='none'"
        ) from error


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
