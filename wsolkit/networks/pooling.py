"""Pooling a feature map into a vector: the mean of all positions (GAP) or of the strong ones only (TAP)."""

from __future__ import annotations

import torch
from torch import nn

from wsolkit.common.errors import WsolkitError


def thresholded_average_pool(features: torch.Tensor, tau: float = 0.1) -> torch.Tensor:
    """Mean over the positions of each channel that exceed `tau` times the channel's own maximum.

    The maximum is taken per image and per channel, the comparison is strict, and the divisor counts the kept positions
    that are positive (at least 1), so a channel without any positive value pools to 0. Mask, maximum and count are
    constants for the gradient: it is 1/n at the kept positions and 0 elsewhere.

    Args:
        features: (B, C, h, w) float feature map, usually after a ReLU.
        tau: share of the channel maximum, in [0, 1).

    Returns:
        (B, C), same dtype as `features`.

    Source: Bae, Noh, Kim, "Rethinking Class Activation Mapping for Weakly Supervised Object Localization", ECCV 2020.
    """
    if features.ndim != 4:
        raise WsolkitError(f"expected a feature map of shape (B, C, h, w), but got {tuple(features.shape)}")
    with torch.no_grad():
        keep = features > tau * features.amax(dim=(2, 3), keepdim=True)
        count = (keep & (features > 0)).sum(dim=(2, 3)).clamp(min=1)
    # where, not a product: an infinite or NaN value outside the mask must not leak into the sum
    kept = torch.where(keep, features, torch.zeros((), dtype=features.dtype, device=features.device))
    return kept.sum(dim=(2, 3)) / count.to(features.dtype)


class GlobalAveragePool(nn.Module):
    """(B, C, h, w) -> (B, C), the mean over all positions (GAP)."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.mean(dim=(2, 3))


class ThresholdedAveragePool(nn.Module):
    """(B, C, h, w) -> (B, C), see `thresholded_average_pool`; the same in training and in evaluation."""

    def __init__(self, tau: float = 0.1) -> None:
        super().__init__()
        if not 0.0 <= tau < 1.0:
            raise WsolkitError(f"tau is the share of the channel maximum and must lie in [0, 1), but is {tau}")
        self.tau = float(tau)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return thresholded_average_pool(features, self.tau)

    def extra_repr(self) -> str:
        return f"tau={self.tau}"
