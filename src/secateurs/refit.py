"""Closed-form change of a down projection that makes up for removed neurons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateurs.results import Update

LEAST_HOLD = 1e-6
"""Hold on any neuron, in units of the mean second moment, so that dead ones can be solved for."""


@dataclass(frozen=True, slots=True)
class Drift:
    """What a sub-layer's output is to make up for, of what it lacks since networks before it are pruned."""

    products: Tensor
    """(K, H) float64, E[z d^T] of the activations z and what is to be made up for, d; as second moments, where texts'
    means count besides."""
    mean: Tensor
    """(H,) float64, E[d]."""
    energy: float
    """E|d|^2, likewise."""


def hold(share: float, moments: Tensor, raw: Tensor) -> Tensor:
    """(K,) what the diagonal of second moments takes on before they are inverted: a share of each, and `LEAST_HOLD`.

    Args:
        share: not negative.
        moments: (K, K) float64, perhaps about the means, so that constant neurons have nothing left but rounding.
        raw: (K, K) float64, the same about 0.
    """
    rounding = LEAST_HOLD * raw.diagonal().mean().clamp(min=torch.finfo(raw.dtype).tiny)
    least = LEAST_HOLD * torch.maximum(moments.diagonal().mean(), rounding)
    return share * moments.diagonal().clamp(min=0) + least


def refit_down(
    second_moments: Tensor,
    columns: Tensor,
    kept: NDArray[np.int64],
    *,
    ridge: float,
    mean: Tensor | None = None,
    bias: Tensor | None = None,
    drift: Drift | None = None,
    is_isotropic: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Update:
    """The down projection of the kept neurons that comes nearest to the whole layer's output and what that lacks.

    With H the second moments, P the kept and R the removed neurons, W the rows of `columns` and d the drift, this is
    argmin_V E|z W + d - z_P V|^2 + sum_j lambda_j |V_j - W_j|^2, that is
    V = W_P + (H_PP + diag lambda_P)^-1 (H_PR W_R + E[z_P d^T]), with lambda_j = ridge x H_jj: what is added is the same
    as if each activation had noise of `ridge` x its second moment. Where the down projection has a bias, moments are
    taken about the means and the bias takes up the difference of the means, which is the same least-squares problem
    with an intercept. `hold` adds a little more to lambda, against rounding.

    Args:
        second_moments: (K, K) float64, E[z z^T].
        columns: (K, H) float, row j is neuron j's column of the down projection.
        kept: (width,) sorted indices.
        ridge: above 0.
        mean: (K,) float64, E[z]; needed with `bias`, not heeded without.
        bias: (H,) float, the present output bias.
        drift: what the output lacks besides; None: nothing.
        is_isotropic: lambda is the same for all neurons, ridge x the mean of H's diagonal.
        dtype: number format of the result, the model's own.

    Returns:
        The new columns, and the new bias if one was given, on the CPU.

    Cost:
        width^3 / 3 + width^2 H multiply-adds, float64.
    """
    assert bias is None or mean is not None, "a bias makes up for means"
    stay = torch.from_numpy(kept).to(columns.device)
    gone = torch.ones(len(columns), dtype=torch.bool, device=columns.device)
    gone[stay] = False
    moments, products = second_moments, None if drift is None else drift.products
    if bias is not None and mean is not None:
        moments = moments - torch.outer(mean, mean)
        products = None if drift is None else drift.products - torch.outer(mean, drift.mean)
    weight = columns.double()
    system = moments[stay][:, stay]
    if is_isotropic:
        held = ridge * moments.diagonal().mean().clamp(min=torch.finfo(moments.dtype).tiny)
    else:
        held = hold(ridge, moments, second_moments)[stay]
    system.diagonal().add_(held)
    wanted = moments[stay][:, gone] @ weight[gone]  # (width, H)
    if products is not None:
        wanted += products[stay]
    change = torch.cholesky_solve(wanted, torch.linalg.cholesky(system))  # (width, H)
    new_bias = None
    if bias is not None and mean is not None:
        lacking = mean[gone] @ weight[gone] + (0 if drift is None else drift.mean)
        new_bias = (bias.double() + lacking - mean[stay] @ change).to(dtype).cpu()
    return Update(weight=(weight[stay] + change).to(dtype).cpu(), bias=new_bias)


def relative_output_error(
    second_moments: Tensor,
    columns: Tensor,
    kept: NDArray[np.int64],
    update: Update | None = None,
    *,
    mean: Tensor,
    drift: Drift | None = None,
) -> float:
    """E|z W + d - z_P V - c|^2 / E|z W + d|^2: what a cut costs the layer's output, in [0, inf).

    V is W_P and c is 0 without an update; a bias in the update is the one that leaves no mean error, as `refit_down`
    makes it, so that the error is then taken about the mean. d is the drift, 0 where there is none.

    Args:
        second_moments: (K, K) float64, E[z z^T].
        columns: (K, H) float, the down projection before the cut.
        kept: (width,) sorted indices.
        update: of the down projection.
        mean: (K,) float64, E[z].
        drift: what the output lacks before the cut.
    """
    weight = columns.double()
    stay = torch.from_numpy(kept).to(columns.device)
    lost = weight.clone()
    lost[stay] = 0 if update is None else weight[stay] - update.weight.to(weight)
    whole = (weight * (second_moments @ weight)).sum()
    error = (lost * (second_moments @ lost)).sum()
    mean_error = mean @ lost
    if drift is not None:
        whole = whole + 2 * (weight * drift.products).sum() + drift.energy
        error = error + 2 * (lost * drift.products).sum() + drift.energy
        mean_error = mean_error + drift.mean
    if update is not None and update.bias is not None:
        error = error - mean_error.square().sum()
    return float(error / whole) if whole > 0 else 0.0
