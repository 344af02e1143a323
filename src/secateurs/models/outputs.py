"""What a model says about a batch: the representation its head reads, or its logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateurs.errors import InputError

OutputKind = Literal["representation", "logits", "states"]


def read_outputs(model: Any, batch: Mapping[str, Tensor], kind: OutputKind, sampling: str) -> Tensor:
    """(rows, features) float32, one row for each sequence, or for each real token.

    Args:
        model: in evaluation mode.
        batch: keyword arguments of its forward pass.
        kind: "representation": the pooled output, or where there is none the last hidden state (of the decoder, if
            there is one); "logits": what the head gives, or of a model without a head the representation; "states":
            the last hidden state.
        sampling: where outputs belong to tokens, "cls" takes the first real one of each row, anything else all of them.
    """
    device, inputs = next(model.parameters()).device, as_inputs(model, batch)
    with torch.inference_mode():
        values = _READERS[kind](model, inputs)
    side = "decoder_" if "decoder_input_ids" in batch else ""
    ids, mask = inputs.get(f"{side}input_ids"), inputs.get(f"{side}attention_mask")
    if values.ndim == 2 and ids is not None and values.shape == ids.shape and not is_classifier(model):
        values = values[..., None]  # one number for each token, as ELECTRA's discriminator gives
    if values.ndim == 2:
        return values.float()
    real = torch.ones(values.shape[:2], dtype=torch.bool, device=device) if mask is None else mask.bool()
    if sampling == "cls":
        return values[torch.arange(len(values), device=device), real.int().argmax(dim=1)].float()
    return values[real].float()


def require_finite_outputs(outputs: Tensor) -> Tensor:
    """The same outputs; raises InputError where they are NaN or infinite, so that nothing can be told by them."""
    if not bool(torch.isfinite(outputs).all()):
        raise InputError("the model's outputs are NaN or infinite; try --dtype float32")
    return outputs


def gives_logits(model: Any, batch: Mapping[str, Tensor]) -> bool:
    """Whether the model gives logits, unlike a body without a head, or a head that marks spans."""
    with torch.inference_mode():
        return isinstance(getattr(model(**as_inputs(model, batch)), "logits", None), Tensor)


def as_inputs(model: Any, batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """Keyword arguments of the forward pass: the batch on the model's device, and that nothing is to be cached."""
    device = next(model.parameters()).device
    inputs: dict[str, Any] = {name: value.to(device) for name, value in batch.items()}
    return {**inputs, "use_cache": False} if hasattr(model.config, "use_cache") else inputs


def is_classifier(model: nn.Module) -> bool:
    """Whether its head classifies rows."""
    return type(model).__name__.endswith("ForSequenceClassification")


def _represent(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    body = getattr(model, "base_model", model)
    found = body(**inputs)
    pooled: Tensor | None = getattr(found, "pooler_output", None)
    return _last_state(body, inputs, found) if pooled is None else pooled


def _read_states(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    body = getattr(model, "base_model", model)
    return _last_state(body, inputs, body(**inputs))


def _last_state(body: Any, inputs: Mapping[str, Any], found: Any) -> Tensor:
    last: Tensor | None = getattr(found, "last_hidden_state", None)
    if last is not None:
        return last
    found = body(**inputs, output_hidden_states=True)  # a model that is its own body, such as T5 with its head
    states = getattr(found, "decoder_hidden_states", None) or found.hidden_states
    representation: Tensor = states[-1]
    return representation


def _read_logits(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    found = model(**inputs)
    logits: Tensor | None = getattr(found, "logits", None)
    return _represent(model, inputs) if logits is None else logits


_READERS = {"representation": _represent, "logits": _read_logits, "states": _read_states}
