"""Files that are on disk whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from secateurs.errors import SecateursError

PARTIAL = ".partial"
"""End of the name of what is being written."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file under, which takes its place, flushed to disk, if the block ends well."""
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        yield partial
        put(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def put(partial: Path, path: Path) -> None:
    """Give a finished file its name, on disk before anything else can happen."""
    flush(partial)
    partial.replace(path)
    flush(path.parent)


@contextmanager
def making_parents(path: Path) -> Iterator[None]:
    """Make the folders that `path` lies in; those that are new go again if nothing is in them in the end."""
    made = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # another run has put something there, or has tidied up already
            for parent in made:
                parent.rmdir()


@contextmanager
def blaming_disk(what: str) -> Iterator[None]:
    """An error of the disk that temporary files lie on becomes one line that says what to do."""
    try:
        yield
    except OSError as error:
        raise SecateursError(
            f"{what} can't be kept in a temporary file: {error.strerror or error}; TMPDIR=FOLDER names another folder "
            "for temporary files"
        ) from error


def flush(path: Path) -> None:
    """Have what is known of a file or folder on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
