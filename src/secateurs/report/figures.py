"""The figures of a report, each made from result dataclasses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secateurs.report.marks import (
    KEPT,
    NEUTRAL,
    PALETTE,
    REMOVED,
    SYMBOLS,
    Axis,
    Bars,
    Figure,
    HeatMap,
    Line,
    Mark,
    Points,
    Values,
    block_means,
    limit_colours,
)
from secateurs.results.comparison import Point, Row
from secateurs.results.record import CompareRecord, InformationSummary, NetworkView, PruneRecord

HEAT_SIDE, MANY_SIDE, MANY = 512, 192, 8
"""Rows of a heat map at most; the same where there are more than so many networks."""
BINS = 30


def network_figures(view: NetworkView, information: InformationSummary, *, side: int = HEAT_SIDE) -> list[Figure]:
    """All figures of one network; heat maps are at most `side` on a side."""
    figures = [
        heat_map(view, information, side),
        pair_histogram(view, information),
        neuron_map(view, information),
        importance_plot(view, information),
    ]
    if len(view.entropy_nats):
        figures.append(_neuron_histogram(view, "entropy", "Entropy of each neuron", "entropy, nats", view.entropy_nats))
    if len(view.width_over_std):
        label = "r = kernel width / standard deviation"
        figures.append(_neuron_histogram(view, "widths", "Kernel width that fits each", label, view.width_over_std))
    return figures


def heat_map(view: NetworkView, information: InformationSummary, side: int = HEAT_SIDE) -> Figure:
    """What pairs of neurons have in common, neurons in cluster order."""
    shown = block_means(view.information, side)
    looked, (_, high) = _describe_sample(view), limit_colours(shown)
    blocks = f"; each cell is the mean of a block, {side} x {side} of them" if len(shown) < len(view.neurons) else ""
    axis = Axis("neurons, in the order of a dendrogram")
    return Figure(
        "heat",
        "What pairs of neurons have in common",
        f"Heat map of {len(shown)} by {len(shown)} cells for {view.path}: mean {_mean(view.information):.3g} "
        f"{information.unit} over pairs; bright squares on the diagonal are groups of neurons with much in common.",
        f"{looked}{blocks}. The diagonal is what a neuron has in common with itself; colours "
        f"end at {high:.3g} {information.unit}, which 0.5 % exceed.",
        axis,
        axis,
        (HeatMap(shown, information.unit),),
    )


def pair_histogram(view: NetworkView, information: InformationSummary) -> Figure:
    """How much pairs have in common, against what shuffled neurons seem to."""
    middles = (view.edges[:-1] + view.edges[1:]) / 2
    above = _share_above(view)
    return Figure(
        "pairs",
        "Pairs of neurons, against shuffled ones",
        f"Histogram for {view.path}. Shuffled neurons seem to have {view.baseline_mean:.3g} {information.unit} in "
        f"common on average; {above:.0%} of the real pairs have more than nearly all shuffled ones.",
        "Shuffled neurons have nothing in common: what they seem to have is what the estimator adds on so few rows.",
        Axis(f"in common, {information.unit}"),
        Axis("share of pairs"),
        (
            Line("pairs of neurons", middles, view.pairs, KEPT, is_stepped=True),
            Line("rows shuffled", middles, view.baseline, REMOVED, is_dashed=True, is_stepped=True),
        ),
    )


def neuron_map(view: NetworkView, information: InformationSummary) -> Figure:
    """Neurons as points, near each other where they have much in common."""
    clusters = int(view.cluster.max(initial=1))
    marks = []
    for name, symbol, chosen in (("stays", SYMBOLS[0], view.is_kept), ("removed", SYMBOLS[-1], ~view.is_kept)):
        if chosen.any():
            x, y = view.position[chosen].T
            colours = (view.cluster[chosen] - 1) % len(PALETTE)
            marks.append(Points(name, x, y, colours, symbol, _tell(view, information, chosen)))
    return Figure(
        "map",
        "Map of the neurons",
        f"Map of {len(view.neurons)} neurons of {view.path} in {clusters} clusters, {int(view.is_kept.sum())} of which "
        "stay (circles) and the others go (crosses).",
        f"{_describe_sample(view)}. Neurons with much in common lie near each other (classical scaling of 1 - share in "
        f"common); colours are {clusters} clusters of the dendrogram.",
        Axis("first direction"),
        Axis("second direction"),
        tuple(marks),
    )


def importance_plot(view: NetworkView, information: InformationSummary) -> Figure:
    """Importance of each neuron against what it has in common with one that stays."""
    marks: list[Mark] = []
    for name, symbol, colour, chosen in (
        ("stays", SYMBOLS[0], KEPT, view.is_kept),
        ("removed", SYMBOLS[-1], REMOVED, ~view.is_kept),
    ):
        if chosen.any():
            facts = _tell(view, information, chosen)
            marks.append(Points(name, view.redundancy[chosen], view.importance[chosen], colour, symbol, facts))
    stay, go = (
        float(np.median(view.importance[chosen])) if chosen.any() else 0.0 for chosen in (view.is_kept, ~view.is_kept)
    )
    return Figure(
        "importance",
        "Importance against redundancy",
        f"Scatter plot for {view.path}: median importance {stay:.3g} of neurons that stay, {go:.3g} of those removed.",
        "Importance: root mean square of the activation times the length of the neuron's outgoing weights. Redundancy: "
        "the most it has in common with another of the neurons looked at that stays.",
        Axis(f"most in common with one that stays, {information.unit}"),
        Axis("importance", is_log=bool((view.importance > 0).all())),
        tuple(marks),
    )


def removed_bars(views: Sequence[NetworkView]) -> Figure:
    """Share of neurons removed in each network."""
    shares = np.array([view.removed_share for view in views])
    return Figure(
        "removed",
        "Neurons removed in each network",
        f"Bars for {len(views)} networks: from {shares.min():.1%} to {shares.max():.1%} of their neurons were removed.",
        "Share of each network's neurons.",
        Axis("network"),
        Axis("share removed"),
        (Bars("removed", np.arange(len(views)), shares, REMOVED),),
    )


def error_bars(views: Sequence[NetworkView]) -> Figure | None:
    """Output error of each network as cut and after the refit; None where not measured."""
    if any(view.error_cut is None or view.error_refit is None for view in views):
        return None
    cut, refit = (np.array([getattr(view, name) for view in views]) for name in ("error_cut", "error_refit"))
    places = np.arange(len(views))
    return Figure(
        "errors",
        "Output error of each network",
        f"Bars for {len(views)} networks: mean relative error {cut.mean():.3f} as cut, {refit.mean():.3f} refitted.",
        "Squared error of the network's output relative to its size, on the calibration text; in a refit in turn what "
        "it makes up for on behalf of earlier networks counts too.",
        Axis("network"),
        Axis("relative error"),
        (Bars("as cut", places, cut, REMOVED, is_hatched=True), Bars("after the refit", places, refit, KEPT)),
    )


def redundancy_profile(views: Sequence[NetworkView], information: InformationSummary) -> Figure:
    """How much neurons have in common with one that stays, network by network."""
    low, middle, high = np.array([np.quantile(view.redundancy, (0.25, 0.5, 0.75)) for view in views]).T
    places, base = np.arange(len(views)), np.array([view.baseline_mean for view in views])
    return Figure(
        "redundancy",
        "How redundant each network is",
        f"Lines over {len(views)} networks: the median neuron has {middle.min():.3g} to {middle.max():.3g} "
        f"{information.unit} in common with another that stays; shuffled pairs {base.min():.3g} to {base.max():.3g}.",
        "Most that a neuron has in common with another one that stays, of those looked at: median and quartiles. "
        "The baseline is the mean over shuffled pairs.",
        Axis("network"),
        Axis(f"in common, {information.unit}"),
        (
            Line("median", places, middle, KEPT, symbol="circle"),
            Line("upper quartile", places, high, 2, symbol="triangle-up"),
            Line("lower quartile", places, low, 2, symbol="triangle-down"),
            Line("shuffled, mean", places, base, NEUTRAL, is_dashed=True),
        ),
    )


def count_neurons(record: PruneRecord) -> tuple[int, int]:
    """Neurons before and after, zero padding not counted."""
    total = sum(record.before.widths)
    return total, total - sum(view.width_before - view.width_after for view in record.networks)


def size_bars(record: PruneRecord) -> Figure:
    """What is left of the model, as shares of what it was."""
    before, after = record.before, record.after
    neurons = count_neurons(record)
    shares = {
        "neurons": neurons[1] / neurons[0],
        "FLOPs, ffn": after.ffn_multiply_adds / before.ffn_multiply_adds,
        "FLOPs, model": after.model_multiply_adds / before.model_multiply_adds,
        "parameters": after.parameters / before.parameters,
    }
    if record.bytes_before and record.bytes_after:
        shares["file size"] = record.bytes_after / record.bytes_before
    told = ", ".join(f"{name} {share:.4f}" for name, share in shares.items())
    return Figure(
        "sizes",
        "What is left of the model",
        f"Bars, as shares of the original: {told}.",
        "Shares of the original.",
        Axis("", names=tuple(shares)),
        Axis("after / before"),
        (Bars("after", np.arange(len(shares)), np.array(list(shares.values())), KEPT),),
    )


def across_figures(record: PruneRecord) -> list[Figure]:
    """Figures over all networks."""
    found = [
        removed_bars(record.networks),
        error_bars(record.networks),
        redundancy_profile(record.networks, record.information),
    ]
    return [figure for figure in found if figure is not None]


def card_figures(record: PruneRecord) -> list[Figure]:
    """The three for a model card."""
    errors = error_bars(record.networks) or removed_bars(record.networks)
    return [size_bars(record), errors, redundancy_profile(record.networks, record.information)]


def quality_plot(record: CompareRecord) -> Figure:
    """Quality against relative FLOPs, a line for each way to prune; at a single width one beneath the other.

    Log-losses are drawn as gaps, on a logarithmic scale where all are above 0; other scores as they are.
    """
    label = f"{record.metric} ({'lower' if record.is_loss else 'higher'} is better)"
    if record.is_loss:
        label = "log-loss less that before pruning, nats a token (lower is better)"
    best = next((row for row in record.rows if any(point.mark == "best" for point in row.points)), None)
    said = f" The best at the smallest width is {name_row(best, record.rows)}." if best else ""
    at_one_width = len(record.keeps) == 1
    marks = _dots(record) if at_one_width else _curves(record)
    if not record.is_loss:
        marks = (_line_before(record, marks, at_one_width=at_one_width), *marks)
    values = [_height(point, record) for row in record.rows for point in row.points]
    axis = Axis(label, is_log=record.is_loss and min(values, default=0.0) > 0)
    names = tuple(name_row(row, record.rows) for row in reversed(record.rows)) if at_one_width else ()
    dense = "" if record.is_loss else f" Before pruning: {record.dense:.4f}."
    told, other = ("Circles are", "crosses") if at_one_width else ("Solid lines are", "dashed ones")
    return Figure(
        "quality",
        f"Quality at keep {record.keeps[0]:g}" if at_one_width else "Quality against FLOPs",
        f"{len(record.rows)} ways to prune {record.model} at {len(record.keeps)} widths.{said}{dense}",
        f"Every measured point; bars are paired standard errors. {told} with Secateurs' refit, {other} without.{dense}",
        axis if at_one_width else Axis("relative FLOPs, scope ffn"),
        Axis("", names=names) if at_one_width else axis,
        marks,
    )


def name_row(row: Row, rows: Sequence[Row]) -> str:
    """A way to prune in a few words."""
    several = len({row.allocation for row in rows}) > 1
    return f"{row.method}{f', {row.allocation}' if several else ''}: {row.correction}"


def _curves(record: CompareRecord) -> tuple[Line, ...]:
    ways = {way: place for place, way in enumerate(dict.fromkeys((row.method, row.allocation) for row in record.rows))}
    marks = []
    for row in record.rows:
        place = ways[row.method, row.allocation]
        marks.append(
            Line(
                name_row(row, record.rows),
                np.array([point.relative_ffn_flops for point in row.points]),
                np.array([_height(point, record) for point in row.points]),
                place % len(PALETTE),
                is_dashed=row.correction != "refit",
                symbol=SYMBOLS[(place + place // len(PALETTE)) % len(SYMBOLS)],
                errors=_errors(row.points),
                facts=_row_facts(row.points),
            )
        )
    return tuple(marks)


def _dots(record: CompareRecord) -> tuple[Line, ...]:
    """One dot for each row, best on top."""
    marks = []
    for place, row in enumerate(reversed(record.rows)):
        is_refit = row.correction == "refit"
        marks.append(
            Line(
                name_row(row, record.rows),
                np.array([_height(point, record) for point in row.points]),
                np.full(len(row.points), place),
                KEPT if is_refit else REMOVED,
                symbol="circle" if is_refit else "x",
                errors=_errors(row.points),
                facts=_row_facts(row.points),
                is_joined=False,
            )
        )
    return tuple(marks)


def _line_before(record: CompareRecord, marks: Sequence[Line], *, at_one_width: bool) -> Line:
    """Where the model was before pruning."""
    places = np.concatenate([mark.y if at_one_width else mark.x for mark in marks])
    ends, level = np.array([places.min(), places.max()]), np.full(2, record.dense)
    x, y = (level, ends) if at_one_width else (ends, level)
    return Line("before pruning", x, y, NEUTRAL, is_dashed=True)


def _height(point: Point, record: CompareRecord) -> float:
    return point.gap if record.is_loss else point.quality


def _errors(points: Sequence[Point]) -> Values:
    return np.array([point.gap_standard_error or 0.0 for point in points])


def _row_facts(points: Sequence[Point]) -> dict[str, Values]:
    return {
        "keep": np.array([point.keep for point in points]),
        "gap": np.array([point.gap for point in points]),
        "FLOPs, scope model": np.array([point.relative_model_flops for point in points]),
        "seconds": np.array([point.seconds_choosing for point in points]),
    }


def _tell(view: NetworkView, information: InformationSummary, chosen: Values) -> dict[str, Values]:
    """What is told of some neurons."""
    nearest = view.nearest[chosen]
    return {
        "neuron": view.neurons[chosen],
        "cluster": view.cluster[chosen],
        "importance": view.importance[chosen],
        "nearest that stays": np.where(nearest < 0, "none", nearest.astype(str)),
        f"in common with it, {information.unit}": view.redundancy[chosen],
    }


def _neuron_histogram(view: NetworkView, key: str, title: str, label: str, values: Values) -> Figure:
    """How a figure of each neuron is distributed, of those that stay and of those removed."""
    low, high = float(values.min()), float(values.max())
    edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    stay, go = (np.histogram(values[chosen], edges)[0] for chosen in (view.is_kept, ~view.is_kept))
    return Figure(
        key,
        title,
        f"Histogram for {view.path}: from {low:.3g} to {high:.3g}, median {float(np.median(values)):.3g}.",
        f"{_describe_sample(view)}.",
        Axis(label),
        Axis("neurons"),
        (
            Line("stays", middles, stay, KEPT, is_stepped=True),
            Line("removed", middles, go, REMOVED, is_dashed=True, is_stepped=True),
        ),
    )


def _describe_sample(view: NetworkView) -> str:
    if len(view.neurons) == view.width_before:
        return f"All {view.width_before:,} neurons"
    return f"{len(view.neurons):,} of {view.width_before:,} neurons, drawn at random"


def _mean(matrix: Values) -> float:
    """Over pairs of different neurons."""
    pairs = matrix[np.triu_indices(len(matrix), 1)]
    return float(pairs.astype(np.float64).mean()) if len(pairs) else 0.0


def _share_above(view: NetworkView) -> float:
    """Share of pairs beyond the bin that 99 % of the shuffled ones lie below."""
    last = int(np.searchsorted(np.cumsum(view.baseline), 0.99))
    return float(view.pairs[last + 1 :].sum())
