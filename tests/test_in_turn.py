"""Networks pruned one after another, and Secateurs' own choice, each against a few lines of float64."""

import copy
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

import secateurs
import tiny
from secateurs import probing
from secateurs.errors import InputError, SecateursError
from secateurs.methods import METHODS
from secateurs.methods.secateurs import FLOOR, MOST_NOISE, allocate, find_removals, leave_out, measure_profiles
from secateurs.models.cutting import cut_
from secateurs.models.families import find_feedforwards
from secateurs.models.feedforward import replaced
from secateurs.models.loading import hash_weights, load_model, wrap_model
from secateurs.models.sublayers import read_sublayer
from secateurs.pipeline import as_plan, make_plan, open_context, refit_layers
from secateurs.probing import Probe, hold_out
from secateurs.recipe import make_recipe
from secateurs.refit import LEAST_HOLD, Drift
from secateurs.refitting import Measured, refit_network
from secateurs.results import LayerPlan, Update
from secateurs.selection.allocation import Profile, allocate_widths
from secateurs.walking import PrunedStream, Recording, Stream, Walk

WIDTH = 12


def open_on(case, *, model=None, method="secateurs", **settings):
    """A context on random batches, half of the neurons to stay."""
    model = model or tiny.make_model(case)
    given = [tiny.make_inputs(model, rows=3, tokens=12, seed=seed) for seed in range(6)]
    recipe = make_recipe({"method": method, "keep": 0.5, "round_to": 1, **settings})
    return open_context(wrap_model(model, tiny.make_tokenizer()), given, recipe)


def cut_copy(context, layers):
    """The model with some networks cut, the others padded to whole width by the rest of the plan."""
    model = copy.deepcopy(context.loaded.model)
    cut_(model, context.loaded.family, as_plan(context, tuple(layers)))
    return wrap_model(model)


def read_all(loaded, place, batches):
    ffn = find_feedforwards(loaded.model, loaded.family)[place]
    first_only = loaded.reads_first_token and place == tiny.LAYERS - 1
    return [read_sublayer(loaded, ffn, batch, first_only=first_only) for batch in batches]


@pytest.mark.parametrize("case", ["bert", "llama", "gpt2", "phi3"])
def test_a_replaced_network_computes_what_the_cut_one_does_and_comes_back(case):
    context = open_on(case)
    model, batch = context.loaded.model, context.calibration.batches[0]
    before, original = hash_weights(model), tiny.outputs(model, batch)
    plan = make_plan(context)
    with replaced(context.feedforwards, plan.layers):
        inside = tiny.outputs(model, batch)
    assert torch.allclose(inside, tiny.outputs(cut_copy(context, plan.layers).model, batch), atol=1e-5)
    assert not torch.allclose(inside, original, atol=1e-5)
    assert hash_weights(model) == before


def test_weights_come_back_even_after_an_error():
    context = open_on("bert")
    before = hash_weights(context.loaded.model)
    wrong = LayerPlan(context.feedforwards[0].path, 24, np.arange(3), Update(torch.zeros(4, 5)))
    with pytest.raises(RuntimeError), replaced(context.feedforwards[:1], [wrong]):
        pass
    assert hash_weights(context.loaded.model) == before


@pytest.mark.parametrize("case", ["bert", "llama", "opt", "modernbert"])
@pytest.mark.parametrize("drift", [0.25, 1.0])
def test_the_second_network_is_fitted_to_the_whole_models_stream_in_the_model_pruned_so_far(case, drift):
    context = open_on(case, method="magnitude", ridge=0.2, drift=drift, sampling="tokens")
    check_second_refit(context)


@pytest.mark.parametrize(
    ("case", "weighs"),
    [("bert", True), ("albert", True), ("bert-model", False), ("llama", False), ("modernbert", False)],
)
def test_tokens_are_weighed_where_the_norm_comes_after_the_sum_and_the_output_is_no_mean(case, weighs):
    assert open_on(case).weighs_tokens == weighs
    assert not open_on(case, token_weights=False).weighs_tokens
    assert open_on(case, token_weights=True).weighs_tokens


def test_tokens_are_not_weighed_where_the_residual_stream_is_not_known():
    assert not open_on("gemma2", token_weights=True).weighs_tokens


def test_tokens_are_weighed_or_count_alike_as_asked():
    found = []
    for weighs in (True, False):
        context = open_on("bert-model", method="magnitude", ridge=0.2, token_weights=weighs)
        found.append(check_second_refit(context))
    assert not torch.allclose(*found, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"in_turn": False}, {"method": "magnitude"}])
