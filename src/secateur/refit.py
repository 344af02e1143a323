"""Closed-form change of a down projection that makes up for removed neurons."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.results import Update


def refit_down(
    second_moments: Tensor,
    columns: Tensor,
    kept: NDArray[np.int64],
    *,
    ridge: float,
    mean: Tensor | None = None,
    bias: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Update:
    """The down projection of the kept neurons that comes nearest to the whole layer's output.

    With H the second moments, P the kept and R the removed neurons and W the rows of `columns`, this is
    argmin_V E|z W - z_P V|^2 + lambda |V - W_P|^2, that is V = W_P + (H_PP + lambda I)^-1 H_PR W_R, with
    lambda = ridge x mean(diag H). Where the down projection has a bias, H is taken about the mean and the bias takes up
    the difference of the means, which is the same least-squares problem with an intercept.

    Args:
        second_moments: (K, K) float64, E[z z^T].
        columns: (K, H) float, row j is neuron j's column of the down projection.
        kept: (width,) sorted indices.
        ridge: lambda in units of the mean of H's diagonal, above 0.
        mean: (K,) float64, E[z]; with `bias` only.
        bias: (H,) float, the present output bias.
        dtype: number format of the result, the model's own.

    Returns:
        The new columns, and the new bias if one was given.

    Cost:
        width^3 / 3 + width^2 H multiply-adds, float64.
    """
    stay = torch.from_numpy(kept)
    gone = torch.ones(len(columns), dtype=torch.bool)
    gone[stay] = False
    moments = second_moments
    if bias is not None and mean is not None:
        moments = moments - torch.outer(mean, mean)
    weight = columns.double()
    system = moments[stay][:, stay]
    system.diagonal().add_(ridge * moments.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny))
    change = torch.cholesky_solve(moments[stay][:, gone] @ weight[gone], torch.linalg.cholesky(system))  # (width, H)
    new_bias = None
    if bias is not None and mean is not None:
        new_bias = (bias.double() + mean[gone] @ weight[gone] - mean[stay] @ change).to(dtype)
    return Update(weight=(weight[stay] + change).to(dtype), bias=new_bias)


def relative_output_error(
    second_moments: Tensor, columns: Tensor, kept: NDArray[np.int64], update: Update | None = None, *, mean: Tensor
) -> float:
    """E|z W - z_P V - c|^2 / E|z W|^2: what a cut costs the layer's output, in [0, inf).

    V is W_P and c is 0 without an update; a bias in the update is the one that leaves no mean error, as `refit_down`
    makes it, so that the error is then taken about the mean.

    Args:
        second_moments: (K, K) float64, E[z z^T].
        columns: (K, H) float, the down projection before the cut.
        kept: (width,) sorted indices.
        update: of the down projection.
        mean: (K,) float64, E[z].
    """
    weight = columns.double()
    stay = torch.from_numpy(kept)
    lost = weight.clone()
    lost[stay] = 0 if update is None else weight[stay] - update.weight.double()
    whole = (weight * (second_moments @ weight)).sum()
    error = (lost * (second_moments @ lost)).sum()
    if update is not None and update.bias is not None:
        error = error - (mean @ lost).square().sum()
    return float(error / whole) if whole > 0 else 0.0
