"""Tables of text and figures: which columns are figures, and tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

MISSING = "-"
"""What stands where there is no figure."""


def find_figures(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[bool]:
    """For each column whether its cells are figures, to be aligned right: they begin with a digit or are empty."""
    cells = [[row[place] for row in rows] for place in range(len(columns))]
    return [any(column) and all(map(_is_figure, column)) for column in cells]


def as_markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, figures aligned right; a title of several lines becomes one."""
    titles = [title.replace("\n", ", ") for title in columns]
    rules = ["---:" if is_figures else "---" for is_figures in find_figures(columns, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [titles, rules, *rows]) + "\n"


def _is_figure(cell: str) -> bool:
    return cell in ("", MISSING) or cell.lstrip("+-<")[:1].isdigit()
