"""How far a model's outputs move when something is changed in it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from secateur.calibration import Calibration
from secateur.encoding import Batch
from secateur.models.loading import LoadedModel
from secateur.models.outputs import OutputKind, has_head, read_outputs
from secateur.selection.candidates import mean_kl_nats

ROWS = 256
"""Rows that outputs are compared on at most."""
WINDOWS, WINDOW = 4, 256
"""Of a language model: windows instead, and tokens of each."""
TOKENS = 128
"""Outputs for every token are thinned out to about so many a batch."""


class Probe:
    """A model's outputs on some calibration rows, to compare later ones with."""

    def __init__(self, loaded: LoadedModel, calibration: Calibration, sampling: str, seed: int) -> None:
        self._model, self._sampling = loaded.model, sampling
        self._kind: OutputKind = "logits" if has_head(loaded.model) else "states"
        self._batches = list(_draw(loaded, calibration, seed))
        self._before = [self._read(batch) for batch in self._batches]

    def distance(self) -> float:
        """Of the outputs now from those at the beginning.

        The mean KL divergence in nats where a row has several outputs of a head, else the mean squared difference in
        units of the outputs' variance.
        """
        after = [self._read(batch) for batch in self._batches]
        if self._kind == "states" or self._before[0].shape[1] < 2:
            before, moved = torch.cat(self._before), torch.cat(self._before) - torch.cat(after)
            return float(moved.square().mean() / (before - before.mean(dim=0)).square().mean().clamp(min=1e-30))
        parts = [mean_kl_nats(old, new) for old, new in zip(self._before, after, strict=True)]
        return float(np.average(parts, weights=[len(old) for old in self._before]))

    def _read(self, batch: Batch) -> Tensor:
        outputs = read_outputs(self._model, batch, self._kind, self._sampling)
        return outputs[:: max(1, len(outputs) // TOKENS)]


def _draw(loaded: LoadedModel, calibration: Calibration, seed: int) -> Iterator[Batch]:
    """Batches of a few rows; of a language model a window each, cut short."""
    if loaded.family.kind != "decoder":
        yield from calibration.draw_batches(ROWS, seed)
        return
    for batch in calibration.sample_rows(WINDOWS, seed).batches:
        for row in range(len(next(iter(batch.values())))):
            yield {name: value[row : row + 1, :WINDOW] for name, value in batch.items()}
