"""Activations under what was already pruned: transformer layers run one at a time over all calibration text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur.capture import LayerStatistics, StatisticsFitter, run_body, watched
from secateur.encoding import Batch
from secateur.models.families import find_layers
from secateur.models.feedforward import FeedForward, keep_masks, masked
from secateur.models.loading import LoadedModel
from secateur.results import Progress, no_progress

Choose = Callable[[int, LayerStatistics], NDArray[np.int64]]
"""Called as choose(place, statistics); returns the neurons of that network that stay."""


@dataclass
class _Passage:
    """One batch on its way through the layers."""

    batch: Batch
    """What the model was given, on its device."""
    states: Tensor
    """(B, T, D) that the next layer reads."""
    calls: list[tuple[tuple[Any, ...], Mapping[str, Any]]]
    """What each layer is called with besides."""


def can_walk(loaded: LoadedModel) -> bool:
    """Whether the model's layers follow one another in a single stack, each running once."""
    return loaded.family.kind in ("decoder", "encoder") and loaded.family.sharing_key is None


def choose_in_turn(
    loaded: LoadedModel,
    feedforwards: Sequence[FeedForward],
    batches: Sequence[Batch],
    choose: Choose,
    progress: Progress = no_progress,
) -> list[NDArray[np.int64]]:
    """What `choose` keeps of each network, measured where the networks before it are already cut.

    Args:
        loaded: a model that `can_walk`; it is not changed.
        feedforwards: the networks, in order.
        batches: keyword arguments of the forward pass.
        choose: picks the neurons that stay from a network's statistics, which hold no samples and no products.
        progress: told after each layer.

    Cost:
        Three passes of each batch through each layer; memory for the hidden states of all batches.
    """
    walk, kept = Walk(loaded, batches), list[NDArray[np.int64]]()
    for place, ffn in enumerate(feedforwards):
        with masked(feedforwards[:place], keep_masks(feedforwards[:place], kept)):
            walk.go_to(ffn)
        fitter = StatisticsFitter(ffn.width, samples=0, seed=0, with_second_moments=False)
        for number in range(len(batches)):
            with watched([ffn], [fitter], walk.batch(number), "tokens"):
                walk.run(number)
        kept.append(choose(place, fitter.finish()))
        progress("measuring layer after layer", place + 1, len(feedforwards))
    return kept


class Walk:
    """Batches on their way through the transformer layers of a model, all before the same layer."""

    def __init__(self, loaded: LoadedModel, batches: Sequence[Batch]) -> None:
        self._layers = find_layers(loaded.model, loaded.family)
        modules = [layer for _, layer in self._layers]
        self._passages = [_enter(loaded.model, modules, batch) for batch in batches]
        self._place = 0

    def batch(self, number: int) -> Batch:
        """What the model was given, on its device."""
        return self._passages[number].batch

    def go_to(self, ffn: FeedForward) -> None:
        """Run all batches through the layers before the one that a network is part of."""
        paths = [path for path, _ in self._layers]
        goal = next(place for place, path in enumerate(paths) if f"{ffn.path}.".startswith(f"{path}."))
        while self._place < goal:
            for number, passage in enumerate(self._passages):
                passage.states = self.run(number)
            self._place += 1

    def run(self, number: int) -> Tensor:
        """(B, T, D) what the layer that lies ahead makes of a batch; the batch stays where it is."""
        passage = self._passages[number]
        args, kwargs = passage.calls[self._place]
        with torch.inference_mode():
            found = self._layers[self._place][1](passage.states, *args, **kwargs)
        states: Tensor = found[0] if isinstance(found, tuple) else found
        return states


def _enter(model: Any, layers: Sequence[nn.Module], batch: Batch) -> _Passage:
    """A batch before the first layer, with what each layer is called with besides hidden states."""
    inputs = {name: value.to(next(model.parameters()).device) for name, value in batch.items()}
    passage = _Passage(inputs, torch.empty(0), [])
    with torch.inference_mode(), _noting_calls(layers, passage):
        run_body(model, inputs)
    return passage


@contextmanager
def _noting_calls(layers: Sequence[nn.Module], passage: _Passage) -> Iterator[None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        if not passage.calls:
            passage.states = args[0] if args else kwargs["hidden_states"]
        passage.calls.append((args[1:], named))

    handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
