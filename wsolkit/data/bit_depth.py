"""Pictures with more than eight bits per value, which Pillow would clip at 255 instead of scaling."""

from __future__ import annotations

import numpy as np
from PIL import Image


def eight_bits(image: Image.Image, file_format: str | None) -> Image.Image:
    """A grey picture of 16-bit, 32-bit or floating-point values as mode "L"; any other mode comes back as it is.

    16-bit values keep their upper byte. 32-bit values (modes "I" and "F") do not say what is white: it is 1 (floating
    point only), 255 or 65535, the smallest that is not exceeded. Negative or larger values, and floating-point ones that
    do not come near their white, are stretched from their smallest to their largest. NaN becomes 0.

    file_format: of the opened file; Pillow gives mode "I" for the 16-bit files of some.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode not in ("I", "F"):
        return image
    values = np.asarray(image, np.float64)
    known = values[np.isfinite(values)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 0.0)
    whites = (65535,) if file_format in ("PNG", "PPM") else (1, 255, 65535) if image.mode == "F" else (255, 65535)
    white = next((white for white in whites if high <= white), None)
    if low < 0 or white is None or (image.mode == "F" and white > 1 and high < white / 16):
        values, scale = values - low, 255 / (high - low) if high > low else 0.0
    else:
        scale = {1: 255.0, 255: 1.0, 65535: 1 / 256}[white]
    scaled = np.nan_to_num(values * scale, nan=0.0, posinf=255.0, neginf=0.0)
    return Image.fromarray(scaled.clip(0, 255).astype(np.uint8))
