"""The abstract's claim: the criterion matters in small models and not in large ones."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np

from secateurs.calibration import CalibrationInput, take_tokens
from secateurs.cells import Cell
from secateurs.errors import InputError
from secateurs.evaluation.embeddings import score_stsb
from secateurs.evaluation.perplexity import evaluate_perplexity
from secateurs.methods import find_method
from secateurs.models.loading import LoadedModel, hash_weights, load_model
from secateurs.paper.bench import Variant, make_cell, open_bench, score, tune_models
from secateurs.paper.results import Document, find_floor
from secateurs.paper.study import Study, run_cells
from secateurs.paper.variants import SENSITIVITY_VARIANTS
from secateurs.pipeline import as_plan, carry_out, find_width, open_context
from secateurs.recipe import make_recipe
from secateurs.results import Progress
from secateurs.tables import as_markdown
from secateurs.tasks import TASKS
from secateurs.texts import open_texts

LEVELS, QUICK_LEVELS = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3), (0.9, 0.7, 0.5, 0.3)
CALIBRATION_TEXT, TEST_TEXT = "wikitext2/validation.tokens.txt", "wikitext2/test.raw.txt"
PAIRS = "stsb/validation.tsv"
TOKENS, WINDOW = 2048, 512
"""Text that SmolLM2's log-loss is measured on."""
ROWS = 500
"""Training rows that BERT-tiny's activations are measured on at least."""
MODELS = ("bert-tiny", "minilm", "smollm2")
Measure = Callable[[LoadedModel], float]


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, and how it is scored."""

    loaded: LoadedModel
    """The model."""
    calibration: CalibrationInput
    """What its activations are measured on."""
    measure: Measure
    """Higher is better: accuracy, a correlation, or the negative log-loss in nats."""
    floor: float
    """Of a model that knows nothing: the majority class, 0, or the negative logarithm of the vocabulary."""


def sensitivity(study: Study, progress: Progress) -> Document:
    """How far methods lie apart at each width, on a fine-tuned BERT-tiny (first task and seed), MiniLM and SmolLM2."""
    if study.data is None:
        raise InputError("sensitivity needs --data, the folder with stsb/ and wikitext2/")
    missing = [name for name in (CALIBRATION_TEXT, TEST_TEXT, PAIRS) if not (study.data / name).is_file()]
    if missing:
        raise InputError(f"sensitivity needs {', '.join(missing)} in {study.data}")
    tune_models(replace(study, tasks=study.tasks[:1]), progress)
    levels = list(QUICK_LEVELS if study.quick else LEVELS)
    cells = [cell for model in MODELS for cell in _cells(study, model, levels)]
    results = run_cells(study, "sensitivity", cells, work_sensitivity, progress)
    content = {"levels": levels, "cells": results, "spread": {model: _spread(results, model) for model in MODELS}}
    return Document(content, _markdown(content), lambda figure: _draw(figure, content))


def _cells(study: Study, model: str, levels: list[float]) -> list[Cell]:
    if model == "bert-tiny":
        task, seed = study.tasks[0], study.seeds[0]
        found = [make_cell(study, task, seed, v, model=model, levels=levels, rows=ROWS) for v in SENSITIVITY_VARIANTS]
        return [Cell(f"{model}-{cell.name}", cell.settings) for cell in found]
    assert study.data is not None
    files = {name: _hash_file(study.data / name) for name in (CALIBRATION_TEXT, TEST_TEXT, PAIRS)}
    facts = {"model": model, "levels": levels, "files": files, "tokens": TOKENS, "window": WINDOW}
    facts["weights_sha256"] = hash_weights(load_model(model, device="cpu").model)
    return [
        Cell(
            f"{model}-{variant.label}".replace(" ", "_"),
            {**facts, "variant": asdict(variant), "recipe": make_recipe(variant.settings).model_dump()},
        )
        for variant in SENSITIVITY_VARIANTS
    ]


def work_sensitivity(study: Study, cell: Cell) -> dict[str, Any]:
    """One method on one model, at every width: the share of the dense model's margin over its floor that is left."""
    name, variant = cell.settings["model"], Variant(**cell.settings["variant"])
    subject, entries = _open(study, name), []
    dense = subject.measure(subject.loaded)
    for draw in range(variant.draws):
        recipe = make_recipe({**variant.settings, "refit": False, "round_to": 1, "seed": draw, "device": "cpu"})
        context = open_context(subject.loaded, subject.calibration, recipe)
        for level in cell.settings["levels"]:
            asked = recipe.model_copy(update={"keep": level})
            now = context.under(asked, find_width(subject.loaded, asked))
            pruned = carry_out(as_plan(now, find_method(recipe.method).plan(now)), subject.loaded, in_place=False)
            got = subject.measure(replace(subject.loaded, model=pruned))
            left = (got - subject.floor) / (dense - subject.floor)
            entries.append({"level": level, "draw": draw, "score": got, "left": left})
    return {"model": name, "method": variant.label, "dense": dense, "floor": subject.floor, "entries": entries}


