"""A survey of a model's networks for people to look at: what a sample of their neurons have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from torch import Tensor

from secateurs.calibration import Calibration, CalibrationInput, prepare_unseen
from secateurs.capture import blaming_batch, run_body, watched
from secateurs.encoding import Batch
from secateurs.evaluation.looking import Impression, compare_impressions, take_impression
from secateurs.information import find_widths, mutual_information
from secateurs.memory import give_back
from secateurs.methods.contract import PruningContext
from secateurs.models.feedforward import FeedForward
from secateurs.models.loading import LoadedModel
from secateurs.models.outputs import as_inputs
from secateurs.results import LayerPlan, MutualInformation
from secateurs.results.record import InformationSummary, Look, NetworkView
from secateurs.selection.distances import normalised_distance
from secateurs.selection.scaling import scale_classically

MOST_NEURONS = 512
"""Neurons of a network that are looked at, drawn at random where it has more."""
MOST_SHUFFLED = 192
"""Of these, those whose rows are shuffled for the baseline."""
SURVEYED_TOKENS, TIMED_TOKENS = 384, 128
"""Tokens of text that activations are read on, and those of a sequence that is timed."""
KERNEL_ROWS = 100
"""Rows of the kernels, where the choice did not measure information."""
ALPHA, WIDTH = 2.0, 1.0
"""Order of the entropy there (the one that costs least, and is exact), and r = kernel width / standard deviation."""
CLUSTERS, DIMENSIONS = 8, 10
"""Groups of neurons, and the dimensions of the map that they are found in; two of these are shown."""
BINS = 40
Values = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of the unpruned model, for the report of a pruning."""

    unseen: Calibration
    """Text that the choice did not see, as far as there is any."""
    timed: Batch
    """A sequence that latency is measured on."""
    networks: tuple[NetworkView, ...]
    """The networks that are pruned."""
    information: InformationSummary
    """What their information was measured by."""
    impression: Impression
    """What the model makes of the text."""


@dataclass(frozen=True, slots=True)
class Views:
    """What a report shows beside sizes and settings."""

    look: Look
    """What the models make of some text."""
    information: InformationSummary
    """What information between neurons was measured by."""
    networks: tuple[NetworkView, ...]
    """The networks that were pruned."""


def observe(context: PruningContext, layers: Sequence[LayerPlan], given: CalibrationInput) -> Observation:
    """Look at the unpruned model, before it is cut; `given` is what its calibration was prepared from."""
    give_back()  # what choosing took
    loaded = context.loaded
    unseen = prepare_unseen(given, loaded, context.recipe, context.calibration)
    timed = _find_longest(unseen.batches)
    networks, information = survey(context, layers, unseen.head(SURVEYED_TOKENS).batches, unseen.summary.source)
    return Observation(unseen, timed, networks, information, take_impression(loaded, unseen.batches, timed))


def conclude(observed: Observation, pruned: LoadedModel) -> Views:
    """Look at the pruned model in the same way, and put the two side by side."""
    batches, text = observed.unseen.batches, observed.unseen.summary.source
    after = take_impression(pruned, batches, observed.timed)
    look = compare_impressions(pruned, batches, text, observed.impression, after)
    return Views(look, observed.information, observed.networks)


class NeuronSample:
    """Activations of some neurons, token after token; a fitter for `capture.watched`."""

    def __init__(self, neurons: NDArray[np.int64]) -> None:
        self.neurons = neurons
        self._places = torch.from_numpy(neurons)
        self._rows: list[Tensor] = []

    def update(self, rows: Tensor, candidates: Tensor, lengths: Tensor) -> NeuronSample:
        """Take in (n, K) activations of real tokens."""
        self._rows.append(rows[:, self._places.to(rows.device)].float().cpu())
        return self

    def finish(self) -> Tensor:
        """(n, S) float32, all rows so far."""
        return torch.cat(self._rows)


def draw_neurons(width: int, seed: int, place: int) -> NDArray[np.int64]:
    """Numbers of the neurons of a network to look at, sorted."""
    drawn = np.random.default_rng([seed, place, 2]).permutation(width)[:MOST_NEURONS]
    return np.sort(drawn).astype(np.int64)


