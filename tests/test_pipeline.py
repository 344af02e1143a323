import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import secateurs
import tiny
from secateurs.checkpoint.manifest import describe_command
from secateurs.errors import InputError
from secateurs.finetuning import add_head
from secateurs.methods import METHODS, check_recipe
from secateurs.methods.clusters import Candidate, draw_candidates, plan_by_clusters, rate_candidates
from secateurs.models.cutting import apply
from secateurs.models.families import find_feedforwards
from secateurs.models.loading import hash_weights, wrap_model
from secateurs.models.outputs import read_outputs
from secateurs.models.sizes import measure_size
from secateurs.pipeline import open_context
from secateurs.recipe import Recipe, make_recipe, parse_layers
from secateurs.tasks import TASKS
from tiny_tasks import flowers, write_task

FAST = {"keep": 0.5, "round_to": 1, "calibration_tokens": 1500, "max_length": 64, "kernel_rows": 64, "seeds": 2}


def prune(case="llama", **settings):
    return secateurs.prune(tiny.make_model(case), tokenizer=tiny.make_tokenizer(), **{**FAST, **settings})


class TestPrune:
    def test_the_given_model_is_not_changed(self):
        model = tiny.make_model("bert")
        before = hash_weights(model)
        result = secateurs.prune(model, tokenizer=tiny.make_tokenizer(), **FAST)
        assert hash_weights(model) == before
        assert model.config.intermediate_size == 24
        assert result.model.config.intermediate_size == 12
        assert all(not module._forward_pre_hooks for module in model.modules())

    @pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc/self/maps")
    def test_a_pruned_model_holds_no_part_of_the_file_that_it_came_from(self, tmp_path):
        tiny.save_checkpoint(tmp_path / "whole", "llama")
        result = secateurs.prune(tmp_path / "whole", **FAST)
        assert str(tmp_path / "whole") not in Path("/proc/self/maps").read_text()
        assert result.model.config.intermediate_size == 12

    def test_same_recipe_same_bytes(self):
        assert hash_weights(prune().model) == hash_weights(prune().model)

    def test_forward_batch_size_hardly_matters(self):
        one, eight = prune(batch_size=1), prune(batch_size=8)
        for a, b in zip(one.plan.layers, eight.plan.layers, strict=True):
            assert a.kept.tolist() == b.kept.tolist()
            assert torch.allclose(a.update.weight, b.update.weight, rtol=1e-3, atol=1e-4)

    def test_refit_brings_the_outputs_nearer(self):
        model = tiny.make_model("llama")
        ids = tiny.make_inputs(model, rows=1, tokens=100, seed=5)
        errors = {}
        for refit in (True, False):
            result = secateurs.prune(model, tokenizer=tiny.make_tokenizer(), refit=refit, **FAST)
            layer = result.plan.layers[0]
            assert (layer.update is not None) == refit
            errors[refit] = (tiny.outputs(result.model, ids) - tiny.outputs(model, ids)).square().mean()
            if refit:
                assert layer.figures["relative_error_refit"] < layer.figures["relative_error_cut"]
        assert errors[True] < errors[False]

    def test_relative_flops_name_their_scope(self):
        result = prune()
        assert result.relative_ffn_flops == 0.5
        assert 0.5 < result.relative_model_flops < 1

    def test_only_the_named_layers_are_pruned_and_the_user_is_told_what_that_means(self):
        result = prune(layers="1")
        assert [layer.path for layer in result.plan.layers] == ["model.layers.1.mlp"]
        assert result.after.widths == (24, 24)
        dead = (result.model.model.layers[1].mlp.down_proj.weight == 0).all(dim=0).sum()
        assert dead == 12
        assert any("padded" in warning for warning in result.warnings)

    def test_few_tokens_are_warned_of(self):
        assert not any("few for a refit" in warning for warning in prune().warnings)
        wide = {**FAST, "calibration_tokens": 256}
        model = tiny.make_model("gpt2")  # width 64
        result = secateurs.prune(model, tokenizer=tiny.make_tokenizer(), **{**wide, "max_length": 32})
        assert not any("few for a refit" in w for w in result.warnings)
        batches = [tiny.make_inputs(model, rows=2, tokens=20, seed=s) for s in range(5)]
        result = secateurs.prune(model, calibration=batches, **wide)
        assert any("few for a refit" in w for w in result.warnings)

    def test_few_rows_are_warned_of_where_a_classifier_reads_one_token_of_each(self):
        settings = {**FAST, "max_length": 40, "calibration_tokens": 2000}  # some 50 rows, and width 24
        few = (
            "calibration rows are few for a refit of bert.encoder.layer.1, of which the classifier reads only the first"
        )
        result = secateurs.prune(tiny.make_model("bert"), tokenizer=tiny.make_tokenizer(), **settings)
        assert any(few in warning for warning in result.warnings)
        wide = {**settings, "calibration_tokens": 8000}
        for changes in (wide, {**settings, "method": "magnitude", "in_turn": False}):
            result = secateurs.prune(tiny.make_model("bert"), tokenizer=tiny.make_tokenizer(), **changes)
            assert not any("few for a refit" in warning for warning in result.warnings)
        one = secateurs.prune(tiny.make_model("bert"), tokenizer=tiny.make_tokenizer(), layers="0", **settings)
        assert not any("few for a refit" in warning for warning in one.warnings)  # the last network is left alone
        shared = transformers.AlbertForSequenceClassification(tiny.make_model("albert").config).eval()
        result = secateurs.prune(shared, tokenizer=tiny.make_tokenizer(), **settings)
        assert not any("few for a refit" in warning for warning in result.warnings)  # its first pass reads all tokens

    def test_a_saturated_kernel_is_reported_with_its_remedy(self):
        class_name, config_name, settings, _ = tiny.CASES["llama"]
        import transformers

        torch.manual_seed(0)
        config = getattr(transformers, config_name)(**{**settings, "intermediate_size": 300, "hidden_size": 64})
        model = getattr(transformers, class_name)(config).eval()
        with torch.no_grad():
            for layer in model.model.layers:
                layer.mlp.up_proj.weight.mul_(100)
                layer.mlp.gate_proj.weight.mul_(100)
        result = secateurs.prune(
            model, tokenizer=tiny.make_tokenizer(), **{**FAST, "method": "redundancy", "kernel_width": "scott"}
        )
        assert any("saturated" in warning and "scott-scaled" in warning for warning in result.warnings)

    def test_classifiers_sample_the_first_token(self):
        loaded = wrap_model(tiny.make_model("bert"), tiny.make_tokenizer())
        assert open_context(loaded, None, Recipe(**FAST)).sampling == "cls"
        loaded = wrap_model(tiny.make_model("llama"), tiny.make_tokenizer())
        assert open_context(loaded, None, Recipe(**FAST)).sampling == "tokens"
        images = wrap_model(tiny.make_model("vit"))
        assert open_context(images, [tiny.make_inputs(images.model)], Recipe(**FAST)).sampling == "cls"

    def test_threads_are_given_back(self):
        before = torch.get_num_threads()
        prune(threads=1)
        assert torch.get_num_threads() == before

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"keep": 30}, "keep must be in (0, 1], got 30"),
            ({"keep": 0}, "keep must be in (0, 1], got 0"),
            ({"keep": float("nan")}, "keep must be in (0, 1], got nan"),
            ({"keep": "much"}, "keep must be in (0, 1], got 'much'"),
            ({"kep": 0.5}, "unknown setting 'kep'; did you mean 'keep'?"),
            ({"method": "redundncy"}, "did you mean 'redundancy'?"),
            ({"layers": "5"}, "layers must lie in 0-1"),
            ({"layers": "a"}, "layers must look like"),
            ({"round_to": 0}, "round_to must be a whole number of at least 1, got 0"),
            ({"sampling": "some"}, "sampling must be 'cls', 'tokens' or 'mean', got 'some'"),
            ({"kernel_width": "wide"}, "kernel_width must be a number in (0, 16], scott-scaled"),
            ({"kernel_width": -1}, "kernel_width must be a number in (0, 16]"),
            ({"alpha": float("inf")}, "alpha must be a number above 0"),
            ({"ridge": 1e-8}, "ridge must be a number of at least 1e-6, got 1e-08"),
            ({"layers": [0, 1]}, "layers must be text such as 2-28"),
            ({"dtype": "bfloat16"}, "convert a model in memory yourself"),
            ({"method": "medoids", "information": False}, "chooses by information alone"),
            ({"calibration": "text.txt", "task": "sst2"}, "either on calibration text or on a task's rows"),
            ({"data": "folder"}, "name the task"),
            ({"task": "sst3"}, "did you mean 'sst2'?"),
            ({"calibration_skip": -1}, "calibration_skip must be a whole number of at least 0, got -1"),
            ({"magnitude": "l3"}, "magnitude must be 'incoming-l1', "),
        ],
    )
    def test_a_wrong_setting_is_named_in_one_line(self, settings, message):
        with pytest.raises(InputError) as error:
            prune(**settings)
        assert message in str(error.value)
        assert "\n" not in str(error.value)

    def test_rounding_that_undoes_the_request_is_warned_of(self):
        assert any("was rounded to 16; --round-to 1" in warning for warning in prune(round_to=16).warnings)
        assert any("was rounded to 24, so that none is removed" in warning for warning in prune(round_to=24).warnings)
        assert not any("was rounded" in warning for warning in prune().warnings)

    @pytest.mark.parametrize("case", ["bert", "gpt2", "llama"])
    def test_refit_error_falls_with_and_without_a_bias(self, case):
        for layer in prune(case).plan.layers:
            assert layer.figures["relative_error_refit"] < layer.figures["relative_error_cut"]

    def test_a_model_in_training_mode_or_no_model_is_refused(self):
        with pytest.raises(InputError, match="evaluation mode"):
            secateurs.prune(tiny.make_model("llama").train(), tokenizer=tiny.make_tokenizer())
        with pytest.raises(InputError, match="got Linear"):
            secateurs.prune(torch.nn.Linear(2, 2).eval())
        with pytest.raises(InputError, match="has no tokenizer"):
            secateurs.prune(tiny.make_model("llama"))

    def test_recipe_and_settings_exclude_each_other(self):
        with pytest.raises(InputError, match="either a recipe or single settings"):
            secateurs.prune(tiny.make_model("llama"), recipe=Recipe(), keep=0.5)


