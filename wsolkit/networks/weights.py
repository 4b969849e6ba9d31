"""Weights from files: safetensors or weights-only .pth, every key that does not fit is named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

if TYPE_CHECKING:
    from wsolkit.networks.models import WSOLModel

from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import listing


def load_pretrained(model: WSOLModel, weights: str | Path, torchvision_name: str, head_keys: tuple[str, ...]) -> None:
    """Load "imagenet" or a file into `model`.

    A file carries torchvision's key names (its classifier is left out: the new head has other classes) or this
    package's own (`body.`, `pool.`, `head.`), then it must fit whole.
    """
    source = str(weights)
    state = _imagenet_state(torchvision_name) if source == "imagenet" else read_state(source)
    wanted = model.state_dict()
    names = {key: key for key in wanted}
    if not any(key.startswith("body.") for key in state):
        # a file of torchvision: without our prefixes, and its classifier has other classes
        state = {key: value for key, value in state.items() if not key.startswith(head_keys)}
        names = {key: key.removeprefix("body.").removeprefix("pool.") for key in wanted if not model.is_new(key)}
    wanted = {name: wanted[key] for key, name in names.items()}
    shapes = [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in state and state[key].shape != tensor.shape
    ]
    faults = {  # a missing batch counter is none
        "missing": [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")],
        "unexpected": [key for key in state if key not in wanted],
        "mis-shaped": shapes,
    }
    if any(faults.values()):
        listed = "; ".join(f"{len(keys)} {kind}: {listing(keys)}" for kind, keys in faults.items() if keys)
        raise WsolkitError(
            f"weights '{source}' do not fit {model.backbone}; {listed}. Choose the file of this backbone, or weights='none'"
        )
    model.load_state_dict({key: state[name] for key, name in names.items() if name in state}, strict=False)


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


def _imagenet_state(name: str) -> dict[str, torch.Tensor]:
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
