"""Importance, less what more important neurons already carry."""

from __future__ import annotations

from secateurs.methods.contract import Method, PruningContext
from secateurs.results import LayerPlan
from secateurs.selection.ranking import find_largest_shared, penalise_redundancy, select_top


def plan_by_redundancy(context: PruningContext) -> tuple[LayerPlan, ...]:
    """Keep the highest of importance x (1 - clip((m - 0.5) / 0.5, 0, 1)).

    Importance is the root mean square of the activation times the length of the down-projection column, and m the
    largest share of a neuron's information that one more important neuron carries. `information=False` leaves plain
    importance.
    """
    return tuple(_plan_layer(context, place) for place in range(len(context.feedforwards)))


def _plan_layer(context: PruningContext, place: int) -> LayerPlan:
    ffn = context.feedforwards[place]
    scores, figures = context.importance(place), {}
    if context.recipe.information:
        information = context.information(place)
        shared = find_largest_shared(scores, information)
        scores = penalise_redundancy(scores, shared)
        figures = {
            "mean_largest_shared": float(shared.mean()),
            "mean_width_over_std": information.mean_width_over_std,
            "saturated": float(information.saturated),
        }
    return LayerPlan(ffn.path, ffn.width, select_top(scores, context.width), figures=figures)


REDUNDANCY = Method(
    name="redundancy",
    summary="importance, less what more important neurons already carry",
    plan=plan_by_redundancy,
    needs=frozenset({"weights", "activations"}),
    sees=frozenset({"duplicates", "dead neurons"}),
)
