"""Markdown tables of results.json: gaps to the dense model, and differences from rows that differ in one thing.

python benchmarks/ablation/tables.py
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from secateurs.evaluation.perplexity import compare_parts, find_block
from secateurs.tables import MISSING, as_markdown

RESULTS = Path(__file__).with_name("results.json")
KEEPS = (0.8, 0.6)
Losses = Mapping[str, Sequence[float]]
"""Of each window, nats a token, by row and fraction kept."""


def gap(losses: Losses, name: str, keep: float) -> str:
    """Mean of a row's losses less the dense model's."""
    found = losses.get(f"{name}, keep {keep}")
    return MISSING if found is None else f"{_compare(losses['dense'], found)[0]:.3f}"


def difference(losses: Losses, name: str, other: str | None, keep: float) -> str:
    """Mean of a row's losses less another's, with its paired standard error."""
    found, base = (losses.get(f"{row}, keep {keep}") for row in (name, other))
    if found is None or base is None:
        return MISSING
    mean, error = _compare(base, found)
    return f"{mean:+.3f} ± {error:.3f}"


def _compare(before: Sequence[float], after: Sequence[float]) -> tuple[float, float | None]:
    return compare_parts(before, after, [1] * len(before), find_block(len(before)))


def main() -> None:
    """Print part 0 with and without information side by side, then the other parts, each row against its base."""
    rows = json.loads(RESULTS.read_text())["rows"]
    losses: Losses = {key: row["window_losses"] for key, row in rows.items()}
    found = {key.rpartition(", keep ")[0]: row for key, row in rows.items() if "part" in row}
    switched = [(name, row["base"]) for name, row in found.items() if row["part"] == 0 and row["base"]]
    lines = []
    for name, base in switched:
        cells = [(gap(losses, name, at), gap(losses, base, at), difference(losses, name, base, at)) for at in KEEPS]
        lines.append([name, *chain(*cells)])
    print(as_markdown(["part 0", *chain(*((f"keep {at}", "MI off", "difference") for at in KEEPS))], lines))
    titles = list(chain(*((f"keep {at}", "less the base") for at in KEEPS)))
    for part in range(1, 9):
        lines = []
        for name, row in found.items():
            if row["part"] == part:
                cells = [(gap(losses, name, at), difference(losses, name, row["base"], at)) for at in KEEPS]
                lines.append([name, row["base"] or MISSING, *chain(*cells)])
        print(as_markdown([f"part {part}", "base", *titles], lines))


if __name__ == "__main__":
    main()
