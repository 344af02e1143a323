"""What was tried for Secateurs' own method on SmolLM2-135M, one row of figures each, losses too.

    SECATEURS_DATA=... python benchmarks/ablation/run.py [--part N] [--row NAME] [--threads N] [--device auto]

Gap to the dense model in nats a token on the first 16,384 tokens of WikiText-2's test text (32 windows of 512), 24,576
calibration tokens of the validation text, one draw, float32. Parts 0 to 8 as in README.md. Rows that results.json holds
are not run again; several processes may run different parts at once.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import choices
import torch
from allocations import ALLOCATIONS
from refits import refit_by_held_out

from secateurs import refitting
from secateurs.calibration import Calibration, take_tokens
from secateurs.checkpoint.manifest import find_versions
from secateurs.evaluation.perplexity import PerplexityScore, compare_losses, evaluate_perplexity
from secateurs.methods import PruningContext
from secateurs.methods import secateurs as method
from secateurs.methods.contract import RIDGE
from secateurs.models.families import find_feedforwards
from secateurs.models.feedforward import replaced
from secateurs.models.loading import LoadedModel, load_model
from secateurs.pipeline import find_width, make_plan, open_context, refit_layers
from secateurs.recipe import make_recipe
from secateurs.refitting import Measured
from secateurs.results import LayerPlan
from secateurs.texts import open_texts

RESULTS = Path(__file__).with_name("results.json")
DATA = Path(os.environ["SECATEURS_DATA"])
TEXT = DATA / "wikitext2"
measure_whole = method.measure_whole
KEEPS, TEST_TOKENS, SAMPLES = (0.8, 0.6), 16384, 2000
BASE: Mapping[str, Any] = {
    "calibration": str(TEXT / "validation.tokens.txt"),
    "calibration_tokens": 24576,
    "round_to": 1,
    "samples": SAMPLES,
}
AT_ONCE: Mapping[str, Any] = {"in_turn": False}
"""The refit of all rows but some of parts 0 and 6: cheap, and the same for all."""
DENSE = "dense"
"""Row of the model before pruning."""
IMPORTANCE = "plain importance"
REMOVAL = "removal cost"
OFF = "MI off"
NOISE = RIDGE["decoder"]
TEXT_SETTINGS = ("calibration", "calibration_tokens", "text_column")
USUAL = str({})
"""Key of the measurements on the text of most rows."""


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was tried."""

    part: int
    """0: parts of the method switched off; 1 to 8: what else was tried."""
    base: str | None
    """The row that it is compared with, which differs in nothing else."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the recipe."""
    choose: choices.Choose | None = None
    """Picks neurons in place of the recipe's method."""
    widths: str | None = None
    """Name of an allocation in place of the recipe's."""
    has_one_ridge: bool = False
    """Whether all neurons have the same ridge, in units of the mean second moment."""
    has_held_out_ridge: bool = False
    """Whether each layer's ridge is told by held-out tokens."""

    def refit(self) -> AbstractContextManager[object]:
        """The context that the row is made in."""
        alike = partial(refitting.refit_down, is_isotropic=True)
        return patch.object(refitting, "refit_down", alike) if self.has_one_ridge else nullcontext()


def _switched(name: str, has_own_base: bool = True, **settings: Any) -> Mapping[str, Row]:
    """The method under some settings, with and without information; `has_own_base` where the latter is no other row."""
    without = f"{name}, {OFF}" if has_own_base else f"secateurs, {OFF}"
    rows = {name: Row(0, without, settings)}
    return {**rows, without: Row(0, None, {**settings, "information": False})} if has_own_base else rows


def _pairs(**settings: Any) -> Row:
    return _choosing(1, partial(choices.penalised, **settings))


def _choosing(part: int, choose: choices.Choose, base: str = IMPORTANCE) -> Row:
    return Row(part, base, AT_ONCE, choose)


def _reading(**settings: Any) -> Row:
    return Row(8, "all at once", {**AT_ONCE, **settings})


