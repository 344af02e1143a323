"""Writing reports and their figures, and finding what they are made from."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from secateurs.checkpoint.card import CardImage
from secateurs.checkpoint.plans import PLAN_FOLDER
from secateurs.errors import InputError, SecateursError
from secateurs.former_name import FOLDERS
from secateurs.plots import write_plot
from secateurs.report.figures import across_figures, card_figures, network_figures, quality_plot, size_bars
from secateurs.report.images import draw_figure, size_image
from secateurs.report.marks import Figure
from secateurs.report.page import require_report
from secateurs.report.stored import JSON_NAME, PAGE_NAME, read_record, write_page, write_record
from secateurs.results import Progress, no_progress
from secateurs.results.record import CompareRecord, NetworkView, PruneRecord, Record

IMAGES_FOLDER = "figures"
PAGE_BYTES, NETWORK_BYTES = 8 << 20, 256 << 10
"""Of a page without networks (plotly is 5 MB of it), and of all but the matrix of each network, at most."""
REPORT_FAILURES = (SecateursError, ValueError, LookupError, TypeError, ArithmeticError, RuntimeError, MemoryError)
"""What may go wrong in a report, on models and text of any kind, without more harm than that there is none."""


def write_checkpoint_report(record: PruneRecord, folder: Path) -> list[CardImage]:
    """Write the page into a checkpoint, and beside its plan the record and three images, which are given back."""
    write_record(record, folder / PLAN_FOLDER / JSON_NAME)
    write_page(record, folder / PAGE_NAME)
    figures = card_figures(record)
    files = [write_figure(figure, folder / PLAN_FOLDER / IMAGES_FOLDER, ("png",))[0] for figure in figures]
    names = [file.relative_to(folder).as_posix() for file in files]
    return [CardImage(name, figure.alt) for name, figure in zip(names, figures, strict=True)]


def bound_bytes(networks: Sequence[NetworkView]) -> int:
    """Bytes that page, record and images of a pruning take at most; most are what pairs of neurons have in common."""
    return PAGE_BYTES + sum(NETWORK_BYTES + 2 * view.information.nbytes for view in networks)


def remove_checkpoint_report(folder: Path) -> None:
    """Remove what `write_checkpoint_report` wrote, as far as it came."""
    for path in (folder / PAGE_NAME, folder / PLAN_FOLDER / JSON_NAME):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder / PLAN_FOLDER / IMAGES_FOLDER, ignore_errors=True)


def write_folder_report(record: CompareRecord, folder: Path) -> list[Path]:
    """Write the page, and the record, beside the results of a comparison."""
    write_record(record, folder / JSON_NAME)
    write_page(record, folder / PAGE_NAME)
    return [folder / PAGE_NAME, folder / JSON_NAME]


def find_record(folder: Path) -> Path:
    """Where a run left what its report is made from.

    Raises:
        InputError: there is nothing.
    """
    if not folder.is_dir():
        raise InputError(f"FOLDER must be one that secateurs prune or compare wrote, got {folder}")
    places = [folder / JSON_NAME, *(folder / name / JSON_NAME for name in FOLDERS)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise InputError(f"there is no report in {folder} (neither {JSON_NAME} nor {PLAN_FOLDER}/{JSON_NAME})")
    return found


def make_again(folder: Path, *, with_figures: bool, progress: Progress = no_progress) -> list[Path]:
    """Make the page of a folder from its record, and if asked all figures beside that; gives back the files.

    Raises:
        InputError: there is no record, it can't be read, or the folder can't be written to.
    """
    require_report()
    path = find_record(folder)
    record = read_record(path)
    try:
        write_page(record, folder / PAGE_NAME)
        images = write_figures(record, path.parent / IMAGES_FOLDER, progress) if with_figures else []
    except OSError as error:
        raise InputError(f"{error.filename or folder} can't be written: {error.strerror or error}") from None
    return [folder / PAGE_NAME, *images]


def write_figures(record: Record, folder: Path, progress: Progress = no_progress) -> list[Path]:
    """Write every figure as SVG and PNG."""
    figures = name_figures(record)
    files = []
    for number, (name, figure) in enumerate(figures):
        files += write_figure(figure, folder, name=name)
        progress("drawing figures", number + 1, len(figures))
    return files


def name_figures(record: Record) -> list[tuple[str, Figure]]:
    """All figures of a record, each with the name of its files."""
    if isinstance(record, CompareRecord):
        return [("quality", quality_plot(record))]
    found = [(figure.key, figure) for figure in (size_bars(record), *across_figures(record))]
    for place, view in enumerate(record.networks):
        found += [(f"network-{place:02}-{figure.key}", figure) for figure in network_figures(view, record.information)]
    return found


def write_figure(
    figure: Figure, folder: Path, endings: Sequence[str] = ("svg", "png"), name: str | None = None
) -> list[Path]:
    """Write one figure into a folder (made if need be), named after its key unless a name is given."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_plot(partial(draw_figure, figure=figure), folder / (name or figure.key), size_image(figure), endings)
