"""The frontier as a picture: quality against latency, and against bytes."""

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

from tf_seqattn.comparison.result import Point, beaten, families_of

# Okabe and Ito's colours, with markers that differ in grey.
COLOURS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X")


def save_picture(points: Sequence[Point], path: pathlib.Path) -> None:
    """Draws the points; the line joins those that no other point beats.

    Args:
      points: what was measured.
      path: PNG file.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    panels: Any = figure.subplots(1, 2, sharey=True)
    looks = itertools.cycle(zip(COLOURS, _MARKERS, strict=True))
    look = {family: next(looks) for family in families_of(points)}
    precisions = list(dict.fromkeys(point.precision for point in points))
    scales = (
        ("microseconds a call", lambda p: p.latency.median),
        ("kilobytes", lambda p: p.bytes / 1000),
    )
    for axes, (label, cost) in zip(panels, scales, strict=True):
        best = [p for p in points if not beaten(p, points, cost)]
        best.sort(key=cost)
        axes.plot(
            [cost(p) for p in best],
            [p.quality for p in best],
            color="#bbbbbb",
            zorder=1,
            drawstyle="steps-post",
        )
        for point in points:
            colour, marker = look[point.family]
            axes.errorbar(
                cost(point),
                point.quality,
                yerr=point.spread or None,
                marker=marker,
                markersize=7,
                color=colour,
                markerfacecolor=colour if point.precision == precisions[0] else "white",
                linestyle="none",
            )
            if point.precision != precisions[0] or point.amount is None:
                continue
            axes.annotate(
                f"{point.amount:g}",
                (cost(point), point.quality),
                textcoords="offset points",
                xytext=(6, 4),
                fontsize=7,
                color="#555555",
            )
        axes.set(xlabel=label, xscale="log")
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    panels[0].set_ylabel("quality, smaller is better")
    handles = [
        Line2D([], [], color=c, marker=m, linestyle="none", label=family)
        for family, (c, m) in look.items()
    ]
    for precision in precisions:
        face = "#555555" if precision == precisions[0] else "white"
        handles.append(
            Line2D(
                [],
                [],
                color="#555555",
                marker="o",
                markerfacecolor=face,
                linestyle="none",
                label=precision,
            )
        )
    handles.append(Line2D([], [], color="#bbbbbb", label="no other is better"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=130)
