"""How large a model is and what a sequence costs it, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from secateurs.models.families import Family, count_attentions, find_feedforwards, find_layers
from secateurs.models.feedforward import FeedForward, count_weights, is_projection
from secateurs.results import ModelSize

DEFAULT_SEQUENCE_LENGTH = {"decoder": 512, "encoder": 128, "encoder-decoder": 128, "vision": 0}
"""Tokens in a sequence, unless said otherwise, by kind; a vision model has its own number of patches."""


def measure_size(model: nn.Module, family: Family, sequence_length: int | None = None) -> ModelSize:
    """Parameters, widths and multiply-adds of one sequence.

    Multiply-adds count every matrix inside the transformer layers, with its real shape, once a token and pass, and
    2 s^2 x (heads x head size) for the scores and the weighted sum of each attention; embeddings and heads are left
    out. For an encoder-decoder both sides have s tokens.
    """
    config: Any = model.config
    positions = getattr(config, "max_position_embeddings", None) or 1 << 30
    length = sequence_length or min(DEFAULT_SEQUENCE_LENGTH[family.kind], positions) or _patches(config)
    feedforwards = find_feedforwards(model, family)
    ffn = length * sum(part.multiply_adds_per_token() for part in feedforwards)
    passes = feedforwards[0].passes
    everything = 0
    for _, layer in find_layers(model, family):
        matrices = sum(count_weights(part) for part in layer.modules() if is_projection(part))
        scores = 2 * length**2 * count_attentions(layer) * _attention_size(config)
        everything += passes * (length * matrices + scores)
    return ModelSize(
        parameters=sum(p.numel() for p in model.parameters()),
        widths=tuple(part.width for part in feedforwards),
        sequence_length=length,
        ffn_multiply_adds=ffn,
        model_multiply_adds=everything,
    )


def _attention_size(config: Any) -> int:
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(config.num_attention_heads * head_size)


def _patches(config: Any) -> int:
    return int((config.image_size // config.patch_size) ** 2 + 1)


def count_ffn_parameters(ffn: FeedForward) -> int:
    """Weights and biases of one feed-forward network that cutting neurons can remove."""
    return ffn.width * parameters_per_neuron(ffn)


def parameters_per_neuron(ffn: FeedForward) -> int:
    """Weights and biases that belong to one neuron."""
    blocks = 2 if ffn.is_fused else 1
    inputs = [(ffn.up, blocks)] + ([(ffn.gate, 1)] if ffn.gate is not None else [])
    biases = sum(count for module, count in inputs if getattr(module, "bias", None) is not None)
    return ffn.hidden_size * (3 if ffn.is_gated else 2) + biases


def predict_size(
    model: nn.Module, family: Family, width: int | Sequence[int], sequence_length: int | None = None
) -> ModelSize:
    """Size of the model if its feed-forward networks had another width, or each a width of its own, by formula."""
    now = measure_size(model, family, sequence_length)
    feedforwards = find_feedforwards(model, family)
    widths = (width,) * len(feedforwards) if isinstance(width, int) else tuple(width)
    removed = [ffn.width - left for ffn, left in zip(feedforwards, widths, strict=True)]
    saved = now.sequence_length * sum(
        count * ffn.multiply_adds_per_token() // ffn.width for count, ffn in zip(removed, feedforwards, strict=True)
    )
    parameters = sum(count * parameters_per_neuron(ffn) for count, ffn in zip(removed, feedforwards, strict=True))
    return ModelSize(
        parameters=now.parameters - parameters,
        widths=widths,
        sequence_length=now.sequence_length,
        ffn_multiply_adds=now.ffn_multiply_adds - saved,
        model_multiply_adds=now.model_multiply_adds - saved,
    )
