"""The figure of deletion and insertion curves, in the style of `wsolkit.figures.images`; show it with `figures.show(fig, alt=...)`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from wsolkit.figures.charts import _plain
from wsolkit.figures.images import LINES, PALETTE, style

if TYPE_CHECKING:
    from wsolkit.evaluation.faithfulness import Faithfulness


def faithfulness_curves(measured: Mapping[str, Faithfulness]) -> Figure:
    """Mean probability of the class against the share of pixels deleted (above) and inserted (below), a line per name
    with its 95 % bootstrap band.

    measured: name -> `Faithfulness`, as `measure_faithfulness` returns it.
    """
    if not measured:
        raise ValueError("there is no curve to draw")
    with style():
        fig = Figure(figsize=(6.4, 6.6))
        rows = fig.subplots(2, 1, sharex=True)
        for axes, name, hint in zip(rows, ("deletion", "insertion"), ("low is good", "high is good"), strict=True):
            for index, (label, found) in enumerate(measured.items()):
                colour = PALETTE[index % len(PALETTE)]
                mean, low, high = found.mean(name)
                shares = found.shares * 100
                axes.fill_between(shares, low, high, color=colour, alpha=0.15, linewidth=0)
                axes.plot(shares, mean, color=colour, linestyle=LINES[index % len(LINES)], label=_plain(label))
            axes.set(xlim=(0, 100), ylim=(0, 1.02), ylabel="class probability")
            axes.set_title(f"{name}: {hint}", loc="left", fontweight="bold")
        rows[1].set_xlabel("pixels deleted or inserted, highest score first (%)")
        rows[1].legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, handlelength=2.6)
    return fig
