"""Rivals without labels, each against a few lines of float64."""

import numpy as np
import pytest
import torch

import tiny
from secateurs.calibration import Calibration
from secateurs.errors import InputError
from secateurs.methods import METHODS, check_recipe, contract
from secateurs.methods.kcm import rank_representatives
from secateurs.methods.magnitude import SCORES
from secateurs.models.cutting import cut_
from secateurs.models.families import find_feedforwards
from secateurs.models.feedforward import masked, replaced
from secateurs.models.loading import wrap_model
from secateurs.pipeline import as_plan, needs_statistics, open_context
from secateurs.recipe import make_recipe
from secateurs.selection.elimination import order_removals
from secateurs.selection.ranking import select_overall
from secateurs.walking import Stream, can_walk

WIDTH = 12


def open_on(case, name, *, rows=3, batches=6, **settings):
    """A context on random batches, half of the neurons to stay."""
    model = tiny.make_model(case)
    given = [tiny.make_inputs(model, rows=rows, tokens=12, seed=seed) for seed in range(batches)]
    recipe = make_recipe({"method": name, "keep": 0.5, "round_to": 1, **settings})
    return open_context(wrap_model(model, tiny.make_tokenizer()), given, recipe)


def activations(model, batch, place, masks=None):
    """(n, K) float64 of the real tokens, with the rows (texts) that they belong to."""
    feedforwards, seen = find_feedforwards(model, tiny.family_of(model)), []
    handle = feedforwards[place].down.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    ones = [torch.ones(ffn.width) for ffn in feedforwards]
    with masked(feedforwards, masks or ones):
        tiny.outputs(model, batch)
    handle.remove()
    real = batch["attention_mask"].bool()
    found = seen[0].reshape(*real.shape, -1).double()
    return found[real], torch.nonzero(real)[:, 0]


def rows_of(context, place, masks=None):
    return torch.cat([activations(context.loaded.model, b, place, masks)[0] for b in context.calibration.batches])


def top(scores, width=WIDTH):
    return sorted(np.argsort(-np.asarray(scores), kind="stable")[:width].tolist())


def kept_of(context, name):
    return [layer.kept.tolist() for layer in METHODS[name].plan(context)]


@pytest.mark.parametrize("case", ["bert", "llama", "gpt2"])
def test_flap_scores_by_variance_and_makes_up_for_the_mean(case):
    context = open_on(case, "flap")
    for place, layer in enumerate(METHODS["flap"].plan(context)):
        z = rows_of(context, place)
        columns = context.down_columns(place).double()
        assert layer.kept.tolist() == top(z.var(dim=0, correction=0) * columns.square().sum(dim=1), context.width)
        gone = np.setdiff1d(np.arange(len(columns)), layer.kept)
        shift = z.mean(dim=0)[gone] @ columns[gone]
        if case == "llama":
            assert layer.update is None
            assert torch.allclose(layer.unsaved_bias.double(), shift, atol=1e-5)
        else:
            old = context.feedforwards[place].output_bias().double()
            assert torch.allclose(layer.update.bias.double(), old + shift, atol=1e-5)
            assert torch.equal(layer.update.weight, columns[layer.kept].float())


def test_flap_ranks_standardised_scores_together_under_one_budget():
    context = open_on("bert", "flap", allocation="global")
    scores = []
    for place in range(2):
        values = rows_of(context, place).var(dim=0, correction=0) * context.down_columns(place).double().square().sum(1)
        scores.append(((values - values.mean()) / values.std(correction=0)).numpy())
    assert kept_of(context, "flap") == [kept.tolist() for kept in select_overall(scores, 2 * WIDTH)]


def test_one_ranking_keeps_the_best_of_all_and_leaves_no_network_empty():
    kept = select_overall([np.array([1.0, 2.0, 0.5]), np.array([9.0, 8.0, 7.0])], 3)
    assert [k.tolist() for k in kept] == [[1], [0, 1]]
    assert [k.tolist() for k in select_overall([np.array([1.0, 1.0]), np.array([1.0, 1.0])], 3)] == [[0, 1], [0]]


@pytest.mark.parametrize("case", ["bert", "llama", "gpt2", "opt", "modernbert", "distilbert"])
def test_wanda_measures_where_earlier_networks_are_cut(case):
    context = open_on(case, "wanda-sp")
    found = kept_of(context, "wanda-sp")
    masks = [torch.ones(ffn.width) for ffn in context.feedforwards]
    for place in range(2):
        rms = rows_of(context, place, masks).square().mean(dim=0).sqrt()
        scores = context.down_columns(place).double().abs().mean(dim=1) * rms
        expected = top(scores, context.width)
        assert found[place] == expected
        masks[place] = torch.zeros(len(masks[place])).index_fill_(0, torch.tensor(expected), 1.0)


def test_wanda_measures_a_shared_network_over_all_its_passes():
    context = open_on("albert", "wanda-sp")
    assert not can_walk(context.loaded)
    rms = context.statistics[0].rms
    assert kept_of(context, "wanda-sp") == [top(context.down_columns(0).double().abs().mean(dim=1) * rms)]


