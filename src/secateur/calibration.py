"""Calibration batches: text to token ids, packed into windows or padded row by row, never more than asked for."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.models.families import Family
from secateur.models.loading import LoadedModel
from secateur.models.sizes import DEFAULT_SEQUENCE_LENGTH
from secateur.recipe import Recipe
from secateur.results import CalibrationSummary
from secateur.texts import TextSource, open_texts

Batch = Mapping[str, Tensor]
CalibrationInput = str | Path | Sequence[str] | Iterable[Batch] | None
BLOCK_CHARACTERS = 1 << 16
"""Characters of running text that are tokenised at once."""
MIN_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Calibration:
    """Batches of model inputs, on the CPU, and what they were made from."""

    batches: tuple[Batch, ...]
    """Keyword arguments of the model's forward pass."""
    summary: CalibrationSummary
    """What was read and what was left."""

    def draw_batches(self, rows: int, seed: int) -> tuple[Batch, ...]:
        """At most `rows` rows in whole batches and one cut short, taken in a seeded random order of the batches."""
        order, drawn = list(self.batches), []
        random.Random(seed).shuffle(order)
        for batch in order:
            size = len(next(iter(batch.values())))
            drawn.append({name: value[:rows] for name, value in batch.items()} if size > rows else batch)
            rows -= min(size, rows)
            if rows == 0:
                break
        return tuple(drawn)


def prepare_calibration(given: CalibrationInput, loaded: LoadedModel, recipe: Recipe) -> Calibration:
    """Batches from a path, texts, ready-made batches, or (None) the recipe's own path.

    Raises:
        InputError: there is too little text, or it can't be read, or the model has no tokenizer.
    """
    where = recipe.calibration if given is None else given
    if where is not None and not isinstance(where, str | Path):
        entries: list[Any] = list(where)
        if entries and not isinstance(entries[0], str):
            return _from_batches(entries, loaded)
        where = entries
    if loaded.family.kind == "vision":
        raise InputError(f"{loaded.family.name} reads no text; give calibration as batches of inputs, from Python")
    texts = open_texts(where, recipe.text_column)
    length = find_length(loaded, recipe.max_length)
    if loaded.family.kind == "decoder":
        ids = take_tokens(texts, loaded.tokenizer, recipe.calibration_tokens)
        rows = [ids[start : start + length] for start in range(0, len(ids), length)]
    else:
        if recipe.calibration_share is not None:
            texts = _draw_texts(texts, recipe.calibration_share, recipe.min_rows, recipe.seed)
        limit = recipe.calibration_tokens if recipe.calibration_share is None else None
        rows = sorted(_take_rows(texts, loaded.tokenizer, limit, length), key=len)
    tokens = sum(map(len, rows))
    if tokens < MIN_TOKENS and (texts.is_finished or not rows):  # else whole rows just miss the budget
        raise InputError(f"calibration needs at least {MIN_TOKENS} tokens, got {tokens} from {texts.name}")
    summary = CalibrationSummary(texts.name, len(rows), tokens, texts.unread, _hash_rows(rows))
    return Calibration(tuple(_make_batches(rows, loaded, recipe.batch_size)), summary)


def take_tokens(texts: TextSource, tokenizer: Any | None, limit: int) -> list[int]:
    """The first `limit` token ids of texts packed into one stream; rows end with the end-of-text token."""
    tokenizer = require_tokenizer(tokenizer)
    ids: list[int] = []
    for block in _blocks(texts):
        ids += tokenizer(block, add_special_tokens=False, verbose=False)["input_ids"]
        if not texts.is_running and tokenizer.eos_token_id is not None:
            ids.append(tokenizer.eos_token_id)
        if len(ids) >= limit:
            break
    return ids[:limit]


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


def _blocks(texts: TextSource) -> Iterator[str]:
    if not texts.is_running:
        yield from (text for text in texts if text.strip())
        return
    held, size = [], 0
    for line in texts:
        held.append(line)
        size += len(line)
        if size >= BLOCK_CHARACTERS:
            yield "".join(held)
            held, size = [], 0
    if held and "".join(held).strip():
        yield "".join(held)


