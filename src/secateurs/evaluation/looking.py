"""A first look at what a model makes of a little text, before and after it was pruned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from secateurs.encoding import Batch, find_length
from secateurs.evaluation.embeddings import embed_batch
from secateurs.evaluation.perplexity import PerplexityScore, compare_losses
from secateurs.evaluation.speed import Latency, measure_latency
from secateurs.models.loading import LoadedModel, quiet_transformers
from secateurs.models.outputs import is_classifier, read_outputs
from secateurs.results.record import Example, Look, Reading

Kind = Literal["language model", "classifier", "embeddings", "outputs"]
LATENCY_REPETITIONS = 3
EXAMPLES = 3
Item = TypeVar("Item")
PROMPT_TOKENS, NEW_TOKENS = 16, 20
MOST_CHARACTERS = 240
"""Of a text that is shown."""
TASKS: dict[Kind, str] = {
    "language model": "How the text goes on, most likely token by token",
    "classifier": "The class of the text",
    "embeddings": "The nearest of the other texts",
    "outputs": "",
}


@dataclass(frozen=True, slots=True)
class Impression:
    """What one model makes of some text."""

    kind: Kind
    """What the rest is about."""
    answers: Tensor
    """Language models and classifiers: (places,) int64, the likeliest token or class. Else (rows, features) float32 of
    unit length: an embedding of each text, or the representation that a head reads."""
    score: PerplexityScore | None
    """Of a language model."""
    shown: tuple[str, ...]
    """What it makes of the examples."""
    latency: Latency
    """Time of one sequence."""


def find_kind(loaded: LoadedModel, batches: Sequence[Batch]) -> Kind:
    """What a model can be looked at by without labels, on these inputs."""
    if loaded.is_language_model and any(len(ids) > 1 for ids in _real_rows(batches)):
        return "language model"
    model: Any = loaded.model
    if is_classifier(model):
        return "classifier" if model.config.num_labels > 1 else "outputs"
    is_embedder = loaded.family.kind == "encoder" and loaded.pooling in ("first", "mean")
    return "embeddings" if is_embedder and any(True for _ in _real_rows(batches)) else "outputs"


def take_impression(loaded: LoadedModel, batches: Sequence[Batch], timed: Batch) -> Impression:
    """What a model makes of some batches, and how long it takes for another."""
    kind = find_kind(loaded, batches)
    score: PerplexityScore | None = None
    if kind == "language model":
        score, answers = _read_tokens(loaded, batches)
        shown = _continue(loaded, _choose(_texts(loaded, batches)))
    elif kind == "classifier":
        logits = torch.cat([read_outputs(loaded.model, batch, "logits", "cls").cpu() for batch in batches])
        answers, shown = logits.argmax(dim=1), _name_classes(loaded, logits[_choose(range(len(logits)))])
    else:
        answers = torch.cat([_represent(loaded, batch, kind).cpu() for batch in batches])
        answers = torch.nn.functional.normalize(answers, dim=1)
        shown = _find_neighbours(loaded, batches, answers) if kind == "embeddings" else ()
    (latency,) = measure_latency([loaded.model], timed, repetitions=LATENCY_REPETITIONS)
    return Impression(kind, answers, score, shown, latency)


def compare_impressions(
    loaded: LoadedModel, batches: Sequence[Batch], text: str, before: Impression, after: Impression
) -> Look:
    """The two side by side; `text` says where the batches are from."""
    readings = []
    if before.score is not None and after.score is not None:
        gap = compare_losses(before.score, after.score)
        error = "" if gap.standard_error_nats is None else f" ± {gap.standard_error_nats:.3f}"
        windows = len(before.score.window_tokens)
        note = f"log-loss {gap.nats:+.3f}{error} nats a token, paired over {windows} windows"
        readings.append(Reading("perplexity", before.score.perplexity, after.score.perplexity, note=note))
    if before.answers.ndim == 1:
        is_text = before.kind == "language model"
        name, of = ("same most likely token", "places") if is_text else ("same class", "rows")
        share = float((before.answers == after.answers).double().mean())
        readings.append(Reading(name, 1.0, share, note=f"share of {len(before.answers):,} {of}"))
    else:
        what = "embeddings" if before.kind == "embeddings" else "outputs"
        cosine = float((before.answers * after.answers).sum(dim=1).mean())
        note = f"mean cosine with the original's, {len(before.answers):,} of them"
        readings.append(Reading(f"likeness of {what}", 1.0, cosine, note=note))
    tokens = before.latency.tokens
    timed = f"one sequence of {tokens} tokens" if tokens else "one input"
    note = f"{timed}, fastest of {LATENCY_REPETITIONS}"
    readings.append(Reading("latency", before.latency.least_ms, after.latency.least_ms, "ms", note))
    examples: list[Example] = []
    if before.shown and loaded.tokenizer is not None:
        texts = [_read(loaded.tokenizer, ids) for ids in _choose(_texts(loaded, batches))]
        shown = zip(texts, before.shown, after.shown, strict=True)
        examples = [Example(*map(_shorten, parts)) for parts in shown]
    return Look(text, tuple(readings), TASKS[before.kind], tuple(examples))


def _read_tokens(loaded: LoadedModel, batches: Sequence[Batch]) -> tuple[PerplexityScore, Tensor]:
    """Log-loss of each row of at least two real tokens, and the likeliest next token at each place."""
    losses: list[float] = []
    counts: list[int] = []
    answers: list[Tensor] = []
    model: Any = loaded.model
    for ids in _real_rows(batches):
        if len(ids) < 2:
            continue
        with torch.inference_mode():
            logits = model(input_ids=ids[None].to(model.device), use_cache=False).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits.float(), ids[1:].long().to(logits.device))
        losses.append(float(loss))
        counts.append(len(ids) - 1)
        answers.append(logits.argmax(dim=1).cpu())
    return PerplexityScore(tuple(losses), tuple(counts)), torch.cat(answers)


def continue_texts(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], new_tokens: int = NEW_TOKENS, *, with_prompts: bool
) -> list[str]:
    """How a language model goes on after tokens, most likely token by token; prompts are of one length."""
    inputs = torch.tensor([list(ids) for ids in prompts], device=model.device)
    settings = {"max_new_tokens": new_tokens, "do_sample": False, "pad_token_id": tokenizer.pad_token_id or 0}
    with torch.inference_mode(), quiet_transformers():
        found = model.generate(inputs, attention_mask=torch.ones_like(inputs), **settings)
    return [_read(tokenizer, ids if with_prompts else ids[inputs.shape[1] :]) for ids in found]


def _continue(loaded: LoadedModel, prompts: Sequence[Tensor]) -> tuple[str, ...]:
    if loaded.tokenizer is None:
        return ()
    new_tokens = min(NEW_TOKENS, find_length(loaded, None) - len(prompts[0]))
    if new_tokens < 1:
        return ()
    ids = [prompt.tolist() for prompt in prompts]
    return tuple(continue_texts(loaded.model, loaded.tokenizer, ids, new_tokens, with_prompts=False))


def _choose(items: Sequence[Item]) -> list[Item]:
    """A few, spread evenly: rows come sorted by length."""
    count = min(EXAMPLES, len(items))
    return [items[(2 * place + 1) * len(items) // (2 * count)] for place in range(count)]


def _name_classes(loaded: LoadedModel, logits: Tensor) -> tuple[str, ...]:
    """The likeliest class of each row, with its probability."""
    model: Any = loaded.model
    names: Mapping[int, str] = model.config.id2label
    best = logits.softmax(dim=1).max(dim=1)
    places = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return tuple(f"{names.get(place, place)} ({share:.3f})" for place, share in places)


def _find_neighbours(loaded: LoadedModel, batches: Sequence[Batch], embeddings: Tensor) -> tuple[str, ...]:
    """Of each example the other text whose embedding is nearest, with the cosine."""
    if loaded.tokenizer is None or len(embeddings) < 2:
        return ()
    texts = _texts(loaded, batches)
    cosines = embeddings @ embeddings.T
    nearest = cosines.fill_diagonal_(-2.0).max(dim=1)
    places = list(zip(nearest.indices.tolist(), nearest.values.tolist(), strict=True))
    return tuple(
        f"{_shorten(_read(loaded.tokenizer, texts[place]))} ({cosine:.3f})" for place, cosine in _choose(places)
    )


def _represent(loaded: LoadedModel, batch: Batch, kind: Kind) -> Tensor:
    """(rows or tokens, features) float32."""
    return (
        embed_batch(loaded, batch)
        if kind == "embeddings"
        else read_outputs(loaded.model, batch, "representation", "tokens")
    )


def _texts(loaded: LoadedModel, batches: Sequence[Batch]) -> list[Tensor]:
    """Token ids of each row; of a language model only beginnings of one length, which are to be continued."""
    rows = list(_real_rows(batches))
    if not loaded.is_language_model:
        return rows
    length = min(PROMPT_TOKENS, max(map(len, rows)))
    return [ids[:length] for ids in rows if len(ids) >= length]


def _real_rows(batches: Sequence[Batch]) -> Iterator[Tensor]:
    """(tokens,) ids of each row without its padding; none of batches without ids."""
    for batch in batches:
        if "input_ids" in batch:
            ids = batch["input_ids"]
            mask = batch.get("attention_mask", torch.ones_like(ids)).bool()
            yield from (row[real] for row, real in zip(ids, mask, strict=True))


def _read(tokenizer: Any, ids: Tensor) -> str:
    """Tokens as text on one line."""
    text: str = tokenizer.decode(ids, skip_special_tokens=True)
    return " ".join(text.split())


def _shorten(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} ..."
