"""Frozen dataclasses that travel between the steps; no behaviour beyond derived figures."""

from secateurs.results.pruning import (
    CalibrationSummary,
    LayerPlan,
    ModelSize,
    MutualInformation,
    Progress,
    PruningPlan,
    Update,
    no_progress,
)

__all__ = [
    "CalibrationSummary",
    "LayerPlan",
    "ModelSize",
    "MutualInformation",
    "Progress",
    "PruningPlan",
    "Update",
    "no_progress",
]
