"""Well-known measures of dependence between all pairs of neurons, rivals to the Renyi mutual information.

Each takes activations (N, K) float64, finite, and gives a (K, K) float64 matrix on the same device, exactly symmetric,
in which a constant neuron has 0 with every neuron, itself included.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt, log

import torch
from torch import Tensor

from secateurs.errors import InputError
from secateurs.information.kernels import estimate_std

COUNT_BLOCK = 1 << 22
"""Entries of one block of joint counts, and of the one-hot matrices that it is the product of."""


def pearson(x: Tensor) -> Tensor:
    """Absolute Pearson correlation of every pair of neurons.

    Args:
        x: (N, K) float64, activations.

    Returns:
        (K, K) float64, in [0, 1]; 1 on the diagonal.
    """
    std = estimate_std(x)
    z = (x - x.mean(dim=0)) / torch.where(std > 0, std, torch.ones_like(std))  # (N, K)
    correlation = (z.T @ z / len(x)).abs().clamp_(max=1)  # (K, K)
    return _symmetric(correlation.fill_diagonal_(1), std > 0)


def binned(x: Tensor, bins: int | None = None) -> Tensor:
    """Mutual information of every pair of neurons, each cut into bins of equal frequency; the plug-in estimate.

    Bins come from ranks: (r - 1/2) / N in [b / bins, (b + 1) / bins) is bin b. Equal activations share their mean rank,
    so the zeros of a ReLU stay together, and a neuron that is not constant always falls into at least two bins, however
    rarely it is active (the mean ranks of its least and its largest activation are at least N / 2 apart).

    Args:
        x: (N, K) float64, activations.
        bins: bins a neuron, at least 2; None: `cochran_bins(N)`.

    Returns:
        (K, K) float64, nats, in [0, log bins]; the diagonal is the entropy of the binned neuron. Independent neurons
        have about (bins - 1)^2 / (2 N), not 0 (Miller, "Note on the bias of information estimates", 1955).

    Raises:
        InputError: fewer than 2 bins.

    Cost:
        N (K bins)^2 / 2 multiply-adds and (K bins)^2 / 2 logarithms.

    Differs from scikit-learn: `KBinsDiscretizer` gives the same bins where no activations are equal and N is a multiple
    of `bins`, but puts the ties at an edge into one bin with their upper neighbours, which leaves a single bin to a
    neuron that is 0 in all but N / bins rows.
    """
    bins = cochran_bins(len(x)) if bins is None else bins
    if bins < 2:
        raise InputError(f"bins must be at least 2, got {bins}")
    joint = _joint_sums(_bin_numbers(x, bins), bins)  # (K, K)
    own = joint.diagonal()  # the counts of a neuron with itself are its own counts
    mi = log(len(x)) + (joint - own[:, None] - own[None, :]) / len(x)
    return _symmetric(mi.clamp_(min=0), estimate_std(x) > 0)


def cochran_bins(rows: int) -> int:
    """Bins a neuron that leave at least 5 rows expected in each joint bin of two independent neurons; at least 2.

    floor(sqrt(N / 5)), that is 4 for 100 rows and 14 for 1000.

    Source:
        Cellucci, Albano and Rapp, "Statistical validation of mutual information calculations", Phys. Rev. E 71, 2005,
        after Cochran, "Some methods for strengthening the common chi-square tests", Biometrics 10, 1954.
    """
    return max(2, isqrt(rows // 5))


def ksg(x: Tensor, *, neighbours: int, seed: int, tick: Callable[[int, int], None]) -> Tensor:
    """Mutual information of every pair of neurons by nearest neighbours, with scikit-learn's estimator.

    Each pair is estimated once, on one side of the diagonal: the estimator itself is symmetric, and the other direction
    would only draw the noise anew by which scikit-learn parts equal activations (1e-10 standard deviations).

    Args:
        x: (N, K) float64, activations.
        neighbours: nearest neighbours k of a row in the plane of two neurons, below N.
        seed: seed of the noise.
        tick: called as tick(pairs done, pairs in all).

    Returns:
        (K, K) float64, nats, never below 0. The truth on the diagonal and for copies is infinite; the estimate there is
        digamma(N) - digamma(k) - 1 / k where no activations are equal, less where some are.

    Raises:
        InputError: neighbours is not in [1, N).

    Cost:
        Search trees for each pair, 3 to 4 ms at 500 rows, on the CPU and in one thread unless the caller has set a
        joblib backend; the result does not depend on that.

    Source:
        Kraskov, Stoegbauer and Grassberger, "Estimating mutual information", Phys. Rev. E 69, 2004, Eq. 8.
        Differs from the paper: estimates below 0 are 0.
    """
    from sklearn.feature_selection import mutual_info_regression

    if not 1 <= neighbours < len(x):
        raise InputError(f"neighbours must be in [1, {len(x)}), the number of rows, got {neighbours}")
    alive = estimate_std(x) > 0
    data = (x - x.mean(dim=0))[:, alive].cpu().numpy()  # centred, as the noise grows with the mean
    count = data.shape[1]
    found = torch.zeros(count, count, dtype=torch.float64)
    done, total = 0, count * (count + 1) // 2
    for k in range(count):
        row = mutual_info_regression(
            data[:, k:], data[:, k], discrete_features=False, n_neighbors=neighbours, random_state=seed
        )
        found[k, k:] = torch.from_numpy(row)
        done += count - k
        tick(done, total)
    mi = x.new_zeros(x.shape[1], x.shape[1])
    mi[torch.outer(alive, alive)] = found.to(x.device).flatten()
    return _symmetric(mi, alive)


def hsic(x: Tensor, width: Tensor) -> Tensor:
    """Normalised Hilbert-Schmidt independence criterion of every pair of neurons, also called CKA.

    <HKH, HLH> / (|HKH| |HLH|) of the neurons' Gaussian Gram matrices K and L, where H = 1 - 1/N centres; the biased
    estimate. With very wide kernels it is the squared correlation, with very narrow ones 1 for any two neurons.

    Args:
        x: (N, K) float64, activations.
        width: (K,) float64, sigma, in the units of x; infinite for constant neurons.

    Returns:
        (K, K) float64, in [0, 1]; 1 on the diagonal.

    Cost:
        N^2 K^2 / 2 multiply-adds; N K Gram entries are held at a time.

    Source:
        Gretton, Bousquet, Smola and Schoelkopf, "Measuring statistical dependence with Hilbert-Schmidt norms", 2005;
        normalised as in Cortes, Mohri and Rostamizadeh, "Algorithms for learning kernels based on centered alignment",
        2012.
    """
    product = _centred_products(x, width)  # (K, K)
    norm = product.diagonal().sqrt()
    norm = torch.where(norm > 0, norm, torch.ones_like(norm))
    alignment = (product / torch.outer(norm, norm)).clamp_(0, 1)
    return _symmetric(alignment.fill_diagonal_(1), (estimate_std(x) > 0) & width.isfinite())


def _symmetric(matrix: Tensor, alive: Tensor) -> Tensor:
    """The upper triangle and its mirror image, 0 where a neuron is not alive."""
    whole = matrix.triu() + matrix.triu(1).T
    return torch.where(torch.outer(alive, alive), whole, torch.zeros_like(whole))


def _bin_numbers(x: Tensor, bins: int) -> Tensor:
    """Bin of each activation by its mean rank: (K, N) int64, in [0, bins)."""
    columns = x.T.contiguous()  # (K, N)
    ordered = columns.sort(dim=1).values
    below = torch.searchsorted(ordered, columns)
    not_above = torch.searchsorted(ordered, columns, right=True)
    return (below + not_above) * bins // (2 * len(x))  # whole numbers: no rounding at an edge


def _joint_sums(numbers: Tensor, bins: int) -> Tensor:
    """Sum of c log c over the joint counts c of each pair of neurons: (K, K), blocks above the diagonal only."""
    neurons, rows = numbers.shape
    sums = torch.zeros(neurons, neurons, dtype=torch.float64, device=numbers.device)
    step = max(1, min(isqrt(COUNT_BLOCK), COUNT_BLOCK // rows) // bins)
    for a in range(0, neurons, step):
        first = _one_hot(numbers[a : a + step], bins)
        for b in range(a, neurons, step):
            second = first if a == b else _one_hot(numbers[b : b + step], bins)
            counts = (first @ second.T).double().view(-1, bins, len(second) // bins, bins)  # (a, bins, b, bins)
            sums[a : a + step, b : b + step] = torch.special.xlogy(counts, counts, out=counts).sum(dim=(1, 3))
    return sums


def _one_hot(numbers: Tensor, bins: int) -> Tensor:
    """(b * bins, N) float32, which counts exactly up to 2^24 rows."""
    each = torch.arange(bins, device=numbers.device)
    return (numbers[:, None, :] == each[None, :, None]).float().flatten(0, 1)


def _centred_products(x: Tensor, width: Tensor) -> Tensor:
    """<HKH, HLH> of each pair of neurons: (K, K).

    Centring takes any constant away, so K - 1 stands for K: its diagonal is 0, and it keeps its digits where a kernel
    is so wide that all of K is near 1. The rows stand in a circle; one step takes the pairs that are `apart` on it.
    """
    rows, neurons = x.shape
    z = x / width
    circle = torch.cat([z, z])  # (2 N, K)
    sums, gram = torch.zeros_like(circle), torch.empty_like(z)  # memory is taken once: fresh memory is dear
    product = x.new_zeros(neurons, neurons)
    for apart in range(1, rows // 2 + 1):
        torch.sub(z, circle[apart : apart + rows], out=gram).square_().mul_(-0.5).expm1_()  # (N, K)
        twice = 2 * apart < rows  # at half a circle each pair is there in both directions already
        product.addmm_(gram.T, gram, alpha=2 if twice else 1)
        sums[:rows] += gram
        if twice:
            sums[apart : apart + rows] += gram
    row_sums = sums[:rows] + sums[rows:]  # (N, K)
    whole = row_sums.sum(dim=0)  # (K,)
    return product - 2 / rows * row_sums.T @ row_sums + torch.outer(whole, whole) / rows**2
