"""Figures 2 to 6: scores against relative FLOPs for several ways to prune, on the same fine-tuned models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from secateurs.cells import Cell
from secateurs.information import mutual_information
from secateurs.information.estimator import WidthRule
from secateurs.paper.bench import (
    Variant,
    capture_rows,
    make_cell,
    open_bench,
    prune_and_score,
    tune_models,
    width_at,
)
from secateurs.paper.results import Document
from secateurs.paper.study import Study, run_cells
from secateurs.paper.variants import (
    ALPHA_VARIANTS,
    CORRELATION_VARIANTS,
    CURVE_VARIANTS,
    MEASURE_VARIANTS,
    SHARE_VARIANTS,
    find_variants,
)
from secateurs.results import Progress
from secateurs.tables import as_markdown
from secateurs.tasks import TASKS

PAIRS_WIDTH: WidthRule = "scott-scaled"
SCATTER_ROWS, SCATTER_PAIRS = 500, 1000
"""Rows that Figure 4 measures pairs on, and pairs of a network that are drawn as points."""


@dataclass(frozen=True, slots=True)
class Curves:
    """One figure: variants to compare."""

    name: str
    """Of the experiment."""
    title: str
    """Of the plot."""
    variants: tuple[Variant, ...]
    """Lines of the plot."""


FIG2 = Curves("fig2", "Score against relative FLOPs", CURVE_VARIANTS)
FIG3 = Curves("fig3", "Clusters by several measures of what neurons share", MEASURE_VARIANTS)
FIG4 = Curves("fig4", "Clusters by mutual information and by correlation", CORRELATION_VARIANTS)
FIG5 = Curves("fig5", "Clusters by the fraction of the training rows measured on", SHARE_VARIANTS)
FIG6 = Curves("fig6", "Clusters by the order of the entropy", ALPHA_VARIANTS)


def find_levels(study: Study) -> list[float]:
    """Relative FLOPs of a curve's points."""
    steps = 10 if study.quick else 100
    return [round(number / steps, 2) for number in range(1, steps)]


def run_curves(curves: Curves, study: Study, progress: Progress) -> Document:
    """Scores of each variant at each level, over tasks and fine-tuning seeds."""
    manifests = tune_models(study, progress)
    cells = [
        make_cell(study, task, seed, variant, levels=find_levels(study))
        for task in study.tasks
        for seed in study.seeds
        for variant in find_variants(curves.variants, study)
    ]
    results = run_cells(study, curves.name, cells, work_curve, progress)
    dense = {
        task: float(np.mean([m["scores"][TASKS[task].metrics[0]] for m in manifests if m["task"] == task]))
        for task in study.tasks
    }
    content = {"title": curves.title, "scope": study.scope, "dense": dense, "cells": results}
    return Document(content, _markdown(content), lambda figure: draw_curves(figure, content))


def work_curve(study: Study, cell: Cell) -> dict[str, Any]:
    """One variant on one fine-tuned model, at every level."""
    task, seed = cell.settings["task"], cell.settings["seed"]
    variant, bench = Variant(**cell.settings["variant"]), open_bench(study, task, seed)
    widths = sorted({width_at(bench, level, study.scope) for level in cell.settings["levels"]})
    entries = prune_and_score(bench, task, variant, widths, [False])
    return {"task": task, "seed": seed, "method": variant.label, "entries": entries}


def fig4(study: Study, progress: Progress) -> Document:
    """Figure 4: the curves, and how far mutual information and correlation order pairs of neurons alike."""
    curves = run_curves(FIG4, study, progress)
    seed, settings = study.seeds[0], {"rows": SCATTER_ROWS, "pairs": SCATTER_PAIRS, "kernel_width": PAIRS_WIDTH}
    cells = [make_cell(study, task, seed, None, **settings) for task in study.tasks]
    pairs = run_cells(study, "fig4-pairs", cells, work_pairs, progress)
    content = {**curves.content, "pairs": pairs}
    rows = [[pair["task"], *(f"{value:.3f}" for value in pair["spearman"])] for pair in pairs]
    networks = [f"network {place}" for place in range(len(pairs[0]["spearman"]))]
    table = as_markdown(["Spearman of I and absolute r over all pairs", *networks], rows)
    return Document(content, curves.markdown + "\n" + table, lambda figure: _draw_with_pairs(figure, content))