def survey(
    context: PruningContext, layers: Sequence[LayerPlan], batches: Sequence[Batch], text: str
) -> tuple[tuple[NetworkView, ...], InformationSummary]:
    """What each network that is pruned looks like in the unpruned model, and what information was measured by.

    That is what the choice went by, where it measured any; else it is measured here.

    Args:
        context: of the choice; its model is unpruned still.
        layers: what is kept of each network.
        batches: text to measure activations on.
        text: where the batches are from, in words.
    """
    seed, ffns, model = context.recipe.seed, context.feedforwards, context.loaded.model
    samples = [NeuronSample(draw_neurons(ffn.width, seed, place)) for place, ffn in enumerate(ffns)]
    for number, batch in enumerate(batches):
        inputs = as_inputs(model, batch)
        with torch.inference_mode(), watched(ffns, samples, inputs, "tokens"), blaming_batch(number, "batch"):
            run_body(model, inputs)
    views, measured = [], []
    for place, (ffn, layer, sample) in enumerate(zip(ffns, layers, samples, strict=True)):
        rows = sample.finish()
        found, baseline = _measure(context, place, rows, sample.neurons)
        views.append(_view(ffn, layer, sample.neurons, rows, found, baseline))
        measured.append((found.unit, found.rows_per_kernel, found.kernels, len(rows)))
        context.progress("surveying networks", place + 1, len(ffns))
    unit, rows_per_kernel, kernels, tokens = measured[0]
    return tuple(views), InformationSummary(
        measure=_name_measure(context, kernels),
        unit=unit,
        rows=rows_per_kernel,
        text=context.calibration.summary.source if context.knows_information else text,
        tokens=tokens,
    )


def _name_measure(context: PruningContext, kernels: int) -> str:
    if not context.knows_information:
        return f"Renyi mutual information, alpha = {ALPHA:g}, r = {WIDTH:g}; measured for this report"
    recipe, mean = context.recipe, f", mean over {kernels} kernels" if kernels > 1 else ""
    renyi = f"Renyi mutual information, alpha = {recipe.alpha:g}, kernel width {recipe.kernel_width}{mean}"
    return f"{renyi if recipe.measure == 'renyi' else recipe.measure}; what the choice went by"


def _find_longest(batches: Sequence[Batch]) -> Batch:
    """One row with as many tokens as there are, up to `TIMED_TOKENS`; any row of inputs without tokens."""
    batch = max(batches, key=lambda batch: batch["input_ids"].shape[1] if "input_ids" in batch else 0)
    place = int(batch["attention_mask"].sum(dim=1).argmax()) if "attention_mask" in batch else 0
    row = {name: value[place : place + 1] for name, value in batch.items()}
    return {name: value[:, :TIMED_TOKENS] if value.ndim == 2 else value for name, value in row.items()}


def find_survey_warnings(views: Sequence[NetworkView], tokens: int) -> list[str]:
    """What a survey on so many tokens shows that the user should know, in words."""
    dead = [f"{n} ({view.constant} of {len(view.neurons)} looked at)" for n, view in enumerate(views) if view.constant]
    return [f"dead neurons, which do not vary on {tokens:,} tokens, in network {', '.join(dead)}"] if dead else []


def _view(
    ffn: FeedForward,
    layer: LayerPlan,
    neurons: NDArray[np.int64],
    rows: Tensor,
    found: MutualInformation,
    baseline: MutualInformation,
) -> NetworkView:
    columns = ffn.down_columns(neurons).norm(dim=1).cpu()
    importance = (rows.square().mean(dim=0).sqrt() * columns).numpy()
    is_kept = np.isin(neurons, layer.kept)
    redundancy, nearest = _find_nearest(found.values, is_kept)
    distance = np.asarray(normalised_distance(found), dtype=np.float64)
    points = scale_classically((distance + distance.T) / 2, DIMENSIONS)
    tree = linkage(points, "ward") if len(neurons) > 1 else None
    order = np.arange(1) if tree is None else leaves_list(tree)
    cluster = np.ones(1, int) if tree is None else fcluster(tree, CLUSTERS, "maxclust")
    edges, (pairs, shuffled) = _count(_of_pairs(found.values), _of_pairs(baseline.values))

    def ordered(values: Any, dtype: str) -> NDArray[Any]:
        return np.asarray(values)[order].astype(dtype)

    return NetworkView(
        path=ffn.path,
        width_before=ffn.width,
        width_after=layer.width,
        neurons=ordered(neurons, "<i4"),
        is_kept=ordered(is_kept, "|b1"),
        cluster=ordered(_number_by_order(cluster, order), "<i4"),
        importance=ordered(importance, "<f4"),
        redundancy=ordered(redundancy, "<f4"),
        nearest=ordered(np.where(nearest < 0, -1, neurons[nearest]), "<i4"),
        entropy_nats=_optional(found.entropy_nats, ordered),
        width_over_std=_optional(found.width_over_std, ordered),
        position=ordered(points[:, :2], "<f4"),
        information=np.asarray(found.values)[np.ix_(order, order)].astype("<f2"),
        edges=edges,
        pairs=pairs,
        baseline=shuffled,
        baseline_mean=float(np.mean(_of_pairs(baseline.values))) if len(neurons) > 1 else 0.0,
        constant=int((rows.std(dim=0, correction=0) == 0).sum()),
        is_saturated=found.saturated,
        error_cut=layer.figures.get("relative_error_cut"),
        error_refit=layer.figures.get("relative_error_refit"),
    )


