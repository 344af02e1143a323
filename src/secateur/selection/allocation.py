"""One budget of neurons spread over several layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


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
