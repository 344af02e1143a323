"""One feed-forward network: its projections, whatever their layout, and cutting it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from secateurs.results import LayerPlan, Update


def is_projection(module: nn.Module) -> bool:
    """Whether a module is a plain linear layer that can be cut: exactly nn.Linear, or GPT-2's Conv1D."""
    return type(module) in (nn.Linear, Conv1D)


def count_weights(projection: nn.Module) -> int:
    """Entries of a projection's matrix: multiply-adds it takes for one token."""
    return _matrix(projection).numel()


@dataclass(frozen=True, slots=True)
class FeedForward:
    """A feed-forward network of a model: neuron j is a row of up (and gate) and a column of down."""

    path: str
    """Module path of its owner."""
    up: nn.Module
    """Up projection; holds the gate too where `is_fused`."""
    down: nn.Module
    """Down projection; its input is the activation."""
    gate: nn.Module | None
    """Gate projection where it is a module of its own."""
    is_fused: bool
    """Whether up holds gate and up as two blocks of rows."""
    stack: Literal["main", "decoder"]
    """Whose token mask counts."""
    passes: int
    """Times it runs in one forward pass (above 1 where layers share weights)."""
    owner: nn.Module
    """The module at `path`."""

    @property
    def width(self) -> int:
        """Number of neurons."""
        return _matrix(self.down).shape[1]

    @property
    def hidden_size(self) -> int:
        """Number of outputs."""
        return _matrix(self.down).shape[0]

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""
        return _matrix(self.down).device

    @property
    def solving_device(self) -> torch.device:
        """Where its matrices are summed and solved, in float64: with its weights on CUDA, else on the CPU."""
        return self.device if self.device.type == "cuda" else torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Number format of its down projection."""
        return _matrix(self.down).dtype

    @property
    def is_gated(self) -> bool:
        """Whether a gate multiplies the up projection."""
        return self.is_fused or self.gate is not None

    @property
    def has_output_bias(self) -> bool:
        """Whether the down projection has a bias, and so can hold a new one."""
        return getattr(self.down, "bias", None) is not None

    def is_part_of(self, path: str) -> bool:
        """Whether it lies in the module at a path, such as a transformer layer."""
        return f"{self.path}.".startswith(f"{path}.")

    def down_columns(self, neurons: NDArray[np.int64] | None = None) -> Tensor:
        """(K, H) float32, a copy: row j is neuron j's column of the down projection; or (n, H) of some neurons only."""
        columns = _matrix(self.down).detach().T
        if neurons is not None:
            columns = columns[torch.from_numpy(neurons).to(columns.device)]
        return columns.float().contiguous()

    def incoming_rows(self) -> Tensor:
        """(K, weights) float32, a copy: row j is all that leads into neuron j, gate and biases included."""
        blocks = [_matrix(self.up), *([_matrix(self.gate)] if self.gate is not None else [])]
        biases = [getattr(module, "bias", None) for module in (self.up, self.gate)]
        blocks += [bias[:, None] for bias in biases if bias is not None]
        parts = [part for block in blocks for part in torch.split(block.detach(), self.width)]  # fused: two blocks
        return torch.cat(parts, dim=1).float()

    def weights(self) -> tuple[Tensor, ...]:
        """The parameters that hold its matrices: up, gate (where it is one of its own) and down."""
        found: list[Any] = [module for module in (self.up, self.gate, self.down) if module is not None]
        return tuple(module.weight for module in found)

    def per_neuron(self, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(K, incoming) and (K, H) float32: tensors shaped like `weights`, gathered by neuron."""
        *incoming, down = (matrix.T if isinstance(self.down, Conv1D) else matrix for matrix in weights)
        parts = [part for block in incoming for part in torch.split(block.detach(), self.width)]
        return torch.cat(parts, dim=1).float(), down.detach().T.float()

    def output_bias(self) -> Tensor:
        """(H,) float32, a copy of the down projection's bias."""
        bias: Any = self.down.bias
        copy: Tensor = bias.detach().float().clone()
        return copy

    def multiply_adds_per_token(self) -> int:
        """Multiply-adds of its matrices for one token, all passes."""
        matrices = 3 if self.is_gated else 2
        return self.passes * matrices * self.width * self.hidden_size

    def cut_(self, layer: LayerPlan, padded_width: int) -> None:
        """Remove all but the kept neurons, put the update in, and pad with zero neurons to `padded_width`."""
        kept = torch.from_numpy(layer.kept).to(_matrix(self.down).device)
        rows = torch.cat([kept, kept + self.width]) if self.is_fused else kept
        blocks = 2 if self.is_fused else 1
        _cut_rows_(self.up, rows, blocks, padded_width)
        if self.gate is not None:
            _cut_rows_(self.gate, rows, 1, padded_width)
        _cut_columns_(self.down, kept, layer.update, padded_width)
        if hasattr(self.owner, "intermediate_size"):
            setattr(self.owner, "intermediate_size", padded_width)  # noqa: B010 (not declared on nn.Module)

    def mask_(self, layer: LayerPlan) -> None:
        """Give the down projection new data: the columns of `layer`, update included, and zero ones for the rest."""
        down: Any = self.down
        kept = torch.from_numpy(layer.kept).to(self.device)
        old = _matrix(down).detach()
        columns = torch.zeros_like(old)
        columns[:, kept] = old[:, kept] if layer.update is None else layer.update.weight.T.to(old)
        down.weight.data = (columns.T if isinstance(down, Conv1D) else columns).contiguous()
        if layer.update is not None and layer.update.bias is not None:
            down.bias.data = layer.update.bias.to(down.bias.data).clone()


def keep_masks(feedforwards: Sequence[FeedForward], kept: Sequence[NDArray[np.int64]]) -> list[Tensor]:
    """(K,) float32 on the CPU for each network: 1 for the neurons that stay, else 0."""
    return [
        torch.zeros(ffn.width).index_fill_(0, torch.from_numpy(stay), 1.0)
        for ffn, stay in zip(feedforwards, kept, strict=True)
    ]


def masked(feedforwards: Sequence[FeedForward], masks: Sequence[Tensor]) -> AbstractContextManager[None]:
    """Multiply the activations of each feed-forward network by its mask while the context lasts.

    A mask is (K,), or (B, K) with one for each row of the batch.
    """

    def hook_for(mask: Tensor) -> Any:
        return lambda module, args: (_scale(args[0], mask), *args[1:])

    pairs = zip(feedforwards, masks, strict=True)
    return _removing([ffn.down.register_forward_pre_hook(hook_for(mask)) for ffn, mask in pairs])


def masked_inside(feedforwards: Sequence[FeedForward], masks: Sequence[Tensor]) -> AbstractContextManager[None]:
    """As `masked`, of what each up projection gives before the activation function; without gates."""

    def hook_for(mask: Tensor) -> Any:
        return lambda module, args, output: _scale(output, mask)

    pairs = zip(feedforwards, masks, strict=True)
    return _removing([ffn.up.register_forward_hook(hook_for(mask)) for ffn, mask in pairs])


@contextmanager
def _removing(hooks: Sequence[RemovableHandle]) -> Iterator[None]:
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _scale(values: Tensor, mask: Tensor) -> Tensor:
    """Values (B, T, K), or (B T, K) where the model flattens them, times a mask (K,), or (B, K)."""
    factors = mask.to(values)
    if mask.ndim == 1:
        return values * factors
    return (values.view(len(mask), -1, values.shape[-1]) * factors[:, None]).view(values.shape)


@contextmanager
def replaced(feedforwards: Sequence[FeedForward], layers: Sequence[LayerPlan]) -> Iterator[None]:
    """Let each network compute what it would compute if it were cut by its entry, while the context lasts.

    The down projection has zero columns where neurons would go; afterwards the weights are the old ones.
    """
    downs: list[Any] = [ffn.down for ffn in feedforwards]
    before = [(down.weight.data, None if down.bias is None else down.bias.data) for down in downs]
    try:
        for ffn, layer in zip(feedforwards, layers, strict=True):
            ffn.mask_(layer)
        yield
    finally:
        for down, (weight, bias) in zip(downs, before, strict=True):
            down.weight.data = weight
            if bias is not None:
                down.bias.data = bias


def _matrix(module: nn.Module) -> Tensor:
    """The weight as (out, in), a view."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight.T if isinstance(module, Conv1D) else weight


def _replace_weight_(module: Any, matrix: Tensor) -> None:
    """Put an (out, in) matrix in place, in the module's own layout, and correct its sizes."""
    layout = matrix.T if isinstance(module, Conv1D) else matrix
    module.weight = nn.Parameter(layout.contiguous(), requires_grad=module.weight.requires_grad)
    if isinstance(module, Conv1D):
        module.nf, module.nx = matrix.shape
    else:
        module.out_features, module.in_features = matrix.shape


def _cut_rows_(module: Any, rows: Tensor, blocks: int, padded_width: int) -> None:
    matrix = _pad_blocks(_matrix(module).detach()[rows], blocks, padded_width)
    _replace_weight_(module, matrix)
    if module.bias is not None:
        bias = _pad_blocks(module.bias.detach()[rows][:, None], blocks, padded_width)[:, 0]
        module.bias = nn.Parameter(bias.contiguous(), requires_grad=module.bias.requires_grad)


def _pad_blocks(rows: Tensor, blocks: int, padded_width: int) -> Tensor:
    parts = rows.chunk(blocks)
    missing = padded_width - len(parts[0])
    return torch.cat([nn.functional.pad(part, (0, 0, 0, missing)) for part in parts])


def _cut_columns_(module: Any, kept: Tensor, update: Update | None, padded_width: int) -> None:
    old = _matrix(module).detach()
    columns = old[:, kept] if update is None else update.weight.T.to(old)
    _replace_weight_(module, nn.functional.pad(columns, (0, padded_width - len(kept))))
    if update is not None and update.bias is not None:
        bias = update.bias.to(module.bias.detach())
        module.bias = nn.Parameter(bias.clone(), requires_grad=module.bias.requires_grad)
