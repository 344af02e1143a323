"""Representatives: the neurons that all others share most information with."""

from __future__ import annotations

from secateurs.methods.contract import Method, PruningContext, require_information
from secateurs.recipe import Recipe
from secateurs.results import LayerPlan
from secateurs.selection.distances import normalised_distance
from secateurs.selection.medoids import require_kmedoids, select_medoids


def plan_by_medoids(context: PruningContext) -> tuple[LayerPlan, ...]:
    """Keep the medoids of the neurons under 1 - I(k,l) / min(I(k,k), I(l,l))."""
    return tuple(_plan_layer(context, place) for place in range(len(context.feedforwards)))


def _plan_layer(context: PruningContext, place: int) -> LayerPlan:
    ffn = context.feedforwards[place]
    information = context.information(place)
    distance = normalised_distance(information)
    kept = select_medoids(distance, context.width, context.recipe.seed)
    figures = {
        "mean_distance_to_kept": float(distance[:, kept].min(axis=1).mean()),
        "mean_width_over_std": information.mean_width_over_std,
        "saturated": float(information.saturated),
    }
    return LayerPlan(ffn.path, ffn.width, kept, figures=figures)


def _check(recipe: Recipe) -> None:
    require_information(recipe)
    require_kmedoids()


MEDOIDS = Method(
    name="medoids",
    summary="k-medoids of the neurons under normalised mutual information, importance left out",
    plan=plan_by_medoids,
    needs=frozenset({"activations"}),
    sees=frozenset({"duplicates"}),
    check=_check,
)
