"""The demo: prune a real language model, and measure before and after in one run."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from secateurs.calibration import take_tokens
from secateurs.checkpoint.staging import check_target
from secateurs.encoding import require_tokenizer
from secateurs.evaluation.looking import continue_texts
from secateurs.evaluation.perplexity import evaluate_perplexity
from secateurs.evaluation.speed import measure_latency
from secateurs.models.loading import LoadedModel, load_model, number_format, quiet_transformers
from secateurs.models.safety import bytes_on_disk, weight_bytes
from secateurs.models.source import find_source
from secateurs.pipeline import carry_out, finish, make_plan, open_context
from secateurs.pruned import PruneResult
from secateurs.recipe import Recipe, make_recipe
from secateurs.results import ModelSize, Progress
from secateurs.scoring import default_test_text, example_batch

MODEL = "smollm2"
KEEP = 0.8
TEST_TOKENS = 8192
PROMPT = "The most important thing to know about gardening is"
NEW_TOKENS = 24


@dataclass(frozen=True, slots=True)
class Measured:
    """One side of the table."""

    size: ModelSize
    """Parameters, widths, multiply-adds."""
    weight_bytes: int
    """Bytes of the weights, saved in the same number format."""
    perplexity: float
    """On the test part of the text that Python carries."""
    tokens_per_second: float
    """Tokens read in a forward pass of 512, median of 5."""
    sentence: str
    """A greedy continuation of the prompt."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """All figures of the demo, from one run."""

    name: str
    """Hub name of the model."""
    keep: float
    """Fraction asked for."""
    before: Measured
    """The original."""
    after: Measured
    """The pruned model."""
    plain_importance_perplexity: float
    """What pruning without information would have given, same width, with refit."""
    number_format: str
    """That of the weights, before and after."""
    gguf_bytes: int
    """Size of the GGUF file that the model came from."""
    test_tokens: int
    """Tokens that perplexity was measured on."""
    seconds: float
    """Time of the whole demo."""

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


def run_demo(
    out: Path,
    progress: Progress,
    *,
    overwrite: bool = False,
    recipe: Recipe | None = None,
    test_tokens: int = TEST_TOKENS,
    with_report: bool = False,
) -> DemoResult:
    """Prune a demo language model to 80 % width, write it to `out`, and measure it beside the original.

    It is pruned a second time without information, for comparison.
    """
    start = time.perf_counter()
    recipe = recipe or make_recipe({"keep": KEEP})
    source = find_source(MODEL)
    check_target(out, source=source.original_folder, overwrite=overwrite)
    progress("reading the model", 0, 1)
    loaded = load_model(MODEL)
    progress("reading the model", 1, 1)
    context = replace(open_context(loaded, None, recipe, progress), has_several_refits=True)
    ids = take_tokens(default_test_text(), loaded.tokenizer, test_tokens)

    result = finish(context, make_plan(context), with_report=with_report)
    result.save(out, overwrite=overwrite, progress=progress)
    uninformed = context.under(recipe.model_copy(update={"information": False}))
    plain = carry_out(make_plan(uninformed), loaded, in_place=False)
    plain_score = evaluate_perplexity(plain, ids, progress=progress)
    before, after = _measure_both(result, weight_bytes(out), ids, progress)
    return DemoResult(
        name=loaded.name,
        keep=recipe.keep,
        before=before,
        after=after,
        plain_importance_perplexity=plain_score.perplexity,
        number_format=number_format(loaded.model),
        gguf_bytes=bytes_on_disk(source),
        test_tokens=len(ids),
        seconds=time.perf_counter() - start,
    )


def _measure_both(
    result: PruneResult, pruned_bytes: int, ids: list[int], progress: Progress
) -> tuple[Measured, Measured]:
    """The original and the pruned model, timed in turns."""
    loaded = result.loaded
    models, prompt = (loaded.model, result.model), require_tokenizer(loaded.tokenizer)(PROMPT)["input_ids"]
    speeds = measure_latency(models, example_batch(loaded, 512), repetitions=5)
    before, after = (
        Measured(
            size=size,
            weight_bytes=stored,
            perplexity=evaluate_perplexity(model, ids, progress=progress).perplexity,
            tokens_per_second=speed.tokens_per_second,
            sentence=continue_texts(model, loaded.tokenizer, [prompt], NEW_TOKENS, with_prompts=True)[0],
        )
        for model, size, stored, speed in zip(
            models, (result.before, result.after), (_stored_bytes(loaded), pruned_bytes), speeds, strict=True
        )
    )
    return before, after


def _stored_bytes(loaded: LoadedModel) -> int:
    """Bytes of the original, saved in the same number format as the pruned model."""
    model: Any = loaded.model
    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        model.save_pretrained(folder)
        return weight_bytes(Path(folder))
