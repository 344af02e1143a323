"""Minitron: neurons that are active in many rows."""

from __future__ import annotations

from secateurs.methods.contract import Method, PruningContext
from secateurs.results import LayerPlan


def plan_by_activity(context: PruningContext) -> tuple[LayerPlan, ...]:
    """Keep the highest of sqrt(sum over rows (mean over tokens |z_j|)^2).

    Source:
        Muralidharan et al., "Compact language models via pruning and knowledge distillation", 2024: mean over the
        sequence, L2 over samples. It prunes heads, hidden size and depth too, searches over architectures and distils
        afterwards; here FFN neurons only, at a given width.
    """
    return context.plan(context.select([statistics.row_strength.numpy() for statistics in context.statistics]))


MINITRON = Method(
    name="minitron",
    summary="largest mean activation of a row, over all rows",
    plan=plan_by_activity,
    needs=frozenset({"activations"}),
    sees=frozenset({"dead neurons"}),
)
