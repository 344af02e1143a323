"""Calibration text with some of its tokens replaced by random ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateurs.calibration import Calibration, count_rows
from secateurs.encoding import Batch
from secateurs.models.loading import LoadedModel
from secateurs.rows import LazyBatches, StoredRows


def replace_tokens(calibration: Calibration, loaded: LoadedModel, share: float, seed: int) -> Calibration:
    """The same text with a share of its tokens replaced, each by one drawn evenly from the whole vocabulary.

    Padding and special tokens stay, and none comes in. Batches without token ids stay as they are, as does a decoder's
    input where there is an encoder. Without a tokenizer the config says which tokens are special, and an encoder's rows
    keep their first and last tokens.
    """
    if share == 0 or "input_ids" not in calibration.batches[0]:
        return calibration
    rows = StoredRows(_replaced_rows(calibration, loaded, share, seed))
    starts = np.cumsum([0, *map(count_rows, calibration.batches)]).tolist()

    def make(number: int) -> Batch:
        batch = calibration.batches[number]
        ids = batch["input_ids"].clone()
        for place, (row, real) in enumerate(zip(ids, _find_mask(batch), strict=True), start=starts[number]):
            row[real] = torch.tensor(rows[place], dtype=ids.dtype)
        return {**batch, "input_ids": ids}

    return replace(calibration, batches=LazyBatches(len(calibration.batches), make))


def _replaced_rows(
    calibration: Calibration, loaded: LoadedModel, share: float, seed: int
) -> Iterator[NDArray[np.int64]]:
    """The real tokens of each row, with a share of them replaced."""
    special = find_special_ids(loaded)
    holds_ends = loaded.tokenizer is None and loaded.family.kind != "decoder"  # no config names BERT's [CLS] and [SEP]
    size = loaded.model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    if loaded.tokenizer is not None:
        size = min(size, len(loaded.tokenizer))
    ordinary = np.setdiff1d(np.arange(size), special)
    generator = np.random.default_rng(seed)
    for batch in calibration.batches:
        for row, real in zip(batch["input_ids"], _find_mask(batch), strict=True):
            tokens = row[real].numpy()  # so that the draw doesn't depend on padding and batch size
            goes = (generator.random(len(tokens)) < share) & ~np.isin(tokens, special)
            if holds_ends:
                goes[[0, -1]] = False
            yield np.where(goes, generator.choice(ordinary, len(tokens)), tokens)


def _find_mask(batch: Batch) -> Tensor:
    """(B, T) bool, which tokens are real."""
    return batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()


def find_special_ids(loaded: LoadedModel) -> list[int]:
    """Ids of tokens that are no text: the tokenizer's, or without one those that the model's config names."""
    if loaded.tokenizer is not None:
        return list(loaded.tokenizer.all_special_ids)
    named = (getattr(loaded.model.config, f"{name}_token_id", None) for name in ("bos", "eos", "pad", "cls", "sep"))
    return [token for ids in named if ids is not None for token in (ids if isinstance(ids, list) else [ids])]
