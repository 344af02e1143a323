"""Activations under what was already pruned: transformer layers run one at a time over all calibration text."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from secateurs.calibration import Calibration
from secateurs.capture import blaming_batch, run_body
from secateurs.encoding import Batch
from secateurs.files import blaming_disk
from secateurs.memory import give_back
from secateurs.models.families import find_feedforwards, find_layers
from secateurs.models.feedforward import FeedForward, replaced
from secateurs.models.loading import LoadedModel
from secateurs.models.outputs import as_inputs
from secateurs.models.sublayers import SubLayer, read_sublayer
from secateurs.results import LayerPlan, Progress

Changes = AbstractContextManager[None]
"""A model is changed while it lasts."""


@dataclass
class _Passage:
    """One batch on its way through the layers."""

    states: Tensor
    """(B, T, D) that the layer at `place` reads."""
    calls: list[tuple[tuple[Any, ...], Mapping[str, Any]]]
    """What each layer is called with besides."""
    rest: tuple[Any, ...] | None = None
    """What a layer gives back besides states; None: it gives back nothing but states."""
    place: int = 0
    """The layer that lies ahead."""


def counts_first_only(loaded: LoadedModel, ffn: FeedForward) -> bool:
    """Whether a classifier reads only the first token of each row of what this network gives.

    Not where layers share it, as the earlier ones' other tokens are read by the next.
    """
    last = find_feedforwards(loaded.model, loaded.family)[-1].path
    return loaded.reads_first_token and ffn.path == last and ffn.passes == 1


def can_walk(loaded: LoadedModel) -> bool:
    """Whether it is a text model whose layers follow one another in a single stack, each running once."""
    return loaded.family.kind in ("decoder", "encoder") and loaded.family.sharing_key is None


class Walk:
    """Batches on their way through the transformer layers of a model."""

    def __init__(self, loaded: LoadedModel, batches: Sequence[Batch]) -> None:
        """The first layer runs on each batch, to see what layers are called with; all stay before it.

        Args:
            loaded: a model that `can_walk`.
            batches: keyword arguments of the forward pass.

        Raises:
            InputError: the model can't run a batch.
        """
        self._layers = find_layers(loaded.model, loaded.family)
        modules = [layer for _, layer in self._layers]
        self._passages = []
        for number, batch in enumerate(batches):
            with blaming_batch(number):
                self._passages.append(_enter(loaded.model, modules, batch))

    def go_to(self, ffn: FeedForward) -> None:
        """Run all batches through the layers before the one that a network is part of.

        Raises:
            InputError: the model can't run a batch.
        """
        goal = next(place for place, (path, _) in enumerate(self._layers) if ffn.is_part_of(path))
        for number, passage in enumerate(self._passages):
            with blaming_batch(number):
                while passage.place < goal:
                    self.advance(number, self.run(number))

    def run(self, number: int) -> Tensor:
        """(B, T, D) what the layer that lies ahead makes of a batch; the batch stays where it is."""
        give_back()  # else what layers leave behind adds up to several times what one of them takes
        passage = self._passages[number]
        args, kwargs = passage.calls[passage.place]
        with torch.inference_mode():
            found = self._layers[passage.place][1](passage.states, *args, **kwargs)
        states: Tensor = found[0] if isinstance(found, tuple) else found
        return states

    @contextmanager
    def resumed(self, number: int) -> Iterator[None]:
        """While this lasts, the model, given the batch, runs no layer before the one that lies ahead."""
        passage = self._passages[number]
        found = passage.states if passage.rest is None else (passage.states, *passage.rest)
        with _standing_in([layer for _, layer in self._layers[: passage.place]], lambda: found):
            yield

    def advance(self, number: int, states: Tensor) -> None:
        """Go past the layer that lies ahead of a batch, of which it makes these (B, T, D) states."""
        passage = self._passages[number]
        passage.states, passage.place = states, passage.place + 1


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
    def progress(self) -> Progress:
        """Told after each network."""


class Totals(Protocol):
    """What networks of a model give, added to what that is added to, network after network."""

    def go_to(self, ffn: FeedForward) -> None:
        """Have `read_total` read this network."""

    def read_total(self, number: int) -> Tensor:
        """(n, H) float32 for the real tokens of a batch."""


class Stream:
    """A model under changes, such as masks, read network after network over all batches.

    One without changes goes past a layer as it is read, so that each network is read once.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        batches: Sequence[Batch],
        under: Callable[[], Changes] | None = None,
        *,
        reads_all: bool = False,
    ) -> None:
        """Nothing is run yet, except for the first layer of a model that `can_walk`.

        Args:
            loaded: in evaluation mode; it is not changed.
            batches: keyword arguments of the forward pass.
            under: gives the context that the model is run in, as it should be at that time; None: the model as it is.
            reads_all: whether all tokens count in a classifier's last network too.
        """
        self._loaded, self._batches = loaded, batches
        self._reads_all = reads_all
        self._under: Callable[[], Changes] = under or nullcontext
        self._walk = Walk(loaded, batches) if can_walk(loaded) else None
        self._is_fixed = under is None
        self._ffn: FeedForward | None = None
        self._first_only = False

    def __len__(self) -> int:
        """Batches."""
        return len(self._batches)

    def go_to(self, ffn: FeedForward) -> None:
        """Have `read` read this network, the ones before it changed as they now are."""
        self._ffn = ffn
        self._first_only = not self._reads_all and counts_first_only(self._loaded, ffn)
        if self._walk is not None:
            with self._under():
                self._walk.go_to(ffn)

    def read(self, number: int) -> SubLayer:
        """What the network does in a batch; to first tokens only where only those count (`counts_first_only`).

        Raises:
            InputError: the model can't run the batch.
        """
        ffn, loaded = self._ffn, self._loaded
        assert ffn is not None
        states: list[Tensor] = []
        run = None if (walk := self._walk) is None else lambda: states.append(walk.run(number))
        with self._under(), blaming_batch(number):
            found = read_sublayer(loaded, ffn, self._batches[number], first_only=self._first_only, run=run)
        if walk is not None and self._is_fixed:
            walk.advance(number, states[0])
        return found

    def read_total(self, number: int) -> Tensor:
        """(n, H) float32, what the network gives in a batch, added to its residual; the rest is as in `read`."""
        return self.read(number).total


