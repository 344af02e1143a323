"""Cells: small pieces of work whose results are kept as files, so that finished ones are not done again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateurs.files import replacing
from secateurs.former_name import FORMER_NAME, NAME, rename

REVISION = 5
"""Raised by hand when a change of the code changes results, so that no older cell is taken for a new one."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One piece of work."""

    name: str
    """What it is called, unique within its folder among cells of the same settings."""
    settings: Mapping[str, Any]
    """All that its result depends on, as plain values."""

    def as_stored(self) -> dict[str, Any]:
        """Its settings, with the revision of the code, as they come back from a file."""
        stored: dict[str, Any] = json.loads(json.dumps({**self.settings, "revision": REVISION}))
        return stored

    @property
    def file_name(self) -> str:
        """Its name and the start of a hash of its settings, so that results of other settings stay beside it."""
        digest = hashlib.sha256(json.dumps(self.as_stored(), sort_keys=True).encode()).hexdigest()
        return f"{self.name}-{digest[:8]}.json"

    @property
    def former(self) -> Cell:
        """The same cell as it was called under the package's former name."""
        return Cell(self.name.replace(NAME, FORMER_NAME), rename(dict(self.settings), NAME, FORMER_NAME))


def read_cell(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """The result of a cell that was finished with the same settings; None where there is none, or a broken file.

    A file that was written under the package's former name is read too.
    """
    found = _read(folder, cell)
    return rename(_read(folder, cell.former)) if found is None else found


def _read(folder: Path, cell: Cell) -> dict[str, Any] | None:
    try:
        stored = json.loads((folder / cell.file_name).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(stored, dict) or stored.get("settings") != cell.as_stored():
        return None
    result = stored.get("result")
    return result if isinstance(result, dict) else None


def write_cell(folder: Path, cell: Cell, result: Mapping[str, Any]) -> None:
    """Keep the result of a finished cell."""
    write_json(folder / cell.file_name, {"settings": cell.as_stored(), "result": dict(result)})


def write_json(path: Path, content: Any) -> None:
    """Write a file so that it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
