"""The GGUF path and the demo, on the real language model."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from secateurs.cli.reports import demo_rows
from secateurs.demo import run_demo
from secateurs.errors import InputError
from secateurs.models.loading import is_slow_in_bfloat16
from secateurs.models.source import find_source
from secateurs.recipe import make_recipe
from secateurs.results import no_progress


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    try:
        find_source("smollm2")
    except InputError as error:
        pytest.skip(f"needs the demo model: {error}")
    out = tmp_path_factory.mktemp("demo") / "out"
    recipe = make_recipe({"keep": 0.8, "calibration_tokens": 1024, "information": False})
    return out, run_demo(out, no_progress, recipe=recipe, test_tokens=1024)


def test_what_it_writes_loads_with_plain_transformers(demo):
    out, result = demo
    assert result.number_format == ("float32" if is_slow_in_bfloat16(torch.device("cpu")) else "bfloat16")
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.config.intermediate_size == 1216
    assert model.dtype == getattr(torch, result.number_format)
    assert sum(p.numel() for p in model.parameters()) == result.after.size.parameters
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert AutoTokenizer.from_pretrained(out).chat_template


def test_its_table_holds_every_figure(demo):
    _, result = demo
    text = "\n".join(" ".join(row) for row in demo_rows(result))
    for words in (
        "width asked",
        "obtained",
        "parameters",
        "scope ffn",
        "scope model",
        "GGUF",
        "perplexity",
        "per second",
    ):
        assert words in text
    assert result.before.perplexity < result.after.perplexity < 3 * result.before.perplexity
    assert result.before.weight_bytes > result.after.weight_bytes
    assert result.before.sentence != ""


def test_it_does_not_overwrite_unasked(demo):
    out, _ = demo
    with pytest.raises(InputError, match="OUT must not exist yet"):
        run_demo(out, no_progress)
