"""All figures: images with maps and boxes, curves, bars, and `show` to put one on a page."""

from wsolkit.figures.charts import (
    accuracy_curves,
    bars,
    cost_scatter,
    failure_bars,
    faithfulness_curves,
    history_figure,
    iou_histogram,
    slice_bars,
)
from wsolkit.figures.images import (
    draw_boxes,
    figure_html,
    gallery,
    inline_svg,
    iou_text,
    overlay,
    photo_uri,
    show,
    style,
    svg_uri,
    thumbnail,
)
