"""Table 1, the data, and Table 2, every method at 40 % of the FLOPs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from secateurs.cells import Cell
from secateurs.paper.bench import Variant, make_cell, open_bench, prune_and_score, tune_models, width_at
from secateurs.paper.results import Document, Values, find_floor, has_signal, is_tie, mean_and_spread
from secateurs.paper.study import RELATIVE_FLOPS, Study, run_cells
from secateurs.paper.variants import TABLE_VARIANTS, find_variants
from secateurs.results import Progress
from secateurs.tables import as_markdown
from secateurs.tasks import TASKS, read_examples

PAPER_ROWS: Mapping[str, tuple[int, int]] = {
    "sst2": (67_349, 872),
    "stsb": (5_749, 1_500),
    "mrpc": (3_668, 408),
    "qqp": (363_846, 40_430),
    "qnli": (104_743, 5_463),
}
"""Training and validation rows of GLUE, which the paper is measured on."""


def table1(study: Study, progress: Progress) -> Document:
    """Rows and metrics of the data here, beside GLUE's own."""
    rows, content = [], []
    for number, (name, task) in enumerate(TASKS.items()):
        progress("table1: tasks", number, len(TASKS))
        glue = PAPER_ROWS[name]
        entry: dict[str, Any] = {"task": name, "metrics": list(task.metrics), "glue_rows": list(glue)}
        if name in study.tasks:
            train, validation = (read_examples(task, study.data, split) for split in ("train", "validation"))
            floor = find_floor(name, validation.labels)
            entry |= {"rows": [len(train), len(validation)], "floor": floor}
            here = [f"{len(train):,}", f"{len(validation):,}"]
            floors = " / ".join(f"{value:.3f}" for value in floor.values())
        else:
            here, floors = ["not measured here", ""], ""
        content.append(entry)
        rows.append([name, " / ".join(task.metrics), *here, floors, f"{glue[0]:,}", f"{glue[1]:,}"])
    progress("table1: tasks", len(TASKS), len(TASKS))
    columns = ["task", "metrics", "train", "validation", "floor", "train in GLUE", "validation in GLUE"]
    return Document({"rows": content}, as_markdown(columns, rows))


def table2(study: Study, progress: Progress) -> Document:
    """Every method at 40 % of the FLOPs, with and without refit, over tasks and fine-tuning seeds."""
    manifests = tune_models(study, progress)
    cells = [
        make_cell(study, task, seed, variant, relative_flops=RELATIVE_FLOPS)
        for task in study.tasks
        for seed in study.seeds
        for variant in find_variants(TABLE_VARIANTS, study)
    ]
    results = run_cells(study, "table2", cells, work_table2, progress)
    content = {"dense": _dense(study, manifests), "cells": results}
    return Document(content, _table2_markdown(study, content))


def work_table2(study: Study, cell: Cell) -> dict[str, Any]:
    """One method on one fine-tuned model."""
    task, seed = cell.settings["task"], cell.settings["seed"]
    variant, bench = Variant(**cell.settings["variant"]), open_bench(study, task, seed)
    width = width_at(bench, cell.settings["relative_flops"], study.scope)
    entries = prune_and_score(bench, task, variant, [width], [False, True])
    return {"task": task, "seed": seed, "method": variant.label, "entries": entries}


