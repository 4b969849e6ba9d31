"""All figures: images with maps and boxes, curves, bars, and `show` to put one on a page."""

from wsolkit.figures.charts import accuracy_curves, bars, cost_scatter, history_figure, iou_histogram
from wsolkit.figures.error_charts import failure_bars, slice_bars
from wsolkit.figures.faithfulness_charts import faithfulness_curves
from wsolkit.figures.images import (
    COLOUR_MAP,
    best_iou,
    draw_boxes,
    figure_html,
    gallery,
    iou_text,
    overlay,
    photo_uri,
    show,
    style,
    svg_uri,
    thumbnail,
)
