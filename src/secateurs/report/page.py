"""The page: one file for a browser that needs no network, made from a record."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

import numpy as np

from secateurs.errors import InputError
from secateurs.report.figures import (
    HEAT_SIDE,
    MANY,
    MANY_SIDE,
    across_figures,
    count_neurons,
    name_row,
    network_figures,
    quality_plot,
)
from secateurs.report.marks import PALETTE, Figure, HeatMap, Mark, limit_colours
from secateurs.results.comparison import Point
from secateurs.results.record import CompareRecord, Look, NetworkView, Provenance, PruneRecord, Reading, Record

PACKAGES = ("plotly", "jinja2", "matplotlib")
UNKNOWN = "-"
DIGITS = 4
"""Significant ones of the numbers in figures."""


@dataclass(frozen=True, slots=True)
class Card:
    """One figure of the headline, with bars."""

    name: str
    """What was measured."""
    before: str
    """Of the original, with its unit."""
    after: str
    """Of the pruned model, with its unit."""
    ratio: str
    """The one over the other, in words; empty where that says nothing."""
    note: str
    """On what, and how sure it is."""
    before_length: float
    """Of its bar, 0 to 100."""
    after_length: float
    """Of its bar, 0 to 100."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One entry of a table that can be sorted."""

    text: str
    """What is shown."""
    key: float | str
    """What it is sorted by."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table that can be sorted."""

    caption: str
    """Its title."""
    columns: tuple[str, ...]
    """Titles of its columns."""
    rows: tuple[tuple[Cell, ...], ...]
    """One entry for each column."""


@dataclass(frozen=True, slots=True)
class Page:
    """What the template lays out."""

    title: str
    """Of the page."""
    subtitle: str
    """What was done, in a sentence."""
    warnings: tuple[str, ...]
    """What the user should know."""
    cards: tuple[Card, ...]
    """The headline."""
    look: Look | None
    """What models made of some text; None of a comparison."""
    networks: tuple[NetworkView, ...]
    """Those to choose from; none of a comparison."""
    network_note: str
    """What their figures were measured by."""
    network_keys: tuple[str, ...]
    """The figures of each."""
    across: tuple[Figure, ...]
    """Figures of the whole."""
    table: Table
    """The same in numbers."""
    notes: tuple[str, ...]
    """How to read it."""
    provenance: Provenance
    """How to do it again."""