def _dense(study: Study, manifests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each task's dense scores, seed by seed, and its floor."""
    found = []
    for task in study.tasks:
        labels = read_examples(TASKS[task], study.data, "validation").labels
        of_task = [manifest for manifest in manifests if manifest["task"] == task]
        metric, floor = TASKS[task].metrics[0], find_floor(task, labels)
        scores = [manifest["scores"] for manifest in of_task]
        first = [score[metric] for score in scores]
        found.append(
            {
                "task": task,
                "scores": scores,
                "floor": floor,
                "margin": float(np.mean(first)) - floor[metric],
                "has_signal": has_signal(first, floor[metric]),
            }
        )
    return found


def _table2_markdown(study: Study, content: Mapping[str, Any]) -> str:
    columns = ["method", "refit", *(f"{task}, {' / '.join(TASKS[task].metrics)}" for task in study.tasks)]
    dense = content["dense"]
    rows = [
        ["Original", "", *(_both(entry["scores"], entry["task"]) for entry in dense)],
        ["floor", "", *(" / ".join(f"{value:.3f}" for value in entry["floor"].values()) for entry in dense)],
        ["Original above floor", "", *(_margin(entry) for entry in dense)],
        ["relative FLOPs, scope ffn", "", *_flops(study, content["cells"], "relative_ffn_flops")],
        ["relative FLOPs, scope model", "", *_flops(study, content["cells"], "relative_model_flops")],
    ]
    scores = _all_scores(content["cells"])
    columns_of = {task: _first_metrics(scores, task) for task in study.tasks}
    can_compare = {entry["task"]: entry["has_signal"] is True for entry in dense}
    for method, refit in next(iter(columns_of.values())):
        texts = []
        for task, column in columns_of.items():
            text, mine, best = _both(scores[task, method, refit], task), column[method, refit], _best(column)
            if can_compare[task]:
                text = f"**{text}**" if mine is best else f"{text} =" if is_tie(mine, best) else text
            texts.append(text)
        rows.append([method, "yes" if refit else "no", *texts])
    note = "One fine-tuning seed: nothing is said about which method is better.\n"
    if len(study.seeds) > 1:
        note = (
            "Mean ± standard deviation over fine-tuning seeds, random draws averaged first. Bold: the best of a column "
            "with signal; =: a tie with it, the paired difference lying within 2 standard errors of 0.\n"
        )
    return as_markdown(columns, rows) + "\n" + note + "\n" + _random_spread(study, content["cells"])


def _both(scores: Sequence[Mapping[str, float]], task: str) -> str:
    return " / ".join(mean_and_spread([score[metric] for score in scores]) for metric in TASKS[task].metrics)


def _margin(entry: Mapping[str, Any]) -> str:
    words = {True: "", False: ", no signal", None: ", one seed"}
    return f"{entry['margin']:+.3f}{words[entry['has_signal']]}"


def _flops(study: Study, cells: Sequence[Mapping[str, Any]], scope: str) -> list[str]:
    return [f"{next(cell for cell in cells if cell['task'] == task)['entries'][0][scope]:.3f}" for task in study.tasks]


def _all_scores(cells: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, bool], list[dict[str, float]]]:
    """Scores of each seed, by task, method and refit; draws averaged."""
    found: dict[tuple[str, str, bool], list[dict[str, float]]] = defaultdict(list)
    for cell in cells:
        for refit in (False, True):
            entries = [entry["scores"] for entry in cell["entries"] if entry["refit"] == refit]
            mean = {metric: float(np.mean([entry[metric] for entry in entries])) for metric in entries[0]}
            found[cell["task"], cell["method"], refit].append(mean)
    return found


def _first_metrics(scores: Mapping[tuple[str, str, bool], Any], task: str) -> dict[tuple[str, bool], Values]:
    metric = TASKS[task].metrics[0]
    return {
        (method, refit): np.array([score[metric] for score in of_seeds])
        for (name, method, refit), of_seeds in scores.items()
        if name == task
    }


def _best(column: Mapping[tuple[str, bool], Values]) -> Values:
    return max(column.values(), key=lambda values: float(values.mean()))


def _random_spread(study: Study, cells: Sequence[Mapping[str, Any]]) -> str:
    """The spread of random draws on one model, which any single run of a method is to be held against."""
    rows = []
    for refit in (False, True):
        row = ["yes" if refit else "no"]
        for task in study.tasks:
            metric = TASKS[task].metrics[0]
            spreads = [
                np.std([entry["scores"][metric] for entry in cell["entries"] if entry["refit"] == refit], ddof=1)
                for cell in cells
                if cell["task"] == task and len(cell["entries"]) > 2
            ]
            row.append(f"{np.mean(spreads):.3f}")
        rows.append(row)
    return "Spread of random draws on one model:\n\n" + as_markdown(["refit", *study.tasks], rows)