def test_layer_numbers_are_read():
    assert parse_layers(None, 3) == (0, 1, 2)
    assert parse_layers("0,2-3, 2", 5) == (0, 2, 3)


def test_the_command_names_every_setting_that_is_not_a_default():
    recipe = make_recipe({"keep": 0.8, "refit": False, "calibration": "/home/me/a b.txt", "seed": 3})
    assert describe_command("me/model", "out", recipe) == (
        "secateurs prune me/model out --keep 0.8 --no-refit --calibration 'a b.txt' --seed 3"
    )


def planted(case="llama", seed=0):
    """A tiny model whose neurons 12.. are copies of 0.., and neuron 5 is dead."""
    model = tiny.make_model(case, seed=seed)
    with torch.no_grad():
        for ffn in find_feedforwards(model, tiny.family_of(model)):
            for part in (ffn.up, ffn.gate):
                part.weight[12:17] = part.weight[:5]
            ffn.down.weight[:, 12:17] = ffn.down.weight[:, :5]
            ffn.up.weight[5] = 0
    return model


@pytest.mark.parametrize("name", sorted(METHODS))
class TestMethod:
    """The contract of every method."""

    def plan(self, name, model=None, **settings):
        model = model or tiny.make_model("llama")
        context = open_context(
            wrap_model(model, tiny.make_tokenizer()), None, make_recipe({**FAST, "method": name, **settings})
        )
        return METHODS[name].plan(context), context

    @pytest.mark.parametrize("keep", [0.04, 0.5, 0.9, 1.0])
    def test_the_asked_number_of_neurons_is_kept_sorted_and_unique(self, name, keep):
        layers, context = self.plan(name, keep=keep)
        assert [layer.path for layer in layers] == [ffn.path for ffn in context.feedforwards]
        for layer in layers:
            assert layer.width == context.width
            assert layer.kept.tolist() == sorted(set(layer.kept.tolist()))
            assert 0 <= layer.kept.min() <= layer.kept.max() < 24

    def test_same_seed_same_plan(self, name):
        first, second = (self.plan(name, seed=7)[0] for _ in range(2))
        assert [a.kept.tolist() for a in first] == [b.kept.tolist() for b in second]

    def test_forward_batch_size_does_not_matter(self, name):
        one, eight = (self.plan(name, batch_size=size)[0] for size in (1, 8))
        assert [a.kept.tolist() for a in one] == [b.kept.tolist() for b in eight]

    def test_one_budget_for_all_networks_is_met_exactly_or_refused(self, name):
        if "global" not in METHODS[name].allocations:
            with pytest.raises(InputError, match="has no global allocation"):
                check_recipe(make_recipe({"method": name, "allocation": "global"}))
            return
        layers, context = self.plan(name, allocation="global")
        assert sum(layer.width for layer in layers) == context.budget
        assert min(layer.width for layer in layers) >= 1

    def test_its_correction_fits_what_is_kept(self, name):
        layers, context = self.plan(name)
        for layer in layers:
            changes = METHODS[name].corrects or METHODS[name].refits
            assert changes == (layer.update is not None or layer.unsaved_bias is not None)
            if layer.update is not None:
                assert layer.update.weight.shape == (layer.width, tiny.HIDDEN)
                assert layer.update.weight.dtype == context.feedforwards[0].dtype

    def test_the_model_is_left_as_it_is(self, name):
        model = tiny.make_model("llama")
        before = hash_weights(model)
        self.plan(name, model)
        assert hash_weights(model) == before

    @pytest.mark.parametrize("kind", ["duplicates", "dead neurons"])
    def test_it_sees_what_it_says_it_sees(self, name, kind):
        pairs, found = [{k, k + 12} for k in range(5)], []
        for seed in range(3):  # luck does not last
            layers, _ = self.plan(name, planted(seed=seed), keep=18 / 24, seed=seed)  # five copies and one dead must go
            if kind == "duplicates":
                found += [len(pair & set(layer.kept.tolist())) <= 1 for layer in layers for pair in pairs]
            else:
                found += [5 not in layer.kept for layer in layers]
        assert all(found) == (kind in METHODS[name].sees)

    def test_it_says_what_it_needs(self, name):
        method = METHODS[name]
        assert method.name == name
        assert method.needs <= {"weights", "activations", "gradients", "labels"}
        assert method.summary


