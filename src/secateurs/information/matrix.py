"""The K x K matrix of mutual informations, summed up block by block, in memory or on disk."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateurs.information.backends import MOST_WHOLE_ROWS, JointBlock, Path
from secateurs.information.features import MOST_FEATURES
from secateurs.information.neurons import Neurons

Places = NDArray[np.int64]
BLOCK = 512
"""Neurons on each side of a block at most."""
BLOCK_BYTES = 1 << 28
"""Memory for what is held of the neurons of one side."""
NAMES = {Path.LOW_RANK: "low rank", Path.FULL: "full", Path.FLOAT64: "float64"}


def plan_blocks(neurons: int, rows: int) -> Iterator[tuple[slice, slice]]:
    """Blocks (a, b) that cover all pairs k <= l: each can be computed on its own, in any order."""
    each = 4 * rows * max(MOST_FEATURES, rows if rows <= MOST_WHOLE_ROWS else 0)
    size = BLOCK
    while size > 16 and size * each > BLOCK_BYTES:
        size //= 2
    slices = [slice(start, min(start + size, neurons)) for start in range(0, neurons, size)]
    yield from combinations_with_replacement(slices, 2)


class MeanInformation:
    """Running mean over kernels of I(k,l) = S(k) + S(l) - S(k,l), with error bounds and the paths taken."""

    def __init__(self, neurons: int, kernels: int, dtype: np.dtype[Any], most_bytes: int | None) -> None:
        self.values = allocate((neurons, neurons), dtype, most_bytes)
        self._bound = torch.zeros(neurons, dtype=torch.float64)
        self._kernels = kernels
        self._largest = 0.0
        self._paths: Counter[Path] = Counter()

    def update(self, block: JointBlock, sides: tuple[Neurons, Neurons], places: tuple[Places, Places]) -> None:
        """Add one kernel's block.

        Args:
            block: joint entropies of the pairs of the two sides.
            sides: their neurons, for the entropies of each alone.
            places: (Ka,) and (Kb,) int64, rows and columns of the matrix.
        """
        (a, b), (rows, columns) = sides, places
        information = a.entropy_nats[:, None] + b.entropy_nats[None, :] - block.entropy_nats
        bound, path = block.bound_nats, block.path
        is_triangle = np.array_equal(rows, columns)
        if is_triangle:
            information, bound = (m.triu() + m.triu(1).T for m in (information, bound))
            path = path[torch.ones_like(path, dtype=torch.bool).triu()]
        self._count(path)
        self._largest = max(self._largest, float(information.abs().max()))
        share = (information / self._kernels).cpu().numpy().astype(self.values.dtype)
        self.values[np.ix_(rows, columns)] += share
        if not is_triangle:
            self.values[np.ix_(columns, rows)] += share.T
        for place, largest in ((rows, bound.amax(dim=1)), (columns, bound.amax(dim=0))):
            self._bound[place] = torch.maximum(self._bound[place], largest.cpu())

    def finish(self, alive: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """The matrix, where neurons that are not alive share nothing to the last digit, and the bound of each row."""
        dead = np.flatnonzero(~alive)
        self.values[dead] = 0
        self.values[:, dead] = 0
        stored = 4 * np.finfo(self.values.dtype).eps * self._largest
        return self.values, self._bound.numpy() + stored

    @property
    def path_share(self) -> dict[str, float]:
        """Share of the pairs computed each way."""
        total = sum(self._paths.values())
        return {name: self._paths[path] / total for path, name in NAMES.items() if self._paths[path]}

    def _count(self, path: Tensor) -> None:
        for kind in Path:
            self._paths[kind] += int((path == kind).sum())


def allocate(shape: tuple[int, ...], dtype: np.dtype[Any], most_bytes: int | None) -> NDArray[Any]:
    """Zeros in memory, or beyond `most_bytes` in a temporary file that goes with the array."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if most_bytes is None or size <= most_bytes:
        return np.zeros(shape, dtype)
    with tempfile.NamedTemporaryFile(prefix="secateurs-") as file:
        file.truncate(size)
        return np.memmap(file, dtype=dtype, mode="r+", shape=shape)