def work_pairs(study: Study, cell: Cell) -> dict[str, Any]:
    """Mutual information and correlation of all pairs of neurons of one model."""
    task, found, points = cell.settings["task"], [], []
    for rows in capture_rows(open_bench(study, task, cell.settings["seed"]), SCATTER_ROWS):
        shared = mutual_information(rows, width=PAIRS_WIDTH).values
        correlation = mutual_information(rows, measure="pearson").values
        upper = np.triu_indices(len(shared), 1)
        found.append(float(spearmanr(shared[upper], correlation[upper]).statistic))
        drawn = np.random.default_rng(0).permutation(len(upper[0]))[:SCATTER_PAIRS]
        chosen = upper[0][drawn], upper[1][drawn]
        points.append({"correlation": _short(correlation[chosen]), "mi_nats": _short(shared[chosen])})
    return {"task": task, "spearman": found, "points": points}


def _draw_with_pairs(figure: Any, content: Mapping[str, Any]) -> None:
    """The curves above, and below the information of pairs of neurons against their correlation."""
    upper, lower = figure.subfigures(2, 1)
    figure.set_size_inches(16, 8)
    draw_curves(upper, content)
    for axes, pair in zip(lower.subplots(1, len(content["pairs"]), squeeze=False)[0], content["pairs"], strict=True):
        for network, points in enumerate(pair["points"]):
            axes.scatter(
                points["correlation"], points["mi_nats"], s=3, alpha=0.4, rasterized=True, label=f"network {network}"
            )
        axes.set(title=pair["task"], xlabel="absolute correlation", ylabel="information, nats")
        axes.legend(fontsize="small")


def draw_curves(figure: Any, content: Mapping[str, Any]) -> None:
    """One panel a task: a line for each variant, the mean over seeds, and a band of their standard deviation."""
    tasks = list(content["dense"])
    for place, (axes, task) in enumerate(zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True)):
        metric = TASKS[task].metrics[0]
        for method, points in _curves_of(content, task).items():
            levels = sorted(points)
            mean = np.array([np.mean(points[level]) for level in levels])
            spread = np.array([np.std(points[level], ddof=min(1, len(points[level]) - 1)) for level in levels])
            (line,) = axes.plot(levels, mean, marker="o" if len(levels) < 20 else "", markersize=3, label=method)
            axes.fill_between(levels, mean - spread, mean + spread, color=line.get_color(), alpha=0.12, linewidth=0)
        axes.axhline(content["dense"][task], color="0.5", linestyle=":", label="original")
        axes.set(title=task, xlabel=f"relative FLOPs, scope {content['scope']}", ylabel=metric)
        if place == 0:
            axes.legend(fontsize="small")


def _curves_of(content: Mapping[str, Any], task: str) -> dict[str, dict[float, list[float]]]:
    """Scores of the seeds, draws averaged, by method and relative FLOPs."""
    metric, scope = TASKS[task].metrics[0], f"relative_{content['scope']}_flops"
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in content["cells"]:
        if cell["task"] == task:
            of_draws: dict[float, list[float]] = defaultdict(list)
            for entry in cell["entries"]:
                of_draws[round(entry[scope], 4)].append(entry["scores"][metric])
            for level, scores in of_draws.items():
                found[cell["method"]][level].append(float(np.mean(scores)))
    return found


def _markdown(content: Mapping[str, Any]) -> str:
    """A table a task; at most nine columns of a long curve."""
    parts = []
    for task, dense in content["dense"].items():
        curves = _curves_of(content, task)
        levels = sorted(next(iter(curves.values())))
        shown = levels if len(levels) <= 10 else levels[9::10]
        rows = [[method, *(f"{np.mean(points[level]):.3f}" for level in shown)] for method, points in curves.items()]
        heading = f"{task}, {TASKS[task].metrics[0]} by relative FLOPs (scope {content['scope']}); original {dense:.3f}"
        parts.append(f"{heading}:\n\n" + as_markdown(["", *(f"{level:.2f}" for level in shown)], rows))
    return "\n".join(parts)


def _short(values: Any) -> list[float]:
    return [round(float(value), 4) for value in values]