def test_plain_importance_does_not_see_duplicates():
    model = planted()
    context = open_context(wrap_model(model, tiny.make_tokenizer()), None, make_recipe({**FAST, "information": False}))
    context.width = 12
    layers = METHODS["redundancy"].plan(context)
    both = sum({k, k + 12} <= set(layer.kept.tolist()) for layer in layers for k in range(5))
    assert both > 0


def test_both_stacks_of_an_encoder_decoder_are_measured():
    loaded = wrap_model(tiny.make_model("t5"), tiny.make_tokenizer())
    context = open_context(loaded, None, Recipe(**FAST))
    assert len(context.statistics) == 2 * tiny.LAYERS


def test_one_measurement_serves_several_recipes():
    recipe = make_recipe(FAST)
    loaded = wrap_model(tiny.make_model("llama"), tiny.make_tokenizer())
    context = open_context(loaded, None, recipe)
    other = context.under(recipe.model_copy(update={"kernel_width": 3.0}))
    assert other.statistics is context.statistics
    assert other.information(0) is not context.information(0)
    assert context.under(recipe.model_copy(update={"ridge": 1.0})).information(0) is context.information(0)
    with pytest.raises(InputError, match="need new measurements: seed"):
        context.under(recipe.model_copy(update={"seed": 1}))