def _refitting(**settings: Any) -> Row:
    """A ridge is also that of the columns which the choice looks at behind pruned networks; its noise stays."""
    return Row(6, "all at once", {**AT_ONCE, "noise": NOISE, **settings})


ROWS: Mapping[str, Row] = {
    **_switched("secateurs"),
    **_switched("no noise", has_own_base=False, noise=0.0),
    **_switched("noise 1", has_own_base=False, noise=1.0),
    **_switched("no token noise", token_noise=0.0),
    **_switched("no drift", drift=0.0),
    **_switched("all at once", **AT_ONCE),
    **_switched("no refit", refit=False),
    **_switched("global, all at once", allocation="global", **AT_ONCE),
    IMPORTANCE: Row(1, None, AT_ONCE, choices.important),
    "pairs, alpha 1.01, r 0.42, 100 rows": _pairs(alpha=1.01, r=0.42, batch_size=100),
    "pairs, alpha 2, r 1, 500 rows": _pairs(r=1.0),
    "pairs, alpha 2, r 2, 500 rows": _pairs(),
    "pairs, alpha 2, r 6, 500 rows": _pairs(r=6.0),
    "pairs, alpha 2, r 2, 250 rows": _pairs(batch_size=250),
    "pairs, alpha 2, r 2, 500 rows, debiased": _pairs(debias=1),
    "pairs, alpha 2, r 2, exp(-share / 2)": _pairs(soft=0.5),
    "pairs, late tokens": _pairs(tokens="late"),
    "pairs, surprising tokens": _pairs(tokens="surprising"),
    "set, linear, no noise": _choosing(2, partial(choices.set_order, noise=0.0)),
    "set, linear, noise 0.3 of what is unique": _choosing(2, partial(choices.set_order, noise=0.3, kind="unique")),
    "set, linear, noise 0.3 of the second moment": _choosing(2, partial(choices.set_order, noise=0.3)),
    "all others, linear": _choosing(2, partial(choices.given_all, kind="linear")),
    "all others, quadratic": _choosing(2, partial(choices.given_all, kind="quadratic")),
    "all others, Gaussian kernels": _choosing(2, partial(choices.given_all, kind="kernels")),
    "all others, nearest neighbours": _choosing(2, partial(choices.given_all, kind="neighbours")),
    "relevance alone": _choosing(3, partial(choices.relevant, weight=0.0)),
    "relevance less redundancy": _choosing(3, partial(choices.relevant, weight=1.0)),
    "relevance to the final representation": _choosing(3, partial(choices.relevant, weight=0.0, to="end")),
    "the same less redundancy": _choosing(3, partial(choices.relevant, weight=1.0, to="end")),
    "most important of each k-medoids cluster": _choosing(4, partial(choices.representatives, weighted=False)),
    "most important of each weighted cluster": _choosing(4, partial(choices.representatives, weighted=True)),
    REMOVAL: _choosing(5, choices.removal),
    "removal cost x (1 - share / 2)": _choosing(5, partial(choices.removal, pairs_as="factor"), REMOVAL),
    "removal cost, near-ties by share": _choosing(5, partial(choices.removal, pairs_as="ties"), REMOVAL),
    "ridge 0.1": _refitting(ridge=0.1),
    "one ridge for all, 0.1": replace(_refitting(ridge=0.1), base="ridge 0.1", has_one_ridge=True),
    "ridge by held-out tokens": replace(_refitting(), has_held_out_ridge=True),
    "all of the drift": Row(6, "secateurs", {"drift": 1.0}),
    "tokens weighed as by a norm": Row(6, "secateurs", {"token_weights": True}),
    **{f"widths: {name}": Row(7, "global, all at once", AT_ONCE, widths=name) for name in ALLOCATIONS},
    **{f"{tokens:,} tokens": _reading(calibration_tokens=tokens) for tokens in (1024, 4096, 65536, 131072)},
    "Python's documentation": _reading(calibration=None),
    "sentences of SST-2": _reading(calibration=str(DATA / "sst2" / "train.tsv"), text_column="sentence"),
    "pairs, alpha 2, r 2, 1000 rows": _pairs(batch_size=1000),
}


