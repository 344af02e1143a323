"""One draw of calibration data: measured when first needed, then pruned by every method and scored."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from secateurs.cells import Cell, read_cell, write_cell
from secateurs.checkpoint.manifest import public_settings
from secateurs.compare.contenders import Contender
from secateurs.compare.costs import Cost, CostedContext, Ledger, MemoryWatch
from secateurs.compare.entries import BIAS_NOT_STORABLE, Entry, as_entry
from secateurs.compare.quality import Quality, Scorer
from secateurs.errors import InputError
from secateurs.methods import PruningContext
from secateurs.models.cutting import cut_
from secateurs.models.families import find_feedforwards
from secateurs.models.feedforward import FeedForward
from secateurs.models.loading import LoadedModel, number_format
from secateurs.models.sizes import measure_size, predict_size
from secateurs.pipeline import find_width, needs_statistics, open_context, refit_layers
from secateurs.recipe import Recipe
from secateurs.results import LayerPlan, Progress, PruningPlan, no_progress

MOST_MISSING = 0.1
"""Share of its tokens that a later trial may fall short of, since encoders read whole rows."""
NOT_IN_KEYS = ("calibration", "data", "device", "dtype")
"""Settings that a cell tells in another way: by hashes, and as the model really is."""


Plan = tuple[tuple[LayerPlan, ...], Cost]
"""Layers, and what making them cost."""


@dataclass(frozen=True, slots=True)
class Bench:
    """The model, and how it is scored."""

    loaded: LoadedModel
    """The model before pruning."""
    scorer: Scorer
    """Scores it and its pruned copies."""
    weights_sha256: str
    """Hash of its weights."""
    folder: Path
    """Where finished cells are kept."""

    def cell(self, name: str, **settings: Any) -> Cell:
        """A cell on this model."""
        facts = {
            "weights_sha256": self.weights_sha256,
            "dtype": number_format(self.loaded.model),
            "card": self.loaded.card,
        }
        return Cell(name, {**facts, "scored_on": dict(self.scorer.facts), **settings})

    def score_dense(self) -> Quality:
        """Of the model before pruning; kept like any other cell."""
        cell = self.cell("dense")
        stored = read_cell(self.folder, cell)
        if stored is not None:
            return Quality(**stored)
        found = self.scorer.score(self.loaded)
        write_cell(self.folder, cell, asdict(found))
        return found

    def score_pruned(
        self, context: PruningContext, layers: tuple[LayerPlan, ...], biases: Sequence[Tensor | None] = ()
    ) -> Quality:
        """Of a copy that is pruned by a plan, with biases added to its networks' outputs."""
        recipe, family = context.recipe, self.loaded.family
        plan = PruningPlan(recipe.method, family.model_type, recipe.keep, self.weights_sha256, {}, layers)
        pruned = copy.deepcopy(self.loaded.model)
        cut_(pruned, family, plan)
        with biased(find_feedforwards(pruned, family), biases):
            return self.scorer.score(replace(self.loaded, model=pruned))


@dataclass(frozen=True, slots=True)
class Job:
    """One plan to make: a contender at a width, scored in one or two ways."""

    contender: Contender
    """Who chooses."""
    keep: float
    """Fraction of neurons to keep."""
    refits: tuple[bool, ...]
    """Whether to score as published, with the refit, or both ways."""