def classifier(model=None):
    """A tiny classifier, ready for clusters."""
    model = model or tiny.make_model("bert")
    batches = [tiny.make_inputs(model, rows=3, tokens=12, seed=seed) for seed in range(40)]
    settings = {**FAST, "method": "clusters", "seeds": 5}
    return open_context(wrap_model(model, tiny.make_tokenizer()), batches, make_recipe(settings))


@pytest.mark.parametrize(
    ("case", "kind", "rows", "features"),
    [
        ("bert", "representation", 3, tiny.HIDDEN),
        ("bert", "logits", 3, 2),
        ("roberta", "representation", 30, tiny.HIDDEN),
        ("electra", "logits", 30, 1),
        ("llama", "logits", 30, tiny.VOCABULARY),
        ("t5", "representation", 30, tiny.HIDDEN),
        ("t5", "logits", 30, tiny.VOCABULARY),
        ("vit", "logits", 3, 2),
    ],
)
def test_outputs_are_those_of_sequences_or_of_real_tokens(case, kind, rows, features):
    model = tiny.make_model(case)
    inputs = tiny.make_inputs(model)  # rows of 12, 10 and 8 tokens
    assert read_outputs(model, inputs, kind, "tokens").shape == (rows, features)
    if rows == 30:
        assert read_outputs(model, inputs, kind, "cls").shape == (3, features)