def require_report() -> None:
    """Raise InputError, with how to get it, where what a page is made by is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError(f"a report needs {' and '.join(missing)}: pip install {' '.join(missing)}")


def render(record: Record) -> str:
    """The page as HTML: plotly, style and data inside; the same bytes for the same record.

    Raises:
        InputError: plotly or jinja2 is missing.
    """
    require_report()
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    if isinstance(record, PruneRecord):
        page, data = lay_out_pruning(record), describe_pruning(record)
    else:
        page, data = lay_out_comparison(record), {"across": [describe_figure(quality_plot(record))], "networks": []}
    folder = files("secateurs.report") / "web"
    scripts = [_as_script(get_plotlyjs()), _as_script((folder / "report.js").read_text(encoding="utf-8"))]
    environment = Environment(
        loader=PackageLoader("secateurs.report", "web"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html.jinja").render(
        page=page,
        data=data,
        palette=PALETTE,
        style=Markup((folder / "report.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        hashes=[_hash(script) for script in scripts],
    )


def lay_out_pruning(record: PruneRecord) -> Page:
    """The page of a pruning."""
    before, after = record.before, record.after
    length = f"one sequence of {before.sequence_length:,} tokens"
    ffn, model = "relative FLOPs, scope ffn", "relative FLOPs, scope model"
    padded = ", padded with zeros" if count_neurons(record)[1] < sum(after.widths) else ""
    readings = [
        Reading(
            "neurons",
            *count_neurons(record),
            note=f"{len(before.widths)} networks; width {before.width_text} before, {after.width_text} after{padded}",
        ),
        Reading("parameters", before.parameters, after.parameters),
        Reading(ffn, 1.0, after.ffn_multiply_adds / before.ffn_multiply_adds, note="feed-forward networks only"),
        Reading(model, 1.0, after.model_multiply_adds / before.model_multiply_adds, note=f"all layers, {length}"),
    ]
    if record.bytes_before and record.bytes_after:
        sizes = (record.bytes_before / 1e6, record.bytes_after / 1e6)
        readings.append(Reading("file size", *sizes, "MB", record.bytes_note))
    refits = any(view.error_refit is not None for view in record.networks)
    return Page(
        title=f"{record.model}, pruned",
        subtitle=f"method {record.method}, {'refitted in closed form' if refits else 'not refitted'}; keep "
        f"{record.keep:g} asked, {record.kept_fraction:.4f} obtained; calibrated on {record.calibration}",
        warnings=record.warnings,
        cards=tuple(map(_card, (*readings, *record.look.readings))),
        look=record.look,
        networks=record.networks,
        network_note=f"{record.information.measure}; {record.information.rows} activation rows of "
        f"{record.information.text}, in the unpruned model.",
        network_keys=tuple(figure.key for figure in network_figures(record.networks[0], record.information)),
        across=tuple(across_figures(record)),
        table=_network_table(record),
        notes=(),
        provenance=record.provenance,
    )


def lay_out_comparison(record: CompareRecord) -> Page:
    """The page of a comparison."""
    keeps = ", ".join(f"{keep:g}" for keep in reversed(record.keeps))
    return Page(
        title=f"{record.model}: pruning methods compared by {record.metric}",
        subtitle=f"{len(record.rows)} ways to prune at keep {keeps}",
        warnings=record.warnings,
        cards=tuple(_find_best(record)),
        look=None,
        networks=(),
        network_note="",
        network_keys=(),
        across=(quality_plot(record),),
        table=_comparison_table(record),
        notes=record.notes,
        provenance=record.provenance,
    )


def describe_pruning(record: PruneRecord) -> dict[str, Any]:
    """What the page's script draws of a pruning."""
    side = MANY_SIDE if len(record.networks) > MANY else HEAT_SIDE
    return {
        "across": [describe_figure(figure) for figure in across_figures(record)],
        "networks": [
            {
                "told": tell_network(view, place, len(record.networks)),
                "figures": [describe_figure(figure) for figure in network_figures(view, record.information, side=side)],
            }
            for place, view in enumerate(record.networks)
        ],
    }


def tell_network(view: NetworkView, place: int, count: int) -> str:
    """What is told of a network when it is chosen."""
    parts = [f"{place + 1} of {count}", f"width {view.width_before:,} before, {view.width_after:,} after"]
    if view.error_cut is not None and view.error_refit is not None:
        parts.append(f"output error {view.error_cut:.4f} as cut, {view.error_refit:.4f} refitted")
    if view.constant:
        parts.append(f"dead: {view.constant:,} of those looked at")
    return "; ".join(parts)


def describe_figure(figure: Figure) -> dict[str, Any]:
    """A figure as plain values."""
    described = _plain(figure)
    described["marks"] = [{"kind": type(mark).__name__, **_describe_mark(mark)} for mark in figure.marks]
    return described


def _describe_mark(mark: Mark) -> dict[str, Any]:
    if isinstance(mark, HeatMap):
        return {"unit": mark.unit, **_quantise(mark.values)}
    return _plain(mark)


def _plain(shown: Any) -> dict[str, Any]:
    """Fields of a dataclass of the figures, arrays as lists."""
    return {field.name: _plain_value(getattr(shown, field.name)) for field in fields(shown) if field.name != "marks"}


def _plain_value(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_round(entry) for entry in value.tolist()]
    if isinstance(value, Mapping):
        return {name: _plain_value(entry) for name, entry in value.items()}
    return _plain(value) if hasattr(value, "__dataclass_fields__") else value


