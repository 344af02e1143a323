"""Sentence embeddings of encoders, and how well they agree with people or with another model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from secateurs.encoding import find_length, pad_rows, require_tokenizer
from secateurs.errors import InputError
from secateurs.models.loading import LoadedModel, find_pooling
from secateurs.results import Progress, no_progress
from secateurs.texts import open_texts, read_header

BATCH_ROWS = 64


def embed(loaded: LoadedModel, texts: Sequence[str], progress: Progress = no_progress) -> Tensor:
    """(rows, D) float32, unit length: each text's token states, pooled as the checkpoint says (mean by default)."""
    tokenizer = require_tokenizer(loaded.tokenizer)
    length = find_length(loaded, None)
    rows = [tokenizer(text, truncation=True, max_length=length, verbose=False)["input_ids"] for text in texts]
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    result: Tensor | None = None
    for start in range(0, len(order), BATCH_ROWS):
        places = order[start : start + BATCH_ROWS]
        pooled = embed_batch(loaded, pad_rows([rows[place] for place in places], tokenizer.pad_token_id or 0))
        if result is None:
            result = torch.zeros(len(rows), pooled.shape[1])
        result[torch.tensor(places)] = pooled
        progress("embedding sentences", min(start + BATCH_ROWS, len(order)), len(order))
    if result is None:
        raise InputError("there are no sentences to embed")
    return result


def embed_batch(loaded: LoadedModel, batch: Mapping[str, Tensor]) -> Tensor:
    """(B, D) float32 on the CPU, unit length: the token states of each row, pooled as the checkpoint says."""
    model: Any = loaded.model
    pooling = find_pooling(loaded.source)
    if pooling not in ("first", "mean"):
        raise InputError(f"embeddings are pooled by mean or cls here, {loaded.name} asks for {pooling}")
    inputs = {name: value.to(model.device) for name, value in batch.items()}
    with torch.inference_mode():
        states = model.base_model(**inputs).last_hidden_state.float()  # (B, T, D)
    weights = inputs.get("attention_mask", torch.ones(states.shape[:2], device=states.device))[..., None].float()
    pooled = states[:, 0] if pooling == "first" else (states * weights).sum(dim=1) / weights.sum(dim=1)
    return torch.nn.functional.normalize(pooled, dim=1).cpu()


@dataclass(frozen=True, slots=True)
class ScoredPairs:
    """Pairs of sentences with people's scores of how alike they are."""

    first: tuple[str, ...]
    """One sentence of each pair."""
    second: tuple[str, ...]
    """The other."""
    scores: tuple[float, ...]
    """Higher is more alike."""


def read_stsb(data: Path) -> ScoredPairs:
    """The validation pairs of STS-B.

    Args:
        data: a folder with stsb/validation.tsv (or validation.tsv), columns sentence1, sentence2 and label or score.
    """
    candidates = [data / "stsb" / "validation.tsv", data / "validation.tsv"]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise InputError(f"no stsb/validation.tsv in {data}")
    score_column = "score" if "score" in read_header(path) else "label"
    first, second, scores = (tuple(open_texts(path, name)) for name in ("sentence1", "sentence2", score_column))
    try:
        return ScoredPairs(first, second, tuple(map(float, scores)))
    except ValueError as error:
        raise InputError(f"{path}: scores must be numbers: {error}") from None


def measure_cosines(loaded: LoadedModel, pairs: ScoredPairs, progress: Progress = no_progress) -> Tensor:
    """(pairs,) float32, cosine of the embeddings of the sentences of each pair."""
    first, second = embed(loaded, pairs.first + pairs.second, progress).chunk(2)
    return (first * second).sum(dim=1)


def score_stsb(loaded: LoadedModel, data: Path, progress: Progress = no_progress) -> tuple[float, int]:
    """Spearman correlation of embedding cosines with people's scores of STS-B, and the number of pairs.

    Args:
        loaded: an encoder.
        data: as `read_stsb` takes it.
        progress: told after each batch.
    """
    pairs = read_stsb(data)
    cosines = measure_cosines(loaded, pairs, progress)
    return float(spearmanr(cosines.numpy(), pairs.scores).statistic), len(pairs.scores)
