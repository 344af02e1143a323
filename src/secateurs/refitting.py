"""Making up for removed neurons network after network, each measured where those before it are already pruned."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateurs.calibration import Calibration
from secateurs.capture import MomentSum, ProductSum, require_finite, require_rows
from secateurs.memory import give_back
from secateurs.models.families import find_residual
from secateurs.models.feedforward import FeedForward
from secateurs.pieces import Keeper
from secateurs.recipe import Recipe
from secateurs.refit import Drift, refit_down, relative_output_error
from secateurs.results import LayerPlan, Update
from secateurs.walking import Measurable, PrunedStream, Stream, Totals

FLATTEST = 1e-3
"""Least variance of a token's states, in units of their mean, so that no token counts for all."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one network is pruned and refitted by."""

    second_moments: Tensor
    """(K, K) float64, E[z z^T], tokens and texts' means counted as `measure` is told."""
    mean: Tensor
    """(K,) float64, E[z], likewise."""
    rows: int
    """Tokens that it was measured on."""
    drift: Drift | None = None
    """What its output is to make up for besides, since networks before it are pruned; None: nothing."""


Choose = Callable[[int, Measured], LayerPlan]
"""Called as choose(place, measured); the neurons of that network that stay."""


class Refittable(Measurable, Protocol):
    """A model to be pruned, with how; a method's context has it all."""

    @property
    def recipe(self) -> Recipe:
        """The settings."""

    @property
    def noised(self) -> Calibration:
        """The text with some tokens replaced."""

    @property
    def weighs_tokens(self) -> bool:
        """Whether a token's error counts as a norm of what the residual stream then is would make it."""

    @property
    def mean_weight(self) -> float:
        """How much the mean over each text's tokens counts beside them."""

    @property
    def pieces(self) -> Keeper:
        """What is finished already."""

    def read_whole(self) -> Totals:
        """The unpruned model on the text with replaced tokens."""

    def ridge_on(self, rows: int, neurons: int) -> float:
        """How strongly a refit of so many neurons on so many tokens holds on to the original weights."""


def refit_in_turn(context: Refittable, choose: Choose) -> tuple[LayerPlan, ...]:
    """Networks pruned one after another, each measured where those before it are already pruned and refitted.

    The target of each is its own output, and `drift` x what the residual stream after it lacks of the unpruned model's,
    so that it also makes up for what the networks before it got wrong (for families whose residual can't be
    told, only its own output). Networks that an earlier run finished are not fitted again.

    Args:
        context: a model, its networks, text and settings.
        choose: picks what stays; it may look at what was measured, or know it before.

    Cost:
        Three runs of each layer (of a model that can't walk, two forward passes up to each network);
        n K (K + H) multiply-adds a network. Memory for the hidden states of all batches, twice, and for one network's
        second moments.
    """
    loaded, recipe, pruned = context.loaded, context.recipe, list[LayerPlan]()
    has_target = recipe.drift > 0 and find_residual(loaded.family, loaded.model.config) != "unknown"
    whole = context.read_whole() if has_target else None
    student = PrunedStream(loaded, context.feedforwards, context.noised.batches)

    def prune_network(place: int) -> LayerPlan:
        ffn = context.feedforwards[place]
        if whole is not None:
            whole.go_to(ffn)
        measured = measure(
            ffn,
            student,
            whole,
            drift_share=recipe.drift,
            mean_weight=context.mean_weight,
            weighs_tokens=context.weighs_tokens,
        )
        give_back()
        ridge = context.ridge_on(measured.rows, ffn.width)
        return refit_network(ffn, choose(place, measured), measured, ridge=ridge)

    for place, ffn in enumerate(context.feedforwards):
        student.go_to(ffn)
        pruned.append(context.pieces.get(f"network-{place}", partial(prune_network, place)))
        student.prune(pruned[-1])
        context.progress("pruning network after network", place + 1, len(context.feedforwards))
    return tuple(pruned)


def refit_network(ffn: FeedForward, layer: LayerPlan, measured: Measured, *, ridge: float) -> LayerPlan:
    """The same neurons, with a down projection that makes up for those removed."""
    moments, mean, drift = measured.second_moments, measured.mean, measured.drift
    columns = ffn.down_columns().to(moments.device)
    update = refit_columns(ffn, layer.kept, measured, ridge=ridge, dtype=ffn.dtype)
    errors = {
        "relative_error_cut": relative_output_error(moments, columns, layer.kept, mean=mean, drift=drift),
        "relative_error_refit": relative_output_error(moments, columns, layer.kept, update, mean=mean, drift=drift),
    }
    return replace(layer, update=update, unsaved_bias=None, figures={**layer.figures, **errors})