def _round(value: Any) -> Any:
    """A number of few digits; what is not finite is left out of a figure."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None
    return value


def _quantise(values: np.ndarray[Any, Any]) -> dict[str, Any]:
    """A matrix as one byte for each entry, between what colours tell apart."""
    low, high = limit_colours(values)
    steps = np.clip((values.astype(np.float64) - low) / (high - low), 0.0, 1.0) * 255
    data = base64.b64encode(np.round(steps).astype(np.uint8).tobytes()).decode("ascii")
    return {"side": len(values), "low": low, "high": high, "base64": data}


def _card(reading: Reading) -> Card:
    largest = max(reading.before, reading.after)
    known = bool(np.isfinite([reading.before, reading.after]).all()) and largest > 0
    before, after = ((value / largest * 100 if known else 0.0) for value in (reading.before, reading.after))
    ratio = f"{reading.after / reading.before:.4f} of before" if known and reading.before else ""
    unit = f" {reading.unit}" if reading.unit else ""
    return Card(
        name=reading.name,
        before=f"{_show(reading.before)}{unit}",
        after=f"{_show(reading.after)}{unit}",
        ratio="" if reading.before == 1 else ratio,
        note=reading.note,
        before_length=max(before, 0.0),
        after_length=max(after, 0.0),
    )


def _find_best(record: CompareRecord) -> list[Card]:
    """The best row at each width."""
    cards = []
    for keep in reversed(record.keeps):
        for row in record.rows:
            point = row.at(keep)
            if point is not None and point.mark == "best":
                reading = Reading(
                    f"best at keep {keep:g}", record.dense, point.quality, note=name_row(row, record.rows)
                )
                cards.append(_card(reading))
    return cards


def _network_table(record: PruneRecord) -> Table:
    def shown(value: float | None, digits: int = 4) -> Cell:
        return Cell(UNKNOWN if value is None else f"{value:.{digits}g}", -1.0 if value is None else value)

    unit = record.information.unit
    rows = tuple(
        (
            Cell(f"{place}: {view.path}", place),
            Cell(f"{view.width_before:,}", view.width_before),
            Cell(f"{view.width_after:,}", view.width_after),
            shown(view.removed_share),
            shown(view.error_cut),
            shown(view.error_refit),
            shown(float(np.median(view.redundancy)), 3),
            shown(view.baseline_mean, 3),
            Cell(f"{view.constant:,}", view.constant),
            Cell("yes" if view.is_saturated else "no", float(view.is_saturated)),
        )
        for place, view in enumerate(record.networks)
    )
    columns = (
        "network",
        "width before",
        "width after",
        "share removed",
        "error as cut",
        "error refitted",
        f"median in common with one looked at that stays, {unit}",
        f"shuffled, {unit}",
        "dead of those looked at",
        "kernel saturated",
    )
    return Table("Networks", columns, rows)


def _comparison_table(record: CompareRecord) -> Table:
    marks = {"best": "best", "tied": "can't be told from the best", "": ""}

    def entry(point: Point | None) -> tuple[Cell, ...]:
        worst = np.inf if record.is_loss else -np.inf
        if point is None:
            return Cell(UNKNOWN, worst), Cell(UNKNOWN, worst), Cell("", "")
        error = "" if point.gap_standard_error is None else f" ± {point.gap_standard_error:.4f}"
        return (
            Cell(_show(point.quality), point.quality),
            Cell(f"{point.gap:+.4f}{error}", point.gap),
            Cell(marks[point.mark], point.mark),
        )

    rows = []
    for row in record.rows:
        seconds = float(np.mean([point.seconds_choosing for point in row.points]))
        memory = max(point.peak_mb_choosing for point in row.points)
        names = [Cell(text, text) for text in (row.method, row.allocation, row.correction)]
        entries = [cell for keep in reversed(record.keeps) for cell in entry(row.at(keep))]
        costs = [Cell(f"{seconds:.1f}", seconds), Cell(f"{memory:.0f}", memory)]
        needs = ", ".join(row.needs) or "nothing"
        rows.append((*names, *entries, *costs, Cell(needs, needs)))
    unit = "gap, nats a token" if record.is_loss else "gap"
    widths = [f"{what}, keep {keep:g}" for keep in reversed(record.keeps) for what in (record.metric, unit, "standing")]
    columns = ("method", "allocation", "correction", *widths, "seconds", "MB", "needs")
    return Table("Methods, best first", columns, tuple(rows))


def _show(value: float) -> str:
    """A figure in a headline or table."""
    if not np.isfinite(value):
        return "not finite"
    if value == int(value) and (value == 1 or abs(value) >= 10):
        return f"{int(value):,}"
    digits = 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 4
    return f"{value:,.{digits}f}"


def _as_script(text: str) -> str:
    """A script as it may stand inside an element: it can't end it."""
    return text.replace("</script", r"<\/script").replace("<!--", r"<\!--")


def _hash(script: str) -> str:
    """What a Content-Security-Policy names a script by."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
