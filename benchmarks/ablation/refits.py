"""Refits that were tried."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secateurs.methods import PruningContext
from secateurs.methods.secateurs import measure_whole
from secateurs.refit import relative_output_error
from secateurs.refitting import refit_columns, refit_network
from secateurs.results import LayerPlan

RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0)
FITTED = 0.75
"""Share of the calibration rows that each ridge is tried with; the others tell which is best."""


def refit_by_held_out(context: PruningContext, layers: Sequence[LayerPlan]) -> tuple[LayerPlan, ...]:
    """All at once, with the ridge for each layer that leaves the least error on held-out calibration rows."""
    rows = context.noised.rows
    is_fitted = np.arange(rows) < round(FITTED * rows)
    texts = (context.noised.take_rows(is_fitted), context.noised.take_rows(~is_fitted), context.noised)
    refitted = []
    for ffn, layer, *measured in zip(
        context.feedforwards, layers, *(measure_whole(context, text) for text in texts), strict=True
    ):
        (fit, held_out, whole), columns, errors = measured, ffn.down_columns(), {}
        for ridge in RIDGES:
            update = refit_columns(ffn, layer.kept, fit, ridge=ridge)
            errors[ridge] = relative_output_error(
                held_out.second_moments, columns, layer.kept, update, mean=held_out.mean
            )
        refitted.append(refit_network(ffn, layer, whole, ridge=min(errors, key=errors.__getitem__)))
    return tuple(refitted)
