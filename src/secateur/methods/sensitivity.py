"""How far a model's outputs move when something is changed in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from secateur.calibration import Calibration
from secateur.encoding import Batch
from secateur.models.feedforward import FeedForward
from secateur.models.loading import LoadedModel
from secateur.models.outputs import OutputKind, has_head, read_outputs
from secateur.selection.candidates import mean_kl_nats
from secateur.walking import Walk, can_walk

ROWS, WINDOWS = 256, 6
"""Rows that outputs are compared on at most; windows of a language model."""
SHARE = 8
"""Of so many rows one, at most."""
WINDOW = 256
"""Tokens of a window that are looked at."""
TOKENS = 128
"""Outputs for every token are thinned out to about so many a batch."""


def hold_out(loaded: LoadedModel, calibration: Calibration, seed: int) -> tuple[Calibration, Calibration]:
    """A few rows to try the model on, and the others, which it may be fitted to; a single row is both."""
    if calibration.rows == 1:
        return calibration, calibration
    most = WINDOWS if loaded.family.kind == "decoder" else ROWS
    return calibration.split_rows(min(most, max(1, calibration.rows // SHARE)), seed)


class Probe:
    """A model's outputs on some rows, to compare later ones with."""

    def __init__(self, loaded: LoadedModel, batches: Sequence[Batch], sampling: str) -> None:
        self._model, self._sampling = loaded.model, sampling
        self._kind: OutputKind = "logits" if has_head(loaded.model) else "states"
        self._batches = list(_cut_short(batches) if loaded.family.kind == "decoder" else batches)
        self._walk: Walk | None = None
        self._before = self._read_all()
        if can_walk(loaded):
            self._walk = Walk(loaded, self._batches)

    def go_to(self, ffn: FeedForward) -> None:
        """From now on nothing changes before the layer that this network is part of, which need not run again."""
        if self._walk is not None:
            self._walk.go_to(ffn)

    def distance(self) -> float:
        """Of the outputs now from those at the beginning.

        The mean KL divergence in nats where a row has several outputs of a head, else the mean squared difference in
        units of the outputs' variance.
        """
        after = self._read_all()
        if self._kind == "states" or self._before[0].shape[1] < 2:
            before, moved = torch.cat(self._before), torch.cat(self._before) - torch.cat(after)
            return float(moved.square().mean() / (before - before.mean(dim=0)).square().mean().clamp(min=1e-30))
        parts = [mean_kl_nats(old, new) for old, new in zip(self._before, after, strict=True)]
        return float(np.average(parts, weights=[len(old) for old in self._before]))

    def _read_all(self) -> list[Tensor]:
        found = []
        for number, batch in enumerate(self._batches):
            with nullcontext() if self._walk is None else self._walk.resumed(number):
                outputs = read_outputs(self._model, batch, self._kind, self._sampling)
            found.append(outputs[:: max(1, len(outputs) // TOKENS)])
        return found


def _cut_short(batches: Sequence[Batch]) -> Iterator[Batch]:
    """A window each, as logits of a whole batch take much memory."""
    for batch in batches:
        for row in range(len(next(iter(batch.values())))):
            yield {name: value[row : row + 1, :WINDOW] for name, value in batch.items()}
