"""TextPruner: neurons that the loss, or the model's own output, is sensitive to; pruned in steps."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateurs.methods.contract import Method, PruningContext
from secateurs.models.feedforward import keep_masks
from secateurs.models.gradients import RowLoss, divergence_from, find_target, mean_over_positions
from secateurs.results import LayerPlan
from secateurs.selection.ranking import select_overall, select_top

Vector = NDArray[np.float64]
Score = Callable[[Sequence[Tensor] | None], list[Vector]]
"""Called as score(masks); (K,) a network, taken where the model is masked so (None: whole)."""


def plan_by_loss(context: PruningContext) -> tuple[LayerPlan, ...]:
    """Keep the highest of sum over rows of |d loss / d m_j|, m_j a factor on the activation.

    That is |sum_k W_kj d loss / d W_kj| of the down projection. With one width for all networks the same of the up
    projection's row and bias is added (with a gate it would be the same number twice). The width is reached in
    `iterations` linear steps, scores taken anew after each.

    Source:
        Yang et al., "TextPruner: a model pruning toolkit for pre-trained language models", ACL 2022 (demonstrations).
        Differs: magnitudes are taken of each row rather than of each batch, so that the batch size does not matter; FFN
        neurons only, where it prunes attention heads and the vocabulary too.
    """
    context.require_loss()

    def score(masks: Sequence[Tensor] | None) -> list[Vector]:
        whole = masks is None
        gradients = context.task_gradients() if whole else context.row_gradients(context.row_losses, masks)
        return _sum_effects(context, gradients, context.row_losses, masks)

    return _prune_in_steps(context, score)


def plan_by_output(context: PruningContext) -> tuple[LayerPlan, ...]:
    """Keep the highest of sum over rows of sum_c (d logit_c / d m_j)^2, m_j a factor on the activation; no labels.

    Of a language model, whose classes are too many, it is (d l / d m_j)^2 with l the row's mean log-probability of
    tokens drawn, seeded, from the model's own prediction at each position. The width is reached in `iterations` linear
    steps, scores taken anew after each.

    Source:
        Yang et al., "TextPruner: a model pruning toolkit for pre-trained language models", ACL 2022 (demonstrations),
        self-supervised. Differs: the original takes |gradient| of the cross-entropy to the model's own copy in float16,
        which is no more than rounding noise in the first step, as the two agree; `as_published` does that (of a head
        with one output, by the squared error; its cross-entropy has no gradient). Rows rather than batches and FFN
        neurons only, as in `textpruner`.
    """
    if context.recipe.as_published:
        loss = divergence_from(copy.deepcopy(context.loaded.model).half().eval(), context.calibration.batches)
        return _prune_in_steps(
            context, lambda masks: _sum_effects(context, context.row_gradients(loss, masks), loss, masks)
        )

    def measure(masks: Sequence[Tensor] | None) -> list[Vector]:
        totals = [np.zeros(ffn.width) for ffn in context.feedforwards]
        for loss in _output_losses(context):
            for total, values in zip(totals, context.row_gradients(loss, masks), strict=True):
                total += values.square().sum(dim=0).numpy()
        return totals

    def score(masks: Sequence[Tensor] | None) -> list[Vector]:
        return measure(masks) if masks is not None else context.once(("own output",), lambda: measure(None))

    return _prune_in_steps(context, score)


def _sum_effects(
    context: PruningContext, gradients: Sequence[Tensor], loss: RowLoss, masks: Sequence[Tensor] | None
) -> list[Vector]:
    """Magnitudes summed over rows, of `gradients` and, with one width and no gates, of those of the up projections."""
    scores = [values.abs().sum(dim=0).numpy() for values in gradients]
    if context.recipe.allocation == "global" or any(ffn.is_gated for ffn in context.feedforwards):
        return scores
    incoming = context.row_gradients(loss, masks, is_incoming=True)
    return [own + values.abs().sum(dim=0).numpy() for own, values in zip(scores, incoming, strict=True)]


def list_targets(full: int, final: int, steps: int) -> list[int]:
    """Neurons left after each of so many equal steps, the remainder spread over the first; no step removes nothing."""
    gone = full - final
    each, rest = divmod(gone, steps)
    sizes = [each + (number < rest) for number in range(min(steps, gone))]
    return [full - removed for removed in itertools.accumulate(sizes)]


def _prune_in_steps(context: PruningContext, score: Score) -> tuple[LayerPlan, ...]:
    is_global, width = context.recipe.allocation == "global", context.feedforwards[0].width
    count = len(context.feedforwards) if is_global else 1  # networks that one number of neurons is for
    kept = [np.arange(ffn.width) for ffn in context.feedforwards]
    for number, target in enumerate(list_targets(count * width, count * context.width, context.recipe.iterations)):
        scores = score(keep_masks(context.feedforwards, kept) if number else None)
        for values, stay in zip(scores, kept, strict=True):
            values[np.setdiff1d(np.arange(len(values)), stay)] = -np.inf  # gone for good
        kept = select_overall(scores, target) if is_global else [select_top(values, target) for values in scores]
    return context.plan(kept)


def _output_losses(context: PruningContext) -> list[RowLoss]:
    """Functions of a row's output whose squared gradients add up to how sensitive the output is."""
    model: Any = context.loaded.model
    if find_target(model) == "next token":
        return [_log_probability_of_draw(context)]
    return [_logit(number) for number in range(model.config.num_labels)]


def _logit(wanted: int) -> RowLoss:
    return lambda logits, number: logits[:, wanted]


def _log_probability_of_draw(context: PruningContext) -> RowLoss:
    batches = context.calibration.batches
    starts = [0, *itertools.accumulate(len(next(iter(batch.values()))) for batch in batches)]

    def loss(logits: Tensor, number: int) -> Tensor:
        drawn = torch.stack(
            [
                draw_tokens(row.detach(), (context.recipe.seed, starts[number] + place))
                for place, row in enumerate(logits)
            ]
        )
        chance = -nn.functional.cross_entropy(logits.transpose(1, 2), drawn, reduction="none")  # (B, T)
        return mean_over_positions(chance, batches[number])

    return loss


def draw_tokens(logits: Tensor, seed: tuple[int, int]) -> Tensor:
    """(T,) int64 tokens drawn from the softmax of each position; logits: (T, V) float."""
    levels = torch.from_numpy(np.random.default_rng(seed).random(len(logits))).to(logits)
    below = (logits.softmax(dim=-1).cumsum(dim=-1) < levels[:, None]).sum(dim=-1)
    return below.clamp(max=logits.shape[-1] - 1)


TEXTPRUNER = Method(
    name="textpruner",
    summary="largest effect on the loss, in steps",
    plan=plan_by_loss,
    needs=frozenset({"weights", "gradients", "labels"}),
    sees=frozenset({"dead neurons"}),
    allocations=frozenset({"uniform", "global"}),
)
TEXTPRUNER_SELF = Method(
    name="textpruner-self",
    summary="largest effect on the model's own output, in steps",
    plan=plan_by_output,
    needs=frozenset({"weights", "gradients"}),
    sees=frozenset({"dead neurons"}),
    allocations=frozenset({"uniform", "global"}),
)
