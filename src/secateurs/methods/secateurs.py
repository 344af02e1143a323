"""Secateurs' own method: importance, less what the neurons that stay already carry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from secateurs.calibration import Calibration
from secateurs.former_name import NAME
from secateurs.methods.contract import Method, PruningContext
from secateurs.models.feedforward import FeedForward, replaced
from secateurs.probing import Probe, hold_out
from secateurs.refit import hold
from secateurs.refitting import Measured, measure, refit_columns, refit_in_turn, refit_network
from secateurs.results import LayerPlan
from secateurs.selection.allocation import Profile, allocate_widths
from secateurs.selection.elimination import Removals, order_removals
from secateurs.walking import Stream

PROBE_KEEPS = (0.65, 0.3)
"""Fractions of a network's neurons that are left when it is tried how much the model depends on the network."""
LEAST_KEEP = 0.02
"""Fraction of each network's neurons that stays, however little it seems to matter (or half of what all keep)."""
MOST_NOISE = 30.0
"""Noise in units of the variance that no other neuron carries, at most, so that copies still count as copies."""
FLOOR = 1e-4
"""Added to each second moment before inversion, in units of itself: more than rounding, and less than matters."""


def plan_by_set_information(context: PruningContext) -> tuple[LayerPlan, ...]:
    """Remove, one at a time, the neuron of least importance^2 x exp(-2 I(z_j; z of those that are left)).

    Importance is the root mean square of the activation x the length of the neuron's down-projection column, and I the
    mutual information in nats of Gaussian activations with these second moments, each with independent noise of `noise`
    x its own (less for copies: `MOST_NOISE`). importance^2 exp(-2 I) is what is left of a neuron's share in the output
    when the others make up for it as well as they can, and they do so before the next one is chosen (`order_removals`).
    `information=False` is I = 0: plain importance. Where a refit follows and the down projection has a bias, which then
    makes up for means, moments are taken about these. Where texts' means count (`mean_weight`), moments have them, and
    behind pruned networks columns are those that would make up for these.

    Each network is measured where those before it are pruned and refitted already (`refit_in_turn`); with
    `in_turn=False`, and where nothing is refitted, in the unpruned model. Under one budget for all networks, widths
    come from `allocate`.

    Source:
        Its own; docs/method.md derives it. Without noise, and with moments about 0, the order in the first network is
        that of OSSCAR on the same tokens, up to its damping.
    """
    is_global = context.recipe.allocation == "global"
    return plan_widths(context, allocate(context) if is_global else [context.width] * len(context.feedforwards))


def plan_widths(context: PruningContext, widths: Sequence[int]) -> tuple[LayerPlan, ...]:
    """`plan_by_set_information` with these neurons kept in each network."""
    recipe, ffns = context.recipe, context.feedforwards

    def choose(place: int, measured: Measured) -> LayerPlan:
        count = ffns[place].width - widths[place]
        removals = find_removals(context, ffns[place], measured, count, is_refitted=recipe.refit)
        return leave_out(ffns[place], removals.order)

    if recipe.refit and recipe.in_turn:
        return refit_in_turn(context, choose)

    def plan_networks(places: list[int]) -> Iterator[LayerPlan]:
        chosen = [ffns[place] for place in places]
        for place, ffn, measured in zip(places, chosen, measure_whole(context, context.noised, chosen), strict=True):
            layer, ridge = choose(place, measured), context.ridge_on(measured.rows, ffn.width)
            yield refit_network(ffn, layer, measured, ridge=ridge) if recipe.refit else layer
            context.progress("pruning network after network", place + 1, len(ffns))

    return tuple(context.pieces.fill([f"network-{place}" for place in range(len(ffns))], plan_networks))


def find_removals(
    context: PruningContext, ffn: FeedForward, measured: Measured, count: int, *, is_refitted: bool = True
) -> Removals:
    """The first `count` neurons of a network to go, and what each costs its output when activations are noisy.

    Without information, what each costs where nothing makes up for it. `is_refitted` says whether a refit follows.
    """
    moments, columns = measured.second_moments.clone(), ffn.down_columns().to(measured.second_moments)
    if measured.drift is not None:  # the columns that would make up for it with all neurons there
        ridge = context.ridge_on(measured.rows, ffn.width)
        columns = refit_columns(ffn, np.arange(ffn.width), measured, ridge=ridge).weight.to(moments.device)
    if ffn.has_output_bias and is_refitted:  # the bias makes up for means
        moments -= torch.outer(measured.mean, measured.mean)
    if not context.recipe.information:
        squared = moments.diagonal() * columns.square().sum(dim=1)
        gone = torch.argsort(squared, stable=True)[:count]
        return Removals(gone, squared[gone])
    noise = context.noise_on(measured.rows, ffn.width) * moments.diagonal()
    moments.diagonal().add_(hold(FLOOR, moments, measured.second_moments))
    unique = 1 / torch.cholesky_inverse(torch.linalg.cholesky(moments)).diagonal()  # (K,) variance given all others
    moments.diagonal().add_(torch.minimum(noise, MOST_NOISE * unique))
    return order_removals(moments, columns, count)


