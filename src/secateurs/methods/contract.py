"""What a pruning method gets and gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateurs.calibration import Calibration
from secateurs.capture import LayerStatistics, Sampling, capture, require_rows
from secateurs.errors import InputError
from secateurs.information import mutual_information
from secateurs.models.families import find_residual
from secateurs.models.feedforward import FeedForward
from secateurs.models.gradients import RowLoss, find_target, label_losses, mask_gradients, next_token_losses
from secateurs.models.loading import LoadedModel, hash_weights
from secateurs.pieces import Blocks, Keeper, has_information, keep_information
from secateurs.recipe import Recipe
from secateurs.results import LayerPlan, MutualInformation, Progress, Update, no_progress
from secateurs.selection.ranking import select_overall, select_top
from secateurs.token_noise import replace_tokens
from secateurs.walking import Recording, Stream, Totals

Need = Literal["weights", "activations", "gradients", "labels"]
Sight = Literal["duplicates", "dead neurons"]
Allocation = Literal["uniform", "global"]
INFORMATION_SETTINGS = ("measure", "alpha", "kernel_rows", "kernels", "kernel_width", "mi_memory")
CLUSTER_SETTINGS = ("distance", "dimensions", "seeds", "choose_by", "threshold_percentile")
RIVAL_SETTINGS = ("allocation", "magnitude", "iterations", "as_published")
CHOOSING_SETTINGS = frozenset(
    {
        "method",
        "refit",
        "in_turn",
        "information",
        "noise",
        "ridge",
        "token_noise",
        "drift",
        "mean_weight",
        "token_weights",
        *INFORMATION_SETTINGS,
        *CLUSTER_SETTINGS,
        *RIVAL_SETTINGS,
    }
)
"""Settings that `statistics` do not depend on."""
RIDGE = {"decoder": 0.3, "encoder": 0.01, "encoder-decoder": 0.01, "vision": 0.01}
"""Default noise that a refit assumes in each activation, by kind; chosen on SmolLM2 and MiniLM."""
SAMPLING = 0.14
"""Least default noise in units of neurons / tokens, for what a regression gets wrong because of its sample."""
MOST_RECORDED = 4e9
"""Bytes that a recording of the unpruned model may take in the folder for temporary files."""
_STATISTICS = ("statistics",)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Method:
    """A way to choose which neurons stay."""

    name: str
    """Its name on the command line."""
    summary: str
    """One line for `secateurs methods`."""
    plan: Callable[[PruningContext], tuple[LayerPlan, ...]]
    """Chooses: one entry for each network in the context, with exactly `context.width` neurons kept, or under global
    allocation `context.budget` in all."""
    needs: frozenset[Need]
    """What it is computed from."""
    sees: frozenset[Sight]
    """Kinds of useless neurons that it can tell from useful ones."""
    allocations: frozenset[Allocation] = frozenset({"uniform"})
    """How it may spread the neurons that stay over the networks."""
    corrects: bool = False
    """Whether it changes the weights that are left, as published, without Secateurs' refit."""
    refits: bool = False
    """Whether it refits by itself, where the recipe asks for that."""
    measures_itself: bool = False
    """Whether it measures the activations that it needs by itself, and never looks at `context.statistics`."""
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
    """Batches of text, or of a task's rows with their labels."""
    recipe: Recipe
    """The settings."""
    sampling: Sampling
    """Which activation rows are sampled."""
    progress: Progress = no_progress
    """Told how far each phase is."""
    has_several_refits: bool = False
    """Whether more than one refit in turn is to come, so that what the unpruned model does is worth keeping."""
    with_second_moments: bool = True
    """Whether `statistics` hold the products of activations that some methods and the refit all at once need."""
    pieces: Keeper = field(default_factory=Keeper)
    """Takes in what is finished, and has what an earlier run finished."""
    rates: dict[str, float] = field(default_factory=dict)
    """Speeds that the user may want to know, such as "candidates per second"."""
    backends: set[str] = field(default_factory=set)
    """What computed information so far."""
    _known: dict[tuple[Any, ...], Any] = field(default_factory=dict, repr=False)

    @property
    def statistics(self) -> tuple[LayerStatistics, ...]:
        """Activations of each network, measured over all calibration text in one run."""
        if _STATISTICS not in self._known:  # not `once`: what measuring costs is no method's
            names = [f"statistics-{place}" for place in range(len(self.feedforwards))]
            self._known[_STATISTICS] = tuple(self.pieces.fill(names, self._capture))
        found: tuple[LayerStatistics, ...] = self._known[_STATISTICS]
        return found

    def _capture(self, places: Sequence[int]) -> tuple[LayerStatistics, ...]:
        layers = capture(
            self.loaded.model,
            [self.feedforwards[place] for place in places],
            self.calibration.batches,
            samples=self.recipe.samples,
            sampling=self.sampling,
            seed=self.recipe.seed,
            with_second_moments=self.with_second_moments,
            progress=self.progress,
        )
        require_rows(len(layers[0].samples))
        return layers

    def second_moments(self, place: int) -> Tensor:
        """(K, K) float64, E[z z^T] of network `place`, in a context `with_second_moments`."""
        moments = self.statistics[place].second_moments
        assert moments is not None
        return moments

    @property
    def weights_sha256(self) -> str:
        """Hash of the unpruned model's weights."""
        return self.once(("weights",), lambda: hash_weights(self.loaded.model))

    @property
    def budget(self) -> int:
        """Neurons to keep in all networks together."""
        return self.width * len(self.feedforwards)

    def ridge_on(self, rows: int, neurons: int) -> float:
        """Of a refit, in units of each activation's second moment; by default more where tokens are few."""
        return self.recipe.ridge or max(RIDGE[self.loaded.family.kind], SAMPLING * neurons / rows)

    def noise_on(self, rows: int, neurons: int) -> float:
        """Of the choice, in the same units."""
        return self.ridge_on(rows, neurons) if self.recipe.noise is None else self.recipe.noise

    @property
    def weighs_tokens(self) -> bool:
        """Whether a token's error counts as a norm of what the residual stream then is would make it.

        In a refit in turn and `secateurs`. By default where such a norm is next and the model gives no means of texts.
        """
        residual, asked = find_residual(self.loaded.family, self.loaded.model.config), self.recipe.token_weights
        if asked is None:
            return residual == "up input" and self.loaded.pooling != "mean"
        return asked and residual != "unknown"

    @property
    def mean_weight(self) -> float:
        """What the mean over a text's tokens counts beside them, in a refit in turn and in all of `secateurs`."""
        return self.recipe.mean_weight if self.loaded.pooling == "mean" else 0.0

    @property
    def noised(self) -> Calibration:
        """What `secateurs` and the refit in turn measure on: the text with some tokens replaced by random ones."""
        share, seed = self.recipe.token_noise, self.recipe.seed
        return self.once(("noised", share), lambda: replace_tokens(self.calibration, self.loaded, share, seed))

    def read_whole(self) -> Totals:
        """The unpruned model on `noised`, network after network; recorded for several refits, if that fits."""

        def open_stream() -> Stream:
            return Stream(self.loaded, self.noised.batches)

        size = 4 * self.calibration.summary.tokens * sum(ffn.passes * ffn.hidden_size for ffn in self.feedforwards)
        if not self.has_several_refits or not 0 < size <= MOST_RECORDED:
            return open_stream()
        return self.once(("whole", self.recipe.token_noise), lambda: Recording(open_stream(), self.feedforwards))

    def require_loss(self) -> None:
        """Raise InputError unless there is a loss to take gradients of: next tokens, or labels under a classifier."""
        if find_target(self.loaded.model) != "next token" and self.calibration.labels is None:
            raise InputError(
                f"method '{self.recipe.method}' needs labelled rows; calibrate on them by --task NAME --data DIR "
                "without --calibration, or from Python on batches that hold labels"
            )

    def row_losses(self, logits: Tensor, number: int) -> Tensor:
        """(B,) the task's loss of each row of calibration batch `number`."""
        return self.losses_on(self.calibration)(logits, number)

    def losses_on(self, calibration: Calibration) -> RowLoss:
        """The task's loss on some rows."""
        if find_target(self.loaded.model) == "next token":
            return lambda logits, number: next_token_losses(logits, calibration.batches[number])
        labels = calibration.labels
        assert labels is not None
        return lambda logits, number: label_losses(logits, labels[number])

    def row_gradients(
        self, loss: RowLoss, masks: Sequence[Tensor] | None = None, *, is_incoming: bool = False
    ) -> tuple[Tensor, ...]:
        """(N, K) float64 a network: the gradient of each calibration row's loss by a factor on each activation.

        Args:
            loss: of each row; `row_losses` for the task's own.
            masks: (K,) a network, factors on the activations where the gradients are taken; all ones by default.
            is_incoming: by a factor on each output of the up projection instead (networks without gates).
        """
        batches, parts = self.calibration.batches, []
        gradients = mask_gradients(self.loaded.model, self.feedforwards, batches, loss, masks, is_incoming=is_incoming)
        for number, found in enumerate(gradients):
            parts.append(found)
            self.progress("taking gradients", number + 1, len(batches))
        return tuple(torch.cat(of_network) for of_network in zip(*parts, strict=True))

    def task_gradients(self) -> tuple[Tensor, ...]:
        """`row_gradients` of the task's loss in the whole model, taken once."""
        self.require_loss()
        return self.once(
            ("task gradients",), lambda: self.pieces.get("gradients", lambda: self.row_gradients(self.row_losses))
        )

    def select(self, scores: Sequence[NDArray[np.floating[Any]]]) -> list[NDArray[np.int64]]:
        """The neurons with the highest (K,) scores: `width` of each network, or `budget` of all together."""
        if self.recipe.allocation == "global":
            return select_overall(scores, self.budget)
        return [select_top(values, self.width) for values in scores]

    def select_more(self, scores: Sequence[NDArray[np.floating[Any]]]) -> list[NDArray[np.int64]]:
        """As `select`, with the root of the fraction kept: the teacher of a rescaling."""
        fraction = math.sqrt(self.width / self.feedforwards[0].width)
        return replace(self, width=round(fraction * self.feedforwards[0].width)).select(scores)

    def plan(self, kept: Sequence[NDArray[np.int64]], updates: Sequence[Update] | None = None) -> tuple[LayerPlan, ...]:
        """Entries that keep (width,) neurons of each network, with new down projections where there are any."""
        return tuple(
            LayerPlan(ffn.path, ffn.width, kept[place], None if updates is None else updates[place])
            for place, ffn in enumerate(self.feedforwards)
        )

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

        def measure(blocks: Blocks) -> MutualInformation:
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
                keep=blocks,
            )

        key = ("information", place, *self.information_key)
        found = self.once(key, lambda: keep_information(self.pieces, f"information-{place}", measure))
        self.backends.add(found.backend)
        return found

    @property
    def knows_information(self) -> bool:
        """Whether the choice measured the information of every network, so that asking for it again costs nothing."""
        places = range(len(self.feedforwards))
        return all(
            ("information", place, *self.information_key) in self._known
            or has_information(self.pieces, f"information-{place}")
            for place in places
        )

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
        """`backends`, sorted."""
        return tuple(sorted(self.backends))

    def under(self, recipe: Recipe, width: int | None = None) -> PruningContext:
        """The same measurements under a recipe that differs only in how neurons are chosen and made up for.

        A `width` takes the place of the recipe's. `pieces` stay behind: they are of one recipe.
        """
        changed = {name for name in Recipe.model_fields if getattr(recipe, name) != getattr(self.recipe, name)}
        changed -= {"keep", "round_to"} if width is not None else set()
        if not changed <= CHOOSING_SETTINGS:
            raise InputError(f"these settings need new measurements: {', '.join(sorted(changed))}")
        return replace(self, recipe=recipe, width=self.width if width is None else width, pieces=Keeper())
