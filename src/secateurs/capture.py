"""Measuring activations over calibration text: running sums and a fixed number of sampled rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateurs.encoding import Batch
from secateurs.errors import InputError, is_out_of_memory, one_line
from secateurs.models.feedforward import FeedForward
from secateurs.models.outputs import as_inputs
from secateurs.models.sublayers import find_real, require_passes
from secateurs.results import Progress, no_progress

Sampling = Literal["cls", "tokens", "mean"]
MIN_ROWS = 8
"""Activation rows of a network that anything is concluded from, at least."""
ROWS_AT_ONCE = 2048
"""Activation rows that wait until they are multiplied together."""
BLOCKS = 4
"""Blocks that the columns of a symmetric product are cut into; 5/8 of it is computed."""


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """What was measured of one feed-forward network's K activations."""

    tokens: int
    """Tokens measured (times passes, where layers share weights)."""
    mean: Tensor
    """(K,) float64."""
    squared_norm: Tensor
    """(K,) float64, sum of squares over all tokens."""
    second_moments: Tensor | None
    """(K, K) float64, mean of z z^T over all tokens; None if not asked for."""
    samples: Tensor
    """(N, K) float32, sampled activation rows in random order."""
    row_strength: Tensor
    """(K,) float64, root of the sum over text rows of the squared mean of |activation| over the row's tokens."""

    @property
    def rms(self) -> Tensor:
        """(K,) float64, root mean square of each activation."""
        return (self.squared_norm / self.tokens).sqrt()


class ProductSum:
    """Running sum of x^T y over rows: float32 products of a few thousand rows at a time, added up in float64."""

    def __init__(self, left: int, right: int, device: torch.device | str = "cpu") -> None:
        self._total = torch.zeros(left, right, dtype=torch.float64, device=device)
        self._waiting: list[tuple[Tensor, ...]] = []
        self._rows = 0

    def add(self, x: Tensor, y: Tensor | None = None) -> None:
        """Take in (n, left) and (n, right) float32, or (n, left) alone, for x^T x; always the one or the other."""
        self._waiting.append((x,) if y is None else (x, y))
        self._rows += len(x)
        if self._rows >= ROWS_AT_ONCE:
            self._multiply()

    def finish(self) -> Tensor:
        """(left, right) float64, the sum so far."""
        self._multiply()
        return self._total

    def _multiply(self) -> None:
        if self._waiting:
            together = zip(*self._waiting, strict=True)
            x, *others = (parts[0] if len(parts) == 1 else torch.cat(parts) for parts in together)  # cat always copies
            self._total += (x.T @ others[0] if others else multiply_by_itself(x)).to(self._total.device)
        self._waiting, self._rows = [], 0


class MomentSum:
    """Running mean and second moments of rows, which may have weights.

    Sums are taken about the mean of the first rows and moved to 0 in the end, in float64: their rounding is then small
    against what varies, however large the means are.
    """

    def __init__(self, neurons: int, *, with_products: bool = True, device: torch.device | str = "cpu") -> None:
        self._origin: Tensor | None = None
        self._sum = torch.zeros(neurons, dtype=torch.float64, device=device)
        self._products = ProductSum(neurons, neurons, device) if with_products else None
        self.rows, self.weight = 0, 0.0

    @property
    def origin(self) -> Tensor:
        """(K,) float64, what sums are taken about; at least one row was added."""
        assert self._origin is not None
        return self._origin.to(self._sum)

    def add(self, rows: Tensor, counted: Callable[[Tensor], Tensor] = lambda values: values) -> Tensor:
        """Take in (n, K) float32; gives back (n, K), the rows less the origin, `counted`.

        That is a linear map of (n, features) rows, such as a product with the roots of weights.
        """
        if not len(rows):
            return rows
        self._origin = rows.mean(dim=0) if self._origin is None else self._origin
        apart, ones = counted(rows - self._origin), counted(rows.new_ones(len(rows), 1))[:, 0]
        self._sum += (ones @ apart).to(self._sum)
        if self._products is not None:
            self._products.add(apart)
        self.rows += len(rows)
        self.weight += float(ones.square().sum())
        return apart

    def finish(self) -> tuple[Tensor, Tensor | None]:
        """(K,) and (K, K) float64, E[z] and E[z z^T], rows counted by their weights; None without products.

        At least one row was added. Once only: the sum itself becomes the result, as a second matrix could be too much.
        """
        origin, apart = self.origin, self._sum / self.weight
        mean = origin + apart
        if self._products is None:
            return mean, None
        moments = self._products.finish().div_(self.weight)
        return mean, moments.addr_(origin, apart).addr_(mean, origin)


