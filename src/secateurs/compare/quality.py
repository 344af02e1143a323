"""What a model is scored on, and its score in parts that can be compared pair by pair."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from secateurs.calibration import hash_rows, take_tokens
from secateurs.compare.settings import Settings, require_data
from secateurs.encoding import find_length, tokenise
from secateurs.errors import InputError
from secateurs.evaluation.classification import predict, require_head, score_predictions
from secateurs.evaluation.embeddings import measure_cosines, read_stsb
from secateurs.evaluation.perplexity import evaluate_perplexity
from secateurs.models.loading import LoadedModel
from secateurs.scoring import EMBEDDINGS_TASK, default_test_text, how_to_score, require_encoder
from secateurs.tasks import TASKS, Examples, read_examples
from secateurs.texts import open_texts

LOG_LOSS = "log_loss_nats"
GROUPS = 50
"""Groups of rows that a task's score is taken apart into, to tell how far it depends on which rows were scored."""


@dataclass(frozen=True, slots=True)
class Quality:
    """How good a model is."""

    scores: Mapping[str, float]
    """Each metric by name; for a language model perplexity and log_loss_nats."""
    parts: Sequence[float]
    """Of a language model the mean log-loss of each window, nats; else the jackknife value of each group of rows."""
    weights: Sequence[int]
    """Tokens predicted in each window, or rows in each group."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What a comparison is ranked by."""

    name: str
    """What tables show."""
    ranked_by: str
    """The score that counts: the same, or the log-loss for perplexity."""

    @property
    def is_loss(self) -> bool:
        """Whether lower is better."""
        return self.ranked_by == LOG_LOSS

    @property
    def direction(self) -> str:
        """In words."""
        return "lower is better" if self.is_loss else "higher is better"

    def badness(self, value: float) -> float:
        """A number that is lower for the better; infinite for NaN."""
        return math.inf if math.isnan(value) else value if self.is_loss else -value

    def show(self, value: float) -> str:
        """A score in a table."""
        if not self.is_loss:
            return f"{value:.4f}"
        return f"{value:.2f}" if value < 1000 else f"{value:,.0f}" if value < 1e6 else f"{value:.1e}"


PERPLEXITY = Metric("perplexity", LOG_LOSS)
"""Of language models."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """A way to score a model."""

    metric: Metric
    """What counts."""
    facts: Mapping[str, Any]
    """All that a score depends on besides the model, as plain values."""
    about: str
    """The same in words."""
    score: Callable[[LoadedModel], Quality]
    """Scores a model."""


def open_scorer(settings: Settings, loaded: LoadedModel) -> Scorer:
    """The scorer that the settings ask for.

    Raises:
        InputError: the model can't be scored that way.
    """
    if settings.task is None:
        return _score_text(settings, loaded)
    if settings.task == EMBEDDINGS_TASK:
        return _score_embeddings(settings, loaded)
    return _score_task(settings, loaded, settings.task)


def split_score(score: Callable[[Sequence[int]], float], rows: int) -> tuple[list[float], list[int]]:
    """Jackknife value of each of at most 50 groups of rows, and the rows in each.

    The value of group g is (n s - (n - n_g) s_g) / n_g, where s is the score of all n rows and s_g that of all but
    g's. Of an accuracy it is the accuracy in the group; of other scores the values stand for parts of the score whose
    spread tells its standard error.

    Args:
        score: of the rows with some numbers.
        rows: how many there are.

    Source:
        Busing, Meijer and van der Leeden, "Delete-m jackknife for unequal m", Statistics and Computing, 1999.
    """
    whole, everything = score(range(rows)), np.arange(rows)
    groups = min(GROUPS, rows // 2)
    if groups < 2:
        return [whole], [rows]
    values, sizes = [], []
    for group in range(groups):
        others = everything[everything % groups != group].tolist()
        sizes.append(rows - len(others))
        values.append((rows * whole - len(others) * score(others)) / sizes[-1])
    return values, sizes


def _score_text(settings: Settings, loaded: LoadedModel) -> Scorer:
    if not loaded.is_language_model:
        is_encoder = loaded.family.kind == "encoder"
        how = "compare on a task: --task NAME --data DIR" if is_encoder else how_to_score(loaded)
        raise InputError(f"{type(loaded.model).__name__} has no perplexity; {how}")
    source = open_texts(settings.text) if settings.text is not None else default_test_text()
    ids = take_tokens(source, loaded.tokenizer, settings.tokens)
    if len(ids) < 2:
        raise InputError(f"perplexity needs at least 2 tokens, got {len(ids)} from {source.name}")
    window = find_length(loaded, settings.window)

    def score(model: LoadedModel) -> Quality:
        found = evaluate_perplexity(model.model, ids, window=window)
        scores = {"perplexity": found.perplexity, LOG_LOSS: found.log_loss_nats}
        return Quality(scores, found.window_losses, found.window_tokens)

    facts = {"text_sha256": hash_rows([ids]), "tokens": len(ids), "window": window}
    about = f"{len(ids):,} tokens of {source.name} in {-(-len(ids) // window)} windows of {window}"
    return Scorer(PERPLEXITY, facts, about, score)


def _score_task(settings: Settings, loaded: LoadedModel, name: str) -> Scorer:
    task = TASKS[name]
    require_head(loaded, task)
    examples = read_examples(task, settings.data, "validation")
    rows, metric = tokenise(loaded, task, examples), task.metrics[0]

    def score(model: LoadedModel) -> Quality:
        logits = predict(model.model, rows)

        def score_rows(places: Sequence[int]) -> float:
            chosen = list(places)
            return score_predictions(task, logits[chosen], rows.labels[chosen])[metric]

        scores = {str(name): value for name, value in score_predictions(task, logits, rows.labels).items()}
        return Quality(scores, *split_score(score_rows, len(rows)))

    facts = {"task": name, "rows_sha256": examples.sha256}
    return Scorer(Metric(metric, metric), facts, f"{len(rows):,} rows of {examples.source}", score)


def _score_embeddings(settings: Settings, loaded: LoadedModel) -> Scorer:
    require_encoder(loaded)
    pairs = read_stsb(require_data(settings))
    labels = np.array(pairs.scores)

    def score(model: LoadedModel) -> Quality:
        cosines = measure_cosines(model, pairs).numpy()

        def score_rows(places: Sequence[int]) -> float:
            chosen = list(places)
            if np.ptp(cosines[chosen]) == 0:
                return 0.0
            return float(spearmanr(cosines[chosen], labels[chosen]).statistic)

        return Quality({"spearman": score_rows(range(len(labels)))}, *split_score(score_rows, len(labels)))

    rows = Examples(tuple(zip(pairs.first, pairs.second, strict=True)), pairs.scores, "")
    facts = {"task": EMBEDDINGS_TASK, "rows_sha256": rows.sha256}
    return Scorer(
        Metric("spearman", "spearman"), facts, f"{len(labels):,} pairs of STS-B by cosines of embeddings", score
    )
