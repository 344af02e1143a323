"""Scores less those before pruning, in results of `secateurs compare` on fine-tuned models, as one Markdown table.

    python benchmarks/compare/tasks.py benchmarks/compare/tiny-*/compare.json [--keep 0.4]

A folder is named `MODEL-TASK-SEED`. A run is a draw of one fine-tuning (a seed). A task's column is the mean over runs,
the last one the mean over tasks ± its standard error over runs, each run's mean over the tasks being one value. Runs
that lack a task are left out.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secateurs.compare.entries import as_entry
from secateurs.tables import as_markdown

Gains = Mapping[str, NDArray[np.float64]]
"""(runs,) by task."""


def read_gains(paths: list[Path], keep: float) -> dict[tuple[str, ...], Gains]:
    """What each row gains over the model before pruning."""
    found: dict[tuple[str, ...], dict[str, dict[tuple[str, int], float]]] = {}
    for path in paths:
        content = json.loads(path.read_text())
        _, task, seed = path.parent.name.rsplit("-", 2)
        for entry in map(as_entry, content["cells"]):
            assert entry is not None
            if entry.keep != keep or not entry.is_saved_model:
                continue
            row = found.setdefault((entry.method, entry.allocation, entry.correction), defaultdict(dict))
            gain = entry.scores[content["metric"]] - content["dense"]["scores"][content["metric"]]
            row[task][seed, entry.trial] = gain
    whole = set.intersection(*(set(runs) for row in found.values() for runs in row.values()))
    return {
        way: {task: np.array([runs[run] for run in sorted(whole)]) for task, runs in sorted(row.items())}
        for way, row in found.items()
    }


def mean_over_tasks(gains: Gains) -> tuple[float, float]:
    """Mean over tasks and runs, and its standard error over runs (nan where there is one run)."""
    means = np.mean(list(gains.values()), axis=0)
    error = float(means.std(ddof=1)) / len(means) ** 0.5 if len(means) > 1 else float("nan")
    return float(means.mean()), error


def main() -> None:
    """Print the table, best first."""
    parser = argparse.ArgumentParser()
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--keep", type=float, default=0.4)
    asked = parser.parse_args()
    rows = read_gains(asked.paths, asked.keep)
    tasks = list(next(iter(rows.values())))
    lines = []
    for way, gains in sorted(rows.items(), key=lambda row: -mean_over_tasks(row[1])[0]):
        mean, error = mean_over_tasks(gains)
        columns = [f"{gains[task].mean():+.4f}" for task in tasks]
        lines.append([*way, *columns, f"{mean:+.4f}" + ("" if np.isnan(error) else f" ± {error:.4f}")])
    print(as_markdown(["method", "allocation", "correction", *tasks, "mean"], lines))


if __name__ == "__main__":
    main()
