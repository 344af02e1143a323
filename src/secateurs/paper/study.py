"""What an experiment is run on, and its cells: small pieces of work that are kept once done."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits

from secateurs.cells import Cell, read_cell, write_cell
from secateurs.errors import InputError, unknown_name
from secateurs.information import use_threads
from secateurs.results import Progress
from secateurs.tasks import find_task

SCOPES = ("ffn", "model")
SEEDS, QUICK_SEEDS = (0, 1, 2), (0,)
RELATIVE_FLOPS = 0.4
"""Of Table 2 and Figure 7."""
CANDIDATES, QUICK_CANDIDATES = 500, 50


@dataclass(frozen=True, slots=True)
class Study:
    """What an experiment is run on."""

    model: str
    """The encoder that is fine-tuned."""
    data: Path | None
    """Folder with the tasks' files; None: GLUE from the hub."""
    tasks: tuple[str, ...]
    """Tasks, by name."""
    scope: str
    """What relative FLOPs are counted in."""
    quick: bool
    """Fewer steps, one fine-tuning seed, 50 random starts."""
    freeze_embeddings: bool
    """Fine-tune all but the word embeddings."""
    folder: Path
    """Where results and finished cells go."""
    models: Path
    """Where fine-tuned models are kept."""
    jobs: int
    """Processes, each with one thread."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of fine-tuning."""
        return QUICK_SEEDS if self.quick else SEEDS

    @property
    def candidates(self) -> int:
        """Random starts that the paper's presets choose among."""
        return QUICK_CANDIDATES if self.quick else CANDIDATES


def make_study(*, tasks: str, scope: str, jobs: int | None, **given: Any) -> Study:
    """A study, checked.

    Raises:
        InputError: a task or scope is unknown, or the data folder is not there.
    """
    names = tuple(dict.fromkeys(name.strip() for name in tasks.split(",") if name.strip()))
    if not names:
        raise InputError("tasks must name at least one task")
    for name in names:
        find_task(name)
    if scope not in SCOPES:
        raise unknown_name("scope", scope, SCOPES)
    if given["data"] is not None and not given["data"].is_dir():
        raise InputError(f"data must be a folder, got {given['data']}")
    return Study(tasks=names, scope=scope, jobs=jobs or os.cpu_count() or 1, **given)


Work = Callable[[Study, Cell], dict[str, Any]]


def run_cells(
    study: Study, experiment: str, cells: Sequence[Cell], work: Work, progress: Progress
) -> list[dict[str, Any]]:
    """The result of each cell, in order; those that an earlier run finished with the same settings are not done again.

    Args:
        study: what to run on.
        experiment: its name; cells are kept in the folder cells/<name>.
        cells: the work.
        work: does it, in a process of its own: a function at the top of a module.
        progress: told after each cell.
    """
    folder = study.folder / "cells" / experiment
    found = {place: result for place, cell in enumerate(cells) if (result := read_cell(folder, cell)) is not None}
    waiting = [place for place in range(len(cells)) if place not in found]
    done = len(found)
    progress(f"{experiment}: cells", done, len(cells))
    for number, result in run_parallel(study, [cells[place] for place in waiting], work):
        found[waiting[number]] = result
        write_cell(folder, cells[waiting[number]], result)
        done += 1
        progress(f"{experiment}: cells", done, len(cells))
    return [found[place] for place in range(len(cells))]


def run_parallel(study: Study, cells: Sequence[Cell], work: Work) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and result of each cell as it is done, in as many processes as the study has jobs."""
    if not cells:
        return
    pool = Parallel(n_jobs=min(study.jobs, len(cells)), return_as="generator_unordered", batch_size=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "A worker stopped")  # joblib starts a worker afresh that has grown
        yield from pool(delayed(_run_cell)(work, study, number, cell) for number, cell in enumerate(cells))


def describe_study(study: Study) -> dict[str, Any]:
    """What a results file says about the study; no folder of the user's in it."""
    described = asdict(study)
    for name in ("data", "folder", "models", "jobs"):
        described.pop(name)
    return {**described, "model": Path(study.model).name, "jobs": study.jobs, "cpus": os.cpu_count()}


def _run_cell(work: Work, study: Study, place: int, cell: Cell) -> tuple[int, dict[str, Any]]:
    begun = time.perf_counter()
    with use_threads(1), threadpool_limits(1):
        result = work(study, cell)
    return place, {**result, "seconds": round(time.perf_counter() - begun, 1)}
