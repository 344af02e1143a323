"""Information between neurons, kept while it is being measured."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from secateurs.information.backends import JointBlock
from secateurs.pieces.store import Keeper
from secateurs.results import MutualInformation

SECONDS = 5.0
"""Work on blocks that is put into one piece."""


class Blocks:
    """Blocks of one network's information, a piece for every few seconds of work."""

    def __init__(self, keeper: Keeper, name: str) -> None:
        self._keeper, self._name = keeper, name
        self._group: dict[str, JointBlock] = {}
        self._waiting: dict[str, JointBlock] = {}
        self._seconds = 0.0

    def __call__(self, number: int, compute: Callable[[], JointBlock]) -> JointBlock:
        """Block `number`, counted in the order of the work; where it isn't kept what `compute` gives."""
        key = str(number)
        if key not in self._group:
            self._group = self._keeper.recall(f"{self._name}-from-{number}") or {}
        return self._group[key] if key in self._group else self._compute(key, compute)

    def _compute(self, key: str, compute: Callable[[], JointBlock]) -> JointBlock:
        begun = time.perf_counter()
        block = self._waiting[key] = compute()
        self._seconds += time.perf_counter() - begun
        if self._seconds >= SECONDS:
            self._keeper.keep(f"{self._name}-from-{next(iter(self._waiting))}", self._waiting)
            self._waiting, self._seconds = {}, 0.0
        return block


def has_information(keeper: Keeper, name: str) -> bool:
    """Whether `keep_information` has it, whole or in blocks, so that asking for it costs little."""
    return keeper.has(name) or keeper.has(f"{name}-from-0")


def keep_information(keeper: Keeper, name: str, measure: Callable[[Blocks], MutualInformation]) -> MutualInformation:
    """What `measure` gives, or gave before; its blocks are kept until then.

    Where the matrix is too large for memory, they stay, and it is put together from them again.
    """
    found: MutualInformation | None = keeper.recall(name)
    if found is None:
        found = measure(Blocks(keeper, name))
        if not isinstance(found.values, np.memmap):
            keeper.keep(name, found)
            keeper.drop(f"{name}-from-*")
    return found