class Trial:
    """A draw of calibration data; nothing is captured until a plan is made."""

    def __init__(self, bench: Bench, context: PruningContext, number: int, watch: MemoryWatch) -> None:
        shared = {entry.name: getattr(context, entry.name) for entry in fields(PruningContext)}
        self.bench, self.number = bench, number
        self.context = CostedContext(**{**shared, "has_several_refits": True}, ledger=Ledger(watch))
        self._measured = False

    def seconds_measuring(self) -> float | None:
        """Time that activations were captured in; None where that was never finished, or never needed."""
        stored = read_cell(self.bench.folder, self._cell("measuring", self.context.recipe))
        return None if stored is None else float(stored["seconds"])

    def release(self) -> None:
        """Drop what was measured."""
        self.context, self._measured = replace(self.context, _known={}), False

    def run(self, job: Job) -> list[Entry]:
        """The entries of a job; those that an earlier run finished are not made again."""
        found = {refit: self._read(job, refit) for refit in job.refits}
        published = found.get(False)
        bias = self._read(job, False, BIAS_NOT_STORABLE) if False in job.refits else None
        is_whole = published is None or not published.lacks_bias or bias is not None
        if None in found.values() or not is_whole:
            found, bias = self._make(job, found, bias)
        return [entry for entry in (*found.values(), bias) if entry is not None]

    def _make(
        self, job: Job, found: dict[bool, Entry | None], bias: Entry | None
    ) -> tuple[dict[bool, Entry | None], Entry | None]:
        """Plan once, if the method leaves the refit to others; score and keep what is missing."""
        made, method = dict(found), job.contender.method
        context = self._context_of(job, refit=False)
        plain = None if method.refits else context.ledger.bill(lambda: method.plan(context))
        for refit in [refit for refit, entry in found.items() if entry is None]:
            layers, cost = self._plan(job, refit, plain)
            made[refit] = self._keep(job, layers, cost, self.bench.score_pruned(context, layers), refit)
        if plain is not None and False in job.refits and bias is None:
            layers, cost = plain
            biases = [layer.unsaved_bias for layer in layers]
            if any(given is not None for given in biases):
                quality = self.bench.score_pruned(context, layers, biases)
                bias = self._keep(job, layers, cost, quality, False, BIAS_NOT_STORABLE)
        return made, bias

    def _plan(self, job: Job, refit: bool, plain: Plan | None) -> Plan:
        """Layers with what they cost; `plain` are those of a method that leaves the refit to others."""
        context = self._context_of(job, refit=refit)
        if plain is None:
            return context.ledger.bill(lambda: job.contender.method.plan(context))
        if not refit:
            return plain
        layers, cost = context.ledger.bill(lambda: refit_layers(context, plain[0]))
        return layers, Cost(plain[1].seconds + cost.seconds, max(plain[1].peak_mb, cost.peak_mb))

    def _context_of(self, job: Job, *, refit: bool) -> CostedContext:
        recipe = job.contender.recipe(self.context.recipe, job.keep).model_copy(update={"refit": refit})
        if needs_statistics(recipe):
            self._measure()
        context = replace(self.context.under(recipe, find_width(self.bench.loaded, recipe)), progress=no_progress)
        assert isinstance(context, CostedContext)
        return context

    def _measure(self) -> None:
        """Capture activations once, and keep how long that took."""
        if self._measured:
            return
        begun = time.perf_counter()
        _ = self.context.statistics
        result = {"seconds": time.perf_counter() - begun}
        write_cell(self.bench.folder, self._cell("measuring", self.context.recipe), result)
        self._measured = True

    def _keep(
        self,
        job: Job,
        layers: tuple[LayerPlan, ...],
        cost: Cost,
        quality: Quality,
        refit: bool,
        variant: str = "",
    ) -> Entry:
        method, loaded = job.contender.method, self.bench.loaded
        widths = [layer.width for layer in layers]  # not those that a checkpoint would be padded to
        before, after = measure_size(loaded.model, loaded.family), predict_size(loaded.model, loaded.family, widths)
        entry = Entry(
            method=job.contender.name,
            allocation=job.contender.allocation,
            keep=job.keep,
            is_refitted=refit,
            variant=variant,
            trial=self.number,
            **asdict(quality),
            widths=widths,
            parameters=after.parameters,
            relative_parameters=after.parameters / before.parameters,
            relative_ffn_flops=after.ffn_multiply_adds / before.ffn_multiply_adds,
            relative_model_flops=after.model_multiply_adds / before.model_multiply_adds,
            seconds_choosing=cost.seconds,
            peak_mb_choosing=cost.peak_mb,
            needs=sorted(method.needs),
            corrects=method.corrects,
            lacks_bias=any(layer.unsaved_bias is not None for layer in layers),
            figures=_mean_figures(layers),
        )
        write_cell(self.bench.folder, self._cell_of(job, refit, variant), asdict(entry))
        return entry

    def _read(self, job: Job, refit: bool, variant: str = "") -> Entry | None:
        return as_entry(read_cell(self.bench.folder, self._cell_of(job, refit, variant)))

    def _cell_of(self, job: Job, refit: bool, variant: str) -> Cell:
        contender = job.contender
        way = variant.replace(" ", "-") or ("refit" if refit else "published")
        recipe = contender.recipe(self.context.recipe, job.keep)
        name = f"{contender.name}-{contender.allocation}-{job.keep!r}-{way}"
        return self._cell(name, recipe, refit=refit, variant=variant)

    def _cell(self, name: str, recipe: Recipe, **settings: Any) -> Cell:
        calibration = self.context.calibration
        labels = hashlib.sha256()
        for part in calibration.labels or ():
            labels.update(part.numpy().tobytes())
        facts = {
            "calibration_sha256": calibration.summary.sha256,
            "labels_sha256": labels.hexdigest() if calibration.labels is not None else None,
            "recipe": {key: value for key, value in public_settings(recipe).items() if key not in NOT_IN_KEYS},
        }
        return self.bench.cell(f"trial-{self.number}-{name}", **facts, **settings)


def open_trials(
    bench: Bench, recipes: Sequence[Recipe], watch: MemoryWatch, progress: Progress, *, with_second_moments: bool
) -> list[Trial]:
    """A trial for each recipe, its calibration text read but nothing measured.

    Raises:
        InputError: there is too little calibration data for so many trials.
    """
    trials: list[Trial] = []
    for number, recipe in enumerate(recipes):
        try:
            context = open_context(bench.loaded, None, recipe, progress, with_second_moments=with_second_moments)
        except InputError as error:
            raise InputError(f"trial {number + 1} of {len(recipes)}: {error}" if number else str(error)) from None
        trials.append(Trial(bench, context, number, watch))
        first, mine = (trial.context.calibration.summary for trial in (trials[0], trials[-1]))
        if mine.tokens < (1 - MOST_MISSING) * first.tokens:
            raise InputError(
                f"trial {number + 1} of {len(recipes)} is left with {mine.tokens:,} calibration tokens, the first has "
                f"{first.tokens:,}; give more text, fewer trials or fewer calibration tokens"
            )
    return trials


@contextmanager
def biased(feedforwards: Sequence[FeedForward], biases: Sequence[Tensor | None]) -> Iterator[None]:
    """Add (H,) to the output of each network while the context lasts, or nothing where there is no bias."""

    def hook_for(bias: Tensor) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output + bias.to(output)

        return hook

    handles = []
    try:
        for ffn, bias in zip(feedforwards, biases, strict=False):
            if bias is not None:
                handles.append(ffn.down.register_forward_hook(hook_for(bias)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _mean_figures(layers: Sequence[LayerPlan]) -> Mapping[str, float]:
    names = set(layers[0].figures).intersection(*(layer.figures for layer in layers))
    return {name: float(np.mean([layer.figures[name] for layer in layers])) for name in sorted(names)}
