"""Activations under what was already pruned: transformer layers run one at a time over all calibration text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur.calibration import Calibration
from secateur.capture import LayerStatistics, Sampling, StatisticsFitter, run_body, watched
from secateur.encoding import Batch
from secateur.models.families import find_feedforwards, find_layers, find_residual
from secateur.models.feedforward import FeedForward, keep_masks, masked
from secateur.models.loading import LoadedModel
from secateur.models.sublayers import SubLayer, read_sublayer
from secateur.results import LayerPlan, Progress, no_progress

Choose = Callable[[int, LayerStatistics], NDArray[np.int64]]
"""Called as choose(place, statistics); returns the neurons of that network that stay."""

Changes = AbstractContextManager[None]
"""A model is changed while it lasts."""


@dataclass
class _Passage:
    """One batch on its way through the layers."""

    batch: Batch
    """What the model was given, on its device."""
    states: Tensor
    """(B, T, D) that the next layer reads."""
    calls: list[tuple[tuple[Any, ...], Mapping[str, Any]]]
    """What each layer is called with besides."""
    rest: tuple[Any, ...] | None = None
    """What a layer gives back besides states; None: it gives back nothing but states."""
    ahead: Tensor | None = None
    """(B, T, D) that the layer after the next one reads, where that is known already."""


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
        """Nothing is run but what leads to the first layer.

        Args:
            loaded: a model that `can_walk`.
            batches: keyword arguments of the forward pass.
        """
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
                passage.states, passage.ahead = self.run(number) if passage.ahead is None else passage.ahead, None
            self._place += 1

    def run(self, number: int) -> Tensor:
        """(B, T, D) what the layer that lies ahead makes of a batch; the batch stays where it is."""
        passage = self._passages[number]
        args, kwargs = passage.calls[self._place]
        with torch.inference_mode():
            found = self._layers[self._place][1](passage.states, *args, **kwargs)
        states: Tensor = found[0] if isinstance(found, tuple) else found
        return states

    @contextmanager
    def resumed(self, number: int) -> Iterator[None]:
        """While this lasts, the model, given the batch, runs no layer before the one that lies ahead."""
        passage = self._passages[number]
        found = passage.states if passage.rest is None else (passage.states, *passage.rest)
        with _standing_in([layer for _, layer in self._layers[: self._place]], lambda: found):
            yield

    def settle(self, number: int, states: Tensor) -> None:
        """(B, T, D) is what the layer that lies ahead makes of a batch; going on won't run it."""
        self._passages[number].ahead = states


