"""The story on one screen: read, measure, choose, refit, cut, write."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateurs.calibration import CalibrationInput, prepare_calibration
from secateurs.checkpoint.manifest import describe_run, public_settings
from secateurs.checkpoint.state import RUN, State
from secateurs.errors import InputError, one_line
from secateurs.information import use_threads
from secateurs.memory import give_back
from secateurs.methods import PruningContext, check_context, check_recipe, find_method
from secateurs.models.cutting import ROUND_TO, apply, cut_
from secateurs.models.families import find_feedforwards
from secateurs.models.loading import LoadedModel, find_device, load_model, wrap_model
from secateurs.models.sizes import measure_size
from secateurs.pruned import PruneResult
from secateurs.recipe import Recipe, make_recipe, parse_layers
from secateurs.refitting import Measured, refit_in_turn, refit_network
from secateurs.report.page import require_report
from secateurs.reporting import REPORT_FAILURES
from secateurs.results import LayerPlan, Progress, PruningPlan, no_progress
from secateurs.selection.ranking import round_width
from secateurs.surveying import Observation, Views, conclude, observe
from secateurs.texts import open_texts
from secateurs.walking import counts_first_only

FEW, ENOUGH = 4, 16
"""Tokens of calibration for each neuron that are few for a refit, and those that are enough."""
ROUNDING_REMARK = 0.03
"""Rounding that changes the kept fraction by more than this is worth a warning."""


def prune(
    model: str | Path | nn.Module,
    *,
    calibration: CalibrationInput = None,
    tokenizer: Any | None = None,
    recipe: Recipe | None = None,
    with_report: bool = False,
    state: State | None = None,
    progress: Progress = no_progress,
    **settings: Any,
) -> PruneResult:
    """A smaller copy of a model. The given model is not changed, and nothing is written before `save`.

    Args:
        model: a folder, .gguf file, demo name or hub id, or a transformers model.
        calibration: a path, texts, or batches (mappings of tensors); None takes the recipe's, or text that comes with
            Python.
        tokenizer: for a transformers model given as such.
        recipe: the settings; or give them by name.
        with_report: look at both models, so that `save` writes report.html beside the weights (extra `report`).
        state: where finished work is kept, and taken from where an earlier run was stopped (`secateurs.open_state`).
        progress: called as progress(phase, done, total).
        **settings: fields of `Recipe` by name: keep=0.6, method="redundancy", refit=True, seed=0, ...

    Raises:
        InputError: a setting, the model, the calibration or the state can't be used; the message says what, got and
            wanted.
    """
    if recipe is not None and settings:
        raise InputError("give either a recipe or single settings, got both")
    recipe = recipe or make_recipe(settings)
    if isinstance(calibration, str | Path):
        recipe = recipe.model_copy(update={"calibration": str(calibration)})
    check_recipe(recipe)
    if with_report:
        require_report()
    if recipe.calibration is not None:
        open_texts(recipe.calibration, recipe.text_column)  # a wrong path is told before the model is read
    clock = Clock()
    with use_threads(recipe.threads):
        progress("reading the model", 0, 1)
        with clock.phase("reading the model"):
            loaded = _load(model, tokenizer, recipe)
        progress("reading the model", 1, 1)
        context = open_context(loaded, calibration, recipe, progress)
        check_context(context)
        if state is not None:
            context.pieces = state.begin(describe_run(context))
        return finish(
            context,
            _measure_and_plan(context, clock),
            clock,
            in_place=not isinstance(model, nn.Module),
            is_from_recipe=calibration is None or isinstance(calibration, str | Path),
            with_report=with_report,
            given=None if isinstance(calibration, str | Path) else calibration,
        )


def finish(
    context: PruningContext,
    plan: PruningPlan,
    clock: Clock | None = None,
    *,
    in_place: bool = False,
    is_from_recipe: bool = True,
    with_report: bool = False,
    given: CalibrationInput = None,
) -> PruneResult:
    """Carry out a plan and gather the result; for a report, look at the model before and after.

    `given` is what the calibration was prepared from, where the recipe does not say it.
    """
    clock, loaded = clock or Clock(), context.loaded
    before = measure_size(loaded.model, loaded.family)
    warnings = [*loaded.warnings, *find_warnings(context, plan)]
    observed: Observation | None = None
    views: Views | None = None
    if with_report:
        with clock.phase("looking at the model"), _going_on(warnings):
            observed = observe(context, plan.layers, given)
    with clock.phase("cutting"):
        pruned = carry_out(plan, loaded, in_place=in_place)
    if observed is not None:
        with clock.phase("looking at the model"), _going_on(warnings):
            views = conclude(observed, replace(loaded, model=pruned))
    return PruneResult(
        model=pruned,
        plan=plan,
        before=before,
        after=measure_size(pruned, loaded.family, before.sequence_length),
        calibration=context.calibration.summary,
        warnings=tuple(warnings),
        seconds=clock.seconds,
        loaded=loaded,
        recipe=context.recipe,
        example=context.calibration.batches[0],
        threads=torch.get_num_threads(),
        information_backends=context.information_backends,
        rates=dict(context.rates),
        is_from_recipe=is_from_recipe,
        views=views,
    )


@contextmanager
def _going_on(warnings: list[str]) -> Iterator[None]:
    """Let a report that can't be made cost no more than a warning: what was pruned may have taken hours."""
    try:
        yield
    except REPORT_FAILURES as error:
        warnings.append(f"there is no report, as looking at the model failed: {one_line(error)}")


