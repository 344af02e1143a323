"""Writing plots with matplotlib, which is an extra."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from secateur.errors import InputError


def require_matplotlib() -> None:
    """Raise InputError, with how to get it, where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError("plots need matplotlib: pip install matplotlib") from None


def write_plot(draw: Callable[[Any], None], stem: Path, size: tuple[float, float]) -> list[Path]:
    """Write a plot as SVG, the same bytes for the same figures, and as PNG; `size` is in inches."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "secateur", "axes.grid": True, "grid.alpha": 0.3}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})
        figure.savefig(stem.with_suffix(".png"), dpi=110)
    return [stem.with_suffix(".svg"), stem.with_suffix(".png")]
