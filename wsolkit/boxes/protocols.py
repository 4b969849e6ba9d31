"""The two published ways of turning score maps into localisation accuracy, as named options.

They share IoU with inclusive corners (the intersection's width and height clamped at 0 separately), cubic resize of the
score map before min-max, 256 grey levels (truncated) and a strict `>`. They differ in everything else:

| | `wsolevaluation` (default) | `rethinking_cam` |
|---|---|---|
| evaluation image | Resize(S, S) | Resize(S * 256 / 224), centre crop S |
| ground truth | int(corner * S / size) | the same at the larger size, then moved and clipped by the crop |
| mask | u8 > int(tau * max(u8)) | u8 > int(tau * 90th percentile(u8)) (PaS) |
| thresholds tau | all of arange(0, 1, interval) | one, 0.35, fixed beforehand |
| contours | MaxBoxAcc: the largest; MaxBoxAccV2: all, outer and hole | the largest |
| box of a contour x, y, w, h | x, y, min(x + w, W - 1), min(y + h, H - 1) | x, y, x + w, y + h |
| empty mask (flat map) | the point 0, 0, 0, 0: a miss | the full frame 0, 0, W, H: a hit where the object is large |
| numbers | MaxBoxAcc, MaxBoxAccV2, PxAP; Top-k and GT-known Loc | Top-k and GT-known Loc |

Under `wsolevaluation` GT-known and Top-k Loc, which that protocol does not define, use the largest contour at three
separate thresholds: fixed, best on the validation split, best on the reported split.
The IoU of the published RethinkingCAM code does not clamp, and gives boxes that are disjoint in both axes a positive
score; that is not copied.

Sources: Choe et al., CVPR 2020, and its code (wsolevaluation); Bae, Noh, Kim, ECCV 2020, and its code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsolkit.common.errors import WsolkitError, is_real, require

PLAIN_THRESHOLD, PAS_THRESHOLD = 0.2, 0.35  # the fixed operating points of Bae, Noh, Kim, ECCV 2020
PAS_PERCENTILE = 90.0  # RethinkingCAM thresholds at a share of this percentile instead of the maximum
IVR_SHARE = 0.45  # of a map's values become 0 by IVR where nothing chooses another share; Kim et al., ICCV 2021


@dataclass(frozen=True)
class Protocol:
    """One column of the table above.

    Attributes:
        geometry: how images and boxes reach the frame, "resize" or "crop" (see `wsolkit.Geometry`).
        percentile: the threshold is a share of this percentile of the map, where the method has no rule of its own.
        curves: whether all thresholds are tried.
        clamped: whether a box ends inside the frame, and an empty mask is a point instead of the full frame.
    """

    name: str
    geometry: str
    percentile: float
    curves: bool
    clamped: bool

    def box(self, contour: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
        """The box (4,) int64 of a contour [x, y, x + w, y + h] in a frame (H, W); None is that of an empty mask."""
        height, width = size
        if contour is None:
            return np.array([0, 0, 0, 0] if self.clamped else [0, 0, width, height], np.int64)
        return np.minimum(contour, [width - 1, height - 1] * 2) if self.clamped else contour


PROTOCOLS = {
    "wsolevaluation": Protocol("wsolevaluation", "resize", 100.0, True, True),
    "rethinking_cam": Protocol("rethinking_cam", "crop", PAS_PERCENTILE, False, False),
}


def protocol_named(name: str) -> Protocol:
    """The protocol of this name; ValueError lists the names."""
    if name not in PROTOCOLS:
        raise WsolkitError(f"unknown protocol {name!r}; choose from {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def fixed_threshold(percentile: float) -> float:
    """The published fixed threshold: 0.2 of the maximum, 0.35 of a percentile below it (PaS)."""
    return PLAIN_THRESHOLD if percentile == 100 else PAS_THRESHOLD


def check_share(share: float) -> None:
    """ValueError unless a share of a map's values is a number of at least 0 and below 1."""
    good = is_real(share, 0) and share < 1
    require(good, f"ivr={share!r}: give the share of a map's values that becomes 0, at least 0 and below 1")