def open_context(
    loaded: LoadedModel,
    calibration: CalibrationInput,
    recipe: Recipe,
    progress: Progress = no_progress,
    *,
    with_second_moments: bool | None = None,
) -> PruningContext:
    """Everything a method may look at, measured when it is first asked for.

    Second moments are measured along with the rest where the recipe's refit needs them, unless it is said whether.
    """
    feedforwards = find_feedforwards(loaded.model, loaded.family)
    chosen = [feedforwards[place] for place in parse_layers(recipe.layers, len(feedforwards))]
    return PruningContext(
        loaded=loaded,
        feedforwards=chosen,
        width=find_width(loaded, recipe),
        calibration=prepare_calibration(calibration, loaded, recipe),
        recipe=recipe,
        sampling=recipe.sampling or ("cls" if loaded.reads_first_token else "tokens"),
        progress=progress,
        with_second_moments=refits_at_once(recipe) if with_second_moments is None else with_second_moments,
    )


def find_width(loaded: LoadedModel, recipe: Recipe) -> int:
    """Neurons to keep in each network, rounded as the recipe or the kind of model asks."""
    original = find_feedforwards(loaded.model, loaded.family)[0].width
    return round_width(original, recipe.keep, recipe.round_to or ROUND_TO[loaded.family.kind])


def make_plan(
    context: PruningContext, clock: Clock | None = None, chosen: Sequence[LayerPlan] | None = None
) -> PruningPlan:
    """Choose by the recipe's method, then refit if asked; what is `chosen` already stands, unless the method refits."""
    recipe, clock = context.recipe, clock or Clock()
    method = find_method(recipe.method)
    if chosen is None or method.refits:
        with clock.phase("choosing"):
            chosen = method.plan(context)
    layers = tuple(chosen)
    if recipe.refit and not method.refits:
        with clock.phase("refitting"):
            layers = refit_layers(context, layers)
    return as_plan(context, layers)


def _measure_and_plan(context: PruningContext, clock: Clock) -> PruningPlan:
    """The plan, or the one that an earlier run finished, with what the user is told of how it was made."""

    def make() -> dict[str, Any]:
        if needs_statistics(context.recipe):
            with clock.phase("measuring activations"):
                _ = context.statistics
        plan = make_plan(context, clock)
        return {"plan": plan, "rates": context.rates, "backends": sorted(context.backends)}

    made = context.pieces.get("plan", make)
    context.pieces.drop_all_but(RUN, "plan", "statistics-*", "information-*")  # a report needs these, OUT the room
    context.rates.update(made["rates"])
    context.backends.update(made["backends"])
    plan: PruningPlan = made["plan"]
    return plan


def needs_statistics(recipe: Recipe) -> bool:
    """Whether all networks are measured at once in the unpruned model (`PruningContext.statistics`)."""
    method = find_method(recipe.method)
    return ("activations" in method.needs and not method.measures_itself) or refits_at_once(recipe)


def refits_at_once(recipe: Recipe) -> bool:
    """Whether all networks are refitted by what is measured in the unpruned model."""
    return recipe.refit and not recipe.in_turn and not find_method(recipe.method).refits


def refit_layers(context: PruningContext, layers: Sequence[LayerPlan]) -> tuple[LayerPlan, ...]:
    """The same neurons, with down projections that make up for those removed."""
    if context.recipe.in_turn:
        return refit_in_turn(context, lambda place, measured: layers[place])
    refitted = []
    for place, (ffn, layer) in enumerate(zip(context.feedforwards, layers, strict=True)):
        device = ffn.solving_device
        found = context.statistics[place]
        measured = Measured(context.second_moments(place).to(device), found.mean.to(device), found.tokens)
        ridge = context.ridge_on(measured.rows, ffn.width)
        refitted.append(refit_network(ffn, layer, measured, ridge=ridge))
        context.progress("refitting", place + 1, len(layers))
    return tuple(refitted)


