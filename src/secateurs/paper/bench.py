"""Fine-tuned models, and pruning and scoring them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from secateurs.calibration import draw_rows
from secateurs.cells import Cell
from secateurs.checkpoint.staging import find_manifest
from secateurs.encoding import Batch, TaskRows, batches_by_length, tokenise
from secateurs.evaluation.classification import predict, score_predictions
from secateurs.finetuning import Training, choose_training, describe_training, finetune, training_folder
from secateurs.methods import PruningContext
from secateurs.models.loading import LoadedModel, load_model
from secateurs.models.sizes import measure_size, predict_size
from secateurs.paper.study import Study, run_parallel
from secateurs.pipeline import Clock, carry_out, make_plan, open_context
from secateurs.recipe import Recipe, make_recipe
from secateurs.results import Progress
from secateurs.tasks import SPLITS, TASKS, Metric, read_examples

CALIBRATION_BATCH = 32
SHARE, LEAST_ROWS = 0.01, 100
"""Training rows that activations are measured on: the paper's 1 %, but at least 100."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to prune."""

    label: str
    """Its name in tables and plots."""
    settings: Mapping[str, Any]
    """Settings of the recipe that differ from their defaults."""
    share: float = SHARE
    """Fraction of the training rows that activations are measured on."""
    least_rows: int = LEAST_ROWS
    """But at least so many."""
    draws: int = 1
    """Times it is repeated, with a seed of its own each time."""


@dataclass(frozen=True, slots=True)
class Bench:
    """A fine-tuned model with its data, tokenised."""

    loaded: LoadedModel
    """The model."""
    training: TaskRows
    """Rows that activations are measured on; only methods that say so look at their labels."""
    validation: TaskRows
    """Rows that are scored on."""

    @property
    def mean_tokens(self) -> int:
        """Mean length of the validation rows, which FLOPs in scope model are stated for."""
        return round(float(np.mean([len(row["input_ids"]) for row in self.validation.inputs])))

    def calibration(self, share: float, least: int, seed: int) -> list[Batch]:
        """Batches of training rows drawn at random, with their labels."""
        places = draw_rows(len(self.training), share, least, seed)
        lengths = [len(self.training.inputs[place]["input_ids"]) for place in places]
        groups = batches_by_length(lengths, CALIBRATION_BATCH)
        chosen = [[places[number] for number in group] for group in groups]
        return [{**self.training.batch(rows), "labels": self.training.labels[rows]} for rows in chosen]


def tune_models(study: Study, progress: Progress) -> list[dict[str, Any]]:
    """The manifest of each task's and seed's fine-tuned model; those that are not there yet are trained first."""
    base = load_model(study.model, dtype="float32", device="cpu")
    cells = [Cell(f"{t}-{seed}", {"task": t, "seed": seed}) for t in study.tasks for seed in study.seeds]
    waiting = [cell for cell in cells if not _is_tuned(study, base, cell)]
    done = len(cells) - len(waiting)
    progress("fine-tuning: models", done, len(cells))
    for _ in run_parallel(study, waiting, _tune):
        done += 1
        progress("fine-tuning: models", done, len(cells))
    return [_read_manifest(model_folder(study, cell.settings["task"], cell.settings["seed"])) for cell in cells]


def _is_tuned(study: Study, base: LoadedModel, cell: Cell) -> bool:
    task, seed = cell.settings["task"], cell.settings["seed"]
    described = describe_training(base, TASKS[task], _training(study, base, task, seed), study.data)
    stored = _read_manifest(model_folder(study, task, seed))
    return all(stored.get(name) == value for name, value in described.items())


def _training(study: Study, base: LoadedModel, task: str, seed: int) -> Training:
    return choose_training(base, TASKS[task], seed=seed, freeze_embeddings=study.freeze_embeddings)


def _tune(study: Study, cell: Cell) -> dict[str, Any]:
    base = load_model(study.model, dtype="float32", device="cpu")
    task, seed = cell.settings["task"], cell.settings["seed"]
    out = model_folder(study, task, seed)
    training = _training(study, base, task, seed)
    result = finetune(base, TASKS[task], study.data, training, state=training_folder(out), restart=True)
    result.save(out, overwrite=True)
    return {}


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = find_manifest(folder)
    if path is None:
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def model_folder(study: Study, task: str, seed: int) -> Path:
    """Where a fine-tuned model is kept."""
    return study.models / f"{task}-{seed}"


def open_bench(study: Study, task: str, seed: int) -> Bench:
    """A fine-tuned model with its data; kept in memory from one cell to the next."""
    folder = model_folder(study, task, seed)
    return _open(folder, _read_manifest(folder)["weights_sha256"], task, study.data)


