"""Markdown tables of results.json: gaps to the dense model, and differences from rows that differ in one thing.

python benchmarks/ablation/tables.py
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from secateur.evaluation.perplexity import compare_parts
from secateur.tables import MISSING, as_markdown

RESULTS = Path(__file__).with_name("results.json")
KEEPS = (0.8, 0.6)
OFF = "MI off"
WITHOUT: Mapping[str, str] = {"no noise": f"secateur, {OFF}", "noise 1": f"secateur, {OFF}"}
"""What a row of part 0 is without information, where that isn't a row of its own."""
CHOICES, REFITS, WIDTHS, TEXT = range(1, 6), (6,), (7,), (8,)
COMPARED: Mapping[str, Sequence[int]] = {f"all at once, {OFF}": CHOICES, "secateur": (*REFITS, *TEXT), "global": WIDTHS}
"""What rows of these parts are compared with: choices with plain importance, refitted alike."""

Losses = Mapping[str, Sequence[float]]
"""Of each window, nats a token, by row and fraction kept."""


def gap(losses: Losses, name: str, keep: float) -> str:
    """Mean of a row's losses less the dense model's."""
    found = losses.get(f"{name}, keep {keep}")
    return MISSING if found is None else f"{_compare(losses['dense'], found)[0]:.3f}"


def difference(losses: Losses, name: str, other: str, keep: float) -> str:
    """Mean of a row's losses less another's, with its paired standard error."""
    found, base = (losses.get(f"{row}, keep {keep}") for row in (name, other))
    if found is None or base is None or name == other:
        return MISSING
    mean, error = _compare(base, found)
    return f"{mean:+.3f} ± {error:.3f}"


def _compare(before: Sequence[float], after: Sequence[float]) -> tuple[float, float | None]:
    return compare_parts(before, after, [1] * len(before))


def main() -> None:
    """Print part 0 with and without information side by side, then the other parts."""
    rows = json.loads(RESULTS.read_text())["rows"]
    losses: Losses = {key: row["window_losses"] for key, row in rows.items()}
    parts = {key.rpartition(", keep ")[0]: row["part"] for key, row in rows.items() if "part" in row}
    lines = []
    for name in [name for name, part in parts.items() if part == 0 and not name.endswith(OFF)]:
        off = WITHOUT.get(name, f"{name}, {OFF}")
        cells = [(gap(losses, name, at), gap(losses, off, at), difference(losses, name, off, at)) for at in KEEPS]
        lines.append([name, *chain(*cells)])
    print(as_markdown(["part 0", *chain(*((f"keep {at}", OFF, "difference") for at in KEEPS))], lines))
    for other, compared in COMPARED.items():
        titles = list(chain(*((f"keep {at}", f"less {other}") for at in KEEPS)))
        for part in compared:
            names = [other, *(name for name, of in parts.items() if of == part)]
            rest = [[(gap(losses, name, at), difference(losses, name, other, at)) for at in KEEPS] for name in names]
            lines = [[name, *chain(*cells)] for name, cells in zip(names, rest, strict=True)]
            print(as_markdown([f"part {part}", *titles], lines))


if __name__ == "__main__":
    main()