def as_plan(context: PruningContext, layers: tuple[LayerPlan, ...]) -> PruningPlan:
    """What was chosen, with what it was chosen for."""
    recipe = context.recipe
    return PruningPlan(
        method=recipe.method,
        family=context.loaded.family.model_type,
        keep=recipe.keep,
        weights_sha256=context.weights_sha256,
        settings=public_settings(recipe),
        layers=layers,
    )


def carry_out(plan: PruningPlan, loaded: LoadedModel, *, in_place: bool) -> nn.Module:
    """The pruned model: the loaded one cut in place, or a copy."""
    if not in_place:
        return apply(plan, loaded.model)
    give_back()  # what choosing took
    cut_(loaded.model, loaded.family, plan)
    return loaded.model


def find_warnings(context: PruningContext, plan: PruningPlan) -> tuple[str, ...]:
    """What the user should know about a plan."""
    found = []
    ffns = context.feedforwards
    saturated = [str(place) for place, layer in enumerate(plan.layers) if layer.figures.get("saturated")]
    if saturated:
        found.append(
            f"the layer kernel is saturated in networks {', '.join(saturated)}: its widths say nothing there; "
            "try --kernel-width scott-scaled, or a number"
        )
    found += find_refit_warnings(context)
    if context.recipe.calibration_share is not None and context.loaded.family.kind == "decoder":
        found.append("packed text has no rows to take a share of: as much was read as --calibration-tokens allows")
    if context.recipe.threshold_percentile is not None and plan.method == "algorithm1":
        widths = ", ".join(str(layer.width) for layer in plan.layers)
        found.append(f"with --threshold-percentile --keep is not heeded: {widths} neurons are left")
    elif abs(context.width - context.recipe.keep * ffns[0].width) > ROUNDING_REMARK * ffns[0].width:
        nothing = ", so that none is removed" if context.width == ffns[0].width else ""
        found.append(
            f"keep {context.recipe.keep:g} of {ffns[0].width} neurons was rounded to {context.width}{nothing}; "
            "--round-to 1 keeps as many as asked"
        )
    if any(layer.unsaved_bias is not None for layer in plan.layers):
        found.append(
            f"{context.loaded.family.name} has no place for the biases by which {plan.method} makes up for what it "
            "removes: the saved model lacks them; --refit makes up for it in the down projection"
        )
    if context.recipe.refit and find_method(plan.method).corrects:
        found.append(f"the refit takes the place of {plan.method}'s own correction; --no-refit does as published")
    if len({layer.width for layer in plan.layers}) > 1 and context.recipe.allocation == "global":
        narrowest, widest = (of(layer.width for layer in plan.layers) for of in (min, max))
        found.append(
            f"networks keep {narrowest} to {widest} neurons; a checkpoint has one width for all layers, so the "
            "narrower ones are padded with zero neurons: the files are as large as the widest asks"
        )
    everything = find_feedforwards(context.loaded.model, context.loaded.family)
    if len(ffns) < len(everything):
        found.append(
            "a checkpoint has one width for all layers, so with --layers the pruned layers are padded with zero "
            "neurons up to the others' width: the neurons are gone, the files are no smaller"
        )
    return tuple(found)


def find_refit_warnings(context: PruningContext) -> list[str]:
    """What the user should know about a refit on the calibration text there is."""
    summary, last = context.calibration.summary, context.feedforwards[-1]
    width = last.width
    if not context.recipe.refit:
        return []
    if 0 < summary.tokens < FEW * width:
        return [
            f"{summary.tokens:,} calibration tokens are few for a refit of {width} neurons; "
            f"{ENOUGH * width:,} or more are better"
        ]
    reads_first = counts_first_only(context.loaded, last) and not refits_at_once(context.recipe)
    if reads_first and summary.rows < FEW * width:
        return [
            f"{summary.rows:,} calibration rows are few for a refit of {last.path}, of which the classifier reads only "
            f"the first token of each row; {ENOUGH * width:,} or more are better"
        ]
    return []


class Clock:
    """Adds up the seconds spent in each phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside the context towards `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def _load(model: str | Path | nn.Module, tokenizer: Any | None, recipe: Recipe) -> LoadedModel:
    if isinstance(model, str | Path):
        return load_model(str(model), dtype=recipe.dtype, device=recipe.device, revision=recipe.revision)
    loaded = wrap_model(model, tokenizer)
    if recipe.dtype is not None:
        raise InputError("dtype is for models given by name; convert a model in memory yourself")
    own_device = next(model.parameters()).device
    if recipe.device != "auto" and find_device(recipe.device).type != own_device.type:
        raise InputError(f"the model lies on {own_device}, not on {recipe.device}; move it yourself")
    if model.training:
        raise InputError("the model must be in evaluation mode; call model.eval() first")
    return loaded
