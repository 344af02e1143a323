"""One budget of neurons spread over several layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Profile:
    """What it costs when one network alone loses its neurons."""

    errors: NDArray[np.float64]
    """(removals,) what each costs its output as it goes."""
    tried: tuple[int, ...]
    """Neurons that were gone each time when the whole model was tried, in ascending order."""
    distances: tuple[float, ...]
    """How far its outputs had moved each time."""

    @property
    def costs(self) -> NDArray[np.float64]:
        """(removals,) estimated rise of the distance as each goes; past the last trial as before it.

        A trial after which the distance does not rise any more says nothing: its part and the next one are one.
        """
        reached = np.maximum.accumulate(self.distances)
        telling = [*(reached[1:] > reached[:-1]), True]
        parts = np.split(self.errors, np.array(self.tried)[telling])
        rises = np.diff([0.0, *reached[telling]])
        scales = rises / np.maximum([part.sum() for part in parts[:-1]], np.finfo(float).tiny)
        return np.concatenate([part * scale for part, scale in zip(parts, [*scales, scales[-1]], strict=True)])


def allocate_widths(costs: Sequence[NDArray[np.float64]], neurons: Sequence[int], total: int) -> list[int]:
    """Neurons to keep in each layer, `total` in all, such that what goes costs least.

    Each layer loses its neurons in a given order. The cheapest next one of all layers goes, where a neuron never counts
    as cheaper than one that goes before it. Of equals the earlier layer's goes first.

    Args:
        costs: (removals,) float for each layer, in the order of removal: the rise of the loss as each neuron goes.
        neurons: of each layer; those without a cost stay.
        total: neurons to keep.
    """
    dearest = [np.maximum.accumulate(of_layer) for of_layer in costs]
    layers = np.concatenate([np.full(len(values), layer) for layer, values in enumerate(dearest)])
    order = np.argsort(np.concatenate(dearest), kind="stable")
    gone = np.bincount(layers[order[: sum(neurons) - total]], minlength=len(costs))
    return [int(whole - lost) for whole, lost in zip(neurons, gone, strict=True)]
