import weakref

import numpy as np
import pytest
import torch

import tiny
from secateurs.capture import MomentSum, StatisticsFitter, capture, multiply_by_itself
from secateurs.errors import InputError
from secateurs.models.families import find_feedforwards
from secateurs.rows import LazyBatches


def measure(model, batches, **settings):
    settings = {"samples": 40, "sampling": "tokens", "seed": 0, **settings}
    return capture(model, find_feedforwards(model, tiny.family_of(model)), batches, **settings)


def one_row_at_a_time(batch):
    for row in range(len(batch["input_ids"])):
        length = int(batch["attention_mask"][row].sum())
        yield {name: value[row : row + 1, :length] for name, value in batch.items()}


@pytest.mark.parametrize("case", ["bert", "opt", "llama", "modernbert", "albert", "gpt2", "t5"])
def test_a_padded_batch_gives_what_one_row_at_a_time_gives(case):
    model = tiny.make_model(case)
    batch = tiny.make_inputs(model, rows=3)
    together = measure(model, [batch])
    apart = measure(model, list(one_row_at_a_time(batch)))
    for a, b in zip(together, apart, strict=True):
        assert a.tokens == b.tokens
        assert torch.allclose(a.mean, b.mean, atol=1e-5)
        assert torch.allclose(a.second_moments, b.second_moments, rtol=1e-4, atol=1e-5)
        if case != "albert":  # there the passes of a row come in another order
            assert torch.allclose(a.samples, b.samples, atol=1e-4)


def test_statistics_are_those_of_the_activations_themselves():
    model = tiny.make_model("llama")
    batch = tiny.make_inputs(model, rows=1, tokens=30)
    seen = []
    handle = model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    found = measure(model, [batch], samples=1000)[1]
    handle.remove()
    rows = seen[0].double()
    assert found.tokens == 30
    assert torch.allclose(found.mean, rows.mean(dim=0))
    assert torch.allclose(found.second_moments, rows.T @ rows / 30, rtol=1e-5, atol=1e-7)
    assert torch.allclose(found.rms, rows.square().mean(dim=0).sqrt(), rtol=1e-5)
    assert sorted(map(tuple, found.samples.tolist())) == sorted(map(tuple, seen[0].tolist()))


def test_batches_are_made_one_after_another_and_let_go():
    model, alive, most = tiny.make_model("llama"), weakref.WeakSet(), []

    def make(number):
        batch = tiny.make_inputs(model, seed=number)
        alive.add(batch["input_ids"])
        most.append(len(alive))
        return batch

    lazy = measure(model, LazyBatches(6, make))
    assert max(most) == 2  # the next one and the last one
    for one, other in zip(lazy, measure(model, [make(number) for number in range(6)]), strict=True):
        assert torch.equal(one.second_moments, other.second_moments)
        assert torch.equal(one.samples, other.samples)


def test_shared_layers_count_every_pass():
    model = tiny.make_model("albert")
    (found,) = measure(model, [tiny.make_inputs(model, rows=1, tokens=10)])
    assert found.tokens == tiny.LAYERS * 10


def test_the_decoder_of_t5_is_measured_under_its_own_mask():
    model = tiny.make_model("t5")
    batch = dict(tiny.make_inputs(model))
    batch["decoder_attention_mask"] = batch["decoder_attention_mask"].clone()
    batch["decoder_attention_mask"][:, 5:] = 0
    found = measure(model, [batch])
    assert found[0].tokens == int(batch["attention_mask"].sum())
    assert found[-1].tokens == int(batch["decoder_attention_mask"].sum())


def test_cls_takes_the_first_real_token_even_under_left_padding():
    model = tiny.make_model("bert-model")
    batch = {
        "input_ids": torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12]]),
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]),
    }
    seen = []
    dense = model.encoder.layer[0].output.dense
    handle = dense.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    found = measure(model, [batch], sampling="cls")[0]
    handle.remove()
    expected = [seen[0][0, 2].tolist(), seen[0][1, 0].tolist()]
    assert sorted(found.samples.tolist()) == sorted(expected)