class Recording:
    """Totals of a model that does not change, run through once and kept in a temporary folder for several readers."""

    def __init__(self, stream: Stream, feedforwards: Sequence[FeedForward]) -> None:
        """Runs through the networks, in order; n x H x 4 bytes of disk for each, as long as this lives.

        Raises:
            SecateursError: there is no room for them.
        """
        with blaming_disk("what the unpruned model computes"):
            folder = tempfile.TemporaryDirectory(prefix="secateurs-")
        weakref.finalize(self, folder.cleanup)
        self._folder, self._ffn = Path(folder.name), feedforwards[0]
        for ffn in feedforwards:
            stream.go_to(ffn)
            self.go_to(ffn)
            for number in range(len(stream)):
                total = stream.read_total(number).cpu().numpy()
                with blaming_disk("what the unpruned model computes"):
                    np.save(self._file(number), total)

    def go_to(self, ffn: FeedForward) -> None:
        """Have `read_total` read this network."""
        self._ffn = ffn

    def read_total(self, number: int) -> Tensor:
        """(n, H) float32, as the stream gave it."""
        return torch.from_numpy(np.load(self._file(number))).to(self._ffn.device)

    def _file(self, number: int) -> Path:
        return self._folder / f"{self._ffn.path}-{number}.npy"


class PrunedStream(Stream):
    """A model whose networks are pruned one after another, each read where those before it are pruned already."""

    def __init__(
        self,
        loaded: LoadedModel,
        feedforwards: Sequence[FeedForward],
        batches: Sequence[Batch],
        *,
        reads_all: bool = False,
    ) -> None:
        """Nothing is pruned yet; the networks are those that will be, in order. The rest is as in `Stream`."""
        super().__init__(loaded, batches, self._changes, reads_all=reads_all)
        self._feedforwards, self._pruned = feedforwards, list[LayerPlan]()

    def prune(self, layer: LayerPlan) -> None:
        """The network that was read last is from now on as its plan has it."""
        self._pruned.append(layer)

    def _changes(self) -> Changes:
        """What has changed in the layers that are still to run."""
        done = len(self._pruned)
        first = max(done - 1, 0) if self._walk is not None else 0
        return replaced(self._feedforwards[first:done], self._pruned[first:])


def _enter(model: Any, layers: Sequence[nn.Module], batch: Batch) -> _Passage:
    """A batch before the first layer, with what each layer is called with besides hidden states."""
    passage = _Passage(torch.empty(0), [])
    with torch.inference_mode(), _noting_calls(layers, passage):
        run_body(model, as_inputs(model, batch))
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
