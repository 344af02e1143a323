"""Ways to choose neurons that were tried: each is choose(context, place, width) -> kept, in the unpruned model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from readings import read_tokens
from sklearn.cluster import KMeans
from sklearn.feature_selection import mutual_info_regression
from torch import Tensor

from secateurs.information import mutual_information
from secateurs.methods import PruningContext
from secateurs.results import MutualInformation
from secateurs.selection.distances import normalised_distance
from secateurs.selection.elimination import order_removals
from secateurs.selection.medoids import select_medoids
from secateurs.selection.ranking import find_largest_shared, penalise_redundancy, select_top

Kept = np.ndarray[Any, Any]
Choose = Callable[[PruningContext, int, int], Kept]
PAIRS = {"alpha": 2.0, "r": 2.0, "batch_size": 500}
"""Information between pairs, unless a row says otherwise; r is the kernel width in standard deviations."""


def pairs(context: PruningContext, place: int, *, tokens: str | None = None, **settings: Any) -> MutualInformation:
    """Information of all pairs over one kernel of sampled tokens (of a kind), computed once."""
    asked = {**PAIRS, **settings}
    samples = _samples(context, place) if tokens is None else read_tokens(context, tokens).samples[place]
    taken = samples[: asked["batch_size"]]
    key, r = ("pairs", place, tokens, *asked.items()), asked.pop("r")
    return context.once(key, lambda: mutual_information(taken, width=r, **asked))


def important(context: PruningContext, place: int, width: int) -> Kept:
    """The most important, whatever others carry."""
    return select_top(context.importance(place), width)


def penalised(context: PruningContext, place: int, width: int, *, soft: float | None = None, **settings: Any) -> Kept:
    """Importance less the largest share with a more important neuron: the ramp from 1/2, or exp(-soft x share)."""
    scores = context.importance(place)
    shared = find_largest_shared(scores, pairs(context, place, **settings))
    return select_top(penalise_redundancy(scores, shared) if soft is None else scores * np.exp(-soft * shared), width)


def relevant(context: PruningContext, place: int, width: int, *, weight: float, to: str = "layer") -> Kept:
    """mRMR: one at a time, the highest information with an output less `weight` x mean with those chosen.

    The output is the layer's own, or with `to="end"` the model's final representation.
    """
    relevance = context.once(("relevance", place, to), lambda: _relevance(context, place, to))
    information = pairs(context, place, tokens="any").values
    chosen, total = [int(relevance.argmax())], np.zeros(len(relevance))
    while len(chosen) < width:
        total += information[chosen[-1]]
        score = relevance - weight * total / len(chosen)
        score[chosen] = -np.inf
        chosen.append(int(score.argmax()))
    return np.sort(np.array(chosen))


def _relevance(context: PruningContext, place: int, to: str) -> Kept:
    """(K,) alpha = 2 information in nats of each neuron with the whole output, kernel width its mean distance."""
    reading, count, device = read_tokens(context, "any"), PAIRS["batch_size"], context.feedforwards[place].device
    rows = reading.samples[place][:count].to(device)
    output = rows @ context.down_columns(place) if to == "layer" else reading.states[:count].to(device)
    distance = torch.cdist(output.double(), output.double())
    of_output = torch.exp(-(distance / distance.mean()).square())  # (n, n), squared Gram
    scaled = rows.double() / (rows.double().std(dim=0, correction=0).clamp(min=1e-12) * PAIRS["r"])
    found = []
    for values in scaled.T:
        own = torch.exp(-(values[:, None] - values).square())  # (n, n), squared Gram
        found.append((own * of_output).mean().log() - own.mean().log() - of_output.mean().log())
    return torch.stack(found).cpu().numpy()


def set_order(context: PruningContext, place: int, width: int, *, noise: float, kind: str = "all") -> Kept:
    """One removal at a time, with noise in proportion to a second moment, or to what no other neuron carries of it."""
    moments = damped(context, place, 1e-6)
    size = 1 / invert(moments).diagonal() if kind == "unique" else moments.diagonal().clone()
    moments.diagonal().add_(noise * size)
    return _without(order_removals(moments, context.down_columns(place).double(), len(moments) - width).order, moments)


def given_all(context: PruningContext, place: int, width: int, *, kind: str) -> Kept:
    """Importance^2 x exp(-2 I(z_j; all others)), ranked once; I from one of `SHARES`."""
    share = context.once(("share", kind, place), lambda: SHARES[kind](context, place))
    return select_top(context.importance(place) ** 2 * share, width)


def _linear_share(context: PruningContext, place: int) -> Kept:
    """(K,) variance of each neuron that a linear prediction from the others leaves, in units of its own."""
    moments = damped(context, place, 0.01)
    return (1 / (invert(moments).diagonal() * moments.diagonal())).cpu().numpy()


def _quadratic_share(context: PruningContext, place: int) -> Kept:
    """(K,) the same when the squares of the others predict too; on sampled rows, with a strong ridge."""
    rows = _samples(context, place).double()
    z = (rows - rows.mean(dim=0)) / rows.std(dim=0).clamp(min=1e-12)
    squares = z.clamp(-4, 4).square()
    features = torch.cat([z, squares - squares.mean(dim=0)], dim=1)
    gram = features.T @ features / len(rows)
    gram.diagonal().add_(0.3 * gram.diagonal().mean())
    inverse, neurons = invert(gram), rows.shape[1]
    own = torch.arange(neurons, device=gram.device)
    # a neuron's own square is no predictor: given all but both, their covariance is the inverse of this 2 x 2 block
    a, b, d = inverse[own, own], inverse[own, own + neurons], inverse[own + neurons, own + neurons]
    return (d / (a * d - b * b) / gram.diagonal()[:neurons]).cpu().numpy()


def _kernel_share(context: PruningContext, place: int) -> Kept:
    """(K,) exp(-2 I) with I by log-determinants of Gaussian kernels, r = 2, each by the first terms of its series.

    exp(-(x - y)^2 / 2 r^2) is a sum of products of exp(-x^2 / 2 r^2) (x / r)^k / sqrt(k!) and the same of y.
    """
    rows = _samples(context, place).double()
    z = (rows - rows.mean(dim=0)) / rows.std(dim=0).clamp(min=1e-12) / PAIRS["r"]
    damping, terms, neurons = (-z.square() / 2).exp(), 3, rows.shape[1]
    features = torch.stack([damping * z**k / math.sqrt(math.factorial(k)) for k in range(terms)], dim=2).flatten(1)
    features -= features.mean(dim=0)
    gram = features.T @ features / len(rows)
    gram.diagonal().mul_(1.3)  # noise, as there are more features than rows
    own = torch.arange(neurons, device=gram.device)
    blocks = [matrix.view(neurons, terms, neurons, terms)[own, :, own] for matrix in (gram, invert(gram))]
    return torch.exp(-sum(torch.logdet(block) for block in blocks)).cpu().numpy()


def _neighbour_share(context: PruningContext, place: int) -> Kept:
    """(K,) exp(-2 I) with I by nearest neighbours between a neuron and its best linear prediction from the others."""
    inverse = invert(damped(context, place, 0.01).cpu())
    rows = context.statistics[place].samples[:1000].double()
    predicted = rows - rows @ (inverse / inverse.diagonal())  # (n, K), column j: what the others say of z_j
    shares = []
    for j in range(rows.shape[1]):
        information = mutual_info_regression(predicted[:, j, None].numpy(), rows[:, j].numpy(), random_state=0)
        shares.append(float(np.exp(-2 * information[0])))
    return np.array(shares)


SHARES = {
    "linear": _linear_share,
    "quadratic": _quadratic_share,
    "kernels": _kernel_share,
    "neighbours": _neighbour_share,
}


def representatives(context: PruningContext, place: int, width: int, *, weighted: bool) -> Kept:
    """The most important neuron of each cluster: of k-medoids, or of k-means weighted by importance."""
    scores, information = context.importance(place), pairs(context, place)
    distance = normalised_distance(information)
    if weighted:
        labels = KMeans(width, n_init=1, random_state=0, max_iter=50).fit(1 - distance, sample_weight=scores).labels_
    else:
        labels = distance[select_medoids(distance, width, 0)].argmin(axis=0)
    best = [int(np.flatnonzero(labels == label)[scores[labels == label].argmax()]) for label in np.unique(labels)]
    rest = [j for j in np.argsort(-scores) if j not in set(best)][: width - len(best)]
    return np.sort(np.array([*best, *rest]))


def removal(context: PruningContext, place: int, width: int, *, pairs_as: str | None = None) -> Kept:
    """Removal costs under noise of 0.1 x each second moment, alone or with what pairs share.

    `pairs_as`: a "factor" of the cost, 1 - share / 2; or "ties", to tell the last tenth of those to go from the next.
    """
    columns, moments = context.down_columns(place).double(), damped(context, place, 0.0)
    moments.diagonal().mul_(1.1)
    going = len(moments) - width
    if pairs_as is None:
        return _without(order_removals(moments, columns, going).order, moments)
    shared = find_largest_shared(context.importance(place), pairs(context, place))
    if pairs_as == "factor":
        columns = columns * torch.from_numpy(1 - shared / 2).to(columns).sqrt()[:, None]
        return _without(order_removals(moments, columns, going).order, moments)
    order = order_removals(moments, columns, going + going // 10).order.cpu().numpy()
    sure, close = order[: going - going // 10], order[going - going // 10 :]
    close = close[np.argsort(-shared[close], kind="stable")][: going // 10]
    return np.setdiff1d(np.arange(len(moments)), np.concatenate([sure, close]))


def damped(context: PruningContext, place: int, damping: float) -> Tensor:
    """(K, K) float64, second moments with a share of the mean diagonal added to it."""
    moments = context.second_moments(place).to(context.feedforwards[place].solving_device, copy=True)
    moments.diagonal().add_(damping * moments.diagonal().mean())
    return moments


def _samples(context: PruningContext, place: int) -> Tensor:
    return context.statistics[place].samples.to(context.feedforwards[place].solving_device)


def invert(matrix: Tensor) -> Tensor:
    """Inverse of a positive definite matrix."""
    return torch.cholesky_inverse(torch.linalg.cholesky(matrix))


def _without(gone: Tensor, moments: Tensor) -> Kept:
    return np.setdiff1d(np.arange(len(moments)), gone.cpu().numpy())
