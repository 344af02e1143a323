"""Calibration batches: text to token ids, packed into windows or padded row by row, never more than asked for."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateurs.encoding import Batch, batches_by_length, find_length, pad_rows, require_tokenizer, tokenise
from secateurs.errors import InputError
from secateurs.memory import give_back
from secateurs.models.loading import LoadedModel
from secateurs.recipe import Recipe
from secateurs.results import CalibrationSummary
from secateurs.rows import LazyBatches, StoredBytes, StoredRows
from secateurs.tasks import find_task, read_examples
from secateurs.texts import TextSource, default_passages, open_texts

CalibrationInput = str | Path | Sequence[str] | Iterable[Batch] | None
BLOCK_CHARACTERS = 1 << 16
"""Characters of running text that are tokenised at once, or one line where that has more."""
MIN_TOKENS = 256
UNSEEN_TOKENS, UNSEEN_WINDOW = 640, 128
"""Tokens of text that pruning did not see, for a first look, and those in a window of it."""
SEEN = "{}, which was calibrated on"
MOST_IMAGES = 16
"""Rows without tokens that stand for as many tokens as are asked for."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Batches of model inputs, on the CPU, and what they were made from."""

    batches: Sequence[Batch]
    """Keyword arguments of the model's forward pass; those of text are made each time one is asked for."""
    summary: CalibrationSummary
    """What was read and what was left."""
    labels: tuple[Tensor, ...] | None = None
    """(rows,) of each batch, where the rows are labelled; only methods that say that they need labels look at them."""
    is_running: bool = False
    """Whether the rows are windows of packed text, in its order."""

    @property
    def rows(self) -> int:
        """Of all batches."""
        return sum(count_rows(batch) for batch in self.batches)

    def sample_rows(self, rows: int, seed: int) -> Calibration:
        """At most `rows` rows (and their labels) drawn at random, however they were batched."""
        chosen = np.zeros(self.rows, dtype=bool)
        chosen[random.Random(seed).sample(range(self.rows), min(rows, self.rows))] = True
        return self.take_rows(chosen)

    def take_rows(self, chosen: NDArray[np.bool_]) -> Calibration:
        """The rows (and their labels) where `chosen` (rows,) says so, in order, in what is left of their batches."""
        ends = np.cumsum([count_rows(batch) for batch in self.batches])
        parts = [torch.from_numpy(part) for part in np.split(chosen, ends[:-1])]
        used = [number for number, part in enumerate(parts) if part.any()]
        labels = None if self.labels is None else tuple(self.labels[n][parts[n]] for n in used)

        def make(number: int) -> Batch:
            n = used[number]
            return {name: value[parts[n]] for name, value in self.batches[n].items()}

        return replace(self, batches=LazyBatches(len(used), make), labels=labels)

    def head(self, tokens: int) -> Calibration:
        """The first rows with so many tokens (padding too), or as few more as whole rows make; 16 images."""
        batches: list[Batch] = []
        per_image = -(-tokens // MOST_IMAGES)
        for batch in self.batches:
            sequence = batch.get("input_ids", batch.get("inputs_embeds"))
            per_row = per_image if sequence is None else sequence.shape[1]
            rows = -(-tokens // per_row)
            batches.append({name: value[:rows] for name, value in batch.items()})
            tokens -= per_row * count_rows(batches[-1])
            if tokens <= 0:
                break
        return replace(self, batches=tuple(batches), labels=None)

    def draw_batches(self, rows: int, seed: int) -> tuple[Batch, ...]:
        """At most `rows` rows in whole batches and one cut short, taken in a seeded random order of the batches."""
        order, drawn = list(range(len(self.batches))), []
        random.Random(seed).shuffle(order)
        for number in order:
            batch = self.batches[number]
            size = count_rows(batch)
            drawn.append({name: value[:rows] for name, value in batch.items()} if size > rows else batch)
            rows -= min(size, rows)
            if rows == 0:
                break
        return tuple(drawn)


def count_rows(batch: Batch) -> int:
    """Rows of one batch."""
    return len(next(iter(batch.values())))


def prepare_calibration(given: CalibrationInput, loaded: LoadedModel, recipe: Recipe) -> Calibration:
    """Batches from a path, texts, ready-made batches, or (None) the recipe's own path or task.

    Raises:
        InputError: there is too little text, or it can't be read, or the model has no tokenizer.
    """
    if given is None and recipe.task is not None:
        return _from_task(loaded, recipe)
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
        rows = StoredRows(_pack(texts, loaded.tokenizer, recipe.calibration_tokens, length, recipe.calibration_skip))
    else:
        if recipe.calibration_share is not None:
            texts = _draw_texts(texts, recipe.calibration_share, recipe.min_rows, recipe.seed)
        limit = recipe.calibration_tokens if recipe.calibration_share is None else None
        taken = _take_rows(texts, loaded.tokenizer, limit, length, recipe.calibration_skip)
        rows = StoredRows(taken, by_length=True)
    tokens = int(rows.lengths.sum())
    if tokens < MIN_TOKENS and (texts.is_finished or not rows):  # else whole rows just miss the budget
        raise InputError(f"calibration needs at least {MIN_TOKENS} tokens, got {tokens} from {texts.name}")
    summary = CalibrationSummary(texts.name, len(rows), tokens, texts.unread, hash_rows(rows))
    batches = _make_batches(rows, loaded, recipe.batch_size)
    return Calibration(batches, summary, is_running=loaded.family.kind == "decoder")


def prepare_unseen(given: CalibrationInput, loaded: LoadedModel, recipe: Recipe, used: Calibration) -> Calibration:
    """A little more from where a calibration is from, after what it used (of a task: validation rows).

    Where nothing is left, text that comes with Python, test part. Where there is no more (batches from Python, a model
    without a tokenizer, a task without validation rows) some of what was used, and its source says so.

    Args:
        given: what the calibration was prepared from.
        loaded: the model.
        recipe: the settings that it was prepared by.
        used: the calibration.
    """
    is_text = given is None or isinstance(given, str | Path) or (isinstance(given, Sequence) and _holds_texts(given))
    if loaded.family.kind == "vision" or loaded.tokenizer is None or not is_text:
        return _rename(used.head(UNSEEN_TOKENS), SEEN)
    if given is None and recipe.task is not None:
        try:
            return _from_validation(loaded, recipe)
        except InputError:  # pruning needs the training rows only
            return _rename(used.head(UNSEEN_TOKENS), SEEN)
    # rows must be cut as they were, to know where calibration stopped
    length = min(find_length(loaded, None), UNSEEN_WINDOW) if loaded.family.kind == "decoder" else recipe.max_length
    settings = {"max_length": length, "calibration_tokens": UNSEEN_TOKENS, "calibration_share": None}
    if recipe.calibration_share is None and recipe.calibration != "-":
        skip = recipe.calibration_skip + recipe.calibration_tokens
        try:
            found = prepare_calibration(given, loaded, recipe.model_copy(update={**settings, "calibration_skip": skip}))
            return _rename(found, "{}, after what was calibrated on")
        except InputError:  # nothing is left
            pass
    texts = recipe.model_copy(update={**settings, "calibration_skip": 0, "text_column": None})
    found = prepare_calibration(default_passages("test"), loaded, texts)
    return _rename(found, "text that comes with Python, test part")


def _rename(calibration: Calibration, name: str) -> Calibration:
    """The same with another source; {} stands for the old one."""
    summary = calibration.summary
    return replace(calibration, summary=replace(summary, source=name.replace("{}", summary.source)))


def _holds_texts(given: Sequence[Any]) -> bool:
    return all(isinstance(text, str) for text in given)


def take_tokens(texts: TextSource, tokenizer: Any | None, limit: int) -> list[int]:
    """The first `limit` token ids of texts packed into one stream; rows end with the end-of-text token.

    Of the text that the last ones are from, the part beyond them is put back, as far as its share of tokens tells.
    """
    return list(itertools.chain.from_iterable(_tokenise_blocks(texts, tokenizer, limit)))


def _tokenise_blocks(texts: TextSource, tokenizer: Any | None, limit: int) -> Iterator[list[int]]:
    """What `take_tokens` gives, block by block."""
    tokenizer = require_tokenizer(tokenizer)
    for block in _blocks(texts):
        ids: list[int] = tokenizer(block, add_special_tokens=False, verbose=False)["input_ids"]
        _give_back_after(block)
        if not texts.is_running and tokenizer.eos_token_id is not None:
            ids.append(tokenizer.eos_token_id)
        if len(ids) >= limit:
            texts.put_back(block[round(limit / len(ids) * len(block)) :])
            yield ids[:limit]
            return
        limit -= len(ids)
        yield ids


def _pack(texts: TextSource, tokenizer: Any | None, limit: int, length: int, skip: int) -> Iterator[list[int]]:
    """Windows of `length` token ids, the last one of what is left, after the first `skip` tokens, up to `limit`."""
    blocks = _tokenise_blocks(texts, tokenizer, skip + limit)
    ids = itertools.islice(itertools.chain.from_iterable(blocks), skip, None)
    return iter(lambda: list(itertools.islice(ids, length)), [])


def _give_back_after(text: str) -> None:
    """Of a long text: what tokenising it took, hundreds of bytes a character, would add up in gaps of the heap."""
    if len(text) > 2 * BLOCK_CHARACTERS:
        give_back()


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
    rows = StoredBytes(text.encode("utf-8", "surrogatepass") for text in texts if text.strip())
    chosen = draw_rows(len(rows), share, at_least, seed)
    name = f"{texts.name}, {len(chosen):,} rows drawn from {len(rows):,}"
    drawn = (rows.read(place).decode("utf-8", "surrogatepass") for place in chosen)
    return TextSource(name, drawn, is_running=False)


def _take_rows(
    texts: TextSource, tokenizer: Any | None, limit: int | None, length: int, skip: int
) -> Iterator[list[int]]:
    """Rows of token ids after the first `skip` tokens, up to `limit` tokens."""
    tokenizer = require_tokenizer(tokenizer)
    total, is_first = -skip, True
    for text in texts:
        if not text.strip():
            continue
        row = tokenizer(text.strip(), truncation=True, max_length=length, verbose=False)["input_ids"]
        _give_back_after(text)
        total += len(row)
        if not is_first and limit is not None and total > limit:
            texts.put_back(text)
            return
        if total > 0:
            is_first = False
            yield row


def _make_batches(rows: StoredRows, loaded: LoadedModel, batch_size: int) -> LazyBatches:
    pad_id = getattr(loaded.tokenizer, "pad_token_id", None) or 0
    kind, lengths = loaded.family.kind, rows.lengths
    whole = int((lengths == lengths[0]).sum()) if kind == "decoder" else len(rows)
    starts = range(0, whole, batch_size)
    has_end = bool((lengths[whole:] > 1).any())  # the short end of packed text
    model = loaded.model if kind == "encoder-decoder" else None  # else batches would keep it in memory

    def make(number: int) -> Batch:
        places = range(starts[number], min(starts[number] + batch_size, whole)) if number < len(starts) else [whole]
        batch = pad_rows([rows[place] for place in places], pad_id)
        return batch if model is None else add_decoder_input(batch, model)

    return LazyBatches(len(starts) + has_end, make)


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


def _from_task(loaded: LoadedModel, recipe: Recipe) -> Calibration:
    """Training rows of a task in a seeded random order, with their labels, as far as the budget allows."""
    task = find_task(str(recipe.task))
    examples = read_examples(task, None if recipe.data is None else Path(recipe.data), "train", seed=recipe.seed)
    share, count = recipe.calibration_share, len(examples)
    most = recipe.calibration_tokens if share is None else count  # a row has a token at least
    order = draw_rows(count, share or 1.0, recipe.min_rows if share else count, recipe.seed)
    random.Random(recipe.seed).shuffle(order)
    rows = tokenise(loaded, task, examples.at(order[:most]), recipe.max_length)
    lengths = [len(row["input_ids"]) for row in rows.inputs]
    if share is None:
        totals = itertools.accumulate(lengths)
        lengths = lengths[: max(1, sum(total <= recipe.calibration_tokens for total in totals))]
    groups = list(batches_by_length(lengths, recipe.batch_size))
    digest = hash_rows([rows.inputs[place]["input_ids"] for place in range(len(lengths))])
    unread = "nothing" if len(lengths) == count else f"{count - len(lengths):,} rows"
    summary = CalibrationSummary(f"{examples.source}, drawn at random", len(lengths), sum(lengths), unread, digest)
    return Calibration(
        tuple(rows.batch(group) for group in groups), summary, tuple(rows.labels[group] for group in groups)
    )


def _from_validation(loaded: LoadedModel, recipe: Recipe) -> Calibration:
    """The first validation rows of a task, without their labels."""
    task = find_task(str(recipe.task))
    examples = read_examples(task, None if recipe.data is None else Path(recipe.data), "validation")
    rows = tokenise(loaded, task, examples.at(range(min(len(examples), UNSEEN_TOKENS // 4))), recipe.max_length)
    lengths = [len(row["input_ids"]) for row in rows.inputs]
    lengths = lengths[: max(1, sum(total <= UNSEEN_TOKENS for total in itertools.accumulate(lengths)))]
    digest = hash_rows([rows.inputs[place]["input_ids"] for place in range(len(lengths))])
    summary = CalibrationSummary(examples.source, len(lengths), sum(lengths), "the rest", digest)
    return Calibration(tuple(rows.batch(group) for group in batches_by_length(lengths, recipe.batch_size)), summary)


def _from_batches(given: Sequence[Any], loaded: LoadedModel) -> Calibration:
    digest, rows, tokens = hashlib.sha256(), 0, 0
    batches: list[Batch] = []
    labels: list[Tensor] = []
    for number, batch in enumerate(given):
        if not isinstance(batch, Mapping) or not all(isinstance(value, Tensor) for value in batch.values()):
            raise InputError(f"calibration batch {number} must be a mapping of names to tensors")
        batch = {name: value.detach().cpu() for name, value in batch.items()}
        for name, value in sorted(batch.items()):
            digest.update(name.encode() + value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        if "labels" in batch:
            labels.append(batch["labels"])
            batch = {name: value for name, value in batch.items() if name != "labels"}
        _check_rows(batch, number)
        _check_padding(batch, number, reads_first=loaded.reads_first_token)
        rows += count_rows(batch)
        mask = batch.get("attention_mask", batch.get("input_ids"))
        tokens += 0 if mask is None else int((mask != 0).sum()) if "attention_mask" in batch else mask.numel()
        needs_decoder = loaded.family.kind == "encoder-decoder" and "decoder_input_ids" not in batch
        batches.append(add_decoder_input(batch, loaded.model) if needs_decoder else batch)
    summary = CalibrationSummary(f"{len(given)} batches", rows, tokens, "nothing", digest.hexdigest())
    if labels and len(labels) < len(batches):
        raise InputError(f"either all calibration batches have labels or none, got {len(labels)} of {len(batches)}")
    has_padding = any(not bool(batch["attention_mask"].all()) for batch in batches if "attention_mask" in batch)
    is_running = loaded.family.kind == "decoder" and not labels and not has_padding
    return Calibration(tuple(batches), summary, tuple(labels) if labels else None, is_running)


def _check_rows(batch: Batch, number: int) -> None:
    if not batch:
        raise InputError(f"calibration batch {number} is empty")
    rows = {name: tuple(value.shape[:1]) for name, value in batch.items()}
    if len(set(rows.values())) > 1 or () in rows.values():
        told = ", ".join(f"{name} {tuple(value.shape)}" for name, value in batch.items())
        raise InputError(f"calibration batch {number}: each tensor must have one entry for each row first, got {told}")


def _check_padding(batch: Batch, number: int, *, reads_first: bool) -> None:
    masks = [batch[name] for name in ("attention_mask", "decoder_attention_mask") if name in batch]
    if not all(bool(mask.flatten(1).any(dim=1).all()) for mask in masks):
        raise InputError(f"calibration batch {number}: a row is nothing but padding")
    if reads_first and masks and not bool(masks[0][:, 0].all()):
        raise InputError(f"calibration batch {number}: a row begins with padding, and the model reads what is first")


def hash_rows(rows: Iterable[Sequence[int]]) -> str:
    """SHA-256 of rows of token ids, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update((" ".join(map(str, row)) + "\n").encode())
    return digest.hexdigest()
