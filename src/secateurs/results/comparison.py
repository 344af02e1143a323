"""What came of comparing methods."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Point:
    """One way to prune at one width, over all trials."""

    keep: float
    """Fraction that was asked for."""
    quality: float
    """Mean score; of perplexities exp(mean log-loss)."""
    spread: float | None
    """Standard deviation of the score over trials; None of a single one."""
    gap: float
    """Log-loss in nats a token less that before pruning, or score less that before pruning; mean over trials."""
    gap_standard_error: float | None
    """Of the gap for what was scored on: paired over blocks of windows or groups of rows, trials averaged first; None
    where all was scored as one window."""
    gap_spread: float | None
    """Standard deviation of the gap over trials; None of a single one."""
    relative_ffn_flops: float
    """FLOPs after / before, scope ffn, mean over trials."""
    relative_model_flops: float
    """FLOPs after / before, scope model, mean over trials."""
    parameters: float
    """Weights that are left, mean over trials."""
    seconds_choosing: float
    """Of choosing (and refitting) once, mean over trials."""
    peak_mb_choosing: float
    """Of choosing (and refitting) once, highest of the trials."""
    mark: str
    """"best" at this width, "tied" with the best, or empty."""


@dataclass(frozen=True, slots=True)
class Row:
    """One way to prune, at every width."""

    method: str
    """Its name."""
    allocation: str
    """How neurons are spread over the networks."""
    correction: str
    """What is done about removed neurons."""
    is_saved_model: bool
    """Whether a saved checkpoint would score the same; a row of another kind is never marked best."""
    needs: tuple[str, ...]
    """What the method is computed from."""
    points: tuple[Point, ...]
    """Narrowest first; a width that could not be run is missing."""

    def at(self, keep: float) -> Point | None:
        """The point at a width."""
        return next((point for point in self.points if point.keep == keep), None)