def test_mean_takes_the_mean_over_real_tokens():
    model = tiny.make_model("bert-model")
    batch = tiny.make_inputs(model, rows=2)
    whole = measure(model, list(one_row_at_a_time(batch))[:1], sampling="tokens", samples=1000)[0]
    mean = measure(model, list(one_row_at_a_time(batch))[:1], sampling="mean")[0]
    assert torch.allclose(mean.samples[0], whole.samples.mean(dim=0), atol=1e-5)


def test_the_reservoir_is_uniform_reproducible_and_blind_to_batching():
    rows = torch.arange(1000.0)[:, None]

    def draw(chunk, seed=0):
        fitter = StatisticsFitter(1, 50, seed, with_second_moments=False)
        for part in rows.split(chunk):
            fitter.update(part, part, torch.tensor([len(part)]))
        return fitter.finish().samples[:, 0]

    assert torch.equal(draw(1000), draw(7))
    assert not torch.equal(draw(1000), draw(1000, seed=1))
    assert len(set(draw(13).tolist())) == 50
    counts = np.zeros(1000)
    for seed in range(400):
        counts[draw(100, seed).int().numpy()] += 1
    tenths = counts.reshape(10, 100).sum(axis=1)  # 2000 expected in each
    assert np.abs(tenths - 2000).max() < 200


def test_hooks_are_gone_afterwards_even_when_the_forward_pass_fails():
    model = tiny.make_model("llama")
    with pytest.raises(InputError, match="can't run calibration batch 0: index out of range"):
        measure(model, [{"input_ids": torch.tensor([[10**6]])}])
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_a_network_that_does_not_run_is_noticed():
    model = tiny.make_model("llama")
    feedforwards = find_feedforwards(model, tiny.family_of(model))
    stray = find_feedforwards(tiny.make_model("llama"), tiny.family_of(model))
    with pytest.raises(InputError, match="ran 0 times in a forward pass, expected 1"):
        capture(model, [feedforwards[0], stray[1]], [tiny.make_inputs(model)], samples=16, sampling="tokens", seed=0)


def test_activations_that_overflow_are_refused():
    model = tiny.make_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1e38)
    with pytest.raises(InputError, match=r"activations of model.layers.1.mlp are NaN or infinite"):
        measure(model, [tiny.make_inputs(model)])


@pytest.mark.parametrize("width", [1, 3, 4, 10])
def test_a_symmetric_product_is_that_of_all_its_blocks(width):
    x = torch.randn(7, width, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(multiply_by_itself(x), x.T @ x, atol=1e-6)


def test_moments_about_large_means_keep_their_digits():
    x = torch.randn(5000, 6, generator=torch.Generator().manual_seed(0)) * 0.01 + torch.tensor([0, 1, -3, 10, 100, 7.0])
    x[:, 5] = 7
    moments = MomentSum(6)
    for part in [x[:0], *x.split(700)]:
        moments.add(part)
    mean, second = moments.finish()
    apart = x.double() - x.double().mean(dim=0)
    assert torch.allclose(mean, x.double().mean(dim=0), rtol=1e-7)
    assert torch.allclose(second, x.double().T @ x.double() / 5000, rtol=1e-6)
    assert torch.allclose(second - torch.outer(mean, mean), apart.T @ apart / 5000, atol=1e-9)


def test_rows_may_have_weights():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 6, generator=generator) * 0.01 + torch.tensor([0, 1, -3, 10, 100, 7.0])
    x[:, 5] = 7
    roots, moments = torch.rand(5000, 1, generator=generator) + 0.5, MomentSum(6)
    for part, some in zip(x.split(700), roots.split(700), strict=True):
        apart = moments.add(part, lambda values, some=some: values * some)
        assert torch.allclose(apart.double(), (part - moments.origin) * some, atol=1e-6)
    mean, second = moments.finish()
    shares = roots.double().square() / roots.double().square().sum()
    centre = (shares * x.double()).sum(dim=0)
    apart = x.double() - centre
    assert torch.allclose(mean, centre, rtol=1e-7)
    assert torch.allclose(second - torch.outer(mean, mean), (shares * apart).T @ apart, atol=1e-9)
    assert moments.rows == 5000


def test_the_sum_of_products_becomes_the_result_without_a_second_matrix():
    found = MomentSum(4)
    found.add(torch.randn(9, 4))
    products = found._products
    assert found.finish()[1].data_ptr() == products.finish().data_ptr()
