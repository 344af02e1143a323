"""The abstract's claim: the criterion matters in small models and not in large ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from secateur.calibration import CalibrationInput, take_tokens
from secateur.evaluation.embeddings import score_stsb
from secateur.evaluation.perplexity import evaluate_perplexity
from secateur.methods import find_method
from secateur.models.loading import LoadedModel, load_model
from secateur.paper.bench import Variant, find_bench_facts, open_bench, score, tune_models
from secateur.paper.results import Document, as_markdown
from secateur.paper.study import Cell, Study, run_cells
from secateur.paper.variants import SENSITIVITY_VARIANTS
from secateur.pipeline import as_plan, carry_out, find_width, open_context
from secateur.recipe import make_recipe
from secateur.results import Progress
from secateur.scoring import default_test_text
from secateur.tasks import TASKS
from secateur.texts import open_texts

LEVELS, QUICK_LEVELS = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3), (0.9, 0.7, 0.5, 0.3)
TOKENS, WINDOW = 2048, 512
"""Text that perplexity is measured on."""
MODELS = ("bert-tiny", "minilm", "smollm2")


def sensitivity(study: Study, progress: Progress) -> Document:
    """How far methods lie apart at each width, on models of 4, 23 and 135 million parameters."""
    tune_models(study, progress)
    levels = QUICK_LEVELS if study.quick else LEVELS
    cells = [
        Cell(f"{model}-{variant.label}", {**_facts(study, model), "variant": variant.as_json(), "levels": list(levels)})
        for model in MODELS
        for variant in SENSITIVITY_VARIANTS
    ]
    results = run_cells(study, "sensitivity", cells, work_sensitivity, progress)
    content = {"levels": list(levels), "cells": results, "spread": {model: _spread(results, model) for model in MODELS}}
    return Document(content, _markdown(content), lambda figure: _draw(figure, content))


def work_sensitivity(study: Study, cell: Cell) -> dict[str, Any]:
    """One method on one model, at every width: what is left of the dense model's score."""
    name, variant = cell.settings["model"], Variant(**cell.settings["variant"])
    loaded, calibration, measure = _open(study, name)
    dense, entries = measure(loaded), []
    for draw in range(variant.draws):
        recipe = make_recipe({**variant.settings, "refit": False, "round_to": 1, "seed": draw, "device": "cpu"})
        context = open_context(loaded, calibration, recipe)
        for level in cell.settings["levels"]:
            asked = recipe.model_copy(update={"keep": level})
            now = context.under(asked, find_width(loaded, asked))
            plan = as_plan(now, find_method(recipe.method).plan(now))
            pruned = carry_out(plan, loaded, in_place=False)
            got = measure(LoadedModel(pruned, loaded.family, loaded.tokenizer, loaded.source))
            entries.append({"level": level, "draw": draw, "score": got, "left": _left(name, got, dense)})
    return {"model": name, "method": variant.label, "dense": dense, "entries": entries}


def _left(model: str, got: float, dense: float) -> float:
    """What is left of a score: 1 for all of it. Of a perplexity its inverse counts."""
    return dense / got if model == "smollm2" else got / dense


def _facts(study: Study, model: str) -> dict[str, Any]:
    if model == "bert-tiny":
        return {**find_bench_facts(study, study.tasks[0], study.seeds[0]), "model": model}
    return {"model": model}


def _open(study: Study, name: str) -> tuple[LoadedModel, CalibrationInput, Any]:
    """A model, what to calibrate it on, and what gives its score."""
    if name == "bert-tiny":
        task = study.tasks[0]
        bench = open_bench(study, task, study.seeds[0])
        metric = TASKS[task].metrics[0]
        calibration = bench.calibration(0.01, 500, 0)
        return bench.loaded, calibration, lambda loaded: score(loaded.model, bench, task)[metric]
    loaded, data = load_model(name, device="cpu"), study.data
    text = data / "wikitext2" if data is not None and (data / "wikitext2").is_dir() else None
    if name == "minilm":
        assert data is not None
        return loaded, _file(text, "validation.tokens.txt"), lambda other: score_stsb(other, data)[0]
    test = open_texts(text / "test.raw.txt") if text is not None else default_test_text()
    ids = take_tokens(test, loaded.tokenizer, TOKENS)

    def perplexity(other: LoadedModel) -> float:
        return float(evaluate_perplexity(other.model, ids, window=WINDOW).perplexity)

    return loaded, _file(text, "validation.tokens.txt"), perplexity


def _file(folder: Path | None, name: str) -> Path | None:
    return None if folder is None else folder / name


def _spread(results: Any, model: str) -> dict[str, dict[str, float]]:
    """Highest less lowest of what is left over the methods, and their deviation, by width; draws averaged."""
    found: dict[float, list[float]] = defaultdict(list)
    for cell in results:
        if cell["model"] == model:
            for level in sorted({entry["level"] for entry in cell["entries"]}):
                left = [entry["left"] for entry in cell["entries"] if entry["level"] == level]
                found[level].append(float(np.mean(left)))
    return {f"{level:g}": {"range": max(v) - min(v), "std": float(np.std(v, ddof=1))} for level, v in found.items()}


def _markdown(content: Mapping[str, Any]) -> str:
    columns = ["score left", *(f"{level:g}" for level in content["levels"])]
    parts = []
    for model in MODELS:
        rows = []
        for cell in (cell for cell in content["cells"] if cell["model"] == model):
            means = [
                np.mean([entry["left"] for entry in cell["entries"] if entry["level"] == level])
                for level in content["levels"]
            ]
            rows.append([cell["method"], *(f"{mean:.3f}" for mean in means)])
        spread = content["spread"][model]
        rows.append(
            ["**highest less lowest**", *(f"{spread[f'{level:g}']['range']:.3f}" for level in content["levels"])]
        )
        dense = next(cell["dense"] for cell in content["cells"] if cell["model"] == model)
        parts.append(f"{model} (dense {dense:.3f}), by width kept:\n\n" + as_markdown(columns, rows))
    return "\n".join(parts)


def _draw(figure: Any, content: Mapping[str, Any]) -> None:
    axes = figure.subplots(1, len(MODELS) + 1)
    for panel, model in zip(axes, MODELS, strict=False):
        for cell in (cell for cell in content["cells"] if cell["model"] == model):
            levels = sorted({entry["level"] for entry in cell["entries"]})
            means = [np.mean([e["left"] for e in cell["entries"] if e["level"] == level]) for level in levels]
            panel.plot(levels, means, marker="o", markersize=3, label=cell["method"])
        panel.set(title=model, xlabel="width kept", ylabel="score left, of 1")
        levels = [float(level) for level in content["spread"][model]]
        axes[-1].plot(levels, [v["range"] for v in content["spread"][model].values()], marker="o", label=model)
    axes[0].legend(fontsize="small")
    axes[-1].legend(fontsize="small")
    axes[-1].set(title="highest less lowest", xlabel="width kept", ylabel="of the score left")
