"""Records as files: report.json, and the page made from it."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from secateurs.errors import InputError
from secateurs.report.page import render
from secateurs.results.record import NetworkView, PruneRecord, Record

FORMAT = 1
JSON_NAME, PAGE_NAME = "report.json", "report.html"
_RECORDS: TypeAdapter[Record] = TypeAdapter(Record)


def write_record(record: Record, path: Path) -> None:
    """Write a record as JSON; arrays are base64 with their dtype and shape."""
    content = {"format": FORMAT, **_RECORDS.dump_python(record, mode="json")}
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def read_record(path: Path) -> Record:
    """The record that `write_record` wrote.

    Raises:
        InputError: there is none, it is damaged, or a newer Secateurs wrote it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content.pop("format")
    except FileNotFoundError:
        raise InputError(f"there is no report in {path.parent}: {path} is missing") from None
    except (OSError, ValueError, AttributeError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path} can't be read as a report: {type(error).__name__}: {error}") from None
    if not isinstance(found, int) or found > FORMAT:
        raise InputError(f"the report {path} has format {found}, this Secateurs reads up to {FORMAT}")
    try:
        record = _RECORDS.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "record"
        raise InputError(f"{path} can't be read as a report: {where}: {first['msg']}") from None
    if isinstance(record, PruneRecord) and not (record.networks and all(map(_fits, record.networks))):
        raise InputError(f"{path} can't be read as a report: its arrays do not fit each other")
    return record


def _fits(view: NetworkView) -> bool:
    """Whether all arrays are of the same sample of neurons."""
    count, bins = len(view.neurons), len(view.pairs)
    optional = (view.entropy_nats, view.width_over_std)
    each = (view.is_kept, view.cluster, view.importance, view.redundancy, view.nearest)
    shapes = {values.shape for values in (view.neurons, *each, *(values for values in optional if values.size))}
    return (
        shapes == {(count,)}
        and view.position.shape == (count, 2)
        and view.information.shape == (count, count)
        and (view.pairs.shape, view.baseline.shape, view.edges.shape) == ((bins,), (bins,), (bins + 1,))
        and min(count, bins, view.width_before) > 0
    )


def write_page(record: Record, path: Path) -> None:
    """Write the page.

    Raises:
        InputError: plotly or jinja2 is missing.
    """
    path.write_text(render(record), encoding="utf-8")
