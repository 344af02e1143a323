"""Refits that were tried."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.methods import PruningContext
from secateur.pipeline import open_context
from secateur.refit import relative_output_error
from secateur.refitting import Measured, refit_columns, refit_network
from secateur.results import LayerPlan

RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0)
FITTED = 0.75
"""Share of the calibration tokens that each ridge is tried with; the others tell which is best."""


def refit_by_held_out(context: PruningContext, layers: Sequence[LayerPlan]) -> tuple[LayerPlan, ...]:
    """All at once, with the ridge for each layer that leaves the least error on held-out calibration tokens."""
    recipe = context.recipe
    tokens = round(FITTED * recipe.calibration_tokens)
    fit, held_out = (
        open_context(context.loaded, None, recipe.model_copy(update=settings))
        for settings in (
            {"calibration_tokens": tokens},
            {"calibration_tokens": recipe.calibration_tokens - tokens, "calibration_skip": tokens},
        )
    )
    refitted = []
    for place, (ffn, layer) in enumerate(zip(context.feedforwards, layers, strict=True)):
        some, rest, whole = (_measured(of, place) for of in (fit, held_out, context))
        errors = {}
        for ridge in RIDGES:
            update = refit_columns(ffn, layer.kept, some, ridge=ridge)
            columns = ffn.down_columns()
            errors[ridge] = relative_output_error(rest.second_moments, columns, layer.kept, update, mean=rest.mean)
        best = min(errors, key=lambda ridge: errors[ridge])
        refitted.append(refit_network(ffn, layer, whole, ridge=best))
    return tuple(refitted)


def _measured(context: PruningContext, place: int) -> Measured:
    return Measured(context.second_moments(place), context.statistics[place].mean)
