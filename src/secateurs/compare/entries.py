"""One scored model, as it is kept and as tables read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BIAS_NOT_STORABLE = "bias not storable"
"""Variant of an entry: the output bias that the method adds was applied, though the family can't store one."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One pruned model and its score."""

    method: str
    """Name of the method."""
    allocation: str
    """How the neurons that stay are spread over the networks."""
    keep: float
    """Fraction that was asked for."""
    is_refitted: bool
    """Whether Secateurs' refit took the place of the method's own correction, if it has any."""
    variant: str
    """Empty for the model that can be saved, else what sets this one apart from it."""
    trial: int
    """Number of the draw of calibration data, from 0."""
    scores: Mapping[str, float]
    """Each metric by name."""
    parts: Sequence[float]
    """Log-loss of each window in nats, or jackknife value of each group of rows."""
    weights: Sequence[int]
    """Tokens in each window, or rows in each group."""
    widths: Sequence[int]
    """Neurons kept in each network."""
    parameters: int
    """Weights of the model that is left, zero padding not counted."""
    relative_parameters: float
    """Parameters after / before."""
    relative_ffn_flops: float
    """FLOPs after / before, scope ffn."""
    relative_model_flops: float
    """FLOPs after / before, scope model."""
    seconds_choosing: float
    """Time that choosing takes and, where it is refitted, refitting, which measures in turn; what it shares with others
    is counted in full, but for measuring activations at once."""
    peak_mb_choosing: float
    """Memory that this takes above what the process held before, MB of 10^6 bytes; a rough figure."""
    needs: Sequence[str]
    """What the method is computed from."""
    corrects: bool
    """Whether the method, as published, changes the weights that are left."""
    lacks_bias: bool
    """Whether the method adds an output bias that the family can't store; its effect is an entry of its own."""
    figures: Mapping[str, float]
    """What the choice says about itself, mean over networks."""

    @property
    def is_saved_model(self) -> bool:
        """Whether a saved checkpoint would score the same."""
        return self.variant == ""

    @property
    def correction(self) -> str:
        """What is done about removed neurons: "refit", the method's "own", or "none"."""
        if self.is_refitted:
            return "refit"
        own = "own" if self.corrects else "none"
        return f"{own}, {self.variant}" if self.variant else own


def as_entry(stored: Mapping[str, Any] | None) -> Entry | None:
    """An entry as it was kept; None where there is none, or it isn't whole."""
    if stored is None:
        return None
    try:
        return Entry(**stored)
    except TypeError:
        return None
