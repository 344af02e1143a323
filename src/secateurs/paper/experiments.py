"""The experiments by name, and writing what they give."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from secateurs.cells import write_json
from secateurs.checkpoint.manifest import find_versions
from secateurs.errors import unknown_name
from secateurs.paper.figures import FIG2, FIG3, FIG5, FIG6, fig4, run_curves
from secateurs.paper.results import Document
from secateurs.paper.seeds import fig7
from secateurs.paper.sensitivity import sensitivity
from secateurs.paper.study import Study, describe_study
from secateurs.paper.tables import table1, table2
from secateurs.plots import require_matplotlib, write_plot
from secateurs.results import Progress, no_progress

Experiment = Callable[[Study, Progress], Document]
EXPERIMENTS: Mapping[str, Experiment] = {
    "table1": table1,
    "table2": table2,
    "fig2": partial(run_curves, FIG2),
    "fig3": partial(run_curves, FIG3),
    "fig4": fig4,
    "fig5": partial(run_curves, FIG5),
    "fig6": partial(run_curves, FIG6),
    "fig7": fig7,
    "sensitivity": sensitivity,
}
PLOT_INCHES = (16.0, 4.2)


def run_experiment(name: str, study: Study, progress: Progress = no_progress) -> tuple[Document, list[Path]]:
    """An experiment's outcome, and the files it was written to: NAME.json, NAME.md, and for a plot NAME.svg and .png.

    Cells that an earlier run finished are not done again, so an interrupted experiment goes on where it stopped.

    Raises:
        InputError: the name is unknown, the data or the model can't be used, or matplotlib is missing.
    """
    if name not in EXPERIMENTS:
        raise unknown_name("experiment", name, EXPERIMENTS)
    if not name.startswith("table"):
        require_matplotlib()
    begun = time.perf_counter()
    document = EXPERIMENTS[name](study, progress)
    about: dict[str, Any] = {"experiment": name, "study": describe_study(study), "versions": find_versions()}
    about["seconds_of_this_run"] = round(time.perf_counter() - begun, 1)
    files = [study.folder / f"{name}.{ending}" for ending in ("json", "md")]
    write_json(files[0], {**about, **document.content})
    files[1].write_text(document.markdown, encoding="utf-8")
    if document.draw is not None:
        files += write_plot(document.draw, study.folder / name, PLOT_INCHES)
    return document, files
