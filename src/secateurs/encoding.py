"""From text to token ids: how long a row may be, padding, and rows of labelled tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateurs.errors import InputError
from secateurs.models.families import Family
from secateurs.models.loading import LoadedModel
from secateurs.models.sizes import DEFAULT_SEQUENCE_LENGTH
from secateurs.tasks import Examples, Task

Batch = Mapping[str, Tensor]
"""Keyword arguments of a model's forward pass."""


def find_length(loaded: LoadedModel, wanted: int | None) -> int:
    """Tokens in a window or row: as wanted, else by kind; never more than the model has positions for."""
    limit = _position_limit(loaded.family, loaded.model.config, loaded.tokenizer)
    if wanted is not None and wanted > limit:
        raise InputError(f"windows and rows must have at most {limit} tokens, the model's positions, got {wanted}")
    return wanted or min(limit, DEFAULT_SEQUENCE_LENGTH[loaded.family.kind])


def require_tokenizer(tokenizer: Any | None) -> Any:
    """The tokenizer, or an error that says what to give."""
    if tokenizer is None:
        raise InputError("the model has no tokenizer; from Python, give tokenizer=... or calibration as batches")
    return tokenizer


def pad_rows(rows: Sequence[Sequence[int]], pad_id: int) -> dict[str, Tensor]:
    """Token ids padded on the right to the longest row, with their attention mask: (B, T) int64 each."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}


@dataclass(frozen=True, slots=True)
class TaskRows:
    """Labelled rows as token ids, tokenised once."""

    inputs: tuple[Mapping[str, Sequence[int]], ...]
    """input_ids, attention_mask and what else the tokenizer gives, for each row."""
    labels: Tensor
    """(rows,) float32 where the label is a number, int64 where it is a class."""
    tokenizer: Any
    """Pads them."""

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, places: Sequence[int]) -> Batch:
        """Some rows, padded to the longest of them."""
        batch: Batch = dict(self.tokenizer.pad([self.inputs[place] for place in places], return_tensors="pt"))
        return batch


def tokenise(loaded: LoadedModel, task: Task, examples: Examples, max_length: int | None = None) -> TaskRows:
    """Rows as token ids, cut to the task's length, or to another one."""
    tokenizer = require_tokenizer(loaded.tokenizer)
    length = find_length(loaded, max_length) if max_length else min(task.max_length, find_length(loaded, None))
    parts = [list(column) for column in zip(*examples.texts, strict=True)]
    encoded = tokenizer(*parts, truncation=True, max_length=length, verbose=False)
    names = list(encoded)
    inputs = tuple(dict(zip(names, values, strict=True)) for values in zip(*encoded.values(), strict=True))
    labels = torch.tensor(examples.labels)
    return TaskRows(inputs, labels if task.is_regression else labels.long(), tokenizer)


def batches_by_length(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Row numbers in batches of rows of about one length, shortest first."""
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    yield from (order[start : start + size] for start in range(0, len(order), size))


def _position_limit(family: Family, config: Any, tokenizer: Any | None) -> int:
    positions = getattr(config, "max_position_embeddings", None) or 1 << 30
    stated = getattr(tokenizer, "model_max_length", None) or 1 << 30
    return int(min(positions - family.reserved_positions, stated))
