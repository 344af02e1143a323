"""Real small models end to end."""

from dataclasses import replace

import pytest

from secateurs import prune
from secateurs.models.loading import load_model
from secateurs.scoring import compare_embeddings, score_embeddings, score_text


@pytest.fixture(scope="module")
def pruned(minilm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real") / "minilm"
    prune("minilm", keep=0.6, calibration_tokens=8192).save(folder)
    return load_model(str(folder))


def test_pruned_minilm_keeps_its_embeddings(minilm, pruned):
    cosine, rows = compare_embeddings(pruned, minilm, None)
    assert rows > 50
    assert cosine > 0.95


def test_pruned_minilm_still_agrees_with_people(minilm, pruned, shared_data, tmp_path):
    lines = (shared_data / "stsb/validation.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "validation.tsv").write_text("".join(lines[:401]), encoding="utf-8")
    dense, pairs = score_embeddings(minilm, tmp_path)
    smaller, _ = score_embeddings(pruned, tmp_path)
    assert pairs == 400
    assert dense > 0.8
    assert smaller > dense - 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", ["textpruner", "textpruner-self", "mask-tuning", "kprune", "llm-pruner"])
def test_methods_with_gradients_beat_random_on_two_layers_of_a_language_model(name, smollm2):
    settings = {"layers": "0-1", "keep": 0.5, "round_to": 1, "refit": False, "iterations": 2}
    settings |= {"calibration_tokens": 2048, "max_length": 256}
    perplexity = {}
    for method in (name, "random"):
        pruned = prune(smollm2.model, tokenizer=smollm2.tokenizer, method=method, **settings).model
        score = score_text(replace(smollm2, model=pruned), None, tokens=1024, window=256)
        perplexity[method] = score.perplexity.perplexity
    assert perplexity[name] < perplexity["random"] / 2
