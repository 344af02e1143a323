"""What the command line prints: progress on stderr, results on stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from secateurs.results import Progress as Report
from secateurs.tables import find_figures

SECONDS_BETWEEN_LINES = 60.0
"""Time after which a phase that is not over tells how far it is, where there is no terminal."""
PLAIN_WIDTH = 140
"""Columns to lay tables out in where there is no terminal."""


def make_console(*, stderr: bool = False) -> Console:
    """A console that is plain (no colour, no fixed width) where it isn't a terminal, and heeds NO_COLOR."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else PLAIN_WIDTH, highlight=False, soft_wrap=False)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout, figures aligned right."""
    console = make_console()
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD if console.is_terminal else box.ASCII2)
    for column, is_figures in zip(columns, find_figures(columns, rows), strict=True):
        table.add_column(column, justify="right" if is_figures else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    console.print(table)


def print_json(content: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(content, indent=2) + "\n")


def say(text: str) -> None:
    """A line of plain text on stdout."""
    make_console().print(text, markup=False, soft_wrap=True)


def warn(text: str, *, label: str = "warning") -> None:
    """A line on stderr, whatever is in the text."""
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
    make_console(stderr=True).print(f"{label}: {line}", markup=False, soft_wrap=True)


@contextmanager
def progress_on_stderr() -> Iterator[Report]:
    """A progress callback: bars on a terminal, else lines after each minute and when a phase is done."""
    console = make_console(stderr=True)
    if not console.is_terminal:
        yield _line_reporter(console)
        return
    columns = (TextColumn("{task.description:<26}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def report(phase: str, done: int, total: int) -> None:
            task = tasks.get(phase)
            if task is None or bars.tasks[task].finished:
                tasks[phase] = task = bars.add_task(phase, total=total)
            bars.update(task, completed=done, total=total)

        yield report


def _line_reporter(console: Console) -> Report:
    started: dict[str, float] = {}
    told: dict[str, float] = {}

    def report(phase: str, done: int, total: int) -> None:
        now = time.perf_counter()
        begun = started.setdefault(phase, now)
        if done == total or now - told.setdefault(phase, begun) >= SECONDS_BETWEEN_LINES:
            told[phase] = now
            console.print(f"{phase}: {done} of {total}, {now - begun:.0f} s", markup=False)
        if done == total:
            del started[phase], told[phase]

    return report
