"""Rivals that take gradients, and what they correct by, each against a few lines of float64."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import secateurs
import tiny
from secateurs import rescaling
from secateurs.errors import InputError
from secateurs.methods import METHODS, mask_tuning
from secateurs.methods.kprune import solve_weights, square_in_groups
from secateurs.methods.mask_tuning import rearrange
from secateurs.methods.textpruner import draw_tokens, list_targets
from secateurs.models.families import find_feedforwards
from secateurs.models.feedforward import keep_masks, masked
from secateurs.models.gradients import divergence_from
from secateurs.models.loading import hash_weights, wrap_model
from secateurs.models.sublayers import read_sublayer
from secateurs.pipeline import open_context
from secateurs.recipe import make_recipe
from secateurs.rescaling import NormalEquations, rescale, solve_factors

NAMES = ("textpruner", "textpruner-self", "mask-tuning", "kprune")
LABELLED = ("textpruner", "mask-tuning")
WIDTH = 12
NORMS = {"bert": "bert.encoder.layer.{}.output.LayerNorm", "llama": "model.layers.{}.post_attention_layernorm"}
LAYERS = {"bert": "bert.encoder.layer.{}", "llama": "model.layers.{}"}


def make_batches(model, *, rows=3, batches=8, labelled=True):
    """Rows of 12, 10 and 8 tokens, with labels where the model is a classifier."""
    found = [tiny.make_inputs(model, rows=rows, tokens=12, seed=seed) for seed in range(batches)]
    if labelled and type(model).__name__.startswith("Bert"):
        random = torch.Generator().manual_seed(0)
        found = [{**batch, "labels": torch.randint(0, 2, (rows,), generator=random)} for batch in found]
    return found


def open_on(case, name, *, batches=None, model=None, **settings):
    """A context on random rows, half of the neurons to stay."""
    model = model or tiny.make_model(case)
    recipe = make_recipe({"method": name, "keep": 0.5, "round_to": 1, "refit": False, **settings})
    return open_context(wrap_model(model, tiny.make_tokenizer()), batches or make_batches(model), recipe)


def plan(context):
    return METHODS[context.recipe.method].plan(context)


def single_rows(batches):
    """Each row as a batch of its own, without its padding."""
    for batch in batches:
        for row in range(len(batch["input_ids"])):
            length = int(batch["attention_mask"][row].sum())
            yield {
                name: value[row : row + 1] if name == "labels" else value[row : row + 1, :length]
                for name, value in batch.items()
            }


def rows_of(context):
    labels = context.calibration.labels
    labels = labels or [None] * len(context.calibration.batches)
    batches = zip(context.calibration.batches, labels, strict=True)
    return list(single_rows(batch if given is None else {**batch, "labels": given} for batch, given in batches))


def read_logits(model, row):
    return model(**{name: value for name, value in row.items() if name != "labels"}).logits


def task_loss(logits, row):
    """Of one row, float64."""
    if "labels" in row:
        return torch.nn.functional.cross_entropy(logits, row["labels"])
    return torch.nn.functional.cross_entropy(logits[0, :-1], row["input_ids"][0, 1:])


def effects(model, row, loss):
    """(K,) a network: sum_k W_kj d loss / d W_kj, from one backward pass of a float64 copy."""
    model = copy.deepcopy(model).double()
    downs = [ffn.down.weight for ffn in find_feedforwards(model, tiny.family_of(model))]
    gradients = torch.autograd.grad(loss(read_logits(model, row), row), downs)
    return [(weight * gradient).sum(dim=0).detach() for weight, gradient in zip(downs, gradients, strict=True)]


def incoming_effects(model, row, loss):
    """(K,) a network of a BERT: sum of weight x d loss / d weight over a neuron's row and bias of the up projection."""
    model = copy.deepcopy(model).double()
    loss(read_logits(model, row), row).backward()
    return [
        ((ffn.up.weight * ffn.up.weight.grad).sum(dim=1) + ffn.up.bias * ffn.up.bias.grad).detach()
        for ffn in find_feedforwards(model, tiny.family_of(model))
    ]