@lru_cache(maxsize=2)
def _open(folder: Path, weights_sha256: str, name: str, data: Path | None) -> Bench:
    task, loaded = TASKS[name], load_model(str(folder), device="cpu")
    training, validation = (tokenise(loaded, task, read_examples(task, data, split)) for split in SPLITS)
    return Bench(loaded, training, validation)


def width_at(bench: Bench, relative: float, scope: str) -> int:
    """Neurons a network that leave a fraction of the FLOPs in a scope; at least 1."""
    loaded = bench.loaded
    size = measure_size(loaded.model, loaded.family, bench.mean_tokens)
    original = size.widths[0]
    if scope == "model":
        spared = (1 - relative) * size.model_multiply_adds / size.ffn_multiply_adds
        relative = 1 - spared
    return min(original, max(1, int(relative * original + 0.5)))


def make_cell(study: Study, task: str, seed: int, variant: Variant | None = None, **settings: Any) -> Cell:
    """A cell on one fine-tuned model, whose settings name all that its result depends on.

    The model must have been tuned.
    """
    manifest = _read_manifest(model_folder(study, task, seed))
    facts = {"task": task, "seed": seed, "scope": study.scope, **settings}
    facts |= {name: manifest[name] for name in ("weights_sha256", "rows_sha256")}
    if variant is None:
        return Cell(f"{task}-{seed}", facts)
    facts |= {"variant": asdict(variant), "recipe": make_pruning_recipe(variant, 0).model_dump()}
    return Cell(f"{task}-{seed}-{variant.label}".replace(" ", "_"), facts)


def prune_and_score(
    bench: Bench, task: str, variant: Variant, widths: Sequence[int], refits: Sequence[bool]
) -> list[dict[str, Any]]:
    """One entry for each draw, width and refit: sizes, scores, and what the plan says about itself."""
    entries = []
    for draw in range(variant.draws):
        context = open_pruning(bench, variant, draw)
        for width in widths:
            entries += _score_width(context, bench, task, width, refits, draw)
    return entries


def open_pruning(bench: Bench, variant: Variant, seed: int) -> PruningContext:
    """A fine-tuned model measured for a variant; with second moments, so that it can be refitted."""
    rows = bench.calibration(variant.share, variant.least_rows, seed)
    return open_context(bench.loaded, rows, make_pruning_recipe(variant, seed), with_second_moments=True)


def make_pruning_recipe(variant: Variant, seed: int) -> Recipe:
    """How a draw of a variant is pruned; refitted all networks at once, with one ridge for encoders and decoders."""
    refit = {"refit": True, "in_turn": False, "ridge": 0.1}
    return make_recipe({**variant.settings, **refit, "round_to": 1, "seed": seed, "device": "cpu"})


def capture_rows(bench: Bench, rows: int) -> list[Tensor]:
    """(rows, K) activations of each network on training rows."""
    context = open_pruning(bench, Variant("", {}, least_rows=rows), 0)
    return [statistics.samples[:rows] for statistics in context.statistics]


def _score_width(
    context: PruningContext, bench: Bench, task: str, width: int, refits: Sequence[bool], draw: int
) -> list[dict[str, Any]]:
    entries, chosen, seconds = [], None, 0.0
    for refit in sorted(refits):  # first as chosen
        clock, recipe = Clock(), context.recipe.model_copy(update={"refit": refit})
        plan = make_plan(context.under(recipe, width), clock, chosen)
        chosen, seconds = chosen or plan.layers, clock.seconds.get("choosing", seconds)
        pruned = carry_out(plan, context.loaded, in_place=False)
        layers = plan.layers
        figures = {name: float(np.mean([layer.figures[name] for layer in layers])) for name in layers[0].figures}
        entries.append(
            {
                "draw": draw,
                "width": width,
                "refit": refit,
                **relative_flops(bench, width),
                "scores": score(pruned, bench, task),
                "calibration_rows": context.calibration.summary.rows,
                "seconds_choosing": round(seconds, 2),
                "figures": figures | context.rates,
            }
        )
    return entries


def score(model: Any, bench: Bench, task: str) -> dict[Metric, float]:
    """Each metric of the task on its validation rows."""
    return score_predictions(TASKS[task], predict(model, bench.validation), bench.validation.labels)


def relative_flops(bench: Bench, width: int) -> dict[str, float]:
    """FLOPs after / before, in both scopes."""
    loaded = bench.loaded
    before = measure_size(loaded.model, loaded.family, bench.mean_tokens)
    after = predict_size(loaded.model, loaded.family, width, bench.mean_tokens)
    return {
        "relative_ffn_flops": after.ffn_multiply_adds / before.ffn_multiply_adds,
        "relative_model_flops": after.model_multiply_adds / before.model_multiply_adds,
    }
