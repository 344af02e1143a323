"""How far Secateurs' method lies under each rival in results of `secateurs compare`.

    python benchmarks/compare/margins.py benchmarks/compare/stage2/*/compare.json [--allocation global]

For each fraction kept: the gap to the dense model (mean over draws; nats a token, or the task's score), ours over
theirs, and the difference with its standard error, as `secateurs compare` tells it: paired over the text (of language
models over blocks of neighbouring windows) and over the draws that both have. Last, how the differences of neighbouring
parts of the text correlate, which is why blocks are counted.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from secateurs.compare.entries import Entry, as_entry
from secateurs.compare.quality import Metric
from secateurs.compare.tables import compare_groups

ROUNDING = 2e-5
"""Nats a token by which the same model's log-loss may differ from processor to processor."""
Rows = dict[float, dict[str, list[Entry]]]
"""Entries by fraction kept and row."""


def read_rows(paths: Sequence[Path]) -> tuple[Metric, float, Rows]:
    """What is compared, that before pruning, and entries. All results are of the same model and text."""
    metrics, dense, found = set(), set(), defaultdict[float, dict[str, list[Entry]]](lambda: defaultdict(list))
    for path in paths:
        content = json.loads(path.read_text())
        metrics.add(Metric(content["metric"], content["ranked_by"]))
        dense.add(content["dense"]["scores"][content["ranked_by"]])
        for entry in map(as_entry, content["cells"]):
            assert entry is not None
            found[entry.keep][f"{entry.method}, {entry.allocation}, {entry.correction}"].append(entry)
    if len(metrics) > 1 or max(dense) - min(dense) > ROUNDING:
        raise SystemExit(f"these results are of different models or texts: {dense} before pruning")
    return metrics.pop(), min(dense), found


def main() -> None:
    """Print a table for each fraction."""
    parser = argparse.ArgumentParser()
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--method", default="secateurs")
    parser.add_argument("--allocation", default="uniform", help="of our row; rivals are shown with both")
    asked = parser.parse_args()
    metric, dense, found = read_rows(asked.paths)
    for keep, rows in sorted(found.items(), reverse=True):
        ours = rows.pop(f"{asked.method}, {asked.allocation}, refit", None)
        if ours is None:
            raise SystemExit(f"no refitted row of {asked.method}, {asked.allocation}, at keep {keep}")

        def gap(entries: Sequence[Entry]) -> float:
            return sum(entry.scores[metric.ranked_by] for entry in entries) / len(entries) - dense

        print(f"keep {keep}: {asked.method}, {asked.allocation}, refit: {gap(ours):+.4f}, {len(ours)} draws")
        for name, entries in sorted(rows.items(), key=lambda item: metric.badness(gap(item[1]))):
            draws = {entry.trial for entry in ours} & {entry.trial for entry in entries}
            mine, theirs = ([entry for entry in group if entry.trial in draws] for group in (ours, entries))
            less, error = compare_groups(theirs, mine, metric)
            ratio = f"  x {gap(mine) / gap(theirs):.3f}" if metric.is_loss else ""
            print(
                f"  {name:45s} {gap(theirs):+.4f}{ratio}  {less:+.4f} +- {error:.4f}, {len(draws)} draws, "
                f"neighbours {correlate_neighbours(theirs, mine):+.2f}"
            )


def correlate_neighbours(first: Sequence[Entry], second: Sequence[Entry]) -> float:
    """Correlation of the two rows' difference on a part of the text with that on the next one, mean over draws."""
    found = []
    for one, two in zip(*(sorted(group, key=lambda entry: entry.trial) for group in (first, second)), strict=True):
        less = np.subtract(two.parts, one.parts)
        found.append(np.corrcoef(less[:-1], less[1:])[0, 1])
    return float(np.mean(found))


if __name__ == "__main__":
    main()