def test_by_default_the_ridge_grows_where_tokens_are_few(settings):
    context, neurons = open_on("bert-model", **settings), 2 * WIDTH
    assert (context.ridge_on(15 * neurons, neurons), context.noise_on(10**6, neurons)) == (0.01, 0.01)
    assert context.noise_on(neurons, neurons) == context.ridge_on(neurons, neurons) == pytest.approx(0.14)
    assert open_on("llama").ridge_on(neurons, neurons) == 0.3
    same = open_on("bert-model", ridge=0.14 * neurons / context.calibration.summary.tokens, **settings)
    assert same.recipe.ridge > 0.015
    for one, other in zip(make_plan(context).layers, make_plan(same).layers, strict=True):
        assert np.array_equal(one.kept, other.kept)
        assert torch.allclose(one.update.weight, other.update.weight, atol=1e-6)
    given = open_on("bert", ridge=0.2, noise=0.1)
    assert (given.ridge_on(1, neurons), given.noise_on(1, neurons)) == (0.2, 0.1)


def test_so_it_does_in_a_classifiers_last_network_that_counts_one_token_a_row():
    context = open_on("bert", method="magnitude")
    assert context.ridge_on(18, 2 * WIDTH) > 0.18
    check_second_refit(context)


@pytest.mark.parametrize("case", ["bert-model", "modernbert"])  # with output biases, and without
@pytest.mark.parametrize("weight", [0.0, 0.7, 4.0])
def test_where_the_output_is_a_mean_of_tokens_the_error_of_that_counts_besides(case, weight):
    model = tiny.make_model(case).base_model
    check_second_refit(open_on(case, model=model, method="magnitude", ridge=0.2, drift=0.5, mean_weight=weight))


def count_by_hand(context, parts):
    """A function of (n, features) that gives rows whose plain products count as the context has it."""
    rows = torch.cat([part.rows + 3 * number for number, part in enumerate(parts)])
    variance = torch.cat([part.total for part in parts]).double().var(dim=1, correction=0)
    roots = variance.rsqrt() if context.weighs_tokens else torch.ones_like(variance)

    def counted(values):
        values = values.double() * roots[:, None]
        means = torch.stack([values[rows == row].mean(dim=0) for row in rows])
        return torch.cat([values, context.mean_weight**0.5 * means])

    return counted


