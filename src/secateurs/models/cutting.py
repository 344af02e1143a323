"""Carrying out a plan on a model in memory."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from torch import nn

from secateurs.errors import InputError
from secateurs.models.families import Family, find_family, find_feedforwards
from secateurs.models.loading import hash_weights, load_model, wrap_model
from secateurs.results import PruningPlan

ROUND_TO = {"decoder": 64, "encoder": 8, "encoder-decoder": 8, "vision": 8}
"""Default multiple that widths are rounded to, by kind."""


def apply(plan: PruningPlan, model: str | Path | nn.Module) -> nn.Module:
    """A pruned copy of a model, byte for byte what the plan's own run produced. The given model is not changed.

    Args:
        plan: what to cut.
        model: a transformers model, or a name as `secateurs.prune` takes it.

    Returns:
        A transformers model; `save_pretrained` writes it.

    Raises:
        InputError: `plan` is none, or the model's weights are not those that it was made for.
    """
    if not isinstance(plan, PruningPlan):
        raise InputError(f"plan must be what secateurs.load_plan(folder) gives, got {type(plan).__name__}")
    if isinstance(model, str | Path):
        pruned = load_model(str(model), dtype=plan.settings.get("dtype")).model
    else:
        pruned = copy.deepcopy(wrap_model(model).model)
    found = hash_weights(pruned)
    if found != plan.weights_sha256:
        raise InputError(
            f"the plan was made for weights with SHA-256 {plan.weights_sha256[:12]}..., got {found[:12]}..."
        )
    cut_(pruned, find_family(pruned.config), plan)
    return pruned


def cut_(model: nn.Module, family: Family, plan: PruningPlan) -> None:
    """Carry out a plan in place: rows and columns leave the weights, updates go in, the config follows.

    A checkpoint has one width for all its layers, so where the plan leaves layers of different widths they are padded
    with zero neurons up to the widest, rounded up as its settings ask. That changes nothing in what the model computes.
    """
    layers = {layer.path: layer for layer in plan.layers}
    feedforwards = find_feedforwards(model, family)
    unknown = set(layers) - {ffn.path for ffn in feedforwards}
    if unknown:
        raise InputError(f"the plan names a layer that the model lacks: {sorted(unknown)[0]}")
    widest = max(layers[ffn.path].width if ffn.path in layers else ffn.width for ffn in feedforwards)
    multiple = plan.settings.get("round_to", 1) or ROUND_TO[family.kind]  # a plan without settings has no wish
    width = min(-(-widest // multiple) * multiple, feedforwards[0].width)
    for ffn in feedforwards:
        if ffn.path in layers:
            ffn.cut_(layers[ffn.path], width)
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        if config is not None and hasattr(config, family.width_key):
            setattr(config, family.width_key, width)
