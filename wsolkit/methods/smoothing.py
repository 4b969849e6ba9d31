"""Smoothing a score map: the eigen projection of the weighted channels, and copies of the input to average over."""

from __future__ import annotations

import torch
from torch import Tensor

from wsolkit.common.errors import WsolkitError
from wsolkit.networks.models import unit_range

SMOOTHINGS = ("eigen", "aug")

# the package's test-time augmentation: every flip with every factor; mirrored or not, factor
_COPIES = ((False, 1.0), (False, 0.9), (False, 1.1), (True, 1.0), (True, 0.9), (True, 1.1))

_LARGEST = 2**24  # float64 elements of the eigen projection's largest intermediate: 128 MiB


def parse_smooth(smooth) -> frozenset[str]:
    """The set of smoothings asked for: a name, or any iterable of names, in any order; None is none.

    Raises:
        ValueError: a name that is neither "eigen" nor "aug".
    """
    names = (smooth,) if isinstance(smooth, str) else tuple(smooth or ())
    unknown = [name for name in names if name not in SMOOTHINGS]
    if unknown:
        raise WsolkitError(f"unknown smoothing {unknown[0]!r} in smooth={smooth!r}; valid are: {', '.join(SMOOTHINGS)}")
    return frozenset(names)


def eigen_projection(weighted: Tensor, plain: Tensor) -> Tensor:
    """The weighted maps, centred over positions, projected on their first right singular vector (eigen_smooth).

    With X (hw, C) the centred maps of one image, X = U S V^T, the result is X v_1 = s_1 u_1. It comes from the Gram
    matrix of the smaller side, in float64: a full SVD of a 2048-channel map costs a hundred times more. A singular
    vector has no sign of its own, so the one with non-negative correlation to the plain map is taken.

    Args:
        weighted: (B, C, h, w) weighted maps; values that are not finite count as 0.
        plain: (B, h, w) their weighted sum.

    Returns:
        (B, h, w), same dtype as `weighted`; zero where all channels are flat.

    Source: `get_2d_projection` of the grad-cam package; the sign rule is ours.
    """
    return fix_sign(first_component(weighted), plain)


def first_component(maps: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h, w), same dtype: the projection of `eigen_projection`, with whatever sign came out."""
    x = maps.flatten(2)  # (B, C, hw)
    at_once = max(1, _LARGEST // max(x[0].numel(), min(x.shape[1:]) ** 2))
    projections = [_component(part.to(torch.float64, copy=True)) for part in x.split(at_once)]
    return torch.cat(projections).unflatten(1, maps.shape[2:]).to(maps.dtype)


def _component(x: Tensor) -> Tensor:
    """(B, C, n) float64, overwritten -> (B, n): s_1 u_1. Squares of float32 values neither overflow nor vanish here."""
    x.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    x -= x.mean(dim=2, keepdim=True)
    if x.shape[2] <= x.shape[1]:
        values, vectors = torch.linalg.eigh(x.mT @ x)
        return vectors[..., -1] * values[:, -1:].clamp(min=0).sqrt()
    return (torch.linalg.eigh(x @ x.mT).eigenvectors[:, None, :, -1] @ x)[:, 0]


def fix_sign(maps: Tensor, plain: Tensor) -> Tensor:
    """(B, h, w) -> (B, h, w): each map or its negative, whichever has non-negative correlation with the plain map.

    Where the correlation is exactly 0 (a flat plain map, say), the value of largest magnitude becomes positive.
    """
    flat = maps.flatten(1).double()
    reference = torch.nan_to_num(plain.flatten(1).double(), nan=0.0, posinf=0.0, neginf=0.0)
    correlation = (flat * (reference - reference.mean(dim=1, keepdim=True))).sum(dim=1)
    peak = flat.gather(1, flat.abs().argmax(dim=1, keepdim=True))[:, 0]
    sign = torch.where(correlation != 0, correlation, peak)
    return torch.where(sign[:, None, None] < 0, -maps, maps)


def augmentations(images: Tensor) -> Tensor:
    """(B, 3, H, W) -> (6 B, 3, H, W): the six copies of aug_smooth, the unchanged images first."""
    return torch.cat([(images.flip(-1) if mirrored else images) * factor for mirrored, factor in _COPIES])


def mean_of_augmentations(maps: Tensor) -> Tensor:
    """(6 B, h, w) maps of `augmentations` -> (B, h, w), the mean of the maps scaled to [0, 1] and mirrored back."""
    scaled = zip(unit_range(maps).unflatten(0, (len(_COPIES), -1)), _COPIES, strict=True)
    return torch.stack([copy.flip(-1) if mirrored else copy for copy, (mirrored, _) in scaled]).mean(0)