@pytest.mark.parametrize("case", ["bert", "roberta", "llama", "mistral", "qwen3", "gemma2", "gemma3_text", "phi3"])
def test_walking_through_an_uncut_model_gives_its_own_activations(case):
    context = open_on(case, "random")
    stream = Stream(context.loaded, context.calibration.batches, reads_all=True)
    for ffn, whole in zip(context.feedforwards, context.statistics, strict=True):
        stream.go_to(ffn)
        rows = torch.cat([stream.read(number).activations for number in range(len(stream))])
        assert len(rows) == whole.tokens
        assert torch.allclose(rows.double().square().sum(dim=0), whole.squared_norm, rtol=1e-4)
    assert all(not m._forward_pre_hooks for m in context.loaded.model.modules())


def test_a_walk_over_some_layers_only_still_passes_through_the_others():
    context = open_on("llama", "wanda-sp", layers="1")
    rms = rows_of(context, 1).square().mean(dim=0).sqrt()
    columns = context.feedforwards[0].down_columns().double()
    assert kept_of(context, "wanda-sp") == [top(columns.abs().mean(dim=1) * rms)]


def test_minitron_takes_the_mean_over_a_row_and_the_norm_over_rows():
    context = open_on("bert", "minitron")
    for place, kept in enumerate(kept_of(context, "minitron")):
        total = torch.zeros(24, dtype=torch.float64)
        for batch in context.calibration.batches:
            z, texts = activations(context.loaded.model, batch, place)
            for row in range(3):
                total += z[texts == row].abs().mean(dim=0).square()
        assert torch.allclose(context.statistics[place].row_strength, total.sqrt(), rtol=1e-5)
        assert kept == top(total)


def test_the_representative_rank_is_that_of_a_plain_loop():
    columns = np.random.default_rng(0).normal(size=(9, 4)) * 0.4
    kernel = np.exp(-((columns[:, None] - columns[None]) ** 2).sum(axis=2))
    c = np.full((9, 9), 1 / 9)
    while True:
        after = c * np.sqrt(kernel / (kernel @ c))
        change = abs((after - c).sum()) / c.sum()
        c = after
        if change < 0.01:
            break
    assert rank_representatives(columns) == pytest.approx(c.diagonal())


def test_kcm_multiplies_both_ranks_stretched_to_one():
    context = open_on("bert", "kcm")
    for place, layer in enumerate(METHODS["kcm"].plan(context)):
        ranks = rank_representatives(context.down_columns(place).double().numpy())
        norms = rows_of(context, place).square().sum(dim=0).sqrt().numpy()
        both = [(values - values.min()) / np.ptp(values) for values in (ranks, norms)]
        assert layer.kept.tolist() == top(both[0] * both[1])


def plain_removals(moments, weight, count):
    """One removal at a time, both matrices rewritten each time."""
    inverse, weight, order = torch.linalg.inv(moments), weight.clone(), []
    for _ in range(count):
        cost = weight.square().sum(dim=1) / inverse.diagonal()
        cost[order] = torch.inf
        j = int(cost.argmin())
        order.append(j)
        weight -= torch.outer(inverse[:, j], weight[j]) / inverse[j, j]
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return order


