"""What `secateurs evaluate` scores, as plain mappings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from secateurs.cli.reports import describe_text_score
from secateurs.models.loading import LoadedModel
from secateurs.results import Progress
from secateurs.scoring import EMBEDDINGS_TASK, compare_embeddings, score_embeddings, score_task, score_text


def describe_text(
    loaded: LoadedModel,
    text: str | None,
    tokens: int,
    window: int | None,
    stride: int | None,
    *,
    other: LoadedModel | None,
    progress: Progress,
) -> dict[str, Any]:
    """Perplexity, and the gap to another model where one is given."""
    score = score_text(loaded, text, tokens=tokens, window=window, stride=stride, against=other, progress=progress)
    return describe_text_score(score)


def describe_embeddings(
    loaded: LoadedModel, other: LoadedModel, text: str | None, progress: Progress
) -> dict[str, Any]:
    """How near embeddings are to another model's."""
    cosine, count = compare_embeddings(loaded, other, text, progress)
    return {"mean_cosine": round(cosine, 6), "rows": count, "against": other.name}


def describe_task(loaded: LoadedModel, task: str, data: Path | None, progress: Progress) -> dict[str, Any]:
    """Each metric of a task."""
    if task == EMBEDDINGS_TASK:
        spearman, count = score_embeddings(loaded, data, progress)
        return {"task": task, "spearman": round(spearman, 6), "pairs": count}
    scores, count = score_task(loaded, task, data, progress)
    return {"task": task, **{metric: round(value, 6) for metric, value in scores.items()}, "rows": count}
