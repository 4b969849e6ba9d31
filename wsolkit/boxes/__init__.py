"""From score maps to boxes: preparation, contours, IoU, and the two published protocols. No torch."""

from wsolkit.boxes.extract import (
    centre_box,
    centre_box_curve,
    contour_boxes,
    extract_box,
    extract_boxes,
    iou,
    iou_curve,
    mask_to_box,
    overlap_shares,
    thresholds,
)
from wsolkit.boxes.preparation import normalise_map, prepare_map, resize_map, to_uint8
from wsolkit.boxes.protocols import PROTOCOLS
