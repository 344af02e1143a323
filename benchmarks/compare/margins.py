"""How far Secateur's method lies under each rival in results of `secateur compare`.

    python benchmarks/compare/margins.py benchmarks/compare/stage2/*/compare.json [--allocation global]

For each fraction kept: the gap to the dense model in nats a token (mean over draws), ours over theirs, and the
difference with its standard error, paired over windows after the mean over draws.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

Row = tuple[str, str, bool, str]
"""Method, allocation, whether Secateur refitted it, and the variant of its own correction."""


def read_gaps(paths: Sequence[Path]) -> dict[float, dict[Row, np.ndarray]]:
    """By fraction kept and row: (windows,) gaps, mean over the draws. All results are of the same model and text."""
    found: dict[float, dict[Row, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    for path in paths:
        content = json.loads(path.read_text())
        dense = np.array(content["dense"]["parts"])
        for cell in content["cells"]:
            row = (cell["method"], cell["allocation"], cell["is_refitted"], cell["variant"])
            found[cell["keep"]][row].append(np.array(cell["parts"]) - dense)
    return {keep: {row: np.mean(draws, axis=0) for row, draws in rows.items()} for keep, rows in found.items()}


def main() -> None:
    """Print a table for each fraction."""
    parser = argparse.ArgumentParser()
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--method", default="secateur")
    parser.add_argument("--allocation", default="uniform", help="of our row; rivals are shown with both")
    asked = parser.parse_args()
    for keep, rows in sorted(read_gaps(asked.paths).items(), reverse=True):
        ours = rows.pop((asked.method, asked.allocation, True, ""))
        print(f"keep {keep}: {asked.method}, {asked.allocation}, refit: {ours.mean():.4f}")
        for (method, allocation, is_refitted, variant), gaps in sorted(rows.items(), key=lambda item: item[1].mean()):
            less = ours - gaps
            error = less.std(ddof=1) / np.sqrt(len(less))
            name = f"{method}, {allocation}, {'refit' if is_refitted else variant or 'as published'}"
            print(
                f"  {name:45s} {gaps.mean():.4f}  x {ours.mean() / gaps.mean():.3f}  {less.mean():+.4f} +- {error:.4f}"
            )


if __name__ == "__main__":
    main()
