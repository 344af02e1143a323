"""Writing plots with matplotlib, which is an extra."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from secateurs.errors import InputError


def require_matplotlib() -> None:
    """Raise InputError, with how to get it, where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError("plots need matplotlib: pip install matplotlib") from None


def write_plot(
    draw: Callable[[Any], None], stem: Path, size: tuple[float, float], endings: Sequence[str] = ("svg", "png")
) -> list[Path]:
    """Write a plot as SVG and PNG, or one of them, the same bytes for the same figures; `size` is in inches."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "secateurs", "axes.grid": True, "grid.alpha": 0.3}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        for ending in endings:
            figure.savefig(stem.with_suffix(f".{ending}"), dpi=110, metadata={"Date": None} if ending == "svg" else {})
    return [stem.with_suffix(f".{ending}") for ending in endings]