def allocate(context: PruningContext) -> list[int]:
    """Neurons to keep in each network, such that the outputs of the whole model are estimated to move least.

    The distance (`Probe`) is measured where one network alone is cut to 0.65 and to 0.3 of its neurons and refitted, in
    the order of removal in the unpruned model, on rows that neither was found on (`hold_out`). Of what it rises between
    two of these depths, each neuron costs its share in the sum of the removals' costs (`find_removals`). Costs add up.
    """
    costs = [profile.costs for profile in find_profiles(context)]
    return allocate_widths(costs, [ffn.width for ffn in context.feedforwards], context.budget)


def find_profiles(context: PruningContext) -> list[Profile]:
    """Those of `measure_profiles`, measured once for all budgets that leave the same at least."""
    recipe = context.recipe
    least = min(LEAST_KEEP, context.width / context.feedforwards[0].width / 2)
    key = (
        "removal profiles",
        recipe.information,
        recipe.noise,
        recipe.ridge,
        recipe.token_noise,
        context.mean_weight,
        context.weighs_tokens,
        least,
    )
    return context.once(key, lambda: measure_profiles(context, least))


def measure_profiles(context: PruningContext, least: float = LEAST_KEEP) -> list[Profile]:
    """A profile of each network in the unpruned model, down to `least` of its neurons."""
    ffns = context.feedforwards

    def profile_networks(places: list[int]) -> Iterator[Profile]:
        held, rest = hold_out(context.noised, context.recipe.seed)
        probe, chosen = Probe(context.loaded, held.batches), [ffns[place] for place in places]
        for place, ffn, measured in zip(places, chosen, measure_whole(context, rest, chosen), strict=True):
            probe.go_to(ffn)
            yield _profile(context, ffn, measured, probe, least)
            context.progress("trying networks", place + 1, len(ffns))

    return context.pieces.fill([f"profile-{place}" for place in range(len(ffns))], profile_networks)


def _profile(context: PruningContext, ffn: FeedForward, measured: Measured, probe: Probe, least: float) -> Profile:
    """Of one network, that the probe has gone to."""
    ridge = context.ridge_on(measured.rows, ffn.width)
    *tried, most = (ffn.width - max(1, round(keep * ffn.width)) for keep in (*PROBE_KEEPS, least))
    removals = find_removals(context, ffn, measured, most)
    distances = []
    for count in tried:
        layer = refit_network(ffn, leave_out(ffn, removals.order[:count]), measured, ridge=ridge)
        with replaced([ffn], [layer]):
            distances.append(probe.distance())
    return Profile(removals.costs.cpu().numpy(), tuple(tried), tuple(distances))


def measure_whole(
    context: PruningContext, calibration: Calibration, feedforwards: Sequence[FeedForward] | None = None
) -> Iterator[Measured]:
    """What each network (of all, or of some in order) is pruned by in the unpruned model, one at a time."""
    stream = Stream(context.loaded, calibration.batches)
    for ffn in context.feedforwards if feedforwards is None else feedforwards:
        stream.go_to(ffn)
        yield measure(ffn, stream, mean_weight=context.mean_weight, weighs_tokens=context.weighs_tokens)


def leave_out(ffn: FeedForward, gone: Tensor) -> LayerPlan:
    """The plan for a network without these (count,) neurons."""
    return LayerPlan(ffn.path, ffn.width, np.setdiff1d(np.arange(ffn.width), gone.cpu().numpy()))


SECATEURS = Method(
    name=NAME,
    summary="importance, less what the neurons that stay carry, network after network, refitted (default)",
    plan=plan_by_set_information,
    needs=frozenset({"weights", "activations"}),
    sees=frozenset({"duplicates", "dead neurons"}),
    allocations=frozenset({"uniform", "global"}),
    refits=True,
    measures_itself=True,
)
