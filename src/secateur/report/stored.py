"""Records as files: report.json, and the page made from it."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from secateur.errors import InputError
from secateur.report.page import render
from secateur.results.record import Record

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
        InputError: there is none, it is damaged, or a newer Secateur wrote it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content.pop("format")
    except FileNotFoundError:
        raise InputError(f"there is no report in {path.parent}: {path} is missing") from None
    except (OSError, ValueError, AttributeError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path} can't be read as a report: {type(error).__name__}: {error}") from None
    if not isinstance(found, int) or found > FORMAT:
        raise InputError(f"the report {path} has format {found}, this Secateur reads up to {FORMAT}")
    try:
        return _RECORDS.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path} can't be read as a report: {where}: {first['msg']}") from None


def write_page(record: Record, path: Path) -> None:
    """Write the page.

    Raises:
        InputError: plotly or jinja2 is missing.
    """
    path.write_text(render(record), encoding="utf-8")
