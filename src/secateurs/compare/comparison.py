"""The comparison: every method on the same measurements, every pruned model scored in the same way."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from secateurs.cells import write_json
from secateurs.checkpoint.manifest import find_versions, public_settings
from secateurs.compare.contenders import Contender, Entrants, find_entrants, keep_able, left_out_of_presets
from secateurs.compare.costs import watch_memory
from secateurs.compare.entries import Entry
from secateurs.compare.quality import Metric, Quality, open_scorer
from secateurs.compare.settings import CELLS, Settings, check_data
from secateurs.compare.tables import as_csv, as_document, describe_rows, make_rows, table_columns, table_rows
from secateurs.compare.trials import Bench, Job, Trial, open_trials
from secateurs.errors import InputError
from secateurs.information import use_threads
from secateurs.models.loading import LoadedModel, hash_weights, load_model
from secateurs.models.source import find_source
from secateurs.pipeline import find_refit_warnings
from secateurs.report.figures import quality_plot
from secateurs.report.page import require_report
from secateurs.reporting import write_figure, write_folder_report
from secateurs.results import Progress, no_progress
from secateurs.results.comparison import Row
from secateurs.results.record import CompareRecord, Provenance

PHASE = "comparing: cells"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of it."""

    title: str
    """Of its tables."""
    rows: tuple[Row, ...]
    """One for each way to prune, best first."""
    metric: Metric
    """What it is ranked by."""
    notes: tuple[str, ...]
    """What was measured and scored on, and how to read the table."""
    warnings: tuple[str, ...]
    """What the user should know: methods that could not run."""
    content: dict[str, Any]
    """Everything, as plain values."""
    files: tuple[Path, ...]
    """Files that were written."""
    keeps: tuple[float, ...]
    """Fractions that were kept, ascending."""

    @property
    def columns(self) -> list[str]:
        """Titles of the table."""
        return table_columns(self.rows, self.keeps)

    @property
    def cells(self) -> list[list[str]]:
        """The table."""
        return table_rows(self.rows, self.keeps, self.metric)


@dataclass(frozen=True, slots=True)
class _Run:
    """What was run, before it is put into tables."""

    bench: Bench
    trials: Sequence[Trial]
    dense: Quality
    entries: Sequence[Entry]
    entrants: Entrants


def compare(settings: Settings, progress: Progress = no_progress) -> Comparison:
    """Prune one model by several methods, score what is left, and write tables and a plot.

    Each trial measures activations once for all methods. What an earlier run finished with the same settings is not
    done again.

    Raises:
        InputError: a method, the model or the data can't be used; told before anything is measured.
    """
    entrants = find_entrants(settings)
    find_source(settings.model)
    check_data(settings)
    with use_threads(settings.recipe.threads):
        progress("reading the model", 0, 1)
        loaded = load_model(settings.model, dtype=settings.recipe.dtype, device=settings.recipe.device)
        progress("reading the model", 1, 1)
        run = _run(settings, entrants, loaded, progress)
    return _report(settings, run)


def _run(settings: Settings, entrants: Entrants, loaded: LoadedModel, progress: Progress) -> _Run:
    bench = Bench(loaded, open_scorer(settings, loaded), hash_weights(loaded.model), settings.folder / CELLS)
    recipes = [settings.trial_recipe(number) for number in range(settings.trials)]
    with watch_memory() as watch:
        at_once = True in settings.refits and not settings.recipe.in_turn
        trials = open_trials(bench, recipes, watch, progress, with_second_moments=at_once)
        entrants = keep_able(entrants, trials[0].context, settings)
        # narrowest width first: what a method does for it can serve the others
        jobs = [Job(contender, keep, settings.refits) for contender in entrants.contenders for keep in settings.keeps]
        total = 1 + len(trials) * len(jobs)
        progress(PHASE, 0, total)
        dense = bench.score_dense()
        entries: list[Entry] = []
        failed = dict(entrants.skipped)
        for trial in trials:
            for number, job in enumerate(jobs, start=1 + trial.number * len(jobs)):
                progress(PHASE, number, total)
                entries += _try(trial, job, failed, is_skipping=settings.is_all)
            trial.release()
        progress(PHASE, total, total)
    return _Run(bench, trials, dense, entries, Entrants(entrants.contenders, failed))


def _try(trial: Trial, job: Job, failed: dict[str, str], *, is_skipping: bool) -> list[Entry]:
    """The entries of a job; a contender that turns out not to fit is left out from there on if `is_skipping`."""
    if job.contender.title in failed:
        return []
    try:
        return trial.run(job)
    except InputError as error:
        if not is_skipping:
            raise
        failed[job.contender.title] = str(error)
        return []


def _report(settings: Settings, run: _Run) -> Comparison:
    metric, folder = run.bench.scorer.metric, settings.folder
    rows = make_rows(run.entries, run.dense, metric)
    notes = _write_notes(settings, run, metric)
    title = f"{run.bench.loaded.name}: pruning methods compared by {metric.name}"
    content = _describe(settings, run, rows, notes)
    write_json(folder / "compare.json", content)
    (folder / "compare.csv").write_text(as_csv(run.entries, run.dense, metric), encoding="utf-8")
    markdown = as_document(title, rows, settings.keeps, metric, notes)
    (folder / "compare.md").write_text(markdown, encoding="utf-8")
    files = [folder / f"compare.{ending}" for ending in ("json", "csv", "md")]
    warnings = [*run.bench.loaded.warnings, *(_find_refit_warnings(run) if True in settings.refits else [])]
    warnings += [f"{title} was left out: {reason}" for title, reason in run.entrants.skipped.items()]
    found = Comparison(title, tuple(rows), metric, tuple(notes), tuple(warnings), content, tuple(files), settings.keeps)
    try:
        require_report()
        record = as_record(found)
        files += [*write_folder_report(record, folder), *write_figure(quality_plot(record), folder, name="compare")]
        return replace(found, files=tuple(files))
    except InputError as error:
        return replace(found, warnings=(*warnings, str(error)))