def prune(loaded: LoadedModel, contexts: dict[str, PruningContext], row: Row, keep: float) -> tuple[LayerPlan, ...]:
    """The layers of a row."""
    context = _open(loaded, contexts, row, keep)
    if row.widths is not None:
        widths = ALLOCATIONS[row.widths](context)
        assert sum(widths) == context.budget
        return method.plan_widths(context, widths)
    if row.choose is None:
        layers = make_plan(context).layers
        return refit_by_held_out(context, layers) if row.has_held_out_ridge else layers
    kept = [row.choose(context, place, context.width) for place in range(len(context.feedforwards))]
    return refit_layers(context, context.plan(kept))


def _open(loaded: LoadedModel, contexts: dict[str, PruningContext], row: Row, keep: float) -> PruningContext:
    """A context on the row's text: the usual one is measured once, another once for the rows that follow each other."""
    recipe = make_recipe({**BASE, **row.settings, "keep": keep})
    of_text = {name: value for name, value in row.settings.items() if name in TEXT_SETTINGS}
    key = str(of_text)
    if key not in contexts:
        for other in set(contexts) - {USUAL}:
            del contexts[other]
        opened = open_context(loaded, None, make_recipe({**BASE, **AT_ONCE, **of_text}), with_second_moments=True)
        contexts[key] = replace(opened, has_several_refits=True)
    return contexts[key].under(recipe, find_width(loaded, recipe))


def measure_once(context: PruningContext, calibration: Calibration) -> Sequence[Measured]:
    """`measure_whole`, all layers kept in memory for the rows that follow."""
    key = ("whole", id(calibration), context.mean_weight)  # no other has that id, as it is kept
    return context.once(key, lambda: (calibration, tuple(measure_whole(context, calibration))))[1]


def read_results() -> dict[str, Any]:
    """What was found so far."""
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
    return found


def add_result(key: str, result: Mapping[str, Any]) -> None:
    """Add a row to what was found so far, by this process or another."""
    with RESULTS.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        results = read_results()
        results["rows"][key] = result
        temporary = RESULTS.with_suffix(".new")
        temporary.write_text(json.dumps(results, indent=1) + "\n")
        temporary.replace(RESULTS)


def main() -> None:
    """Run the rows that are still missing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", type=int, action="append", default=[], help="rows of this part, not all")
    parser.add_argument("--row", action="append", default=[], help="this row, not all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    loaded = load_model("smollm2", dtype="float32", device=asked.device)
    ids = take_tokens(open_texts(TEXT / "test.raw.txt"), loaded.tokenizer, TEST_TOKENS)
    if DENSE not in read_results()["rows"]:
        add_result(DENSE, {"window_losses": list(evaluate_perplexity(loaded.model, ids).window_losses)})
    contexts: dict[str, PruningContext] = {}
    for (name, row), keep in product(ROWS.items(), KEEPS):
        key, done = f"{name}, keep {keep}", read_results()["rows"]
        is_asked = row.part in asked.part or name in asked.row or not (asked.part or asked.row)
        if key in done or not is_asked:
            continue
        begun = time.perf_counter()
        with row.refit(), patch.object(method, "measure_whole", measure_once):
            layers = prune(loaded, contexts, row, keep)
        seconds = time.perf_counter() - begun
        with replaced(find_feedforwards(loaded.model, loaded.family), layers):
            score = evaluate_perplexity(loaded.model, ids)
        facts = {"part": row.part, "base": row.base, "keep": keep, "widths": [layer.width for layer in layers]}
        losses = {"window_losses": list(score.window_losses)}
        add_result(key, {**facts, **losses, "card": loaded.card, "threads": asked.threads, "versions": find_versions()})
        gap = compare_losses(PerplexityScore(tuple(done[DENSE]["window_losses"]), score.window_tokens), score)
        print(f"{key}: {gap.nats:.4f} +- {gap.standard_error_nats:.4f}, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
