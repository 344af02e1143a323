"""Figures drawn by matplotlib, for files."""

from __future__ import annotations

from typing import Any

import numpy as np

from secateurs.report.marks import PALETTE, Axis, Bars, Figure, HeatMap, Line, Points, Symbol, limit_colours

MARKERS: dict[Symbol, str | None] = {
    "none": None,
    "circle": "o",
    "x": "x",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "triangle-down": "v",
    "cross": "P",
    "star": "*",
}
COLOURS = [light for light, _ in PALETTE]
WIDTH, HEIGHT, LINE_HEIGHT = 7.0, 4.2, 0.2
"""Inches: of an image, and of a line of a long legend or a category."""
MOST_IN_LEGEND = 8
"""Marks that a legend inside the axes holds; one of more stands beside them."""


def size_image(figure: Figure) -> tuple[float, float]:
    """Width and height in inches."""
    if figure.y.names:
        return WIDTH + 2, max(HEIGHT, LINE_HEIGHT * (len(figure.y.names) + 6))
    if len(figure.marks) > MOST_IN_LEGEND:
        return WIDTH + 3, max(HEIGHT + 1.5, LINE_HEIGHT * (len(figure.marks) + 4))
    return WIDTH, HEIGHT


def draw_figure(canvas: Any, figure: Figure) -> None:
    """Draw a figure on a matplotlib figure."""
    axes = canvas.subplots()
    bars = [mark for mark in figure.marks if isinstance(mark, Bars)]
    for mark in figure.marks:
        if isinstance(mark, Bars):
            _draw_bars(axes, mark, bars.index(mark), len(bars))
        elif isinstance(mark, HeatMap):
            _draw_heat_map(axes, mark)
        elif isinstance(mark, Line):
            _draw_line(axes, mark, along_x=bool(figure.y.names))
        else:
            _draw_points(axes, mark)
    _set_axis(axes, "x", figure.x)
    _set_axis(axes, "y", figure.y)
    canvas.suptitle(_plain(figure.title), x=0.02, horizontalalignment="left")
    if len(figure.marks) > MOST_IN_LEGEND and not figure.y.names:
        canvas.legend(loc="outside right upper", fontsize="small")
    elif len(figure.marks) > 1 and not figure.y.names:
        axes.legend(fontsize="small")


def _draw_bars(axes: Any, mark: Bars, number: int, count: int) -> None:
    width = 0.8 / count
    places = mark.x + (number - (count - 1) / 2) * width
    look = {"hatch": "//", "edgecolor": "white", "linewidth": 0} if mark.is_hatched else {}
    axes.bar(places, mark.y, width, color=COLOURS[mark.colour], label=_plain(mark.name), **look)


def _draw_heat_map(axes: Any, mark: HeatMap) -> None:
    values = mark.values.astype(np.float64)
    low, high = limit_colours(values)
    image = axes.imshow(values, cmap="cividis", vmin=low, vmax=high, interpolation="nearest")
    axes.figure.colorbar(image, ax=axes, label=_plain(mark.unit))
    axes.grid(False)


def _draw_line(axes: Any, mark: Line, *, along_x: bool) -> None:
    look: dict[str, Any] = {
        "color": COLOURS[mark.colour],
        "marker": MARKERS[mark.symbol],
        "markersize": 5,
        "linestyle": "none" if not mark.is_joined else "dashed" if mark.is_dashed else "solid",
        "label": _plain(mark.name),
    }
    if mark.errors is not None and mark.errors.any():
        error = {"xerr" if along_x else "yerr": mark.errors}
        axes.errorbar(mark.x, mark.y, **error, capsize=2, elinewidth=0.8, **look)
    else:
        axes.plot(mark.x, mark.y, drawstyle="steps-mid" if mark.is_stepped else "default", **look)


def _draw_points(axes: Any, mark: Points) -> None:
    colours = COLOURS[mark.colour] if isinstance(mark.colour, int) else [COLOURS[number] for number in mark.colour]
    axes.scatter(mark.x, mark.y, c=colours, marker=MARKERS[mark.symbol], s=18, linewidths=1, label=_plain(mark.name))


def _set_axis(axes: Any, which: str, axis: Axis) -> None:
    getattr(axes, f"set_{which}label")(_plain(axis.label))
    if axis.is_log:
        getattr(axes, f"set_{which}scale")("log")
    if axis.names:
        getattr(axes, f"set_{which}ticks")(range(len(axis.names)), [_plain(name) for name in axis.names])


def _plain(text: str) -> str:
    """Text as it is: between dollars matplotlib looks for formulas."""
    return text.replace("$", r"\$")