@pytest.mark.parametrize("choose_by", ["representation", "logits"])
def test_of_five_candidates_the_one_that_changes_the_outputs_least_is_chosen(choose_by):
    context = classifier()
    context.recipe = context.recipe.model_copy(update={"choose_by": choose_by})
    plain = draw_candidates(context)
    ranked = [np.argsort(-context.importance(place)) for place in range(2)]
    best = Candidate(tuple(np.sort(order[: context.width]) for order in ranked))
    worst = Candidate(tuple(np.sort(order[::-1][: context.width]) for order in ranked))
    divergence = rate_candidates(context, [worst, plain[0], plain[1], best, worst])
    assert int(divergence.argmin()) == 3
    assert divergence[0] == divergence[4] > divergence[3] > 0
    assert context.rates["candidates per second"] > 0


def test_a_candidate_is_rated_by_all_its_networks_together():
    context = classifier()
    everything, some = np.arange(24), np.arange(12)
    whole, first, both = rate_candidates(
        context, [Candidate((everything, everything)), Candidate((some, everything)), Candidate((some, some))]
    )
    assert whole == pytest.approx(0, abs=1e-9)
    assert first > 1e-6
    assert both not in (pytest.approx(first), pytest.approx(0))


def test_clusters_take_the_best_of_their_starts_and_say_which():
    context = classifier()
    plans = plan_by_clusters(context)
    divergence = rate_candidates(context, draw_candidates(context))
    assert {plan.figures["start"] for plan in plans} == {float(divergence.argmin())}
    assert plans[0].figures["kl_nats"] == pytest.approx(divergence.min())
    assert all(0 <= plan.figures["share_of_starts_capped"] <= 1 for plan in plans)


def test_more_starts_never_end_further_from_the_original():
    context = classifier()
    found = []
    for seeds in (2, 5):
        context.recipe = context.recipe.model_copy(update={"seeds": seeds})
        found.append(plan_by_clusters(context)[0].figures["kl_nats"])
    assert found[1] <= found[0] + 1e-12


def test_logits_of_one_output_are_no_ground_for_a_choice():
    regression = add_head(wrap_model(tiny.make_model("bert-model")), TASKS["stsb"], 0)
    context = classifier(regression.eval())
    context.recipe = context.recipe.model_copy(update={"choose_by": "logits"})
    with pytest.raises(InputError, match="at least 2 outputs a row, the model has 1"):
        plan_by_clusters(context)


def test_many_neurons_are_scaled_by_landmarks(monkeypatch):
    monkeypatch.setattr("secateurs.methods.clusters.MOST_NEURONS", 20)
    monkeypatch.setattr("secateurs.methods.clusters.LANDMARKS", 18)
    layers = plan_by_clusters(classifier())
    assert all(layer.width == 12 for layer in layers)


def test_a_given_threshold_leaves_as_many_as_it_leaves():
    result = prune(method="algorithm1", threshold_percentile=50)
    assert result.before.widths == (24, 24)
    assert all(1 < layer.width < 24 for layer in result.plan.layers)
    assert any("--keep is not heeded" in warning for warning in result.warnings)


def test_a_preset_sets_what_is_not_given_and_the_command_names_only_the_rest():
    recipe = make_recipe({"method": "paper-scaled", "seeds": 3, "keep": 0.4})
    assert (recipe.distance, recipe.kernel_width, recipe.min_rows, recipe.refit) == (
        "normalised",
        "scott-scaled",
        500,
        False,
    )
    assert make_recipe({"method": "paper"}).seeds == 500
    assert describe_command("m", "o", recipe) == "secateurs prune m o --keep 0.4 --method paper-scaled --seeds 3"


def test_a_share_of_packed_text_is_no_share_and_the_user_is_told():
    assert any("no rows to take a share of" in warning for warning in prune(calibration_share=0.5).warnings)


@pytest.mark.parametrize(("share", "at_least", "rows"), [(0.1, 1, 20), (0.01, 50, 50), (0.5, 999, 200)])
def test_a_share_of_the_rows_is_drawn(share, at_least, rows, tmp_path):
    texts = [f"row {number} says this and that" for number in range(200)]
    model = wrap_model(tiny.make_model("bert"), tiny.make_tokenizer())
    recipe = make_recipe({**FAST, "calibration_share": share, "min_rows": at_least, "calibration_tokens": 256})
    found = open_context(model, texts, recipe).calibration.summary
    assert found.rows == rows
    assert f"{rows} rows drawn from 200" in found.source
    assert open_context(model, texts, recipe).calibration.summary.sha256 == found.sha256