def as_record(found: Comparison) -> CompareRecord:
    """What the report of a comparison shows."""
    content, metric = found.content, found.metric
    read = {f"calibration token ids, trial {n}": t["calibration"]["sha256"] for n, t in enumerate(content["trials"])}
    measuring = sum(trial["seconds_measuring"] or 0.0 for trial in content["trials"])
    choosing = sum(cell["seconds_choosing"] for cell in content["cells"])
    return CompareRecord(
        model=content["model"],
        metric=metric.name,
        is_loss=metric.is_loss,
        dense=content["dense"]["scores"][metric.name],
        keeps=found.keeps,
        rows=found.rows,
        notes=found.notes,
        warnings=found.warnings,
        provenance=Provenance(
            command=content["command"],
            settings=content["recipe"],
            versions=content["versions"],
            hashes={"weights": content["weights_sha256"], **read},
            machine={**content["machine"], "seeds": ", ".join(str(trial["seed"]) for trial in content["trials"])},
            seconds={"measuring": round(measuring, 1), "choosing and refitting": round(choosing, 1)},
        ),
    )


def _find_refit_warnings(run: _Run) -> list[str]:
    """Each once, whatever method it is of."""
    context, found = run.trials[0].context, dict[str, None]()
    for contender in run.entrants.contenders:
        recipe = contender.recipe(context.recipe, context.recipe.keep)
        found |= dict.fromkeys(find_refit_warnings(replace(context, recipe=recipe)))
    return list(found)


def _name_own_measurers(contenders: Sequence[Contender]) -> list[str]:
    names = sorted({contender.name for contender in contenders if contender.method.measures_itself})
    return [f"seconds of {', '.join(names)} count measuring too, network after network"] if names else []


def _write_notes(settings: Settings, run: _Run, metric: Metric) -> list[str]:
    """What a reader has to know, a sentence or two each."""
    read = run.trials[0].context.calibration.summary
    threads = torch.get_num_threads()
    card = run.bench.loaded.card
    where = f"the CPU ({threads} thread{'s' * (threads > 1)})" if card == "cpu" else card
    seeds = [trial.context.recipe.seed for trial in run.trials]
    trials = f"{len(seeds)} trials, seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"1 trial, seed {seeds[0]}"
    seconds = [found for trial in run.trials if (found := trial.seconds_measuring()) is not None]
    notes = [
        f"{metric.name}, {metric.direction}; before pruning {metric.show(run.dense.scores[metric.name])}; scored on "
        f"{run.bench.scorer.about}",
        f"calibrated on {read.tokens:,} tokens in {read.rows:,} rows a trial of {read.source}; {trials}; on {where}",
        f"sorted at keep {settings.keeps[0]:g}; the best model that can be saved is marked *, those that can't be told "
        "from it (within 2 standard errors, paired over blocks of windows or groups of rows"
        + (" and over trials) =; ± standard deviation over trials" if len(seeds) > 1 else ") ="),
        "correction: refit is Secateurs', own is the method's as published, none where it has none; FLOPs are relative "
        "to those before pruning",
        "seconds (mean) and MB (most, roughly; not a GPU's) are for choosing once and, in rows with the refit, for "
        "refitting"
        + (", which measures in turn" if settings.recipe.in_turn and True in settings.refits else "")
        + (f"; measuring at once took {sum(seconds) / len(seconds):.1f} s a trial besides" if seconds else ""),
        *_name_own_measurers(run.entrants.contenders),
    ]
    if any(not entry.is_saved_model for entry in run.entries):
        notes.append(
            "bias not storable: a saved checkpoint lacks the output bias that the method adds, and scores as own"
        )
    if any(entry.allocation == "global" for entry in run.entries):
        notes.append(
            "global: FLOPs count the neurons that are kept; a checkpoint has one width, so its narrower networks are "
            "padded with zero neurons, and its files and FLOPs are those of the widest"
        )
    if len(run.dense.parts) < 2:
        notes.append("scored as one window: no standard errors, so nothing can be told from the best; give more text")
    for name, left_out in left_out_of_presets(run.entrants.contenders).items():
        notes.append(f"{name} was measured on like the others, not by its own {', '.join(left_out)}")
    return notes


def _describe(settings: Settings, run: _Run, rows: Sequence[Row], notes: Sequence[str]) -> dict[str, Any]:
    """Everything, without the folders of the user's files."""
    scorer = run.bench.scorer
    recipe = {name: value for name, value in public_settings(settings.recipe).items() if name != "data"}
    return {
        "model": run.bench.loaded.name,
        "weights_sha256": run.bench.weights_sha256,
        "command": settings.describe_command(),
        "recipe": recipe,
        "versions": find_versions(),
        "machine": {"card": run.bench.loaded.card, "threads": torch.get_num_threads(), "cpus": os.cpu_count()},
        "metric": scorer.metric.name,
        "ranked_by": scorer.metric.ranked_by,
        "scored_on": {**scorer.facts, "about": scorer.about},
        "trials": [
            {
                "seed": trial.context.recipe.seed,
                "calibration": asdict(trial.context.calibration.summary),
                "seconds_measuring": trial.seconds_measuring(),
            }
            for trial in run.trials
        ],
        "dense": asdict(run.dense),
        "skipped": dict(run.entrants.skipped),
        "presets_left_out": left_out_of_presets(run.entrants.contenders),
        "notes": list(notes),
        "rows": describe_rows(rows),
        "cells": [asdict(entry) for entry in run.entries],
    }
