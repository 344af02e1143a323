import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import tiny
from secateurs.errors import InputError
from secateurs.evaluation.embeddings import embed
from secateurs.evaluation.perplexity import PerplexityScore, compare_losses, evaluate_perplexity, find_block
from secateurs.evaluation.speed import measure_latency
from secateurs.models.loading import load_model, wrap_model
from secateurs.scoring import example_batch, profile, score_embeddings, score_text

IDS = torch.randint(3, 300, (100,), generator=torch.Generator().manual_seed(0)).tolist()


def reference_losses(model, ids, start, stop):
    """Log-loss of each token of ids[start + 1:stop] given those from start on."""
    with torch.inference_mode():
        logits = model(torch.tensor([ids[start:stop]])).logits[0]
    return [-float(logits[i].log_softmax(-1)[ids[start + i + 1]]) for i in range(stop - start - 1)]


def test_windows_are_read_by_themselves():
    model = tiny.make_model("llama")
    score = evaluate_perplexity(model, IDS, window=32)
    losses = [loss for s in range(0, 100, 32) for loss in reference_losses(model, IDS, s, min(s + 32, 100))]
    assert score.tokens == len(losses) == 96
    assert score.log_loss_nats == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert score.perplexity == pytest.approx(math.exp(score.log_loss_nats))


def test_with_a_stride_every_token_counts_once_with_the_context_before_it():
    model = tiny.make_model("llama")
    score = evaluate_perplexity(model, IDS, window=32, stride=8)
    assert score.tokens == 99
    expected = reference_losses(model, IDS, 0, 32)
    for start in range(8, 100, 8):
        stop = min(start + 32, 100)
        done = min(start - 8 + 32, 100)
        if stop > done:
            expected += reference_losses(model, IDS, start, stop)[done - start - 1 :]
    assert score.log_loss_nats == pytest.approx(sum(expected) / 99, rel=1e-5)


def test_a_bad_stride_or_too_few_tokens_are_refused():
    with pytest.raises(InputError, match="stride must be in"):
        evaluate_perplexity(tiny.make_model("llama"), IDS, window=8, stride=9)
    with pytest.raises(InputError, match="at least 2 tokens, got 1"):
        evaluate_perplexity(tiny.make_model("llama"), IDS[:1])


def test_the_gap_is_paired_over_windows():
    before = PerplexityScore((1.0, 2.0, 3.0), (10, 10, 10))
    after = PerplexityScore((1.1, 2.3, 3.2), (10, 10, 10))
    gap = compare_losses(before, after)
    assert gap.nats == pytest.approx(0.2)
    assert gap.standard_error_nats == pytest.approx(0.1 / math.sqrt(3))
    assert compare_losses(before, before).nats == 0


def test_neighbouring_windows_count_as_one_in_the_error():
    rises = [float(place // 4) for place in range(32)]  # eight articles of four windows each
    before, after = (PerplexityScore(tuple(losses), (10,) * 32) for losses in ([0.0] * 32, rises))
    gap = compare_losses(before, after)
    assert gap.nats == pytest.approx(3.5)
    assert gap.standard_error_nats == pytest.approx(np.std(range(8), ddof=1) / math.sqrt(8))
    assert [find_block(windows) for windows in (1, 15, 16, 32, 64, 1000)] == [1, 1, 2, 4, 8, 8]


def test_embeddings_do_not_depend_on_padding_or_order():
    loaded = wrap_model(tiny.make_model("bert-model"), tiny.make_tokenizer())
    texts = ["a rose", "a much longer sentence about roses and shears", "blades"]
    together = embed(loaded, texts)
    apart = torch.cat([embed(loaded, [text]) for text in texts])
    assert torch.allclose(together, apart, atol=1e-5)
    assert torch.allclose(together.norm(dim=1), torch.ones(3))


def test_pooling_follows_the_checkpoint(tmp_path):
    folder = tiny.save_checkpoint(tmp_path / "m", "bert-model")
    mean = embed(load_model(str(folder)), ["one two three"])
    (folder / "1_Pooling").mkdir()
    pooling = folder / "1_Pooling/config.json"
    for content in ('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}', '{"pooling_mode": "cls"}'):
        pooling.write_text(content)
        assert not torch.allclose(embed(load_model(str(folder)), ["one two three"]), mean)
    for content in ('{"pooling_mode_mean_tokens": true}', '{"pooling_mode": "mean"}'):
        pooling.write_text(content)
        assert torch.allclose(embed(load_model(str(folder)), ["one two three"]), mean)
    pooling.write_text('{"pooling_mode": "max"}')
    with pytest.raises(InputError, match="asks for max"):
        embed(load_model(str(folder)), ["one two three"])


def test_stsb_is_the_spearman_correlation_of_cosines(tmp_path):
    rows = [("a rose", "a rose", 5.0), ("a rose", "the sharp blade", 1.0), ("red", "read", 2.5), ("x", "y z", 0.0)]
    lines = ["sentence1\tsentence2\tlabel", *("\t".join(map(str, row)) for row in rows)]
    (tmp_path / "stsb").mkdir()
    (tmp_path / "stsb/validation.tsv").write_text("\n".join(lines))
    loaded = wrap_model(tiny.make_model("bert-model"), tiny.make_tokenizer())
    score, count = score_embeddings(loaded, tmp_path)
    first, second = (embed(loaded, [row[place] for row in rows]) for place in (0, 1))
    assert count == 4
    assert score == pytest.approx(spearmanr((first * second).sum(1), [row[2] for row in rows]).statistic, abs=1e-6)


@pytest.mark.parametrize("case", ["vit", "t5", "bert", "gpt2"])
def test_size_and_latency_are_there_for_every_kind(case):
    loaded = wrap_model(tiny.make_model(case), tiny.make_tokenizer())
    measured = profile(loaded)
    assert measured.latency.median_ms > 0
    assert measured.weight_bytes is None
    assert measured.size.parameters > 0


@pytest.mark.parametrize("case", ["vit", "t5", "bert"])
def test_what_has_no_perplexity_is_refused_by_name(case):
    model = tiny.make_model(case)
    with pytest.raises(InputError, match=f"{type(model).__name__} has no perplexity"):
        score_text(wrap_model(model, tiny.make_tokenizer()), None, tokens=100, window=32)


def test_models_take_turns_when_timed():
    turns = []

    class Model(torch.nn.Linear):
        def forward(self, input_ids):
            turns.append(id(self))

    models = [Model(1, 1), Model(1, 1)]
    measure_latency(models, {"input_ids": torch.zeros(1, 4)}, repetitions=3)
    assert turns == [id(model) for _ in range(4) for model in models]


def test_the_timed_sequence_fits_the_model():
    loaded = wrap_model(tiny.make_model("gpt2"), tiny.make_tokenizer())
    assert example_batch(loaded, 512)["input_ids"].shape == (1, 160)