def check_second_refit(context):
    """Compare the second network's refit with one by hand; gives its weights."""
    first, second = refit_layers(context, METHODS["magnitude"].plan(context))
    whole = read_all(context.loaded, 1, context.noised.batches)
    student = read_all(cut_copy(context, [first]), 1, context.noised.batches)
    counted, pairs = count_by_hand(context, student), list(zip(whole, student, strict=True))
    ones = counted(torch.ones(sum(len(part.rows) for part in student), 1))
    z = counted(torch.cat([part.activations for part in student]))
    aim = counted(torch.cat([b.output + context.recipe.drift * (a.total - b.total) for a, b in pairs]))
    columns, ffn = context.down_columns(1).double()[second.kept], context.feedforwards[1]
    z_mean, aim_mean = (ones.T @ values / ones.square().sum() * ffn.has_output_bias for values in (z, aim))
    z, aim = z - ones @ z_mean, aim - ones @ aim_mean
    solved = solve_ridge(z, second.kept, aim, columns, context.ridge_on(len(z) // 2, ffn.width))
    assert torch.allclose(second.update.weight.double(), solved, atol=1e-4)
    left, size = (aim - z[:, second.kept] @ solved).square().sum(), aim.square().sum()
    if ffn.has_output_bias:
        bias = aim_mean[0] - z_mean[0, second.kept] @ solved
        assert torch.allclose(second.update.bias.double(), bias, atol=1e-4)
        size += ones.square().sum() * (aim_mean[0] - ffn.output_bias()).square().sum()
    assert second.figures["relative_error_refit"] == pytest.approx(float(left / size), rel=1e-3)
    return second.update.weight


def test_a_network_that_runs_twice_has_two_means_of_each_text():
    context = open_on("albert", model=tiny.make_model("albert").base_model, method="magnitude", ridge=0.2)
    assert context.mean_weight == 1
    (layer,) = refit_layers(context, METHODS["magnitude"].plan(context))
    parts, columns = read_all(context.loaded, 0, context.noised.batches), context.down_columns(0).double()
    for part in parts:
        tokens = len(part.rows) // 2
        assert torch.equal(part.rows[:tokens] + 3, part.rows[tokens:])
    counted = count_by_hand(context, [replace(part, rows=part.rows + 3 * n) for n, part in enumerate(parts)])
    z = counted(torch.cat([part.activations for part in parts]))
    ones = counted(torch.ones(len(z) // 2, 1))
    z = z - ones @ (ones.T @ z) / ones.square().sum()
    wanted = solve_ridge(z, layer.kept, z @ columns, columns[layer.kept])
    assert torch.allclose(layer.update.weight.double(), wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("case", "pooling", "weight"),
    [
        ("bert-model", "mean", 1.0),
        ("bert", "first", 0.0),
        ("vit", "first", 0.0),
        ("roberta", None, 0.0),
        ("llama", None, 0.0),
    ],
)
def test_texts_means_count_only_where_the_output_is_one(case, pooling, weight):
    context = open_on(case)
    assert (context.loaded.pooling, context.mean_weight) == (pooling, weight)


def test_a_text_stands_for_itself_by_its_first_token_where_the_checkpoint_says_so(tmp_path):
    folder = tiny.save_checkpoint(tmp_path / "m", "bert-model")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text('{"pooling_mode_cls_token": true}')
    loaded = load_model(str(folder))
    assert loaded.pooling == "first"
    assert not loaded.reads_first_token
    assert [len(part) for part in Probe(loaded, [tiny.make_inputs(loaded.model, rows=3)])._before] == [3]
    (folder / "1_Pooling/config.json").write_text("{")
    with pytest.raises(InputError, match="1_Pooling"):  # before anything is measured
        open_context(load_model(str(folder)), [tiny.make_inputs(loaded.model)], make_recipe({"method": "osscar"}))


@pytest.mark.parametrize(("case", "layers"), [("bert", None), ("llama", None), ("llama", "0,2,3")])
def test_layers_run_one_at_a_time_give_what_whole_passes_give(case, layers, monkeypatch):
    model = tiny.make_model(case)
    if case == "llama":
        config = transformers.LlamaConfig(**{**tiny.DECODER, "num_hidden_layers": 4})
        model = transformers.LlamaForCausalLM(config).eval()
    walked = make_plan(open_on(case, model=model, layers=layers)).layers
    monkeypatch.setattr("secateurs.walking.can_walk", lambda loaded: False)
    for a, b in zip(walked, make_plan(open_on(case, model=model, layers=layers)).layers, strict=True):
        assert a.kept.tolist() == b.kept.tolist()
        assert torch.allclose(a.update.weight, b.update.weight, atol=1e-4)


@pytest.mark.parametrize("case", ["albert", "t5", "gemma2", "vit"])
def test_it_does_without_a_single_stack_and_without_a_residual_that_can_be_told(case):
    context = open_on(case)
    layers = make_plan(context).layers
    assert all(layer.width == WIDTH and bool(torch.isfinite(layer.update.weight).all()) for layer in layers)
    for layer in layers:
        assert layer.figures["relative_error_refit"] < layer.figures["relative_error_cut"]


def solve_ridge(z, places, target, columns, ridge=0.2):
    own = z.square().sum(dim=0)
    kept, hold = z[:, places], ridge * own[places] + LEAST_HOLD * own.mean()
    return torch.linalg.solve(kept.T @ kept + torch.diag(hold), kept.T @ target + hold[:, None] * columns)


def test_where_the_residual_is_unknown_each_network_is_fitted_to_its_own_output():
    context = open_on("gemma2", method="magnitude", ridge=0.2)
    first, second = refit_layers(context, METHODS["magnitude"].plan(context))
    z = torch.cat([part.activations for part in read_all(cut_copy(context, [first]), 1, context.noised.batches)])
    z, columns = z.double(), context.down_columns(1).double()
    wanted = solve_ridge(z, second.kept, z @ columns, columns[second.kept])
    assert torch.allclose(second.update.weight.double(), wanted, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"in_turn": False}, {"method": "random"}, {"information": False}])
def test_constant_neurons_of_any_size_upset_nothing(settings):
    model = tiny.make_model("bert")
    with torch.no_grad():
        for ffn in find_feedforwards(model, tiny.family_of(model)):
            ffn.up.weight[3:6] = 0
            ffn.up.bias[3:6] = torch.tensor([5.0, 20.0, 100.0])
    layers = make_plan(open_on("bert", model=model, **settings)).layers
    assert all(bool(torch.isfinite(layer.update.weight).all()) for layer in layers)
    for ffn, layer in zip(find_feedforwards(model, tiny.family_of(model)), layers, strict=True):
        constant = np.isin(layer.kept, [3, 4, 5])
        assert constant.any() == (settings.get("method") == "random")  # the bias makes up for them whole
        columns = ffn.down_columns()[layer.kept]
        assert torch.allclose(layer.update.weight[constant], columns[constant], atol=1e-2)


@pytest.mark.parametrize("information", [True, False])
def test_where_nothing_is_refitted_a_large_constant_neuron_stays(information):
    model = tiny.make_model("bert-model")
    with torch.no_grad():
        for ffn in find_feedforwards(model, tiny.family_of(model)):
            ffn.up.weight[3], ffn.up.bias[3] = 0, 20.0
    layers = make_plan(open_on("bert-model", model=model, refit=False, information=information)).layers
    assert all(3 in layer.kept for layer in layers)  # the bias stays as it is


def draw_activations(neurons, seed=0):
    x = torch.randn(200, neurons, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.3
    x[:, 3] = x[:, 0] + 0.05 * x[:, 3]
    return x


def summarise(x, lacking=None):
    """What is measured of (n, K) activations and what (n, H) the output lacks."""
    drift = None
    if lacking is not None:
        drift = Drift(x.T @ lacking / len(x), lacking.mean(dim=0), float(lacking.square().sum() / len(x)))
    return Measured(x.T @ x / len(x), x.mean(dim=0), len(x), drift)


class TestChoice:
    """Importance, less what the others carry."""

    @pytest.mark.parametrize(("case", "noise"), [("llama", 0.1), ("llama", None), ("bert", 0.1)])
    @pytest.mark.parametrize("drifts", [False, True])
    @pytest.mark.parametrize("information", [True, False])
    def test_a_removal_costs_importance_less_the_information_with_those_left(self, case, noise, drifts, information):
        context = open_on(case, noise=noise, ridge=0.2, information=information)
        ffn = context.feedforwards[0]
        x, noise = draw_activations(ffn.width), noise or 0.2
        generator = torch.Generator().manual_seed(1)
        lacking = torch.randn(len(x), tiny.HIDDEN, generator=generator, dtype=torch.float64) if drifts else None
        found = find_removals(context, ffn, summarise(x, lacking), 1)
        columns = ffn.down_columns().double()
        if case == "bert":  # about the means
            x, lacking = x - x.mean(dim=0), lacking - lacking.mean(dim=0) if drifts else None
        if drifts:  # the columns as a refit of all neurons would have them
            everything = np.arange(ffn.width)
            columns = solve_ridge(x, everything, x @ columns + lacking, columns)
        moments = x.T @ x / len(x)
        own = moments.diagonal()
        floor = FLOOR * own + LEAST_HOLD * own.mean()
        most = MOST_NOISE / torch.linalg.inv(moments + torch.diag(floor)).diagonal()
        assert (most < noise * own).nonzero().flatten().tolist() == [0, 3]  # nearly copies
        noisy = moments + torch.diag((noise * own).minimum(most) + floor)
        costs = [own[j] * columns[j].square().sum() for j in range(ffn.width) if not information]
        for j in range(ffn.width if information else 0):
            others = [k for k in range(ffn.width) if k != j]
            of_own, of_others = noisy[j, j].log(), torch.logdet(noisy[others][:, others])
            information = 0.5 * (of_own + of_others - torch.logdet(noisy))  # nats, Gaussian
            costs.append(noisy[j, j] * columns[j].square().sum() * (-2 * information).exp())
        assert int(found.order[0]) == int(torch.stack(costs).argmin())
        assert int(found.order[0]) in (0, 3) or not information
        assert float(found.costs[0]) == pytest.approx(float(min(costs)), rel=1e-4)

    @pytest.mark.parametrize("size", [1.0, 1e-3])
    def test_copies_go_first_however_weak_they_are(self, size):
        context = open_on("llama", noise=0.3)
        ffn = context.feedforwards[0]
        with torch.no_grad():
            ffn.down.weight.div_(ffn.down.weight.norm(dim=0))
        x = draw_activations(ffn.width)
        x[:, 4:12] *= size
        x[:, 8:12] = x[:, 4:8]
        gone = set(find_removals(context, ffn, summarise(x), 4).order.tolist())
        assert all(len({j, j + 4} & gone) == 1 for j in range(4, 8))

    def test_without_information_plain_importance_decides(self):
        context = open_on("llama", information=False, in_turn=False, token_noise=0)
        for place, layer in enumerate(METHODS["secateurs"].plan(context)):
            importance = context.importance(place)
            assert set(layer.kept.tolist()) == set(np.argsort(-importance)[:WIDTH].tolist())

    @pytest.mark.parametrize("information", [True, False])
    @pytest.mark.parametrize("case", ["llama", "bert-model"])
    def test_all_at_once_it_chooses_and_refits_by_the_same_measurements(self, case, information):
        weighs = case == "bert-model"
        context = open_on(case, in_turn=False, ridge=0.2, information=information, token_weights=weighs)
        batches = context.noised.batches
        assert not torch.equal(batches[0]["input_ids"], context.calibration.batches[0]["input_ids"])
        for place, layer in enumerate(make_plan(context).layers):
            read = read_all(context.loaded, place, batches)
            measured = measure_by_hand(context, place, read)
            centred = measured.second_moments.clone()
            if case == "bert-model":
                centred -= torch.outer(measured.mean, measured.mean)
            columns = context.down_columns(place).double()
            hold = 0.2 * centred.diagonal() + LEAST_HOLD * centred.diagonal().mean()
            system = centred[layer.kept][:, layer.kept] + torch.diag(hold[layer.kept])
            wanted = (centred @ columns + hold[:, None] * columns)[layer.kept]
            assert torch.allclose(layer.update.weight.double(), torch.linalg.solve(system, wanted), atol=1e-4)
            assert set(layer.kept.tolist()) == chosen_by_hand(context, place, measured)

    @pytest.mark.parametrize("information", [True, False])
    @pytest.mark.parametrize("case", ["llama", "bert-model"])
    def test_in_turn_it_chooses_by_what_is_read_behind_the_pruned_networks_and_by_what_lacks(self, case, information):
        context = open_on(case, information=information, drift=0.5, token_weights=case == "bert-model")
        first, second = make_plan(context).layers
        whole = read_all(context.loaded, 1, context.noised.batches)
        student = read_all(cut_copy(context, [first]), 1, context.noised.batches)
        behind = measure_by_hand(context, 1, student, whole)
        assert set(second.kept.tolist()) == chosen_by_hand(context, 1, behind)
        others = [measure_by_hand(context, 1, student), measure_by_hand(context, 1, whole)]
        differ = [set(second.kept.tolist()) != chosen_by_hand(context, 1, other) for other in others]
        assert all(differ) or not information  # the most important are the same


def measure_by_hand(context, place, student, whole=None):
    """What a network is chosen by, from what was read of it, and of it in the unpruned model."""
    counted, drift = count_by_hand(context, student), None
    z = counted(torch.cat([part.activations for part in student]))
    ones = counted(torch.ones(len(z) // 2, 1))
    weight = ones.square().sum()
    if whole is not None:
        pairs = zip(whole, student, strict=True)
        lacking = counted(torch.cat([context.recipe.drift * (a.total - b.total) for a, b in pairs]))
        drift = Drift(z.T @ lacking / weight, (ones.T @ lacking)[0] / weight, 0.0)
    return Measured(z.T @ z / weight, (ones.T @ z)[0] / weight, len(z) // 2, drift)


def chosen_by_hand(context, place, measured):
    removals = find_removals(context, context.feedforwards[place], measured, WIDTH)
    return set(range(2 * WIDTH)) - set(removals.order.tolist())


class TestGuards:
    """Input that nothing can be measured on, at default settings."""

    @pytest.mark.parametrize("case", ["llama", "t5"])
    def test_a_batch_that_the_model_cant_run_is_named(self, case):
        model = tiny.make_model(case)
        good, bad = tiny.make_inputs(model), tiny.make_inputs(model)
        bad["input_ids"] = bad["input_ids"] + 10**6
        with pytest.raises(InputError, match="the model can't run calibration batch 1: index out of range"):
            secateurs.prune(model, calibration=[good, bad], keep=0.5, token_noise=0)

    @pytest.mark.parametrize("case", ["llama", "bert-model"])
    def test_so_is_one_that_a_budget_for_all_layers_is_tried_on(self, case):
        model = tiny.make_model(case)
        given = [tiny.make_inputs(model, rows=1, seed=seed) for seed in range(10)]
        given[-1]["input_ids"] = given[-1]["input_ids"] + 10**6
        seed = next(seed for seed in range(99) if random.Random(seed).sample(range(10), 1) == [9])
        with pytest.raises(InputError, match="can't run held-out calibration batch 0: index out of range"):
            secateurs.prune(model, calibration=given, keep=0.5, token_noise=0, allocation="global", seed=seed)

    def test_activations_that_overflow_are_refused(self):
        model = tiny.make_model("llama")
        with torch.no_grad():
            model.model.layers[1].mlp.up_proj.weight.mul_(1e38)
        with pytest.raises(InputError, match=r"activations of model.layers.1.mlp are NaN or infinite"):
            secateurs.prune(model, calibration=[tiny.make_inputs(model)], keep=0.5)

    @pytest.mark.parametrize(("rows", "allocation"), [(1, "uniform"), (7, "uniform"), (8, "global")])
    def test_too_few_rows_to_refit_a_classifiers_last_network_are_refused(self, rows, allocation):
        model = tiny.make_model("bert")
        given = [tiny.make_inputs(model, rows=1, seed=seed) for seed in range(rows)]
        with pytest.raises(
            InputError, match=r"at least 8 activation rows are needed, got \d; give more calibration text"
        ):
            secateurs.prune(model, calibration=given, keep=0.5, allocation=allocation)


@pytest.mark.parametrize(("pooling", "rows"), [("cls", 18), ("mean", 180)])
def test_all_tokens_count_in_a_classifiers_last_network_if_its_head_takes_their_mean(pooling, rows):
    config = tiny.make_model("modernbert").config
    config.classifier_pooling = pooling
    model = transformers.ModernBertForSequenceClassification(config).eval()
    context = open_on("modernbert", model=model)
    stream = Stream(context.loaded, context.calibration.batches)
    for ffn in context.feedforwards:
        stream.go_to(ffn)
        count = sum(len(stream.read(number).activations) for number in range(len(stream)))
        assert count == (rows if ffn is context.feedforwards[-1] else 180)
    assert context.sampling == ("cls" if pooling == "cls" else "tokens")
    assert context.mean_weight == (1.0 if pooling == "mean" else 0.0)


@pytest.mark.parametrize(
    ("case", "changed"),
    [
        ("llama", {"noise": 1.0}),
        ("llama", {"ridge": 1.0}),
        ("llama", {"information": False}),
        ("llama", {"token_noise": 0.5}),
        ("llama", {"keep": 0.03}),
        ("bert-model", {"mean_weight": 30.0}),
        ("bert-model", {"token_weights": True}),
    ],
)
def test_what_was_measured_under_one_recipe_is_not_taken_for_what_another_asks(case, changed):
    used = open_on(case, allocation="global")
    make_plan(used)
    fresh = open_on(case, allocation="global", **changed)
    found = make_plan(used.under(fresh.recipe, fresh.width)).layers
    for one, other in zip(found, make_plan(fresh).layers, strict=True):
        assert one.kept.tolist() == other.kept.tolist()
        assert torch.equal(one.update.weight, other.update.weight)


class TestAllocation:
    """One budget for all networks."""

    @pytest.mark.parametrize("case", ["llama", "llama-biased"])
    def test_a_network_alone_is_cut_and_refitted_on_some_rows_and_the_model_tried_on_the_others(self, case):
        context = open_on(case, ridge=0.2)
        held, rest = hold_out(context.noised, context.recipe.seed)
        assert held.rows + rest.rows == context.noised.rows
        for place, profile in enumerate(measure_profiles(context)):
            ffn = context.feedforwards[place]
            measured = measure_by_hand(context, place, read_all(context.loaded, place, rest.batches))
            removals = find_removals(context, ffn, measured, max(profile.tried))
            assert profile.errors[: len(removals.costs)] == pytest.approx(removals.costs.numpy(), rel=1e-3)
            assert profile.tried == (24 - 16, 24 - 7)  # 0.65 and 0.3 of 24 stay
            for count, distance in zip(profile.tried, profile.distances, strict=True):
                cut = refit_network(ffn, leave_out(ffn, removals.order[:count]), measured, ridge=0.2)
                told = [log_probabilities(context.loaded.model, held.batches)]
                with replaced([ffn], [cut]):
                    told.append(log_probabilities(context.loaded.model, held.batches))
                before, after = told
                assert distance == pytest.approx(float((before.exp() * (before - after)).sum(-1).mean()), rel=1e-3)

    def test_the_cheapest_next_neuron_of_all_layers_goes(self):
        costs = [np.array([1.0, 5.0, 2.0, 9.0]), np.array([3.0, 4.0, 6.0])]
        assert [allocate_widths(costs, [5, 4], total) for total in (9, 7, 6, 4, 3)] == [
            [5, 4],
            [4, 3],
            [4, 2],
            [2, 2],  # the third costs 2, but only after one that costs 5
            [2, 1],
        ]

    @pytest.mark.parametrize("case", ["bert", "llama"])
    def test_a_network_that_the_outputs_do_not_depend_on_loses_most(self, case):
        model = tiny.make_model(case)
        with torch.no_grad():
            find_feedforwards(model, tiny.family_of(model))[1].down.weight.mul_(1e-2)
        context = open_on(case, model=model, allocation="global")
        before = hash_weights(model)
        widths = allocate(context)
        assert sum(widths) == context.budget
        assert widths[1] < widths[0]
        assert hash_weights(model) == before
        assert [layer.width for layer in make_plan(context).layers] == widths

    @pytest.mark.parametrize("keep", [0.05, 0.1, 1.0])
    def test_the_budget_is_met_however_small(self, keep):
        context = open_on("llama", keep=keep, allocation="global")
        widths = allocate(context)
        assert sum(widths) == context.budget
        assert min(widths) >= 1

    def test_a_small_budget_may_leave_less_than_a_large_one_would(self):
        config = transformers.LlamaConfig(**{**tiny.DECODER, "intermediate_size": 200})
        context = open_on("llama", model=transformers.LlamaForCausalLM(config).eval(), allocation="global")
        assert min(allocate(context)) >= 4  # 0.02 of 200
        small = context.under(context.recipe.model_copy(update={"keep": 0.015}), 3)
        assert sum(allocate(small)) == 6
        assert min(allocate(small)) >= 1


def log_probabilities(model, batches):
    """(outputs, classes), of each real token or row."""
    parts = []
    for batch in batches:
        found = tiny.outputs(model, batch)
        parts.append(found if found.ndim == 2 else found[batch["attention_mask"].bool()])
    return torch.cat(parts).double().log_softmax(dim=-1)


def test_what_neurons_cost_adds_up_to_what_was_measured_wherever_it_was():
    profile = Profile(np.array([1.0, 3.0, 4.0, 4.0, 8.0]), tried=(2, 4), distances=(0.1, 0.5))
    assert profile.costs == pytest.approx([0.025, 0.075, 0.2, 0.2, 0.4])
    falling = Profile(np.array([1.0, 1.0, 1.0]), tried=(1, 2), distances=(0.1, 0.05))
    assert falling.costs == pytest.approx([0.05, 0.05, 0.05])
    without_error = Profile(np.zeros(3), tried=(1, 2), distances=(0.0, 0.0))
    assert without_error.costs.tolist() == [0.0, 0.0, 0.0]


class TestProbe:
    """How far outputs move."""

    def test_the_distance_of_a_head_is_the_divergence_of_what_it_says(self):
        context = open_on("llama")
        probe = Probe(context.loaded, context.calibration.batches)
        assert probe.distance() == 0
        plan = make_plan(context)
        model, batches = context.loaded.model, context.calibration.batches
        before = log_probabilities(model, batches)
        with replaced(context.feedforwards, plan.layers):
            after, found = log_probabilities(model, batches), probe.distance()
        assert found == pytest.approx(float((before.exp() * (before - after)).sum(dim=-1).mean()), rel=1e-4)

    @pytest.mark.parametrize(("case", "rows"), [("llama", 5), ("bert", 5)])
    def test_rows_to_try_a_model_on_are_not_those_that_it_is_fitted_to(self, case, rows):
        model = tiny.make_model(case)
        given = [tiny.make_inputs(model, rows=4, tokens=16, seed=seed) for seed in range(10)]
        if case == "llama":
            given = [{"input_ids": batch["input_ids"]} for batch in given]  # padded rows are no running text
        context = open_context(wrap_model(model), given, make_recipe({}))
        held, fitted = hold_out(context.calibration, 3)
        assert (held.rows, fitted.rows) == (rows, 40 - rows)
        found = {tuple(row.tolist()) for part in (held, fitted) for b in part.batches for row in b["input_ids"]}
        assert found == {tuple(row.tolist()) for b in given for row in b["input_ids"]}
        if case == "llama":
            assert torch.equal(torch.cat([batch["input_ids"] for batch in held.batches])[1:], given[-1]["input_ids"])

    def test_a_short_last_window_is_not_all_that_a_model_is_tried_on(self):
        given = [torch.arange(3, 51).view(3, 16), torch.tensor([[3, 4]])]
        loaded = wrap_model(tiny.make_model("llama"))
        calibration = open_context(loaded, [{"input_ids": ids} for ids in given], make_recipe({})).calibration
        held, fitted = hold_out(calibration, 0)
        assert [batch["input_ids"].shape for batch in held.batches] == [(1, 16), (1, 2)]
        assert fitted.rows == 2

    def test_a_single_row_is_all_there_is(self):
        context = open_on("llama")
        one = context.calibration.sample_rows(1, 0)
        assert hold_out(one, 0) == (one, one)

    @pytest.mark.parametrize(("class_name", "are"), [("ForQuestionAnswering", False), ("ForMaskedLM", True)])
    def test_only_logits_are_distributions(self, class_name, are):
        made = tiny.make_model("bert")
        model = getattr(transformers, f"Bert{class_name}")(made.config).eval()
        context = open_on("bert", model=model)
        probe = Probe(context.loaded, context.calibration.batches)
        assert probe.are_distributions is are

    def test_a_model_with_two_stacks_is_judged_by_what_it_says(self):
        context = open_on("t5")
        assert Probe(context.loaded, context.calibration.batches).are_distributions

    @pytest.mark.parametrize("case", ["llama", "gpt2", "bert", "distilbert"])
    def test_layers_before_the_network_that_changes_do_not_run_again(self, case):
        context = open_on(case)
        whole, probe = (Probe(context.loaded, context.calibration.batches) for _ in range(2))
        (first, last), (_, cut), ran = context.feedforwards, make_plan(context).layers, []
        probe.go_to(last)
        first.down.register_forward_hook(lambda *_: ran.append(1))
        with replaced([last], [cut]):
            found = probe.distance()
            assert not ran
            assert found == pytest.approx(whole.distance(), rel=1e-5)
        assert found > 0
        assert ran

    def test_padded_rows_of_a_language_model_are_tried_like_separate_ones_on_their_real_tokens(self, monkeypatch):
        monkeypatch.setattr(probing, "WINDOW", 4)
        model, mask = tiny.make_model("llama"), torch.zeros(4, 12, dtype=torch.int64)
        for row, length in enumerate((2, 3, 7, 12)):
            mask[row, 12 - length :] = 1  # padded on the left
        ids = tiny.make_inputs(model, rows=4, tokens=12)["input_ids"]
        context = open_context(wrap_model(model), [{"input_ids": ids, "attention_mask": mask}], make_recipe({}))
        assert not context.calibration.is_running
        probe = Probe(context.loaded, context.calibration.batches)
        assert [len(part) for part in self.outputs_of(probe)] == [2, 3, 4, 4]

    def test_of_a_long_text_a_few_windows_are_looked_at_and_of_many_outputs_a_few(self, monkeypatch):
        for name, value in (("WINDOWS", 2), ("ROWS", 3), ("WINDOW", 7), ("TOKENS", 3)):
            monkeypatch.setattr(probing, name, value)
        for case, rows, read in (("llama", 2, [3, 3]), ("roberta", 3, [3])):
            model = tiny.make_model(case)
            ids = torch.randint(3, tiny.VOCABULARY, (64, 12), generator=torch.Generator().manual_seed(0))
            context = open_context(wrap_model(model), [{"input_ids": ids}], make_recipe({}))
            held, _ = hold_out(context.calibration, 0)
            assert held.rows == rows
            probe = Probe(context.loaded, held.batches)
            assert [len(part) for part in self.outputs_of(probe)] == read
            if case == "llama":  # every third of seven
                wanted = tiny.outputs(model, {"input_ids": ids[-2:]})[0, :7:3].log_softmax(dim=-1)
                assert torch.allclose(self.outputs_of(probe)[0], wanted, atol=1e-4)

    def outputs_of(self, probe):
        return probe._before

    def test_of_hidden_states_it_is_the_share_of_their_variance(self):
        model = tiny.make_model("bert").bert
        context = open_on("bert", model=model)
        probe = Probe(context.loaded, context.calibration.batches)
        assert probe.distance() == 0
        with torch.no_grad():  # the last norm moves all states by 1
            model.encoder.layer[1].output.LayerNorm.bias.add_(1.0)
        states = torch.cat([self.states(model, batch) for batch in context.calibration.batches])
        variance = (states - states.mean(dim=0)).square().mean()
        assert probe.distance() == pytest.approx(float(1 / variance), rel=1e-4)

    def states(self, model, batch):
        with torch.inference_mode():
            return model(**batch).last_hidden_state[batch["attention_mask"].bool()]


def test_entering_a_walk_runs_one_layer_and_leaves_no_trace():
    model = tiny.make_model("llama")
    loaded, batch, ran = wrap_model(model), tiny.make_inputs(model), []
    wrapped = model.model.layers[1].forward = model.model.layers[1].forward  # as accelerate does
    for place, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_hook(lambda *_, place=place: ran.append(place))
    walk = Walk(loaded, [batch])
    assert ran == [0]
    assert "forward" not in vars(model.model.layers[0])
    assert model.model.layers[1].forward is wrapped
    walk.go_to(find_feedforwards(model, loaded.family)[1])
    assert ran == [0, 0]


def test_a_model_that_does_not_change_runs_each_layer_once():
    model, ran = tiny.make_model("llama"), []
    context = open_on("llama", model=model)
    stream = Stream(context.loaded, context.calibration.batches)
    for ffn in context.feedforwards:
        ffn.down.register_forward_hook(lambda *_: ran.append(1))
        stream.go_to(ffn)
        for number in range(len(stream)):
            stream.read(number)
    assert len(ran) == 2 * len(stream)


@pytest.mark.parametrize("case", ["llama", "bert", "albert"])
def test_refits_that_share_a_recording_of_the_unpruned_model_give_the_same_and_leave_no_file(
    case, monkeypatch, tmp_path
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    alone, sharing = open_on(case), open_on(case)
    sharing.has_several_refits = True
    plans = [make_plan(context) for context in (alone, sharing, sharing)]
    assert isinstance(sharing.read_whole(), Recording)
    assert list(tmp_path.glob("secateurs-*"))
    for layers in zip(*(plan.layers for plan in plans), strict=True):
        assert all(torch.equal(layer.update.weight, layers[0].update.weight) for layer in layers)
    monkeypatch.setattr(Stream, "__init__", None)  # nothing is run again
    assert sharing.under(sharing.recipe.model_copy(update={"keep": 0.25}), 6).read_whole() is sharing.read_whole()
    sharing._known.clear()
    assert not list(tmp_path.glob("secateurs-*"))


def test_a_recording_that_finds_no_room_is_an_error_in_a_line(monkeypatch):
    def save(*given):
        raise OSError(28, "No space left on device")

    context = open_on("llama")
    context.has_several_refits = True
    monkeypatch.setattr(np, "save", save)
    with pytest.raises(SecateursError, match="No space left on device; TMPDIR=FOLDER"):
        make_plan(context)


def test_a_recording_without_a_folder_for_temporary_files_is_one_line(monkeypatch):
    def refuse(prefix):
        raise FileNotFoundError(2, "No usable temporary directory found")

    context = open_on("llama")
    context.has_several_refits = True
    monkeypatch.setattr("secateurs.walking.tempfile.TemporaryDirectory", refuse)
    with pytest.raises(SecateursError, match="No usable temporary directory found; TMPDIR=FOLDER"):
        make_plan(context)


@pytest.mark.parametrize("case", ["llama", "albert"])
def test_a_recording_that_would_be_too_large_is_not_made(case, monkeypatch):
    context = open_on(case)
    context.has_several_refits = True
    size = 4 * context.calibration.summary.tokens * 2 * tiny.HIDDEN  # two networks, or one that runs twice
    monkeypatch.setattr("secateurs.methods.contract.MOST_RECORDED", size - 1)
    assert isinstance(context.read_whole(), Stream)
    monkeypatch.setattr("secateurs.methods.contract.MOST_RECORDED", size)
    assert isinstance(context.read_whole(), Recording)


@pytest.mark.parametrize("case", ["llama", "gpt2", "opt", "bert"])
def test_what_is_read_behind_a_pruned_network_is_what_the_cut_model_gives(case):
    model = tiny.make_model(case)
    given = [tiny.make_inputs(model, rows=3, seed=seed) for seed in range(8)]
    context = open_context(wrap_model(model), given, make_recipe({"keep": 0.5, "round_to": 1, "in_turn": False}))
    (first, second), (layer, _) = context.feedforwards, make_plan(context).layers
    stream = PrunedStream(context.loaded, context.feedforwards, given)
    stream.go_to(first)
    for number in range(8):
        stream.read(number)
    stream.prune(layer)
    stream.go_to(second)
    for number, wanted in enumerate(read_all(cut_copy(context, [layer]), 1, given)):
        found = stream.read(number)
        assert torch.allclose(found.activations, wanted.activations, atol=1e-5)
        assert torch.allclose(found.total, wanted.total, atol=1e-5)
