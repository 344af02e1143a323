"""What a feed-forward network adds to the residual stream, and to what it adds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from secateurs.errors import InputError
from secateurs.models.families import find_layers, find_residual
from secateurs.models.feedforward import FeedForward
from secateurs.models.loading import LoadedModel
from secateurs.models.outputs import as_inputs


@dataclass(frozen=True, slots=True)
class SubLayer:
    """What one network does to n real tokens of a batch, pass after pass where layers share weights."""

    activations: Tensor
    """(n, K) float32, what the down projection reads."""
    output: Tensor
    """(n, H) float32, what the down projection gives, bias included."""
    residual: Tensor
    """(n, H) float32, what the output is added to; 0 in families where a norm comes between."""
    rows: Tensor
    """(n,) int64, ascending: the row that each token is of, each pass with rows of its own."""

    @property
    def total(self) -> Tensor:
        """(n, H) float32, the output added to the residual."""
        return self.output + self.residual


def read_sublayer(
    loaded: LoadedModel,
    ffn: FeedForward,
    batch: Mapping[str, Tensor],
    *,
    first_only: bool = False,
    run: Callable[[], object] | None = None,
) -> SubLayer:
    """What a network does to the real tokens of a batch.

    Args:
        loaded: in evaluation mode; it is not changed.
        ffn: a network of the model.
        batch: keyword arguments of the forward pass.
        first_only: leave out all but the first real token of each row.
        run: runs the network's layer on the batch, where that is known how; None runs the model.

    Cost:
        A forward pass up to the network (the layers after it don't run), or what `run` takes.
    """
    inputs = as_inputs(loaded.model, batch)
    with torch.inference_mode(), _watched(loaded, ffn, stops=run is None) as seen, suppress(_Reached):
        run() if run is not None else loaded.model(**inputs)
    require_passes(ffn, len(seen.outputs))
    real = find_real(ffn, inputs, seen.outputs[0][..., 0].numel())
    if first_only:
        real = real & (real.cumsum(dim=1) == 1)
    output = _join(seen.outputs, real)
    lengths = real.sum(dim=1).repeat(ffn.passes)
    rows = torch.arange(len(lengths), device=real.device).repeat_interleave(lengths)
    return SubLayer(_join(seen.activations, real), output, _find_residual(loaded, seen, output, real), rows)


def find_real(ffn: FeedForward, inputs: Mapping[str, Tensor], tokens: int) -> Tensor:
    """(B, T) bool, on the network's device: which tokens that it runs on are no padding.

    Args:
        ffn: the network.
        inputs: keyword arguments of the forward pass.
        tokens: B x T, as many as it ran on in one pass.

    Raises:
        InputError: the batch has another number of tokens.
    """
    mask = inputs.get("decoder_attention_mask" if ffn.stack == "decoder" else "attention_mask")
    rows = len(next(iter(inputs.values())))
    real = torch.ones(rows, tokens // rows, dtype=torch.bool, device=ffn.device) if mask is None else mask.bool()
    if real.numel() != tokens:
        raise InputError(f"{tokens} activation rows came from a batch of {tuple(real.shape)} tokens")
    return real


def require_passes(ffn: FeedForward, count: int) -> None:
    """Raise InputError unless a network ran as often in one forward pass as its family says."""
    if count != ffn.passes:
        raise InputError(f"{ffn.path} ran {count} times in a forward pass, expected {ffn.passes}")


class _Reached(Exception):  # noqa: N818 (no error)
    """All passes of the network are over; the rest of the model need not run."""


@dataclass
class _Seen:
    """What went by, one entry a pass."""

    activations: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    ups: list[Tensor] = field(default_factory=list)
    """Inputs of the up projection."""
    layers: list[Tensor] = field(default_factory=list)
    """Outputs of the transformer layer."""


@contextmanager
def _watched(loaded: LoadedModel, ffn: FeedForward, *, stops: bool) -> Iterator[_Seen]:
    """Note what goes by, and stop the forward pass with `_Reached` after the last of it if asked."""
    seen, last = _Seen(), _find_layer(loaded, ffn)

    def at_up(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.ups.append(args[0])

    def at_down(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        seen.activations.append(args[0])
        seen.outputs.append(output)

    def at_last(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        seen.layers.append(output[0] if isinstance(output, tuple) else output)
        if stops and len(seen.outputs) == ffn.passes:
            raise _Reached

    handles = []
    try:
        handles.append(ffn.up.register_forward_pre_hook(at_up))
        handles.append(ffn.down.register_forward_hook(at_down))
        handles.append(last.register_forward_hook(at_last))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _find_layer(loaded: LoadedModel, ffn: FeedForward) -> nn.Module:
    """The transformer layer that a network is part of."""
    return next(layer for path, layer in find_layers(loaded.model, loaded.family) if ffn.is_part_of(path))


def _find_residual(loaded: LoadedModel, seen: _Seen, output: Tensor, real: Tensor) -> Tensor:
    kind = find_residual(loaded.family, loaded.model.config)
    if kind == "up input":
        return _join(seen.ups, real)
    if kind == "layer output":
        return _join(seen.layers, real) - output
    return torch.zeros_like(output)


def _join(passes: Sequence[Tensor], real: Tensor) -> Tensor:
    """(n, features) float32, real tokens of all passes; some models flatten (B, T) themselves."""
    flat = [values.reshape(-1, values.shape[-1]) for values in passes]
    chosen = flat if bool(real.all()) else [values[real.flatten()] for values in flat]  # else there is nothing to copy
    return chosen[0].float() if len(chosen) == 1 else torch.cat(chosen).float()