def sum_effects(context, loss, power, by=effects):
    """(K,) float64 a network: sum over rows of |effect| to a power."""
    parts = [by(context.loaded.model, row, loss) for row in rows_of(context)]
    return [torch.stack(of_network).abs().pow(power).sum(dim=0).numpy() for of_network in zip(*parts, strict=True)]


def top(scores, width=WIDTH):
    return sorted(np.argsort(-np.asarray(scores), kind="stable")[:width].tolist())


def kept_of(layers):
    return [layer.kept.tolist() for layer in layers]


def look(model, case, place, row, *, masks=None):
    """(n, K) activations, (n, H) output, (n, H) residual of one row in a model of either kind, float64."""
    feedforwards, seen = find_feedforwards(model, tiny.family_of(model)), {}
    norm = model.get_submodule(NORMS[case].format(place))
    handles = [
        feedforwards[place].down.register_forward_hook(lambda _, args, out: seen.update(z=args[0], out=out)),
        norm.register_forward_pre_hook(lambda _, args: seen.update(norm=args[0])),
    ]
    with masked(feedforwards, masks or [torch.ones(ffn.width) for ffn in feedforwards]), torch.no_grad():
        read_logits(model, row)
    for handle in handles:
        handle.remove()
    z, out, norm = (seen[name][0].double() for name in ("z", "out", "norm"))
    return z, out, norm - out if case == "bert" else norm