def draw_rows(count: int, share: float, at_least: int, seed: int) -> list[int]:
    """Numbers of a random sample of `count` rows, sorted: a share of them, but at least so many (or all there are)."""
    wanted = min(count, max(int(share * count), at_least))
    return sorted(random.Random(seed).sample(range(count), wanted))


def _draw_texts(texts: TextSource, share: float, at_least: int, seed: int) -> TextSource:
    rows = [text for text in texts if text.strip()]
    chosen = draw_rows(len(rows), share, at_least, seed)
    name = f"{texts.name}, {len(chosen):,} rows drawn from {len(rows):,}"
    return TextSource(name, iter([rows[place] for place in chosen]), is_running=False)


def _take_rows(texts: TextSource, tokenizer: Any | None, limit: int | None, length: int) -> list[list[int]]:
    tokenizer = require_tokenizer(tokenizer)
    rows: list[list[int]] = []
    total = 0
    for text in texts:
        if not text.strip():
            continue
        row = tokenizer(text.strip(), truncation=True, max_length=length, verbose=False)["input_ids"]
        total += len(row)
        if rows and limit is not None and total > limit:
            break
        rows.append(row)
    return rows


def _make_batches(rows: Sequence[list[int]], loaded: LoadedModel, batch_size: int) -> Iterator[Batch]:
    pad_id = getattr(loaded.tokenizer, "pad_token_id", None) or 0
    is_packed = loaded.family.kind == "decoder"
    whole = [row for row in rows if not is_packed or len(row) == len(rows[0])]
    groups = [whole[start : start + batch_size] for start in range(0, len(whole), batch_size)]
    groups += [[row] for row in rows[len(whole) :] if len(row) > 1]  # the short end of packed text
    for group in groups:
        batch = pad_rows(group, pad_id)
        yield add_decoder_input(batch, loaded.model) if loaded.family.kind == "encoder-decoder" else batch


def add_decoder_input(batch: Batch, model: Any) -> Batch:
    """The batch with its own text, shifted right, as the decoder's input, if the model has a decoder."""
    if getattr(model, "decoder", None) is None:
        return batch
    start = model.config.decoder_start_token_id or 0
    ids = batch["input_ids"]
    mask = batch.get("attention_mask", torch.ones_like(ids))
    return {
        **batch,
        "decoder_input_ids": torch.cat([torch.full_like(ids[:, :1], start), ids[:, :-1]], dim=1),
        "decoder_attention_mask": mask,  # as many tokens as the row has: the last one is dropped
    }


def _from_batches(given: Sequence[Any], loaded: LoadedModel) -> Calibration:
    digest, rows, tokens = hashlib.sha256(), 0, 0
    batches: list[Batch] = []
    for number, batch in enumerate(given):
        if not isinstance(batch, Mapping) or not all(isinstance(value, Tensor) for value in batch.values()):
            raise InputError(f"calibration batch {number} must be a mapping of names to tensors")
        for name, value in sorted(batch.items()):
            digest.update(
                name.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            )
        if not batch:
            raise InputError(f"calibration batch {number} is empty")
        first = next(iter(batch.values()))
        rows += len(first)
        mask = batch.get("attention_mask", batch.get("input_ids"))
        tokens += 0 if mask is None else int((mask != 0).sum()) if "attention_mask" in batch else mask.numel()
        needs_decoder = loaded.family.kind == "encoder-decoder" and "decoder_input_ids" not in batch
        batches.append(add_decoder_input(batch, loaded.model) if needs_decoder else batch)
    summary = CalibrationSummary(f"{len(given)} batches", rows, tokens, "nothing", digest.hexdigest())
    return Calibration(tuple(batches), summary)


def _position_limit(family: Family, config: Any, tokenizer: Any | None) -> int:
    positions = getattr(config, "max_position_embeddings", None) or 1 << 30
    stated = getattr(tokenizer, "model_max_length", None) or 1 << 30
    return int(min(positions - family.reserved_positions, stated))


def _hash_rows(rows: Sequence[Sequence[int]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update((" ".join(map(str, row)) + "\n").encode())
    return digest.hexdigest()
