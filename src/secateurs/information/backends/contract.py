"""What a back end gets and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from secateurs.information.entropy import entropy_of_loss
from secateurs.information.neurons import Neurons

EXACT_BOUND_NATS = 1e-7
"""Bound on the error of float64 eigenvalues; 1e-9 was seen, 1e-8 for alpha < 1."""
LOW_RANK_SHIFT, WHOLE_SHIFT = 1e-7, 5e-7
"""Smallest shift of the fit. Whole Gram matrices in float32 have zero eigenvalues off by 1e-7, which it must exceed."""
MOST_MISSING = 4e-6
"""Trace (of 1) that may be missing from a product of features; pairs that miss more are done another way."""
MOST_WHOLE_ROWS = 1000
"""Rows up to which the compiled kernel takes whole Gram matrices; beyond, it is no faster than float64 solvers."""
ROUNDING_NATS, WHOLE_ROUNDING_NATS = 1e-5, 1.5e-7
"""Allowance for float32 rounding, and how much each row adds to it where whole Gram matrices are reduced; with the fit
and the missing trace, errors were 0.71 of the bound at most (benchmarks/information/bounds.py)."""


class Path(IntEnum):
    """How a pair was computed."""

    LOW_RANK = 0
    FULL = 1
    FLOAT64 = 2


@dataclass(frozen=True, slots=True)
class JointBlock:
    """Joint entropies of the neurons of one block with those of another."""

    entropy_nats: Tensor
    """(Ka, Kb) float64."""
    bound_nats: Tensor
    """(Ka, Kb) float64, how far each may be off."""
    path: Tensor
    """(Ka, Kb) uint8, a `Path` each."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A way to compute the joint entropies of a block of pairs."""

    name: str
    joint: Callable[[Neurons, Neurons, float, bool], JointBlock]
    """joint(a, b, alpha, triangle); with `triangle` a and b are one block, and what it gives below the diagonal
    doesn't count."""
    uses_features: bool
    refuses: Callable[[float, torch.device], str | None]
    """Why it can't serve an order alpha on a device, or None."""


def exact_block(entropy: Tensor) -> JointBlock:
    """A block that was computed from float64 eigenvalues throughout."""
    bound = torch.full_like(entropy, EXACT_BOUND_NATS)
    return JointBlock(entropy, bound, torch.full_like(entropy, Path.FLOAT64, dtype=torch.uint8))


def entropy_of_traces(
    loss: Tensor, missing: Tensor, fit_error: Tensor | float, *, alpha: float, rows: int
) -> tuple[Tensor, Tensor]:
    """Entropy and its error bound from the trace of F over a joint Gram of which a little may be missing.

    A positive remainder of trace tau changes the trace of F by -tau to n F(tau / n) (Rotfel'd's inequality, F is
    concave with F(0) = 0): the middle is added and half the distance counts as error.

    Args:
        loss: (...) float64, trace of the fit.
        missing: (...) float, tau, of 1; 0 where nothing is missing.
        fit_error: (...) or one for all, how far the trace of the fit may be off.
        alpha: order of the entropy, at least 1.
        rows: n.

    Returns:
        Entropy and bound, nats.
    """
    tau = missing.double().clamp(min=0)
    logs = torch.log(tau.clamp(min=1e-30) / rows)
    most = -tau * (logs if alpha == 1 else torch.expm1((alpha - 1) * logs) / (alpha - 1))  # n F(tau / n)
    loss = (loss + 0.5 * (most - tau)).clamp(min=0)
    error = 0.5 * (most + tau) + fit_error
    entropy = entropy_of_loss(loss, alpha)
    purity = torch.exp((1 - alpha) * entropy)  # sum lambda^alpha
    return entropy, error / (purity - (alpha - 1) * error).clamp(min=1e-12) + ROUNDING_NATS
