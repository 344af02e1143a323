"""Which of several candidates changes a model's outputs least."""

from __future__ import annotations

from torch import Tensor


def mean_kl_nats(original: Tensor, candidate: Tensor) -> float:
    """Mean over rows of KL(p(z_original) || p(z_candidate)), in nats, with p the softmax over a row.

    Args:
        original: (rows, features) float, outputs of the original model.
        candidate: (rows, features) float, of the pruned one.

    Source:
        "Large Language Model Pruning" (arXiv 2406.00030), Eq. 2, which leaves z open.
    """
    log_p, log_q = original.double().log_softmax(dim=-1), candidate.double().log_softmax(dim=-1)
    return float((log_p.exp() * (log_p - log_q)).sum(dim=-1).mean())
