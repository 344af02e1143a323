"""Matrix-based Renyi entropy."""

from __future__ import annotations

import torch
from torch import Tensor


def entropy_nats(gram: Tensor, alpha: float) -> Tensor:
    """Matrix-based Renyi entropy of each Gram matrix.

    S = log(sum lambda^alpha) / (1 - alpha) over the eigenvalues of gram / trace; alpha = 1 is the von Neumann entropy.
    Near alpha = 1 it is computed as log1p(-(alpha - 1) sum F) / (1 - alpha) with F = (lambda - lambda^alpha) /
    (alpha - 1), which keeps its digits there. Below alpha = 1 the slope at 0 is infinite, so eigenvalues that are
    rounding noise (under n times the machine's precision) count as 0, faded in linearly up to twice that.

    Args:
        gram: (..., n, n) float, symmetric, ones on the diagonal.
        alpha: order, above 0.

    Returns:
        (...) float, nats, in [0, log n].

    Source:
        Sanchez Giraldo, Rao and Principe, "Measures of entropy from data using infinitely divisible kernels", 2015.
    """
    values = torch.linalg.eigvalsh(gram).clamp_(min=0) / gram.shape[-1]  # (..., n)
    return entropy_of_spectrum(values, alpha).clamp(min=0)


def entropy_of_spectrum(values: Tensor, alpha: float) -> Tensor:
    """(...) entropy from (..., n) eigenvalues of gram / trace, none negative; see `entropy_nats`."""
    if alpha < 1:
        noise = values.shape[-1] * torch.finfo(values.dtype).eps
        values = values * (values / noise - 1).clamp(0, 1) ** (1 / alpha)
    if alpha > 1.5:
        return values.pow(alpha).sum(-1).log() / (1 - alpha)
    return entropy_of_loss(loss_of_spectrum(values, alpha), alpha)


def loss_of_spectrum(values: Tensor, alpha: float) -> Tensor:
    """(...) trace of F(x) = (x - x^alpha) / (alpha - 1) over (..., n) eigenvalues."""
    logs = values.clamp(min=torch.finfo(values.dtype).tiny).log()
    powers = logs if alpha == 1 else torch.expm1((alpha - 1) * logs) / (alpha - 1)
    return -(values * powers).sum(-1)


def entropy_of_loss(loss: Tensor, alpha: float) -> Tensor:
    """Entropy from the trace of F(x) = (x - x^alpha) / (alpha - 1); at alpha = 1 they are equal."""
    return loss if alpha == 1 else -torch.log1p((1 - alpha) * loss) / (alpha - 1)