def multiply_by_itself(x: Tensor) -> Tensor:
    """(k, k) x^T x of (n, k) x, of which only the blocks on and under the diagonal are computed."""
    width = x.shape[1]
    product, size = x.new_empty(width, width), -(-width // BLOCKS)
    for start in range(0, width, size):
        below = x[:, start:].T @ x[:, start : start + size]
        product[start:, start : start + size] = below
        product[start : start + size, start:] = below.T
    return product


class Fitter(Protocol):
    """Takes in the activations of one network."""

    def update(self, rows: Tensor, candidates: Tensor, lengths: Tensor) -> object:
        """Take in (n, K) activations of real tokens, (m, K) those that may be sampled, (B,) tokens of each text row."""


class StatisticsFitter:
    """Running sums of one layer's activations and a reservoir of rows; `finish` gives the frozen result.

    Sums are float32 within a batch (products: within a few) and float64 in total. Rows are drawn without replacement:
    each gets a random key from one stream, and those with the smallest keys stay. So the draw depends on the order of
    rows alone, not on how they were batched, and is the same for every layer that sees the same rows.
    """

    def __init__(self, neurons: int, samples: int, seed: int, *, with_second_moments: bool) -> None:
        self._moments = MomentSum(neurons, with_products=with_second_moments)
        self._squares = torch.zeros(neurons, dtype=torch.float64)
        self._row_squares = torch.zeros(neurons, dtype=torch.float64)
        self._samples = samples
        self._random = np.random.default_rng(seed)
        self._largest_key = np.inf
        self._keys: list[NDArray[np.float64]] = [np.empty(0)]
        self._rows: list[Tensor] = [torch.zeros(0, neurons)]

    def update(self, rows: Tensor, candidates: Tensor, lengths: Tensor) -> StatisticsFitter:
        """Take in activations of real tokens.

        Args:
            rows: (n, K) float, activations of n tokens, text row after text row.
            candidates: (m, K) float, the rows that may be sampled.
            lengths: (B,) int64, tokens of each text row; they add up to n.
        """
        rows = rows.float()
        texts = torch.repeat_interleave(torch.arange(len(lengths), device=rows.device), lengths)
        sums = rows.new_zeros(len(lengths), rows.shape[1]).index_add_(0, texts, rows.abs())
        self._row_squares += (sums / lengths[:, None].clamp(min=1)).square().sum(dim=0).double().cpu()
        self._moments.add(rows)
        self._squares += rows.square().sum(dim=0).double().cpu()
        self._draw(candidates)
        return self

    def _draw(self, candidates: Tensor) -> None:
        keys = self._random.random(len(candidates))
        chosen = np.flatnonzero(keys < self._largest_key)
        self._keys.append(keys[chosen])
        self._rows.append(candidates[torch.from_numpy(chosen).to(candidates.device)].float().cpu())
        if sum(map(len, self._keys)) >= 2 * self._samples:
            self._compact()

    def _compact(self) -> None:
        """Drop all but the rows with the smallest keys, and put these in the order of their keys."""
        keys, rows = np.concatenate(self._keys), torch.cat(self._rows)
        order = np.argsort(keys, kind="stable")[: self._samples]
        self._keys, self._rows = [keys[order]], [rows[torch.from_numpy(order)]]
        if len(order) == self._samples:
            self._largest_key = keys[order[-1]] if len(order) else 0.0

    def finish(self) -> LayerStatistics:
        """The statistics so far; rows are in the order of their keys."""
        self._compact()
        mean, second_moments = self._moments.finish()
        return LayerStatistics(
            tokens=self._moments.rows,
            mean=mean,
            squared_norm=self._squares,
            second_moments=second_moments,
            samples=self._rows[0],
            row_strength=self._row_squares.sqrt(),
        )


def capture(
    model: nn.Module,
    feedforwards: Sequence[FeedForward],
    batches: Sequence[Batch],
    *,
    samples: int,
    sampling: Sampling,
    seed: int,
    with_second_moments: bool = True,
    progress: Progress = no_progress,
) -> tuple[LayerStatistics, ...]:
    """Statistics of each network's activations over all batches; padding never counts.

    Args:
        model: in evaluation mode; it is not changed.
        feedforwards: the networks to measure.
        batches: keyword arguments of the forward pass.
        samples: rows a layer to draw.
        sampling: "cls": the first real token of each row; "tokens": any; "mean": the mean over a row's tokens.
        seed: seed of the draw.
        with_second_moments: whether to sum the (K, K) products too.
        progress: told after each batch.

    Raises:
        InputError: an activation is not finite, or the model can't run a batch.

    Cost:
        One forward pass, and n K^2 multiply-adds a layer for the second moments. Memory does not grow with the text.
    """
    fitters = [StatisticsFitter(f.width, samples, seed, with_second_moments=with_second_moments) for f in feedforwards]
    for number, batch in enumerate(batches):
        inputs = as_inputs(model, batch)
        with torch.inference_mode(), watched(feedforwards, fitters, inputs, sampling), blaming_batch(number):
            run_body(model, inputs)
        progress("measuring activations", number + 1, len(batches))
    statistics = tuple(fitter.finish() for fitter in fitters)
    for ffn, layer in zip(feedforwards, statistics, strict=True):
        require_finite(ffn, layer.squared_norm)
    return statistics


@contextmanager
def blaming_batch(number: int, kind: str = "calibration batch") -> Iterator[None]:
    """While the model runs that batch, its errors are the caller's."""
    try:
        yield
    except (ValueError, LookupError, TypeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise InputError(f"the model can't run {kind} {number}: {one_line(error)}") from error


def require_finite(ffn: FeedForward, values: Tensor) -> None:
    """Raise InputError where what was measured of a network's activations is NaN or infinite."""
    if not bool(torch.isfinite(values).all()):
        raise InputError(f"the activations of {ffn.path} are NaN or infinite; try --dtype float32")


def require_rows(rows: int) -> int:
    """That many activation rows of a network; raises InputError where they are too few to say anything."""
    if rows < MIN_ROWS:
        raise InputError(f"at least {MIN_ROWS} activation rows are needed, got {rows}; give more calibration text")
    return rows


def run_body(model: Any, inputs: Mapping[str, Any]) -> None:
    """One forward pass up to the head, which says nothing about activations.

    Of a model that makes the input of its decoder itself, all of it.
    """
    makes_input = model.config.is_encoder_decoder and "decoder_input_ids" not in inputs
    (model if makes_input else getattr(model, "base_model", model))(**inputs)


@contextmanager
def watched(
    feedforwards: Sequence[FeedForward],
    fitters: Sequence[Fitter],
    inputs: Batch,
    sampling: Sampling,
) -> Iterator[None]:
    """Feed every activation of one forward pass to its fitter; each hook must fire as often as its layer runs."""
    fired = [0] * len(feedforwards)
    handles = []

    def hook_for(place: int) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            fired[place] += 1
            flat = args[0].reshape(-1, args[0].shape[-1])  # some models flatten (B, T) themselves
            real = find_real(feedforwards[place], inputs, len(flat))
            fitters[place].update(*_select_rows(flat, real, sampling))

        return hook

    try:
        for place, ffn in enumerate(feedforwards):
            handles.append(ffn.down.register_forward_pre_hook(hook_for(place)))
        yield
    finally:
        for handle in handles:
            handle.remove()
    for ffn, count in zip(feedforwards, fired, strict=True):
        require_passes(ffn, count)


def _select_rows(flat: Tensor, real: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor, Tensor]:
    """(n, K) activations of real tokens, (m, K) those that may be sampled, and (B,) tokens of each text row."""
    rows, lengths = flat[real.flatten()], real.sum(dim=1)
    if sampling == "tokens":
        return rows, rows, lengths
    grid = flat.view(*real.shape, -1)  # (B, T, K)
    if sampling == "cls":
        first = real.int().argmax(dim=1)
        return rows, grid[torch.arange(len(real), device=flat.device), first], lengths
    weights = real[..., None].float()
    return rows, (grid.float() * weights).sum(dim=1) / weights.sum(dim=1), lengths
