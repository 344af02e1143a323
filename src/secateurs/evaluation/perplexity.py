"""Perplexity of causal language models over windows of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateurs.errors import InputError
from secateurs.results import Progress, no_progress

TIE_ERRORS = 2.0
"""Standard errors of a paired difference within which two models are told to be equally good."""


@dataclass(frozen=True, slots=True)
class PerplexityScore:
    """Log-loss of a language model on some text."""

    window_losses: tuple[float, ...]
    """Mean log-loss of each window, nats a token."""
    window_tokens: tuple[int, ...]
    """Tokens predicted in each window."""

    @property
    def tokens(self) -> int:
        """Tokens predicted."""
        return sum(self.window_tokens)

    @property
    def log_loss_nats(self) -> float:
        """Mean log-loss over all predicted tokens, nats."""
        pairs = zip(self.window_losses, self.window_tokens, strict=True)
        return math.fsum(loss * count for loss, count in pairs) / self.tokens

    @property
    def perplexity(self) -> float:
        """Exp of the mean log-loss."""
        return math.exp(self.log_loss_nats) if self.log_loss_nats < 700 else math.inf


@dataclass(frozen=True, slots=True)
class Gap:
    """Difference in log-loss between two models on the same windows."""

    nats: float
    """Mean log-loss of the second less that of the first, nats a token."""
    standard_error_nats: float | None
    """Paired standard error over blocks of neighbouring windows; None of a single window."""


def evaluate_perplexity(
    model: Any,
    ids: Sequence[int],
    *,
    window: int = 512,
    stride: int | None = None,
    progress: Progress = no_progress,
) -> PerplexityScore:
    """Log-loss of a causal language model over windows of token ids.

    Each window is read by itself; its first token is not predicted. With a stride below the window, windows overlap and
    only tokens not predicted before count, each with at least window - stride tokens of context.

    Raises:
        InputError: fewer than two tokens, or a stride outside [1, window].
    """
    step = stride or window
    if window < 2 or not 1 <= step <= window:
        raise InputError(f"stride must be in [1, window = {window}], window at least 2, got stride {step}")
    if len(ids) < 2:
        raise InputError(f"perplexity needs at least 2 tokens, got {len(ids)}")
    device = next(model.parameters()).device
    losses, counts = [], []
    predicted = 1  # everything before this position has been scored; position 0 has no context
    starts = range(0, len(ids) - 1, step)
    for number, start in enumerate(starts):
        chunk = torch.tensor([ids[start : start + window]], device=device)
        first = max(predicted, start + 1) - start
        if first < chunk.shape[1]:
            token_losses = _token_losses(model, chunk)[first - 1 :]
            losses.append(float(token_losses.mean()))
            counts.append(len(token_losses))
            predicted = start + chunk.shape[1]
        progress("measuring perplexity", number + 1, len(starts))
    return PerplexityScore(tuple(losses), tuple(counts))


def compare_losses(before: PerplexityScore, after: PerplexityScore) -> Gap:
    """How much worse the second score is, window by window, each weighted by its tokens."""
    windows = before.window_tokens
    return Gap(*compare_parts(before.window_losses, after.window_losses, windows, find_block(len(windows))))


def find_block(windows: int) -> int:
    """Neighbouring windows that an error takes as one, because they are often of one article and so alike.

    At most 8, and fewer where less than 8 blocks would be left.
    """
    return max(1, min(8, windows // 8))


def compare_parts(
    before: Sequence[float], after: Sequence[float], weights: Sequence[int], block: int = 1
) -> tuple[float, float | None]:
    """Weighted mean of the second less the first, part by part, and its paired standard error; None of one part.

    Each `block` neighbours count as one part in the error (the last block may be smaller).
    """
    share = torch.tensor(weights, dtype=torch.float64)
    share = share / share.sum()
    differences = torch.tensor(after, dtype=torch.float64) - torch.tensor(before, dtype=torch.float64)
    mean = (share * differences).sum()
    blocks = [part.sum() for part in torch.split(share * (differences - mean), block)]
    if len(blocks) < 2:
        return float(mean), None
    return float(mean), float((torch.stack(blocks).square().sum() * len(blocks) / (len(blocks) - 1)).sqrt())


def _token_losses(model: Any, chunk: Tensor) -> Tensor:
    with torch.inference_mode():
        logits = model(input_ids=chunk, use_cache=False).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits.float(), chunk[0, 1:], reduction="none").double()
