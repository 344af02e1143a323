"""Wanda-sp: neurons that are active and have large outgoing weights, layer after layer."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from secateurs.capture import require_finite, require_rows
from secateurs.methods.contract import Method, PruningContext
from secateurs.models.feedforward import FeedForward
from secateurs.results import LayerPlan
from secateurs.selection.ranking import select_top
from secateurs.walking import PrunedStream, Stream


def plan_by_wanda(context: PruningContext) -> tuple[LayerPlan, ...]:
    """Keep the highest of mean_i |W_ij| sqrt(mean z_j^2), measured where earlier layers are already pruned.

    Source:
        An et al., "Fluctuation-based adaptive structured pruning", 2024, which carries Wanda (Sun et al., 2024) over to
        whole neurons. It prunes heads too; here FFN neurons only.
    """
    feedforwards, layers = context.feedforwards, list[LayerPlan]()
    stream = PrunedStream(context.loaded, feedforwards, context.calibration.batches, reads_all=True)

    def choose(ffn: FeedForward) -> LayerPlan:
        return LayerPlan(ffn.path, ffn.width, select_top(score_by_wanda(ffn, stream), context.width))

    for place, ffn in enumerate(feedforwards):
        stream.go_to(ffn)
        layers.append(context.pieces.get(f"chosen-{place}", partial(choose, ffn)))
        stream.prune(layers[-1])
        context.progress("measuring layer after layer", len(layers), len(feedforwards))
    return tuple(layers)


def score_by_wanda(ffn: FeedForward, stream: Stream) -> NDArray[np.float64]:
    """(K,) mean absolute outgoing weight x root mean square of the activation."""
    squares, rows = torch.zeros(ffn.width, dtype=torch.float64), 0
    for number in range(len(stream)):
        activations = stream.read(number).activations
        squares += activations.square().sum(dim=0).cpu()
        rows += len(activations)
    require_finite(ffn, squares)
    weights = ffn.down_columns().double().abs().mean(dim=1).cpu()
    scores: NDArray[np.float64] = (weights * (squares / require_rows(rows)).sqrt()).numpy()
    return scores


WANDA_SP = Method(
    name="wanda-sp",
    summary="largest activation x outgoing weight, measured layer after layer",
    plan=plan_by_wanda,
    needs=frozenset({"weights", "activations"}),
    sees=frozenset({"dead neurons"}),
    measures_itself=True,
)