@pytest.mark.parametrize("neurons", [7, 40, 100])
def test_gathered_removals_are_those_of_one_at_a_time(neurons):
    generator = torch.Generator().manual_seed(neurons)
    x = torch.randn(300, neurons, generator=generator, dtype=torch.float64)
    moments = x.T @ x / 300 + 0.01 * torch.eye(neurons, dtype=torch.float64)
    weight = torch.randn(neurons, 5, generator=generator, dtype=torch.float64)
    expected = plain_removals(moments, weight, neurons)
    assert order_removals(moments, weight, neurons).order.tolist() == expected
    assert order_removals(moments, weight, neurons // 2).order.tolist() == expected[: neurons // 2]


@pytest.mark.parametrize("neurons", [7, 40, 100])
def test_costs_of_removals_add_up_to_what_the_best_refit_without_them_leaves(neurons):
    generator = torch.Generator().manual_seed(neurons)
    x = torch.randn(300, neurons, generator=generator, dtype=torch.float64)
    moments = x.T @ x / 300
    weight = torch.randn(neurons, 5, generator=generator, dtype=torch.float64)
    removals = order_removals(moments, weight, neurons - 1)
    for count in range(1, neurons):
        kept = np.setdiff1d(np.arange(neurons), removals.order[:count].numpy())
        best = torch.linalg.lstsq(x[:, kept], x @ weight).solution
        left = (x @ weight - x[:, kept] @ best).square().sum() / 300
        assert float(removals.costs[:count].sum()) == pytest.approx(float(left), rel=1e-6)


@pytest.mark.parametrize("case", ["llama", "bert", "opt", "modernbert"])
def test_osscar_removes_by_cost_and_solves_for_what_is_left_where_earlier_networks_are_pruned(case):
    context = open_on(case, "osscar", refit=False)
    layers = METHODS["osscar"].plan(context)
    for place, layer in enumerate(layers):
        with replaced(context.feedforwards[:place], layers[:place]):
            z = rows_of(context, place)
        columns = context.down_columns(place).double()
        moments = z.T @ z / len(z)
        moments += 0.01 * moments.diagonal().mean() * torch.eye(24, dtype=torch.float64)
        assert layer.kept.tolist() == sorted(set(range(24)) - set(plain_removals(moments, columns, 12)))
        solved = torch.linalg.solve(moments[layer.kept][:, layer.kept], (moments @ columns)[layer.kept])
        assert torch.allclose(layer.update.weight.double(), solved, atol=1e-3)


@pytest.mark.parametrize("case", ["llama", "phi3", "gpt2"])
def test_llm_pruner_sums_weight_times_gradient_over_a_neuron(case):
    context = open_on(case, "llm-pruner", batches=2, rows=2)  # 4 rows: fewer than are drawn
    found, model = kept_of(context, "llm-pruner"), context.loaded.model
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    loss = torch.zeros(())
    for batch in context.calibration.batches:
        for row in range(2):
            length = int(batch["attention_mask"][row].sum())
            ids = batch["input_ids"][row : row + 1, :length]
            logits = model(input_ids=ids).logits[0, :-1]
            loss = loss + torch.nn.functional.cross_entropy(logits, ids[0, 1:]) / 4
    loss.backward()
    for ffn, kept in zip(context.feedforwards, found, strict=True):
        products = [(weight * weight.grad).detach().double().abs() for weight in ffn.weights()]
        if case == "gpt2":
            scores = products[0].sum(dim=0) + products[1].sum(dim=1)
        elif case == "phi3":
            scores = products[0].sum(dim=1).view(2, -1).sum(dim=0) + products[1].sum(dim=0)
        else:
            scores = products[0].sum(dim=1) + products[1].sum(dim=1) + products[2].sum(dim=0)
        assert kept == top(scores, context.width)


def test_rows_are_drawn_alike_however_they_were_batched():
    ids = torch.arange(20)[:, None].expand(20, 3)
    labels = torch.arange(20)
    whole = Calibration(({"input_ids": ids},), None, (labels,))
    parts = Calibration(tuple({"input_ids": p} for p in ids.split(3)), None, tuple(labels.split(3)))
    drawn = [c.sample_rows(7, 1) for c in (whole, parts)]
    rows = [torch.cat([batch["input_ids"][:, 0] for batch in c.batches]).tolist() for c in drawn]
    assert rows[0] == rows[1] == torch.cat(drawn[1].labels).tolist()
    assert len(rows[0]) == len(set(rows[0])) == 7


@pytest.mark.parametrize("name", sorted(SCORES))
def test_magnitude_counts_the_weights_that_it_says(name):
    context = open_on("llama", "magnitude", magnitude=name)
    mlp = context.loaded.model.model.layers[0].mlp
    gate, up, down = (m.weight.detach().double() for m in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
    incoming = (gate.abs() + up.abs()).sum(dim=1)
    expected = {
        "incoming-l1": incoming,
        "group-l1": incoming + down.abs().sum(dim=0),
        "down-l2": down.norm(dim=0),
        "group-l2": gate.square().sum(1) + up.square().sum(1) + down.square().sum(0),
        "peak-to-peak": gate.amax(1) + gate.amin(1).abs() + up.amax(1) + up.amin(1).abs(),
    }[name]
    assert torch.allclose(SCORES[name](context.feedforwards[0]), expected, rtol=1e-6)
    assert kept_of(context, "magnitude")[0] == top(expected)


@pytest.mark.parametrize("name", ["flap", "llm-pruner"])
def test_one_budget_is_met_exactly_and_the_cut_model_is_the_masked_one(name):
    context = open_on("llama", name, allocation="global")
    layers = METHODS[name].plan(context)
    assert sum(layer.width for layer in layers) == context.budget == 24
    plan, model = as_plan(context, layers), context.loaded.model
    batch = tiny.make_inputs(model, seed=9)
    expected = tiny.masked_outputs(model, plan, batch)
    cut_(model, context.loaded.family, plan)
    assert torch.allclose(tiny.outputs(model, batch), expected, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_activations_are_measured_for_a_method_if_and_only_if_it_looks_at_them(name, monkeypatch):
    model, looked, real = tiny.make_model("bert"), [], contract.capture
    monkeypatch.setattr(contract, "capture", lambda *a, **k: looked.append(1) or real(*a, **k))
    labels = torch.tensor([0, 1, 1])
    given = [{**tiny.make_inputs(model, rows=3, tokens=12, seed=seed), "labels": labels} for seed in range(6)]
    recipe = make_recipe({"method": name, "keep": 0.5, "round_to": 1, "refit": False, "seeds": 1})
    METHODS[name].plan(open_context(wrap_model(model, tiny.make_tokenizer()), given, recipe))
    assert bool(looked) is needs_statistics(recipe)


def test_a_method_without_global_allocation_says_which_have_one():
    with pytest.raises(InputError, match=r"'minitron' has no global allocation; these do: flap"):
        check_recipe(make_recipe({"method": "minitron", "allocation": "global"}))