class TestSubLayers:
    """What networks add to, in every family."""

    @pytest.mark.parametrize("case", sorted(set(tiny.CASES) - {"gemma2", "gemma3_text"}))
    def test_a_norm_reads_the_total_and_the_residual_is_not_the_networks_own_doing(self, case):
        self.check_sublayers(tiny.make_model(case))

    def test_norms_after_the_sum_are_told_by_the_config(self, monkeypatch):
        class_name, config_name, settings, weights = tiny.CASES["opt"]
        late = (class_name, config_name, {**settings, "do_layer_norm_before": False}, weights)
        monkeypatch.setitem(tiny.CASES, "opt", late)
        self.check_sublayers(tiny.make_model("opt"))

    def check_sublayers(self, model):
        loaded, batch = wrap_model(model), tiny.make_inputs(model)
        for ffn in find_feedforwards(model, tiny.family_of(model)):
            found = read_sublayer(loaded, ffn, batch)
            with masked([ffn], [torch.zeros(ffn.width)]):
                without = read_sublayer(loaded, ffn, batch)
            first = slice(len(found.output) // ffn.passes)  # a later pass reads what an earlier one did
            assert torch.allclose(found.residual[first], without.residual[first], atol=1e-4)
            assert not torch.allclose(found.total, without.total, atol=1e-2)
            assert any(self.is_same(read, found.total[first]) for read in self.norm_inputs(model, batch))

    def norm_inputs(self, model, batch):
        seen, handles = [], []
        for module in model.modules():
            if "Norm" in type(module).__name__:
                handles.append(module.register_forward_pre_hook(lambda _, args: seen.append(args[0])))
        tiny.outputs(model, batch)
        for handle in handles:
            handle.remove()
        real = batch["attention_mask"].bool().flatten() if "attention_mask" in batch else slice(None)
        return [values.reshape(-1, values.shape[-1])[real] for values in seen if values.ndim == 3]

    def is_same(self, read, total):
        return read.shape == total.shape and torch.allclose(read, total, atol=1e-4)

    @pytest.mark.parametrize("case", ["gemma2", "gemma3_text"])
    def test_where_a_norm_comes_between_the_residual_is_left_out(self, case):
        model = tiny.make_model(case)
        loaded = wrap_model(model)
        ffn, batch = find_feedforwards(model, loaded.family)[0], tiny.make_inputs(model)
        assert not read_sublayer(loaded, ffn, batch).residual.any()
        wrong = replace(loaded, family=replace(loaded.family, residual="layer output"))
        with masked([ffn], [torch.zeros(ffn.width)]):
            without = read_sublayer(wrong, ffn, batch).residual
        assert not torch.allclose(read_sublayer(wrong, ffn, batch).residual, without, atol=1e-2)

    def test_layers_after_the_network_do_not_run_and_no_hook_stays(self):
        model = tiny.make_model("llama")
        ffn, ran = find_feedforwards(model, tiny.family_of(model))[0], []
        with model.model.layers[1].register_forward_pre_hook(lambda *_: ran.append(True)):
            read_sublayer(wrap_model(model), ffn, tiny.make_inputs(model))
        assert ran == []
        assert hooks_of(model) == 0

    def test_padding_never_counts_and_of_a_row_the_first_token_can_be_had_alone(self):
        model = tiny.make_model("bert")
        ffn, batch = find_feedforwards(model, tiny.family_of(model))[1], tiny.make_inputs(model)
        everything = read_sublayer(wrap_model(model), ffn, batch).activations
        first = read_sublayer(wrap_model(model), ffn, batch, first_only=True).activations
        assert everything.shape == (30, ffn.width)
        assert torch.equal(first, everything[[0, 12, 22]])

    def test_a_network_that_runs_more_or_less_often_than_expected_is_refused(self):
        model = tiny.make_model("llama")
        ffn = replace(find_feedforwards(model, tiny.family_of(model))[0], passes=2)
        with pytest.raises(InputError, match="ran 1 times in a forward pass, expected 2"):
            read_sublayer(wrap_model(model), ffn, tiny.make_inputs(model))
        assert hooks_of(model) == 0


def hooks_of(model):
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


class TestTextPruner:
    """Gradients of factors, against gradients of weights."""

    def test_the_score_is_what_the_gradients_of_the_down_projection_say(self):
        context = open_on("llama", "textpruner", iterations=1)
        wanted = sum_effects(context, task_loss, 1)
        found = [values.abs().sum(dim=0).numpy() for values in context.task_gradients()]
        assert all(np.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(found, wanted, strict=True))
        assert kept_of(plan(context)) == [top(scores) for scores in wanted]

    def test_with_one_width_and_no_gates_the_up_projections_rows_count_too(self):
        for width in range(2, 24, 2):
            context = open_on("bert", "textpruner", iterations=1, keep=width / 24)
            outgoing, incoming = (sum_effects(context, task_loss, 1, by=by) for by in (effects, incoming_effects))
            wanted = [top(one + two, width) for one, two in zip(outgoing, incoming, strict=True)]
            assert kept_of(plan(context)) == wanted
            if wanted != [top(scores, width) for scores in outgoing]:
                return
        raise AssertionError("no width where it matters")

    def test_rows_of_the_up_projections_are_scored_in_the_model_as_it_is_pruned_then(self):
        context = open_on("bert", "textpruner", iterations=2)
        masks = keep_masks(context.feedforwards, [np.arange(0, 24, 2)] * len(context.feedforwards))
        pruned = copy.deepcopy(context.loaded.model)
        for ffn, mask in zip(find_feedforwards(pruned, context.loaded.family), masks, strict=True):
            ffn.down.weight.data *= mask
        parts = [incoming_effects(pruned, row, task_loss) for row in rows_of(context)]
        found = context.row_gradients(context.row_losses, masks, is_incoming=True)
        for values, *of_rows in zip(found, *parts, strict=True):
            assert torch.allclose(values, torch.stack(of_rows), rtol=1e-3, atol=1e-5)

    def test_under_one_budget_the_down_projection_alone_counts(self):
        context = open_on("bert", "textpruner", iterations=1, allocation="global")
        scores = np.concatenate(sum_effects(context, task_loss, 1))
        width = context.feedforwards[0].width
        wanted = top(scores, context.budget)
        assert kept_of(plan(context)) == [
            [place - start for place in wanted if start <= place < start + width]
            for start in range(0, len(scores), width)
        ]

    def test_later_steps_score_the_model_as_it_is_pruned_then(self):
        context = open_on("llama", "textpruner", iterations=2)
        masks = keep_masks(context.feedforwards, [np.array(top(s, 18)) for s in sum_effects(context, task_loss, 1)])
        pruned = copy.deepcopy(context.loaded.model).double()
        factors = [mask.double().requires_grad_() for mask in masks]
        with masked(find_feedforwards(pruned, context.loaded.family), factors):
            parts = [torch.autograd.grad(task_loss(read_logits(pruned, row), row), factors) for row in rows_of(context)]
        wanted = [torch.stack(of_network).abs().sum(dim=0) for of_network in zip(*parts, strict=True)]
        scores = [torch.where(mask > 0, score, -1) for mask, score in zip(masks, wanted, strict=True)]
        assert kept_of(plan(context)) == [top(score) for score in scores]

    def test_steps_are_equal_and_the_first_take_the_rest(self):
        assert list_targets(24, 13, 4) == [21, 18, 15, 13]
        assert list_targets(24, 22, 8) == [23, 22]
        assert list_targets(24, 24, 8) == []

    def test_without_labels_a_classifier_is_scored_by_squared_gradients_of_all_its_logits(self):
        context = open_on("bert", "textpruner-self", iterations=1, batches=unlabelled("bert"))
        parts = [sum_effects(context, lambda logits, _, c=c: logits[0, c], 2) for c in range(2)]
        assert kept_of(plan(context)) == [top(first + second) for first, second in zip(*parts, strict=True)]

    def test_without_labels_a_language_model_is_scored_by_what_it_would_say_itself(self):
        context = open_on("llama", "textpruner-self", iterations=1)
        numbers = iter(range(1000))

        def loss(logits, row):
            drawn = draw_tokens(logits[0].detach(), (0, next(numbers)))
            return logits[0].log_softmax(dim=-1)[torch.arange(len(drawn)), drawn].mean()

        assert kept_of(plan(context)) == [top(scores) for scores in sum_effects(context, loss, 2)]

    def test_tokens_are_drawn_as_often_as_they_are_likely(self):
        logits = torch.tensor([1.0, 0.0, -1.0, 2.0])
        drawn = draw_tokens(logits.repeat(20_000, 1), (0, 0))
        shares = torch.bincount(drawn, minlength=4) / len(drawn)
        assert torch.allclose(shares, logits.softmax(dim=0), atol=0.01)
        assert torch.equal(draw_tokens(logits.repeat(50, 1), (0, 0)), drawn[:50])

    @pytest.mark.parametrize("case", ["bert", "llama"])
    def test_as_published_the_first_step_without_labels_sees_little_but_rounding(self, case):
        context = open_on(case, "textpruner-self", as_published=True, batches=unlabelled(case), iterations=2)
        half = copy.deepcopy(context.loaded.model).half()
        noise = context.row_gradients(divergence_from(half, context.calibration.batches))
        signal = open_on(case, "textpruner").task_gradients()
        assert 0 < max(values.abs().max() for values in noise) < 0.02 * max(values.abs().max() for values in signal)
        assert all(layer.width == WIDTH for layer in plan(context))


def unlabelled(case):
    return make_batches(tiny.make_model(case), labelled=False)


class TestMaskTuning:
    """Fisher information, exchange and factors."""

    @pytest.mark.parametrize("case", ["bert", "llama"])
    def test_fisher_is_the_sum_of_squares_of_one_row_at_a_time(self, case):
        context = open_on(case, "mask-tuning")
        wanted = sum_effects(context, task_loss, 2)
        gradients = [values.numpy() for values in context.task_gradients()]
        for values, scores in zip(gradients, wanted, strict=True):
            assert np.allclose(np.square(values).sum(axis=0), scores, rtol=1e-4, atol=1e-5)
        chosen = [rearrange(values, np.array(top(scores))) for values, scores in zip(gradients, wanted, strict=True)]
        assert kept_of(plan(context)) == [stay.tolist() for stay in chosen]

    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("width", [1, 7, 15])
    def test_the_exchange_is_that_of_a_loop_over_all_that_could_leave(self, seed, width):
        gradients = np.random.default_rng(seed).normal(size=(6, 16))
        start = np.array(top(np.square(gradients).sum(axis=0), width))
        assert rearrange(gradients, start).tolist() == self.exchange(gradients, start)

    def exchange(self, gradients, kept):
        order = np.argsort(np.square(gradients).sum(axis=0))
        removed = list(order[: len(order) - len(kept)])
        for neuron in order[len(order) - len(kept) :]:
            removed.append(neuron)
            rest = [gradients[:, [p for p in removed if p != i]].sum(axis=1) for i in removed]
            del removed[int(np.argmin([np.square(vector).sum() for vector in rest]))]
        return sorted(set(range(len(order))) - set(removed))

    def test_where_nothing_goes_nothing_is_exchanged(self):
        gradients = np.random.default_rng(0).normal(size=(6, 4))
        assert rearrange(gradients, np.arange(4)).tolist() == [0, 1, 2, 3]

    def test_no_more_rows_are_looked_at_than_published(self, monkeypatch):
        monkeypatch.setattr(mask_tuning, "ROWS", 5)
        context = open_on("bert", "mask-tuning")
        drawn = mask_tuning._limit_rows(context)
        assert [len(values) for values in drawn.task_gradients()] == [5, 5]
        assert [len(values) for values in context.task_gradients()] == [24, 24]
        assert all(layer.width == WIDTH for layer in plan(context))

    @pytest.mark.parametrize("case", ["bert", "llama"])
    def test_factors_are_the_damped_least_squares_ones_layer_after_layer(self, case):
        context = open_on(case, "mask-tuning")
        kept = [np.arange(0, 24, 2), np.arange(12)]
        teacher = keep_masks(context.feedforwards, [np.arange(18), np.arange(18)])
        updates = rescale(context, kept, [np.arange(18), np.arange(18)])
        masks = keep_masks(context.feedforwards, kept)
        for place, stay in enumerate(kept):
            columns = context.down_columns(place).double()
            wanted = self.solve(context, case, place, (stay, masks, teacher))
            assert (wanted - 1).abs().max() > 0.01
            assert torch.allclose(updates[place].weight.double(), columns[stay] * wanted[:, None], atol=1e-4)
            masks[place][stay] = wanted.float()

    def solve(self, context, case, place, pruning):
        """The same from a tall matrix with one column for each neuron."""
        stay, masks, teacher = pruning
        model, rows, targets = context.loaded.model, [], []
        bias = context.feedforwards[place].output_bias().double() if case == "bert" else 0
        for row in rows_of(context):
            _, output, residual = look(model, case, place, row, masks=teacher)
            z, _, own_residual = look(model, case, place, row, masks=masks)
            rows.append((z[:, stay, None] * context.down_columns(place)[stay]).permute(0, 2, 1))  # (n, H, k)
            targets.append(output + residual - own_residual - bias)
        tall, target = torch.cat(rows).flatten(0, 1), torch.cat(targets).flatten()
        system, rest = tall.T @ tall, tall.T @ target - (tall.T @ tall).sum(dim=1)
        return 1 + torch.linalg.solve(system @ system + torch.eye(len(stay)), system @ rest)

    def test_rescaled_networks_come_nearer_to_the_teacher(self):
        context = open_on("llama", "mask-tuning")
        kept = [np.arange(0, 24, 2)] * 2
        masks, teacher = keep_masks(context.feedforwards, kept), [torch.ones(24)] * 2
        row, errors = rows_of(context)[0], []
        for factors in (1, rescale(context, kept, [np.arange(24)] * 2)[0].weight / context.down_columns(0)[kept[0]]):
            masks[0][kept[0]] = factors if isinstance(factors, int) else factors[:, 0]
            outputs = [look(context.loaded.model, "llama", 0, row, masks=each)[1] for each in (masks, teacher)]
            errors.append((outputs[0] - outputs[1]).square().sum())
        assert errors[1] < errors[0]

    def test_a_factor_beyond_belief_ends_the_rescaling_and_spares_what_was_done(self, monkeypatch):
        context = open_on("llama", "mask-tuning")
        kept = [np.arange(0, 24, 2)] * 2
        whole = rescale(context, kept, [np.arange(24)] * 2)
        answers = iter([solve_factors, lambda *_: None])
        monkeypatch.setattr(rescaling, "solve_factors", lambda *given: next(answers)(*given))
        halted = rescale(context, kept, [np.arange(24)] * 2)
        assert torch.equal(halted[0].weight, whole[0].weight)
        assert torch.equal(halted[1].weight, context.down_columns(1)[kept[1]])
        assert not torch.equal(whole[1].weight, halted[1].weight)

    def test_factors_above_ten_are_not_believed(self):
        system = 100 * torch.eye(3, dtype=torch.float64)
        nine = torch.full((3,), 9.0, dtype=torch.float64)
        assert torch.allclose(solve_factors(system, system @ nine), nine, atol=1e-3)
        eleven = torch.tensor([1.0, 1.0, -11.0], dtype=torch.float64)
        assert solve_factors(system, system @ eleven) is None


class TestKPrune:
    """Scores and weights, network after network, against a second telling."""

    def test_gradients_are_squared_in_groups_of_32_rows(self):
        gradients = torch.randn(70, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        means = [gradients[start : start + 32].mean(dim=0) for start in (0, 32, 64)]
        expected = sum(mean.square() for mean in means) / 140
        assert np.allclose(square_in_groups(gradients), expected.numpy())

    @pytest.mark.parametrize("case", ["bert", "llama"])
    def test_neurons_and_weights_are_those_of_a_plain_telling(self, case):
        context = open_on(case, "kprune", batches=unlabelled(case))
        layers, pruned = plan(context), copy.deepcopy(context.loaded.model)
        for place, layer in enumerate(layers):
            prediction = self.score_prediction(context, pruned, place)
            z, weights = self.fit(context, pruned, case, place, layer.kept)
            columns = context.down_columns(place).double()
            scores = 2.5e-4 * z.square().mean(dim=0) * columns.square().mean(dim=1) + prediction
            assert layer.kept.tolist() == top(scores, context.width)
            assert torch.allclose(layer.update.weight.double(), weights, rtol=1e-4, atol=1e-4)
            down = find_feedforwards(pruned, context.loaded.family)[place].down
            with torch.no_grad():
                down.weight.zero_()
                down.weight[:, layer.kept] = layer.update.weight.T
        assert not torch.allclose(layers[1].update.weight, context.down_columns(1)[layers[1].kept], atol=1e-2)

    def score_prediction(self, context, pruned, place):
        whole = copy.deepcopy(context.loaded.model).double()

        def loss(logits, row):
            with torch.no_grad():
                wanted = read_logits(whole, row)
            own, other = (values.div(2).softmax(dim=-1) for values in (logits, wanted))
            return 4 * (other * (other / own).log()).sum(dim=-1).mean()

        rows = rows_of(context)
        parts = torch.stack([effects(pruned, row, loss)[place] for row in rows])  # fewer rows than make a group
        return parts.mean(dim=0).square() / (2 * len(rows))

    def fit(self, context, pruned, case, place, kept):
        """(n, K) activations of all rows, and numpy's least squares on them."""
        rows, targets = [], []
        bias = context.feedforwards[place].output_bias().double() if case == "bert" else 0
        for row in rows_of(context):
            _, output, residual = look(context.loaded.model, case, place, row)
            z, _, own_residual = look(pruned, case, place, row)
            rows.append(z)
            targets.append(output + residual - own_residual - bias)
        z = torch.cat(rows)
        return z, torch.from_numpy(np.linalg.lstsq(z[:, kept].numpy(), torch.cat(targets).numpy(), rcond=None)[0])

    def test_tuned_weights_bring_the_outputs_nearer(self):
        context = open_on("llama", "kprune")
        layers = plan(context)
        masks = keep_masks(context.feedforwards, [layer.kept for layer in layers])
        with masked(context.feedforwards, masks), torch.no_grad():
            cut = [read_logits(context.loaded.model, row) for row in rows_of(context)]
        tuned = copy.deepcopy(context.loaded.model)
        for ffn, layer in zip(find_feedforwards(tuned, context.loaded.family), layers, strict=True):
            ffn.cut_(layer, layer.width)
        with torch.no_grad():
            pairs = [(read_logits(context.loaded.model, row), read_logits(tuned, row)) for row in rows_of(context)]
        before = sum((whole - other).square().sum() for (whole, _), other in zip(pairs, cut, strict=True))
        assert sum((whole - other).square().sum() for whole, other in pairs) < 0.8 * before

    def test_equations_without_a_finite_solution_leave_the_weights(self):
        nothing = torch.full((3, 3), torch.nan, dtype=torch.float64)
        assert solve_weights(NormalEquations(nothing, nothing)) is None

    def test_copies_share_the_work_where_least_squares_can_not_tell_them_apart(self):
        z = torch.randn(50, 1, dtype=torch.float64).repeat(1, 2)
        found = solve_weights(NormalEquations(z.T @ z, z.T @ z[:, :1]))
        assert torch.allclose(found, torch.full((2, 1), 0.5, dtype=torch.float64))

    def test_one_budget_is_spent_as_the_networks_still_whole_compare(self):
        model = tiny.make_model("llama")
        with torch.no_grad():
            model.model.layers[1].mlp.down_proj.weight.mul_(30)
        widths = [layer.width for layer in plan(open_on("llama", "kprune", model=model, allocation="global"))]
        assert widths[0] < WIDTH < widths[1]
        assert sum(widths) == 2 * WIDTH


@pytest.mark.parametrize("name", NAMES)
class TestAll:
    """What holds for each of them, on a classifier."""

    def open(self, name, **settings):
        batches = make_batches(tiny.make_model("bert"), labelled=name in LABELLED)
        return open_on("bert", name, batches=settings.pop("batches", batches), **settings)

    def test_one_budget_for_all_networks_is_met_exactly(self, name):
        layers = plan(self.open(name, allocation="global"))
        assert sum(layer.width for layer in layers) == 2 * WIDTH
        assert len({layer.width for layer in layers}) == 2

    def test_it_does_not_matter_how_rows_are_batched(self, name):
        context = self.open(name)
        one, three = plan(self.open(name, batches=rows_of(context))), plan(context)
        assert kept_of(one) == kept_of(three)
        for a, b in zip(one, three, strict=True):
            assert (a.update is None) == (b.update is None)
            assert a.update is None or torch.allclose(a.update.weight, b.update.weight, rtol=1e-3, atol=1e-4)

    def test_the_model_is_left_as_it_was_and_no_hook_stays(self, name):
        context = self.open(name, iterations=2)
        before = hash_weights(context.loaded.model)
        plan(context)
        assert hash_weights(context.loaded.model) == before
        assert hooks_of(context.loaded.model) == 0
        assert context.loaded.model.config.intermediate_size == 24
        assert all(parameter.requires_grad for parameter in context.loaded.model.parameters())

    def test_labels_are_asked_for_only_where_they_are_needed(self, name):
        context = self.open(name, batches=unlabelled("bert"), iterations=2)
        if name in LABELLED:
            with pytest.raises(InputError, match=f"method '{name}' needs labelled rows; calibrate on them"):
                plan(context)
        else:
            assert all(layer.width == WIDTH for layer in plan(context))

    def test_a_model_without_a_head_is_told_so(self, name):
        with pytest.raises(InputError, match="BertModel has no loss to take gradients of"):
            plan(open_on("bert-model", name, batches=unlabelled("bert")))

    def test_a_head_with_one_output_is_pruned_too(self, name):
        batches = make_batches(tiny.make_model("bert"))
        if name not in LABELLED:
            batches = unlabelled("bert")
        model = regression()
        assert all(layer.width == WIDTH for layer in plan(open_on("bert", name, batches=batches, model=model)))


def regression():
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(**tiny.ENCODER, num_labels=1)
    return transformers.BertForSequenceClassification(config).eval()


@pytest.mark.parametrize(("family", "message"), [("bert-model", "has no loss"), ("bert", "needs labelled rows")])
def test_prune_asks_for_a_loss_and_labels_before_anything_is_measured(monkeypatch, family, message):
    model = tiny.make_model(family)
    monkeypatch.setattr("secateurs.methods.contract.capture", lambda *given, **named: pytest.fail("measured"))
    with pytest.raises(InputError, match=message):
        secateurs.prune(model, calibration=unlabelled("bert"), method="textpruner", keep=0.5)
