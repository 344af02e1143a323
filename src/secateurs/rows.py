"""Rows of token ids and texts that memory does not hold, and batches that are made when they are asked for."""

from __future__ import annotations

import tempfile
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from secateurs.encoding import Batch
from secateurs.files import blaming_disk

HELD_BYTES = 1 << 22
"""Bytes of rows that stay in memory; beyond them all are in a temporary file."""


class StoredBytes:
    """Pieces of bytes, read one at a time; only where they end is held in memory (8 bytes), however many there are.

    They are read, not mapped: mapped pages would count as the process's memory.
    """

    def __init__(self, pieces: Iterable[bytes]) -> None:
        """Takes in pieces as they come; the temporary file goes with this.

        Raises:
            SecateursError: there is no room for them.
        """
        self._file = tempfile.SpooledTemporaryFile(HELD_BYTES, prefix="secateurs-")  # noqa: SIM115  it closes below
        weakref.finalize(self, self._file.close)
        ends = array("q", [0])
        for piece in pieces:
            with blaming_disk("calibration text"):
                self._file.write(piece)
            ends.append(ends[-1] + len(piece))
        self._ends = np.frombuffer(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def read(self, place: int) -> bytes:
        """Piece number `place`."""
        begin, end = self._ends[place : place + 2].tolist()
        with blaming_disk("calibration text"):
            self._file.seek(begin)  # which also writes what still waits
            return self._file.read(end - begin)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(pieces,) bytes of each."""
        return np.diff(self._ends)


class StoredRows:
    """Rows of token ids, of which only the places are held in memory: 4 bytes of disk a token."""

    def __init__(self, rows: Iterable[Sequence[int] | NDArray[np.int64]], *, by_length: bool = False) -> None:
        """Takes in rows as they come, and gives them back in that order or, `by_length`, shortest first.

        Raises:
            SecateursError: there is no room for them.
        """
        self._stored = StoredBytes(np.asarray(row, dtype=np.int32).tobytes() for row in rows)
        self._order = np.argsort(self._stored.sizes, kind="stable") if by_length else np.arange(len(self._stored))

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, place: int) -> list[int]:
        row: list[int] = np.frombuffer(self._stored.read(self._order[place]), dtype=np.int32).tolist()
        return row

    def __iter__(self) -> Iterator[list[int]]:
        return map(self.__getitem__, range(len(self)))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(rows,) tokens of each."""
        return self._stored.sizes[self._order] // np.dtype(np.int32).itemsize


class LazyBatches(Sequence[Batch]):
    """Batches that are made anew each time they are asked for."""

    def __init__(self, count: int, make: Callable[[int], Batch]) -> None:
        """So many; `make` makes the one of a number."""
        self._numbers, self._make = range(count), make

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, place: int) -> Batch: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Batch]: ...
    def __getitem__(self, place: int | slice) -> Batch | Sequence[Batch]:
        chosen = self._numbers[place]
        if isinstance(chosen, int):
            return self._make(chosen)
        return LazyBatches(len(chosen), lambda number: self._make(chosen[number]))

    def __iter__(self) -> Iterator[Batch]:
        return map(self._make, self._numbers)  # not by places: an IndexError from within would end it silently
