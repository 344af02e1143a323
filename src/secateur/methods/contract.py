"""What a pruning method gets and gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from secateur.calibration import Calibration
from secateur.capture import LayerStatistics, Sampling, capture
from secateur.errors import InputError
from secateur.information import mutual_information
from secateur.models.feedforward import FeedForward
from secateur.models.loading import LoadedModel
from secateur.recipe import Recipe
from secateur.results import LayerPlan, MutualInformation, Progress, no_progress

Need = Literal["weights", "activations", "gradients", "labels"]
Sight = Literal["duplicates", "dead neurons"]
MIN_SAMPLES = 8
"""Fewest sampled rows that information is worth measuring on."""
INFORMATION_SETTINGS = ("measure", "alpha", "kernel_rows", "kernels", "kernel_width", "mi_memory")
CLUSTER_SETTINGS = ("distance", "dimensions", "seeds", "choose_by", "threshold_percentile")
CHOOSING_SETTINGS = frozenset({"method", "refit", "information", "ridge", *INFORMATION_SETTINGS, *CLUSTER_SETTINGS})
"""Settings that no measured activation depends on."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Method:
    """A way to choose which neurons stay."""

    name: str
    """Its name on the command line."""
    summary: str
    """One line for `secateur methods`."""
    plan: Callable[[PruningContext], tuple[LayerPlan, ...]]
    """Chooses: one entry for each network in the context, with exactly `context.width` neurons kept."""
    needs: frozenset[Need]
    """What it is computed from."""
    sees: frozenset[Sight]
    """Kinds of useless neurons that it can tell from useful ones."""
    check: Callable[[Recipe], None] = lambda recipe: None
    """Raises InputError, before anything is measured, where the settings make no sense for it."""


def require_information(recipe: Recipe) -> None:
    """Raise InputError where information was switched off, which leaves nothing to choose by."""
    if not recipe.information:
        raise InputError(
            f"method '{recipe.method}' chooses by information alone; use 'redundancy' with --no-information"
        )


@dataclass(eq=False)
class PruningContext:
    """All that a method may look at. Costly things are computed once, when first asked for, and shared."""

    loaded: LoadedModel
    """The model; methods leave it as it is."""
    feedforwards: Sequence[FeedForward]
    """The networks to prune."""
    width: int
    """Neurons to keep in each."""
    calibration: Calibration
    """Batches of unlabelled text."""
    recipe: Recipe
    """The settings."""
    sampling: Sampling
    """Which activation rows are sampled."""
    progress: Progress = no_progress
    """Told how far each phase is."""
    rates: dict[str, float] = field(default_factory=dict)
    """Speeds that the user may want to know, such as "candidates per second"."""
    _known: dict[tuple[Any, ...], Any] = field(default_factory=dict, repr=False)

    @cached_property
    def statistics(self) -> tuple[LayerStatistics, ...]:
        """Activations of each network, measured over all calibration text in one run."""
        layers = capture(
            self.loaded.model,
            self.feedforwards,
            self.calibration.batches,
            samples=self.recipe.samples,
            sampling=self.sampling,
            seed=self.recipe.seed,
            with_second_moments=self.recipe.refit,
            progress=self.progress,
        )
        if len(layers[0].samples) < MIN_SAMPLES:
            raise InputError(
                f"at least {MIN_SAMPLES} activation rows must be sampled, got {len(layers[0].samples)}; "
                "give more calibration text"
            )
        return layers

    def down_columns(self, place: int) -> Tensor:
        """(K, H) float32: row j is neuron j's column of the down projection of network `place`."""
        return self.feedforwards[place].down_columns()

    def importance(self, place: int) -> NDArray[np.floating[Any]]:
        """(K,) float64: root mean square of the activation x length of the neuron's down-projection column."""
        lengths = self.down_columns(place).double().norm(dim=1).cpu()
        product: NDArray[np.floating[Any]] = (self.statistics[place].rms * lengths).numpy()
        return product

    def information(self, place: int) -> MutualInformation:
        """Mutual information of the neurons of network `place`, over the first sampled rows."""
        recipe = self.recipe

        def measure() -> MutualInformation:
            phase, count = "measuring information", len(self.feedforwards)
            rows = self.statistics[place].samples[: recipe.kernel_rows * recipe.kernels]
            return mutual_information(
                rows.to(self.feedforwards[place].device),
                measure=recipe.measure,
                alpha=recipe.alpha,
                width=recipe.kernel_width,
                batch_size=recipe.kernel_rows,
                seed=recipe.seed,
                most_bytes=recipe.mi_memory,
                progress=lambda done, total: self.progress(phase, place * total + done, count * total),
            )

        return self.once(("information", place, *self.information_key), measure)

    @property
    def information_key(self) -> tuple[Any, ...]:
        """The settings that information depends on."""
        return tuple(getattr(self.recipe, name) for name in INFORMATION_SETTINGS)

    def once(self, key: tuple[Any, ...], compute: Callable[[], T]) -> T:
        """What `compute` gives, computed when a key is first asked for; the key names all settings it depends on."""
        if key not in self._known:
            self._known[key] = compute()
        found: T = self._known[key]
        return found

    @property
    def information_backends(self) -> tuple[str, ...]:
        """Back ends that information was computed by so far."""
        found = (value for value in self._known.values() if isinstance(value, MutualInformation))
        return tuple(sorted({information.backend for information in found}))

    def under(self, recipe: Recipe, width: int | None = None) -> PruningContext:
        """The same measurements under a recipe that differs only in how neurons are chosen and made up for.

        A `width` takes the place of the recipe's.
        """
        changed = {name for name in Recipe.model_fields if getattr(recipe, name) != getattr(self.recipe, name)}
        changed -= {"keep", "round_to"} if width is not None else set()
        if not changed <= CHOOSING_SETTINGS or (recipe.refit and not self.recipe.refit):
            raise InputError(f"these settings need new measurements: {', '.join(sorted(changed))}")
        other = replace(self, recipe=recipe, width=self.width if width is None else width)
        other.__dict__["statistics"] = self.statistics
        return other
