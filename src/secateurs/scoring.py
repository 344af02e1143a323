"""Evaluating a checkpoint: what it can be scored on, and how large and fast it is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from secateurs.calibration import add_decoder_input, take_tokens
from secateurs.encoding import Batch, find_length, require_tokenizer, tokenise
from secateurs.errors import InputError, unknown_name
from secateurs.evaluation.classification import predict, require_head, score_predictions
from secateurs.evaluation.embeddings import embed, score_stsb
from secateurs.evaluation.perplexity import Gap, PerplexityScore, compare_losses, evaluate_perplexity
from secateurs.evaluation.speed import Latency, measure_latency
from secateurs.models.loading import LoadedModel
from secateurs.models.safety import bytes_on_disk
from secateurs.models.sizes import measure_size
from secateurs.results import ModelSize, Progress, no_progress
from secateurs.tasks import TASKS, Metric, read_examples
from secateurs.texts import TextSource, default_passages, open_texts

EMBEDDINGS_TASK = "stsb-embeddings"


@dataclass(frozen=True, slots=True)
class Profile:
    """Size and speed, which every supported model has."""

    size: ModelSize
    """Parameters and multiply-adds."""
    weight_bytes: int | None
    """Bytes of the weights on disk; None for a model in memory."""
    latency: Latency
    """Time of one forward pass of one sequence."""


@dataclass(frozen=True, slots=True)
class TextScore:
    """Perplexity on some text, and the gap to another model's where one was given."""

    perplexity: PerplexityScore
    """Of the model."""
    text: str
    """What it was measured on."""
    unread: str
    """What was left of the text."""
    window: int
    """Tokens in a window."""
    stride: int
    """Tokens between the starts of windows."""
    seconds: float
    """Time it took."""
    other: PerplexityScore | None = None
    """Of the model it was compared with."""
    gap: Gap | None = None
    """Log-loss of the model less that of the other."""


def profile(loaded: LoadedModel) -> Profile:
    """Size, bytes on disk and latency of one sequence of the stated length (512 tokens for decoders, else 128)."""
    size = measure_size(loaded.model, loaded.family)
    (latency,) = measure_latency([loaded.model], example_batch(loaded, size.sequence_length))
    return Profile(size, bytes_on_disk(loaded.source) if loaded.source else None, latency)


def example_batch(loaded: LoadedModel, length: int) -> Batch:
    """One sequence of arbitrary tokens (or one blank image), for timing."""
    config: Any = loaded.model.config
    if loaded.family.kind == "vision":
        dtype = next(loaded.model.parameters()).dtype
        return {"pixel_values": torch.zeros(1, config.num_channels, config.image_size, config.image_size, dtype=dtype)}
    length = min(length, find_length(loaded, None))
    ids = torch.arange(length)[None] % (config.vocab_size - 2) + 1
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return add_decoder_input(batch, loaded.model) if loaded.family.kind == "encoder-decoder" else batch


def score_text(
    loaded: LoadedModel,
    text: str | None,
    *,
    tokens: int,
    window: int | None = None,
    stride: int | None = None,
    against: LoadedModel | None = None,
    progress: Progress = no_progress,
) -> TextScore:
    """Perplexity of a causal language model, and the paired gap to another on the same tokens.

    Raises:
        InputError: the model is no causal language model, or the other one has another tokenizer.
    """
    for model in (loaded, against):
        if model is not None and not model.is_language_model:
            raise InputError(f"{type(model.model).__name__} has no perplexity; {how_to_score(model)}")
    source = open_texts(text) if text is not None else default_test_text()
    ids = take_tokens(source, loaded.tokenizer, tokens)
    width = min(find_length(model, window) for model in (loaded, against) if model is not None)
    start = time.perf_counter()
    mine = evaluate_perplexity(loaded.model, ids, window=width, stride=stride, progress=progress)
    seconds = time.perf_counter() - start
    if against is None:
        return TextScore(mine, source.name, source.unread, width, stride or width, seconds)
    probe = "The quick brown fox, 1234.\n"
    if require_tokenizer(against.tokenizer)(probe)["input_ids"] != loaded.tokenizer(probe)["input_ids"]:  # type: ignore[misc]
        raise InputError("the two models have different tokenizers, so their log-losses can't be compared")
    other = evaluate_perplexity(against.model, ids, window=width, stride=stride, progress=progress)
    gap = compare_losses(other, mine)
    return TextScore(mine, source.name, source.unread, width, stride or width, seconds, other, gap)


def default_test_text() -> TextSource:
    """The test part of the text that Python carries."""
    return TextSource("text that comes with Python, test part", iter(default_passages("test")), is_running=True)


def compare_embeddings(
    loaded: LoadedModel, against: LoadedModel, text: str | None, progress: Progress = no_progress
) -> tuple[float, int]:
    """Mean cosine between two encoders' embeddings of the same rows, and the number of rows (1,000 at most)."""
    for model in (loaded, against):
        require_encoder(model)
    source = open_texts(text) if text is not None else default_test_text()
    rows = [row for row, _ in zip((row.strip() for row in source if row.strip()), range(1000), strict=False)]
    cosines = (embed(loaded, rows, progress) * embed(against, rows, progress)).sum(dim=1)
    return float(cosines.mean()), len(rows)


def score_embeddings(loaded: LoadedModel, data: Path | None, progress: Progress = no_progress) -> tuple[float, int]:
    """Spearman correlation of embedding cosines with people's scores of STS-B pairs, and the number of pairs."""
    if data is None:
        raise InputError(f"task {EMBEDDINGS_TASK} needs --data, the folder with stsb/validation.tsv")
    require_encoder(loaded)
    return score_stsb(loaded, data, progress)


def score_task(
    loaded: LoadedModel, name: str, data: Path | None, progress: Progress = no_progress
) -> tuple[dict[Metric, float], int]:
    """Each metric of a labelled task on its validation rows, and the number of rows.

    Args:
        loaded: an encoder with a classification head, say from `secateurs finetune`.
        name: of the task.
        data: folder with the task's files; None: GLUE from the hub.
        progress: told after each batch.

    Raises:
        InputError: the task is unknown, the head does not fit, or the data is missing.
    """
    if name not in TASKS:
        raise unknown_name("task", name, [*TASKS, EMBEDDINGS_TASK])
    task = TASKS[name]
    require_head(loaded, task)
    rows = tokenise(loaded, task, read_examples(task, data, "validation"))
    return score_predictions(task, predict(loaded.model, rows, progress), rows.labels), len(rows)


def how_to_score(loaded: LoadedModel) -> str:
    """What the kind of model can be scored on, in words."""
    if loaded.is_language_model:
        return "score it by perplexity"
    if loaded.family.kind == "encoder":
        return "score it with --against OTHER or --task NAME"
    return f"{loaded.family.name} models are not scored here, only measured for size and speed"


def require_encoder(loaded: LoadedModel) -> None:
    """Raise InputError unless the model is an encoder, which has sentence embeddings."""
    if loaded.family.kind != "encoder":
        raise InputError(f"{type(loaded.model).__name__} has no sentence embeddings; {how_to_score(loaded)}")