def test_a_share_of_a_tasks_rows_is_drawn_whatever_the_budget(tmp_path):
    write_task(tmp_path, "sst2", {"train": flowers(300)})
    model = wrap_model(tiny.make_model("bert"), tiny.make_tokenizer())
    of_task = {"task": "sst2", "data": str(tmp_path), "calibration_share": 1.0, "calibration_tokens": 256}
    assert open_context(model, None, make_recipe({**FAST, **of_task})).calibration.rows == 300


def test_what_a_rivals_correction_becomes_is_said():
    lacking = prune(method="flap", refit=False)
    assert any("Llama has no place for the biases" in warning for warning in lacking.warnings)
    assert not any("has no place" in warning for warning in prune("bert", method="flap", refit=False).warnings)
    refitted = prune(method="flap")
    assert all(layer.unsaved_bias is None for layer in refitted.plan.layers)
    assert any("takes the place of flap's own correction" in warning for warning in refitted.warnings)


def test_networks_of_several_widths_are_padded_and_the_user_is_told():
    result = prune(method="flap", allocation="global", keep=0.4)
    widths = {layer.width for layer in result.plan.layers}
    assert len(widths) > 1
    assert result.after.widths == (max(widths),) * 2
    assert any(f"keep {min(widths)} to {max(widths)} neurons" in warning for warning in result.warnings)


@pytest.mark.parametrize(("round_to", "written"), [(1, 13), (5, 15), (23, 23), (None, 24)])
def test_the_widest_network_is_padded_to_the_multiple_that_was_asked_for(round_to, written):
    model = tiny.make_model("llama")
    plan = tiny.random_plan(model, 13)
    result = apply(replace(plan, settings={"round_to": round_to}), model)
    assert measure_size(result, tiny.family_of(model)).widths == (written, written)
    inputs = tiny.make_inputs(model)
    assert torch.allclose(tiny.outputs(result, inputs), tiny.masked_outputs(model, plan, inputs), atol=1e-5)


def test_calibration_passes_over_the_first_tokens_when_asked():
    loaded = wrap_model(tiny.make_model("llama"), tiny.make_tokenizer())
    whole, skipped = (
        open_context(loaded, None, make_recipe({**FAST, **more})).calibration
        for more in ({"calibration_tokens": 1536}, {"calibration_tokens": 512, "calibration_skip": 1024})
    )
    ids = torch.cat([batch["input_ids"].flatten() for batch in whole.batches])
    assert torch.equal(torch.cat([batch["input_ids"].flatten() for batch in skipped.batches]), ids[1024:])


def test_rows_of_text_are_passed_over_whole():
    loaded = wrap_model(tiny.make_model("bert"), tiny.make_tokenizer())
    texts = [f"row {number} says this and that" for number in range(200)]
    found = open_context(loaded, texts, make_recipe({**FAST, "calibration_skip": 500})).calibration
    assert found.summary.rows < 200
    first = [row.tolist() for batch in found.batches for row in batch["input_ids"]]
    assert loaded.tokenizer(texts[0])["input_ids"] not in first
    assert loaded.tokenizer(texts[60])["input_ids"] in first


def test_a_task_gives_labelled_training_rows_in_a_seeded_order(tmp_path):
    folder = tmp_path / "sst2"
    folder.mkdir()
    rows = [f"film number {number} was seen\t{number % 2}" for number in range(300)]
    (folder / "train.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    loaded = wrap_model(tiny.make_model("bert"), tiny.make_tokenizer())
    settings = {**FAST, "task": "sst2", "data": str(tmp_path), "calibration_tokens": 600}
    found, again, other = (
        open_context(loaded, None, make_recipe({**settings, "seed": seed})).calibration for seed in (0, 0, 1)
    )
    assert found.summary.sha256 == again.summary.sha256 != other.summary.sha256
    assert 256 < found.summary.tokens <= 600
    assert found.summary.unread == f"{300 - found.summary.rows} rows"
    for batch, labels in zip(found.batches, found.labels, strict=True):
        texts = loaded.tokenizer.batch_decode(batch["input_ids"])
        assert [int(text.split("number ")[1].split(" ")[0]) % 2 for text in texts] == labels.tolist()