def _measure(
    context: PruningContext, place: int, rows: Tensor, neurons: NDArray[np.int64]
) -> tuple[MutualInformation, MutualInformation]:
    """Information between the neurons of a sample, and between some of them when their rows are shuffled."""
    recipe = context.recipe
    if not context.knows_information:

        def measure(x: Tensor) -> MutualInformation:
            return mutual_information(x, alpha=ALPHA, width=WIDTH, batch_size=None)

        rows = rows[np.linspace(0, len(rows) - 1, min(KERNEL_ROWS, len(rows))).astype(int)]
        return _with_own_widths(measure(rows), rows), measure(_shuffle(rows[:, :MOST_SHUFFLED], recipe.seed))

    rows = context.statistics[place].samples[: recipe.kernel_rows * recipe.kernels, torch.from_numpy(neurons)]
    shuffled = mutual_information(
        _shuffle(rows[:, :MOST_SHUFFLED], recipe.seed),
        measure=recipe.measure,
        alpha=recipe.alpha,
        width=recipe.kernel_width,
        batch_size=recipe.kernel_rows,
        seed=recipe.seed,
    )
    found = _take(context.information(place), neurons)
    has_one_width = (
        found.width_over_std is not None and len(np.unique(found.width_over_std[found.width_over_std > 0])) < 2
    )
    return _with_own_widths(found, rows[: recipe.kernel_rows]) if has_one_width else found, shuffled


def _with_own_widths(found: MutualInformation, rows: Tensor) -> MutualInformation:
    """The same with the widths that Scott's rule, scaled, finds, where one was taken for all neurons."""
    ratio, saturated = find_widths(rows)
    return replace(found, width_over_std=ratio, saturated=saturated)


def _take(found: MutualInformation, neurons: NDArray[np.int64]) -> MutualInformation:
    """The same of some neurons only."""

    def of_each(values: Values | None) -> Values | None:
        return None if values is None else values[neurons]

    return replace(
        found,
        values=np.asarray(found.values[neurons])[:, neurons],
        entropy_nats=of_each(found.entropy_nats),
        width_over_std=of_each(found.width_over_std),
    )


def _shuffle(rows: Tensor, seed: int) -> Tensor:
    """Each column in a random order of its own."""
    keys = torch.rand(rows.shape, generator=torch.Generator().manual_seed(seed))
    return rows.gather(0, keys.argsort(dim=0))


def _find_nearest(values: Values, is_kept: NDArray[np.bool_]) -> tuple[Values, NDArray[np.int64]]:
    """The most that each neuron has in common with another that stays, and the place of that one; 0 and -1 without."""
    among = np.where(is_kept[None, :], values, -np.inf)
    np.fill_diagonal(among, -np.inf)
    most = among.max(axis=1)
    return np.where(np.isfinite(most), most, 0.0), np.where(np.isfinite(most), among.argmax(axis=1), -1)


def _of_pairs(values: Values) -> Values:
    pairs: Values = np.asarray(values)[np.triu_indices(len(values), 1)]
    return pairs


def _count(pairs: Values, shuffled: Values) -> tuple[Values, tuple[Values, Values]]:
    """(bins + 1,) edges that hold all values, and the share of each kind in each bin."""
    everything = np.concatenate([pairs, shuffled, [0.0, 1e-6]])
    edges = np.linspace(everything.min(), everything.max(), BINS + 1)
    counts = [np.histogram(values, edges)[0] / max(len(values), 1) for values in (pairs, shuffled)]
    return edges.astype("<f4"), (counts[0].astype("<f4"), counts[1].astype("<f4"))


def _number_by_order(cluster: NDArray[np.integer[Any]], order: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Clusters numbered from 1 as they come in an order."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(cluster[order].tolist()), start=1)}
    return np.array([numbers[name] for name in cluster.tolist()])


def _optional(values: Values | None, ordered: Callable[[Any, str], NDArray[Any]]) -> NDArray[Any]:
    return np.empty(0, "<f4") if values is None else ordered(values, "<f4")
