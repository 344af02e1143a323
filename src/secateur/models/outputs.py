"""What a model says about a batch: the representation its head reads, or its logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

OutputKind = Literal["representation", "logits"]


def read_outputs(model: nn.Module, batch: Mapping[str, Tensor], kind: OutputKind, sampling: str) -> Tensor:
    """(rows, features) float32, one row for each sequence, or for each real token.

    Args:
        model: in evaluation mode.
        batch: keyword arguments of its forward pass.
        kind: "representation": the pooled output, or where there is none the last hidden state (of the first real token
            of each row for sampling "cls", of all real tokens otherwise); "logits": what the head gives for the same.
        sampling: which rows of activations are sampled.
    """
    body: Any = getattr(model, "base_model", model)
    inputs: dict[str, Any] = {name: value.to(next(model.parameters()).device) for name, value in batch.items()}
    config: Any = model.config
    if hasattr(config, "use_cache"):
        inputs["use_cache"] = False
    with torch.inference_mode():
        found: Any = (body if kind == "representation" else model)(**inputs)
    pooled = getattr(found, "pooler_output", None)
    values: Tensor = found[0] if pooled is None else pooled
    if values.ndim == 2:
        return values.float()
    name = "decoder_attention_mask" if "decoder_attention_mask" in inputs else "attention_mask"
    mask = inputs.get(name)
    real = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device) if mask is None else mask.bool()
    if sampling == "cls":
        return values[torch.arange(len(values), device=values.device), real.int().argmax(dim=1)].float()
    return values[real].float()


def count_outputs(model: nn.Module) -> int:
    """Logits a row; 0 where it can't be told."""
    config: Any = model.config
    if type(model).__name__.endswith("ForSequenceClassification"):
        return int(config.num_labels)
    return int(getattr(config, "vocab_size", 0))
