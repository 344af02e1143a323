"""Activations at tokens of one kind, and what the model makes of these tokens in the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateurs.methods import PruningContext
from secateurs.models.outputs import as_inputs

COUNT = 2000
"""Tokens that are read."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The same tokens throughout the model."""

    samples: tuple[Tensor, ...]
    """(N, K) float32 for each network on the CPU, its activations."""
    states: Tensor
    """(N, H) float32 on the CPU, the final representation."""


def read_tokens(context: PruningContext, kind: str) -> Reading:
    """The calibration tokens of that kind, in random order; read once.

    Args:
        context: a language model with text that has no padding.
        kind: "any", "late" (the second half of their windows), or "surprising" (the highest loss of the next token).
    """
    return context.once(("reading", kind), lambda: _read(context, kind))


def _read(context: PruningContext, kind: str) -> Reading:
    model: Any = context.loaded.model
    batches, random = context.calibration.batches, torch.Generator().manual_seed(context.recipe.seed)
    with torch.inference_mode():
        scores = [KINDS[kind](model, batch["input_ids"], random).flatten().cpu() for batch in batches]
    least = torch.cat(scores).topk(COUNT).values[-1]
    rows: list[list[Tensor]] = [[] for _ in context.feedforwards]
    states = []
    for batch, score in zip(batches, scores, strict=True):
        chosen = score >= least

        def keep(found: list[Tensor], activations: Tensor, chosen: Tensor = chosen) -> None:
            found.append(activations.flatten(0, 1).cpu()[chosen].float())

        with torch.inference_mode(), ExitStack() as hooks:
            for ffn, found in zip(context.feedforwards, rows, strict=True):
                hook = ffn.down.register_forward_pre_hook(lambda _, args, found=found, keep=keep: keep(found, args[0]))
                hooks.callback(hook.remove)
            states.append(
                model.base_model(**as_inputs(model, batch)).last_hidden_state.flatten(0, 1).cpu()[chosen].float()
            )
    order = torch.randperm(COUNT, generator=random)
    return Reading(tuple(torch.cat(found)[:COUNT][order] for found in rows), torch.cat(states)[:COUNT][order])


def _any(model: Any, ids: Tensor, random: torch.Generator) -> Tensor:
    return torch.rand(ids.shape, generator=random)


def _late(model: Any, ids: Tensor, random: torch.Generator) -> Tensor:
    return torch.rand(ids.shape, generator=random) + (torch.arange(ids.shape[1]) >= ids.shape[1] // 2)


def _surprising(model: Any, ids: Tensor, random: torch.Generator) -> Tensor:
    inputs = as_inputs(model, {"input_ids": ids})
    logits = model(**inputs).logits[:, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), inputs["input_ids"][:, 1:], reduction="none")
    return torch.nn.functional.pad(losses, (0, 1), value=-1.0)  # nothing follows the last token


KINDS: Mapping[str, Callable[[Any, Tensor, torch.Generator], Tensor]] = {
    "any": _any,
    "late": _late,
    "surprising": _surprising,
}
"""Scores (B, T) of a batch's tokens; the highest are read."""