def _open(study: Study, name: str) -> Subject:
    assert study.data is not None
    if name == "bert-tiny":
        task, bench = study.tasks[0], open_bench(study, study.tasks[0], study.seeds[0])
        metric = TASKS[task].metrics[0]
        floor = find_floor(task, bench.validation.labels.tolist())[metric]
        calibration = bench.calibration(0.01, ROWS, 0)
        return Subject(bench.loaded, calibration, lambda loaded: score(loaded.model, bench, task)[metric], floor)
    loaded, data = load_model(name, device="cpu"), study.data
    if name == "minilm":
        return Subject(loaded, data / CALIBRATION_TEXT, lambda other: score_stsb(other, data)[0], 0.0)
    ids = take_tokens(open_texts(data / TEST_TEXT), loaded.tokenizer, TOKENS)

    def measure(other: LoadedModel) -> float:
        return -evaluate_perplexity(other.model, ids, window=WINDOW).log_loss_nats

    config: Any = loaded.model.config
    return Subject(loaded, data / CALIBRATION_TEXT, measure, -log(config.vocab_size))


def _hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _left(cell: Mapping[str, Any], level: float) -> list[float]:
    """What each draw leaves at a width."""
    return [entry["left"] for entry in cell["entries"] if entry["level"] == level]


def _spread(cells: Sequence[Mapping[str, Any]], model: str) -> dict[str, dict[str, float]]:
    """By width, highest less lowest over the methods (draws averaged), their deviation, and that of random draws."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    of_model = [cell for cell in cells if cell["model"] == model]
    for level in sorted({entry["level"] for cell in of_model for entry in cell["entries"]}):
        means = [float(np.mean(_left(cell, level))) for cell in of_model]
        random = max((_left(cell, level) for cell in of_model), key=len)  # the only method with several draws
        found[f"{level:g}"] = {
            "range": max(means) - min(means),
            "std": float(np.std(means, ddof=1)),
            "std_of_random_draws": float(np.std(random, ddof=1)),
        }
    return dict(found)


def _markdown(content: Mapping[str, Any]) -> str:
    levels, parts = content["levels"], []
    for model, spread in content["spread"].items():
        cells = [cell for cell in content["cells"] if cell["model"] == model]
        rows = [[cell["method"], *(f"{np.mean(_left(cell, level)):.3f}" for level in levels)] for cell in cells]
        for label, figure in (
            ("**highest less lowest**", "range"),
            ("deviation of random draws", "std_of_random_draws"),
        ):
            rows.append([label, *(f"{spread[f'{level:g}'][figure]:.3f}" for level in levels)])
        heading = f"{model}: dense {cells[0]['dense']:.3f}, floor {cells[0]['floor']:.3f}; share of the margin left"
        parts.append(f"{heading}:\n\n" + as_markdown(["width kept", *(f"{level:g}" for level in levels)], rows))
    return "\n".join(parts)


def _draw(figure: Any, content: Mapping[str, Any]) -> None:
    models = list(content["spread"])
    axes = figure.subplots(1, len(models) + 1)
    for panel, model in zip(axes, models, strict=False):
        for cell in (cell for cell in content["cells"] if cell["model"] == model):
            levels = sorted(content["levels"])
            means = [np.mean(_left(cell, level)) for level in levels]
            panel.plot(levels, means, marker="o", markersize=3, label=cell["method"])
        panel.set(title=model, xlabel="width kept", ylabel="share of the dense margin left")
        spread = content["spread"][model]
        axes[-1].plot(
            [float(level) for level in spread], [v["range"] for v in spread.values()], marker="o", label=model
        )
    axes[0].legend(fontsize="small")
    axes[-1].legend(fontsize="small")
    axes[-1].set(title="highest less lowest", xlabel="width kept", ylabel="of the share left")
