"""Figure 7: what trying more random starts brings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from secateurs.cells import Cell
from secateurs.methods.clusters import draw_candidates, rate_candidates
from secateurs.models.feedforward import masked
from secateurs.paper.bench import Variant, make_cell, open_bench, open_pruning, score, tune_models, width_at
from secateurs.paper.results import Document
from secateurs.paper.study import CANDIDATES, RELATIVE_FLOPS, Study, run_cells
from secateurs.paper.variants import LITERAL, SCALED
from secateurs.results import Progress
from secateurs.tables import as_markdown
from secateurs.tasks import TASKS

TASK = "mrpc"
COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
RESAMPLES = 500
"""Random sets of starts, drawn with replacement, that each count is averaged over."""


def fig7(study: Study, progress: Progress) -> Document:
    """Score of the start chosen among 1 to 500, on MRPC (or the first task asked for)."""
    task = TASK if TASK in study.tasks else study.tasks[0]
    tune_models(replace(study, tasks=(task,)), progress)
    variants = [replace(v, settings={**v.settings, "seeds": CANDIDATES}) for v in (LITERAL, SCALED)]
    cells = [
        make_cell(study, task, seed, variant, relative_flops=RELATIVE_FLOPS)
        for seed in study.seeds
        for variant in variants
    ]
    content: dict[str, Any] = {"task": task, "cells": run_cells(study, "fig7", cells, work_seeds, progress)}
    return Document(content, _markdown(content), lambda figure: _draw(figure, content))


def work_seeds(study: Study, cell: Cell) -> dict[str, Any]:
    """KL and validation score of each of 500 starts."""
    task, bench = cell.settings["task"], open_bench(study, cell.settings["task"], cell.settings["seed"])
    variant = Variant(**cell.settings["variant"])
    context = open_pruning(bench, variant, 0)
    context = context.under(context.recipe, width_at(bench, cell.settings["relative_flops"], study.scope))
    candidates = draw_candidates(context)
    divergence, metric, scores = rate_candidates(context, candidates), TASKS[task].metrics[0], []
    for candidate in candidates:
        with masked(context.feedforwards, candidate.masks(context)):
            scores.append(score(bench.loaded.model, bench, task)[metric])
    return {
        "task": task,
        "seed": cell.settings["seed"],
        "method": variant.label,
        "kl_nats": divergence.tolist(),
        "scores": scores,
        "spearman": float(spearmanr(divergence, scores).statistic) if len(set(scores)) > 1 else 0.0,
        "candidates_per_second": context.rates["candidates per second"],
    }


def choose_among(cell: Mapping[str, Any]) -> dict[int, tuple[float, float]]:
    """Mean and deviation of the chosen start's score, by how many starts there were to choose from."""
    divergence, scores = np.array(cell["kl_nats"]), np.array(cell["scores"])
    random, found = np.random.default_rng(0), {}
    for count in COUNTS:
        sets = [random.integers(len(scores), size=count) for _ in range(RESAMPLES)]
        chosen = [scores[some[divergence[some].argmin()]] for some in sets]
        found[count] = float(np.mean(chosen)), float(np.std(chosen))
    return found


def _markdown(content: Mapping[str, Any]) -> str:
    rows, remarks = [], []
    for cell in content["cells"]:
        label, chosen, scores = f"{cell['method']}, seed {cell['seed']}", choose_among(cell), cell["scores"]
        rows.append([label, *(f"{chosen[count][0]:.3f}" for count in COUNTS)])
        remarks.append(
            f"{label}: Spearman of KL and score {cell['spearman']:+.2f}; over all starts the mean score is "
            f"{np.mean(scores):.3f}, the best {max(scores):.3f}; "
            f"{cell['candidates_per_second']:.0f} candidates a second.\n"
        )
    metric = TASKS[content["task"]].metrics[0]
    heading = f"{content['task']}, {metric} of the start chosen among so many (mean over random sets of starts):\n\n"
    return heading + as_markdown(["", *map(str, COUNTS)], rows) + "\n" + "\n".join(remarks)


def _draw(figure: Any, content: Mapping[str, Any]) -> None:
    lines, points = figure.subplots(1, 2)
    for cell in content["cells"]:
        label, chosen = f"{cell['method']}, seed {cell['seed']}", choose_among(cell)
        mean, spread = (np.array([chosen[count][place] for count in COUNTS]) for place in (0, 1))
        (line,) = lines.plot(COUNTS, mean, marker="o", markersize=3, label=label)
        lines.fill_between(COUNTS, mean - spread, mean + spread, color=line.get_color(), alpha=0.12, linewidth=0)
        points.scatter(cell["kl_nats"], cell["scores"], s=4, alpha=0.5, rasterized=True, label=label)
    metric = TASKS[content["task"]].metrics[0]
    lines.set(xscale="log", xlabel="random starts to choose from", ylabel=metric, title="score of the start chosen")
    points.set(xscale="log", xlabel="KL from the original, nats", ylabel=metric, title="every start")
    lines.legend(fontsize="small")
