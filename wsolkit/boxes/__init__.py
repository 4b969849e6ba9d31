"""From score maps to boxes: preparation, contours, IoU, and the two published protocols. No torch."""