class Measurable(Protocol):
    """A model with text to run on; a method's context has it all."""

    @property
    def loaded(self) -> LoadedModel:
        """The model; it is not changed."""

    @property
    def feedforwards(self) -> Sequence[FeedForward]:
        """The networks, in order."""

    @property
    def calibration(self) -> Calibration:
        """Batches of text."""

    @property
    def noised(self) -> Calibration:
        """The same with some tokens replaced."""

    @property
    def sampling(self) -> Sampling:
        """With "cls", only the first token of a row counts in an encoder's last network."""

    @property
    def progress(self) -> Progress:
        """Told after each network."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """One batch, read."""

    activations: Tensor
    """(n, K), what the down projection read."""
    states: Tensor
    """(B, T, D), what the layer made of it."""


class Stream:
    """A model under changes, such as masks, read network after network over all batches."""

    def __init__(
        self,
        loaded: LoadedModel,
        batches: Sequence[Batch],
        sampling: Sampling,
        under: Callable[[], Changes] | None = None,
    ) -> None:
        """Nothing is run yet, except for what leads to the first layer of a model that `can_walk`.

        Args:
            loaded: in evaluation mode; it is not changed.
            batches: keyword arguments of the forward pass.
            sampling: with "cls", only the first token of a row counts in an encoder's last network.
            under: gives the context that the model is run in, as it should be at that time; None: the model as it is.
        """
        self._loaded, self._batches, self._sampling = loaded, batches, sampling
        self._under: Callable[[], Changes] = under or nullcontext
        self._last = find_feedforwards(loaded.model, loaded.family)[-1].path
        self._walk = Walk(loaded, batches) if can_walk(loaded) else None
        self._is_fixed = under is None
        self._ffn: FeedForward | None = None
        self._readings: dict[int, _Reading] = {}

    def go_to(self, ffn: FeedForward) -> None:
        """Have `read` read this network, the ones before it changed as they now are."""
        self._ffn, self._readings = ffn, {}
        if self._walk is not None:
            with self._under():
                self._walk.go_to(ffn)

    def read(self, number: int) -> SubLayer:
        """What the network does in a batch; of an encoder's last network perhaps to first tokens only."""
        ffn, loaded = self._ffn, self._loaded
        assert ffn is not None
        is_last = ffn.path == self._last and ffn.passes == 1
        first_only = is_last and loaded.family.kind == "encoder" and self._sampling == "cls"
        states: list[Tensor] = []
        run = None if (walk := self._walk) is None else lambda: states.append(walk.run(number))
        with self._under():
            found = read_sublayer(loaded, ffn, self._batches[number], first_only=first_only, run=run)
        if walk is not None and self._is_fixed:
            walk.settle(number, states[0])
        elif walk is not None and self._adds_up(states[0], found):
            self._readings[number] = _Reading(found.activations.to(ffn.dtype), states[0])
        return found

    def settle(self, layer: LayerPlan) -> None:
        """The network that was read is from now on as `replaced` by `layer`.

        Where its output is just added to the stream, the difference is added to what the layer made of each batch, and
        the layer need not run again.

        Cost:
            n K H multiply-adds, if that spares the run. Until then, memory for all activations of one network.
        """
        if self._ffn is None or self._walk is None or not self._readings:
            return
        change, bias = self._ffn.change(layer)
        for number, reading in self._readings.items():
            moved = reading.activations @ change + bias
            self._walk.settle(number, reading.states + moved.view_as(reading.states))
        self._readings = {}

    def _adds_up(self, states: Tensor, found: SubLayer) -> bool:
        """Whether a change of the network's output is the same change of each of the layer's (B, T, D) states."""
        kind = find_residual(self._loaded.family, self._loaded.model.config)
        return kind == "layer output" and states.shape[:-1].numel() == len(found.output)


def _enter(model: Any, layers: Sequence[nn.Module], batch: Batch) -> _Passage:
    """A batch before the first layer, with what each layer is called with besides hidden states."""
    inputs = {name: value.to(next(model.parameters()).device) for name, value in batch.items()}
    passage = _Passage(inputs, torch.empty(0), [])
    with torch.inference_mode(), _noting_calls(layers, passage):
        run_body(model, inputs)
    return passage


@contextmanager
def _noting_calls(layers: Sequence[nn.Module], passage: _Passage) -> Iterator[None]:
    """Note what layers are called with; only the first one runs, the others give back what the first one gave."""
    first: list[Any] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        if not passage.calls:
            passage.states = args[0] if args else kwargs["hidden_states"]
        passage.calls.append((args[1:], named))

    def after(module: nn.Module, args: tuple[Any, ...], found: Any) -> None:
        first.append(found)
        passage.rest = found[1:] if isinstance(found, tuple) else None

    handles = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers]
    handles.append(layers[0].register_forward_hook(after))
    try:
        with _standing_in(layers[1:], lambda: first[0]):
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _standing_in(layers: Sequence[nn.Module], give: Callable[[], Any]) -> Iterator[None]:
    """Layers give this back instead of running."""
    own = [vars(layer).get("forward") for layer in layers]  # such as a library's that has wrapped it
    try:
        for layer in layers:
            layer.forward = lambda *args, **kwargs: give()
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            vars(layer).pop("forward", None)
            if forward is not None:
                layer.forward = forward