def refit_columns(
    ffn: FeedForward,
    kept: NDArray[np.int64],
    measured: Measured,
    *,
    ridge: float,
    dtype: torch.dtype = torch.float64,
) -> Update:
    """`refit_down` of a network, by what was measured of it."""
    device = measured.second_moments.device
    return refit_down(
        measured.second_moments,
        ffn.down_columns().to(device),
        kept,
        ridge=ridge,
        mean=measured.mean,
        bias=ffn.output_bias().to(device) if ffn.has_output_bias else None,
        drift=measured.drift,
        dtype=dtype,
    )


def measure(
    ffn: FeedForward,
    model: Stream,
    whole: Totals | None = None,
    *,
    drift_share: float = 0.0,
    mean_weight: float = 0.0,
    weighs_tokens: bool = False,
) -> Measured:
    """What a network is pruned by, with what it lacks of the `whole` model's residual stream.

    An error e of its output counts E|e|^2 + `mean_weight` E|m|^2, m the mean of e over the tokens of the same text
    (`stress_means`). With `weighs_tokens`, e is first divided by the standard deviation of what its token has in the
    residual stream then, as the norm that comes next does. All sums are divided by that of a constant 1 counted
    likewise, so that moments less the product of means are those about what a bias takes up.

    Args:
        ffn: the network.
        model: has gone to it.
        whole: the unpruned model, has gone to it too; None where only the network's own output counts.
        drift_share: of what it lacks, to be made up for.
        mean_weight: not negative.
        weighs_tokens: best where that norm is next.

    Raises:
        InputError: activations are not finite, or there are fewer than 8 rows of them.
    """
    device = ffn.solving_device
    moments, products = MomentSum(ffn.width, device=device), ProductSum(ffn.width, ffn.hidden_size, device)
    lack, energy = torch.zeros(ffn.hidden_size, dtype=torch.float64, device=device), 0.0
    for number in range(len(model)):
        wanted = None if whole is None else whole.read_total(number)  # first, while little else is held
        found = model.read(number)
        roots = norm_scales(found.total) if weighs_tokens else None
        counted = partial(weigh, roots=roots, rows=found.rows, mean_weight=mean_weight)
        apart = moments.add(found.activations, counted)
        if wanted is not None:
            lacking, ones = counted(drift_share * (wanted - found.total)), counted(torch.ones_like(wanted[:, :1]))
            products.add(apart, lacking)
            lack += (ones[:, 0] @ lacking).to(lack)
            energy += float(lacking.square().sum())
    rows, weight = require_rows(moments.rows), moments.weight
    mean, second_moments = moments.finish()
    assert second_moments is not None
    require_finite(ffn, second_moments.diagonal())
    if whole is None:
        return Measured(second_moments, mean, rows)
    lack /= weight
    about_zero = products.finish().div_(weight).addr_(moments.origin, lack)
    return Measured(second_moments, mean, rows, Drift(about_zero, lack, energy / weight))


def norm_scales(total: Tensor) -> Tensor:
    """(n,) 1 / standard deviation of each token's (n, H) states: what a layer norm multiplies by."""
    variance = total.var(dim=1, correction=0)
    return variance.clamp(min=FLATTEST * variance.mean()).rsqrt()


def weigh(values: Tensor, *, roots: Tensor | None, rows: Tensor, mean_weight: float) -> Tensor:
    """(n, features) such that sums of x y^T weigh tokens by the squares of the (n,) roots, and texts' means besides."""
    return stress_means(values if roots is None else values * roots[:, None], rows, mean_weight)


def stress_means(values: Tensor, rows: Tensor, weight: float) -> Tensor:
    """(n, features) such that sums of x y^T gain `weight` x m p^T for each token, m and p the means over its row.

    Args:
        values: (n, features) float32, x.
        rows: (n,) int64, ascending, the row that each token is of.
        weight: not negative.
    """
    if weight == 0:
        return values
    means = torch.segment_reduce(values, "mean", lengths=rows.bincount())
    return values.add(means[rows], alpha=math.sqrt(1 + weight) - 1)  # (1 + a)^2 = 1 + weight
