"""How fast models run, measured side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Latency:
    """Time of one forward pass."""

    median_ms: float
    """Median over repetitions, milliseconds."""
    spread_ms: float
    """Distance between the quartiles, milliseconds."""
    least_ms: float
    """The fastest, which other work on the machine slows least, milliseconds."""
    tokens: int
    """Tokens in the batch; 0 where it holds none."""

    @property
    def tokens_per_second(self) -> float:
        """Tokens read in a second, at the median."""
        return 1000 * self.tokens / self.median_ms


def measure_latency(models: Sequence[Any], batch: Mapping[str, Tensor], *, repetitions: int = 7) -> tuple[Latency, ...]:
    """Time of a forward pass of each model on the same batch.

    The models take turns, so that a busy machine slows them alike; the first pass of each does not count.
    """
    times: list[list[float]] = [[] for _ in models]
    for _ in range(repetitions + 1):
        for place, model in enumerate(models):
            times[place].append(_time_once(model, batch))
    tokens = batch["input_ids"].numel() if "input_ids" in batch else 0
    return tuple(_summarise(series[1:], tokens) for series in times)


def _time_once(model: Any, batch: Mapping[str, Tensor]) -> float:
    device = next(model.parameters()).device
    inputs = {name: value.to(device) for name, value in batch.items()}
    _wait_for(device)
    start = time.perf_counter()
    with torch.inference_mode():
        model(**inputs)
    _wait_for(device)
    return 1000 * (time.perf_counter() - start)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _summarise(series: Sequence[float], tokens: int) -> Latency:
    low, _, high = statistics.quantiles(series, n=4)
    return Latency(statistics.median(series), high - low, min(series), tokens)
