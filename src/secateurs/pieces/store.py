"""Finished pieces of a run's work: one file each, checked by its hash, so that a run that was stopped can go on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar
from warnings import warn

from safetensors import SafetensorError

from secateurs.errors import one_line
from secateurs.files import PARTIAL, put
from secateurs.pieces.codec import read_value, write_value

SUFFIX = ".safetensors"
T = TypeVar("T")


class Keeper:
    """Keeps nothing: all work is done when it is asked for. `Pieces` keeps what is finished."""

    def recall(self, name: str) -> Any:
        """The finished piece of that name; None where there is none."""
        return None

    def has(self, name: str) -> bool:
        """Whether there is a piece of that name, whole or damaged."""
        return False

    def keep(self, name: str, value: Any) -> None:
        """Take in a finished piece."""

    def drop(self, pattern: str) -> None:
        """Forget the pieces whose names match: others have taken their place."""

    def drop_all_but(self, *patterns: str) -> None:
        """Forget all pieces but those whose names match one of these."""

    def get(self, name: str, compute: Callable[[], T]) -> T:
        """The piece of that name; where there is none what `compute` gives, which is kept."""
        found: T | None = self.recall(name)
        if found is None:
            found = compute()
            self.keep(name, found)
        return found

    def fill(self, names: Sequence[str], compute: Callable[[list[int]], Iterable[T]]) -> list[T]:
        """The pieces of these names; `compute` gives those at the places that it is called with, kept as they come."""
        found: list[T | None] = [self.recall(name) for name in names]
        missing = [place for place, value in enumerate(found) if value is None]
        for place, value in zip(missing, compute(missing) if missing else (), strict=True):
            self.keep(names[place], value)
            found[place] = value
        return [value for value in found if value is not None]


class Pieces(Keeper):
    """Pieces in a folder. The name of a file holds the SHA-256 of its bytes: a damaged one is not taken for whole."""

    def __init__(self, folder: Path) -> None:
        """Takes what is in the folder, which is this run's alone; what a killed one left half written goes."""
        self.folder = folder
        for left in folder.glob(f".*{PARTIAL}"):
            left.unlink()
        self.reused: set[str] = set()
        self.damaged: set[str] = set()
        self._can_keep = True

    def recall(self, name: str) -> Any:
        """As `Keeper` has it; a damaged file is removed."""
        for path in self._files(name):
            if path.name == _name_file(name, path):
                self.reused.add(name)
                return read_value(path)
            self.damaged.add(name)
            path.unlink()
        return None

    def has(self, name: str) -> bool:
        """As `Keeper` has it."""
        return bool(self._files(name))

    def keep(self, name: str, value: Any) -> None:
        """Write a file, on disk before this returns. Where it can't, a warning: the run goes on, and keeps no more."""
        if not self._can_keep:
            return
        partial = self.folder / f".{name}{PARTIAL}"
        try:
            write_value(value, partial)
            put(partial, self.folder / _name_file(name, partial))
        except (OSError, SafetensorError) as error:
            self._can_keep = False
            warn(f"finished work is no longer kept for --resume: {one_line(error)}", stacklevel=2)
        finally:
            partial.unlink(missing_ok=True)

    def drop(self, pattern: str) -> None:
        """As `Keeper` has it."""
        for path in self._files(pattern):
            path.unlink()

    def drop_all_but(self, *patterns: str) -> None:
        """As `Keeper` has it."""
        for name in self.names():
            if not any(fnmatch(name, pattern) for pattern in patterns):
                self.drop(name)

    def names(self) -> list[str]:
        """Of all pieces, whole or damaged."""
        return sorted({path.name.split(".")[0] for path in self._files("*")})

    def _files(self, pattern: str) -> list[Path]:
        return sorted(self.folder.glob(f"{pattern}.*{SUFFIX}"))


def _name_file(name: str, path: Path) -> str:
    """What the file of a piece is called if its bytes are those at `path`."""
    with path.open("rb") as file:
        return f"{name}.{hashlib.file_digest(file, 'sha256').hexdigest()}{SUFFIX}"
