"""Least squares from the neurons that are left to a less pruned model: all weights, or one factor for each neuron."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import lsmr
from torch import Tensor

from secateurs.capture import ProductSum
from secateurs.models.feedforward import FeedForward, keep_masks, masked
from secateurs.models.sublayers import SubLayer
from secateurs.results import Update
from secateurs.walking import Measurable, Stream

LARGEST = 10.0
"""A factor further from 0 than this is not believed."""
Reader = Callable[[int], SubLayer]
"""Called with the number of a batch; what a network does in it."""


@dataclass(frozen=True, slots=True)
class NormalEquations:
    """Sums over tokens for least squares from k activations z to targets y."""

    moments: Tensor
    """(k, k) float64 on the CPU, sum of z z^T."""
    products: Tensor
    """(k, H) float64 on the CPU, sum of z y^T."""


def rescale(
    context: Measurable, kept: Sequence[NDArray[np.int64]], teacher_kept: Sequence[NDArray[np.int64]]
) -> list[Update]:
    """The down projections of what is kept, each column times a factor m.

    Network after network, those before it already rescaled, m is the damped least-squares solution of
    sum_j m_j z_j W_j = teacher's sub-layer output - output bias - residual, over all real tokens. Residuals count where
    the family's can be told (`Family.residual`), else theirs is taken as unchanged. All stops where a solution does not
    converge or a factor exceeds 10: the networks from there on keep their weights.

    Args:
        context: a model, its networks and text.
        kept: sorted indices of the neurons that stay, for each network.
        teacher_kept: those of the teacher, a less pruned model.

    Source:
        Kwon et al., "A fast post-training pruning framework for transformers", NeurIPS 2022, section 4.3. Differs: it
        rescales attention heads too, before the FFN of each layer.

    Cost:
        Two runs of each layer for the teacher and two for the student (where layers are shared or form two stacks, a
        forward pass up to each network for both); n k (k + H) multiply-adds a network.
    """
    teacher_masks, masks = keep_masks(context.feedforwards, teacher_kept), keep_masks(context.feedforwards, kept)
    teacher, student = _open(context, teacher_masks), _open(context, masks)
    for place, stay in enumerate(kept):
        factors = _find_factors(context, place, stay, teacher, student)
        if factors is None:
            break
        masks[place][torch.from_numpy(stay)] = factors.float()
        context.progress("rescaling", place + 1, len(kept))
    return [
        Update((ffn.down_columns().cpu() * mask[:, None])[torch.from_numpy(stay)].to(ffn.dtype))
        for ffn, mask, stay in zip(context.feedforwards, masks, kept, strict=True)
    ]


def sum_equations(
    read_teacher: Reader,
    read_student: Reader,
    ffn: FeedForward,
    kept: NDArray[np.int64],
    batches: int,
) -> NormalEquations:
    """The equations for a down projection by which the student's sub-layer comes nearest to the teacher's.

    The target is the teacher's total, less the student's residual, less the output bias.

    Args:
        read_teacher: the network in the model to come near to.
        read_student: the network in the pruned model, all its neurons there.
        ffn: the network, for its bias.
        kept: (k,) sorted indices of the neurons that are left.
        batches: how many there are.

    Cost:
        Two readings of each batch, and n k (k + H) multiply-adds. Memory does not grow with the
        text.
    """
    moments, products = ProductSum(len(kept), len(kept)), ProductSum(len(kept), ffn.hidden_size)
    for number in range(batches):
        teacher, student = read_teacher(number), read_student(number)
        left = student.activations[:, torch.from_numpy(kept).to(student.activations.device)]  # (n, k)
        target = teacher.total - student.residual  # (n, H)
        moments.add(left)
        products.add(left, target - ffn.output_bias() if ffn.has_output_bias else target)
    return NormalEquations(moments.finish(), products.finish())


def solve_factors(system: Tensor, wanted: Tensor) -> Tensor | None:
    """(k,) m = 1 + x with x = argmin |A x - (b - A 1)|^2 + |x|^2; None if it doesn't converge or is not to be believed.

    Args:
        system: (k, k) float64, A.
        wanted: (k,) float64, b.
    """
    rest = wanted - system.sum(dim=1)
    solution, reason, *_ = lsmr(system.numpy(), rest.numpy(), damp=1.0, maxiter=5 * len(rest))
    factors = torch.from_numpy(solution) + 1
    return factors if reason < 3 and float(factors.abs().max()) <= LARGEST else None  # 3 and above: gave up


def _open(context: Measurable, masks: Sequence[Tensor]) -> Stream:
    """The model under masks as they are at the time of reading."""
    changes = partial(masked, context.feedforwards, masks)
    return Stream(context.loaded, context.calibration.batches, changes, reads_all=True)


def _find_factors(
    context: Measurable,
    place: int,
    stay: NDArray[np.int64],
    teacher: Stream,
    student: Stream,
) -> Tensor | None:
    ffn = context.feedforwards[place]
    teacher.go_to(ffn)
    student.go_to(ffn)
    equations = sum_equations(teacher.read, student.read, ffn, stay, len(student))
    weight = ffn.down_columns().cpu().double()[torch.from_numpy(stay)]  # (k, H)
    return solve_factors((weight @ weight.T) * equations.moments, (weight * equations.products).sum(dim=1))
