"""How far a model's outputs move when something is changed in it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import kl_div

from secateurs.calibration import Calibration
from secateurs.capture import blaming_batch
from secateurs.encoding import Batch
from secateurs.models.feedforward import FeedForward
from secateurs.models.loading import LoadedModel
from secateurs.models.outputs import OutputKind, gives_logits, read_outputs, require_finite_outputs
from secateurs.walking import Walk, can_walk

ROWS, WINDOWS = 256, 6
"""Rows that outputs are compared on at most; windows of a language model."""
SHARE = 8
"""Of so many rows one."""
WINDOW = 128
"""Tokens of a window that are looked at."""
TOKENS = 128
"""Outputs for every token are thinned out to at most so many a batch."""


def hold_out(calibration: Calibration, seed: int) -> tuple[Calibration, Calibration]:
    """A few rows to try the model on, and the others, which it may be fitted to; a single row is both.

    Of running text the last rows, which are more likely to be about something else than rows from between the others;
    one more where the last one is short, unless there are but two.
    """
    rows, is_running = calibration.rows, calibration.is_running
    if rows == 1:
        return calibration, calibration
    first, last = (next(iter(calibration.batches[place].values())) for place in (0, -1))
    has_short_end = is_running and last.shape[1] < first.shape[1]
    count = min(WINDOWS if is_running else ROWS, max(1, rows // SHARE) + has_short_end, rows - 1)
    held = np.zeros(rows, dtype=bool)
    held[np.arange(rows - count, rows) if is_running else random.Random(seed).sample(range(rows), count)] = True
    return calibration.take_rows(held), calibration.take_rows(~held)


class Probe:
    """A model's outputs on some rows, to compare later ones with."""

    def __init__(self, loaded: LoadedModel, batches: Sequence[Batch]) -> None:
        self._model, self._sampling = loaded.model, "cls" if loaded.pooling == "first" else "tokens"
        self._batches = list(_cut_short(batches) if loaded.family.kind == "decoder" else batches)
        with self._blaming(0):
            self._kind: OutputKind = "logits" if gives_logits(loaded.model, self._batches[0]) else "states"
        self._walk: Walk | None = None
        before = [self._read(number) for number in range(len(self._batches))]
        self.are_distributions = self._kind == "logits" and before[0].shape[1] > 1
        if self.are_distributions:
            self._before, self._scale = [part.log_softmax(dim=-1) for part in before], float(sum(map(len, before)))
        else:
            together = torch.cat(before)
            self._before, self._scale = before, float((together - together.mean(dim=0)).square().sum())
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
        moved = 0.0
        for number, before in enumerate(self._before):
            after = self._read(number)
            if self.are_distributions:
                moved += float(kl_div(after.log_softmax(dim=-1), before, reduction="sum", log_target=True))
            else:
                moved += float((after - before).square().sum())
        return moved / max(self._scale, 1e-30)

    def _read(self, number: int) -> Tensor:
        with self._blaming(number), nullcontext() if self._walk is None else self._walk.resumed(number):
            outputs = read_outputs(self._model, self._batches[number], self._kind, self._sampling)
        few = outputs[:: -(-len(outputs) // TOKENS)].clone()  # the others' memory is given back
        return require_finite_outputs(few)

    @staticmethod
    def _blaming(number: int) -> AbstractContextManager[None]:
        return blaming_batch(number, "held-out calibration batch")


def _cut_short(batches: Sequence[Batch]) -> Iterator[Batch]:
    """The first real tokens of a row each, as logits of a whole batch take much memory."""
    for batch in batches:
        for row in range(len(next(iter(batch.values())))):
            mask = batch.get("attention_mask")
            taken = slice(WINDOW) if mask is None else mask[row].nonzero()[:WINDOW, 0]
            yield {name: value[row : row + 1, taken] for name, value in batch.items()}
