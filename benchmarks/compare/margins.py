"""How far Secateur's method lies under each rival in results of `secateur compare`.

    python benchmarks/compare/margins.py benchmarks/compare/stage2/*/compare.json [--allocation global]

For each fraction kept: the gap to the dense model in nats a token (mean over draws), ours over theirs, and the
difference with its standard error, as `secateur compare` tells it: paired over blocks of neighbouring windows and over
the draws that both have. Last, how the differences of neighbouring windows correlate, which is why blocks are counted.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from secateur.compare.entries import Entry, as_entry
from secateur.compare.quality import PERPLEXITY
from secateur.compare.tables import compare_groups

ROUNDING = 2e-5
"""Nats a token by which the same model's log-loss may differ from processor to processor."""


def read_rows(paths: Sequence[Path]) -> tuple[float, dict[float, dict[str, list[Entry]]]]:
    """Log-loss before pruning, and entries by fraction kept and row. All results are of the same model and text."""
    dense, found = set(), defaultdict[float, dict[str, list[Entry]]](lambda: defaultdict(list))
    for path in paths:
        content = json.loads(path.read_text())
        dense.add(content["dense"]["scores"][PERPLEXITY.ranked_by])
        for entry in map(as_entry, content["cells"]):
            assert entry is not None
            found[entry.keep][f"{entry.method}, {entry.allocation}, {entry.correction}"].append(entry)
    if max(dense) - min(dense) > ROUNDING:
        raise SystemExit(f"these results are of different models or texts: {dense} nats a token before pruning")
    return min(dense), found


def main() -> None:
    """Print a table for each fraction."""
    parser = argparse.ArgumentParser()
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--method", default="secateur")
    parser.add_argument("--allocation", default="uniform", help="of our row; rivals are shown with both")
    asked = parser.parse_args()
    dense, found = read_rows(asked.paths)
    for keep, rows in sorted(found.items(), reverse=True):
        ours = rows.pop(f"{asked.method}, {asked.allocation}, refit", None)
        if ours is None:
            raise SystemExit(f"no refitted row of {asked.method}, {asked.allocation}, at keep {keep}")
        print(f"keep {keep}: {asked.method}, {asked.allocation}, refit: {find_gap(ours, dense):.4f}, {len(ours)} draws")
        for name, entries in sorted(rows.items(), key=lambda item: find_gap(item[1], dense)):
            draws = {entry.trial for entry in ours} & {entry.trial for entry in entries}
            mine, theirs = ([entry for entry in group if entry.trial in draws] for group in (ours, entries))
            gap = find_gap(theirs, dense)
            less, error = compare_groups(theirs, mine, PERPLEXITY)
            print(
                f"  {name:45s} {gap:.4f}  x {find_gap(mine, dense) / gap:.3f}  {less:+.4f} +- {error:.4f}, "
                f"{len(draws)} draws, neighbours {correlate_neighbours(theirs, mine):+.2f}"
            )


def correlate_neighbours(first: Sequence[Entry], second: Sequence[Entry]) -> float:
    """Correlation of the two rows' difference on a window with that on the next one, mean over draws."""
    found = []
    for one, two in zip(*(sorted(group, key=lambda entry: entry.trial) for group in (first, second)), strict=True):
        less = np.subtract(two.parts, one.parts)
        found.append(np.corrcoef(less[:-1], less[1:])[0, 1])
    return float(np.mean(found))


def find_gap(entries: Sequence[Entry], dense: float) -> float:
    """Mean log-loss less that before pruning, nats a token."""
    return sum(entry.scores[PERPLEXITY.ranked_by] for entry in entries) / len(entries) - dense


if __name__ == "__main__":
    main()
