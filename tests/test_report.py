import base64
import hashlib
import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

import secateurs
import tiny
from records import HOSTILE, make_compare_record, make_prune_record, make_view
from secateurs.calibration import prepare_calibration, prepare_unseen
from secateurs.cli import run
from secateurs.encoding import pad_rows
from secateurs.errors import InputError
from secateurs.evaluation.looking import compare_impressions, take_impression
from secateurs.methods.random import RANDOM
from secateurs.models.loading import hash_weights, wrap_model
from secateurs.pipeline import finish, make_plan, open_context
from secateurs.recipe import make_recipe
from secateurs.report.figures import HEAT_SIDE, card_figures, count_neurons, heat_map, network_figures, quality_plot
from secateurs.report.images import draw_figure
from secateurs.report.marks import block_means, limit_colours
from secateurs.report.page import render
from secateurs.report.stored import read_record, write_record
from secateurs.reporting import bound_bytes, find_record, name_figures, write_checkpoint_report, write_figures
from secateurs.results.record import Reading, decode_array, encode_array
from secateurs.selection.scaling import scale_classically
from secateurs.surveying import MOST_NEURONS, find_survey_warnings, observe
from secateurs.surveying import survey as survey_all
from tiny_tasks import flowers, write_task

FAST = {"keep": 0.5, "round_to": 1, "calibration_tokens": 1500, "max_length": 64}


def open_tiny(case="llama", **settings):
    loaded = wrap_model(tiny.make_model(case), tiny.make_tokenizer())
    return open_context(loaded, None, make_recipe({**FAST, **settings}))


def survey(context, layers, batches):
    return survey_all(context, layers, batches, "some text")[0]


def scripts_of(page):
    return re.findall(r"<script>(.*?)</script>", page, re.DOTALL)


class TestMarks:
    def test_block_means_keep_the_mean_of_each_block(self):
        matrix = np.arange(36.0).reshape(6, 6)
        assert block_means(matrix, 3)[0, 0] == matrix[:2, :2].mean()
        assert block_means(matrix, 3).mean() == pytest.approx(matrix.mean())
        assert block_means(matrix, 4).shape == (4, 4)
        assert block_means(matrix, 6) is matrix

    def test_colours_are_limited_by_pairs_not_by_the_diagonal(self):
        matrix = np.full((40, 40), 0.5)
        np.fill_diagonal(matrix, 9.0)
        matrix[0, 1] = 0.1
        assert limit_colours(matrix) == (0.1, pytest.approx(0.5))
        assert limit_colours(np.ones((1, 1))) == (0.0, 1.0)


class TestSurvey:
    def test_a_copy_is_nearest_to_its_original_and_lies_where_it_lies(self):
        model = tiny.make_model("llama")
        mlp = model.model.layers[0].mlp
        with torch.no_grad():
            for projection in (mlp.up_proj, mlp.gate_proj):
                projection.weight[5] = projection.weight[3]
        context = open_context(wrap_model(model, tiny.make_tokenizer()), None, make_recipe(FAST))
        layers = context.plan([np.array([3, 7, 9]), np.array([0, 1])])
        view = survey(context, layers, context.calibration.batches)[0]
        place = {int(neuron): where for where, neuron in enumerate(view.neurons)}
        assert sorted(place) == list(range(tiny.WIDTH))
        assert view.neurons[view.is_kept].tolist() == sorted([3, 7, 9], key=place.get)
        assert view.nearest[place[5]] == 3
        assert view.redundancy[place[5]] == pytest.approx(view.information[place[3], place[3]], abs=1e-3)
        assert abs(place[5] - place[3]) == 1
        assert np.allclose(view.position[place[5]], view.position[place[3]], atol=1e-4)
        assert view.nearest[place[3]] in (7, 9)  # itself does not count

    def test_arrays_agree_with_each_other(self):
        context = open_tiny()
        layers = context.plan([np.arange(12), np.arange(12)])
        for view in survey(context, layers, context.calibration.batches):
            assert np.array_equal(view.information, view.information.T)
            assert view.pairs.sum() == pytest.approx(1)
            assert view.baseline.sum() == pytest.approx(1)
            kept = np.where(view.is_kept, view.information.astype(float), -np.inf)
            np.fill_diagonal(kept, -np.inf)
            assert np.allclose(kept.max(axis=1), view.redundancy, atol=2e-3)
            assert list(dict.fromkeys(view.cluster.tolist())) == list(range(1, view.cluster.max() + 1))
            assert (view.width_before, view.width_after, view.constant) == (24, 12, 0)

    def test_padding_does_not_count(self):
        context = open_tiny("bert")
        layers = context.plan([np.arange(12), np.arange(12)])
        batch = {name: value[:4] for name, value in context.calibration.batches[-1].items()}
        padded = {name: torch.nn.functional.pad(value, (0, 9)) for name, value in batch.items()}
        one, two = (survey(context, layers, [given])[0] for given in (batch, padded))
        assert np.allclose(one.importance, two.importance, rtol=1e-4)

    def test_shuffled_neurons_have_less_in_common(self):
        context = open_tiny()
        view = survey(context, context.plan([np.arange(12)] * 2), context.calibration.batches)[0]
        pairs = view.information[np.triu_indices(len(view.information), 1)].astype(float)
        assert pairs.mean() > 1.3 * view.baseline_mean

    def test_the_information_of_the_choice_is_shown_where_there_is_any(self):
        context = open_tiny(method="redundancy", kernel_rows=64, refit=False)
        plan = make_plan(context)
        result = finish(context, plan, with_report=True)
        view = result.views.networks[0]
        found = context.information(0).values[np.ix_(view.neurons, view.neurons)]
        assert np.allclose(view.information, found, atol=2e-3)
        assert "what the choice went by" in result.views.information.measure
        assert result.views.information.rows == 64
        assert len(np.unique(view.width_over_std)) > 10  # one width was taken for all: those that fit are shown

    @pytest.mark.parametrize("measure", ["pearson", "binned", "ksg", "hsic"])
    def test_every_measure_can_be_shown(self, measure):
        context = open_tiny(method="redundancy", measure=measure, kernel_rows=64, refit=False)
        views = finish(context, make_plan(context), with_report=True).views
        assert views.information.measure.startswith(measure)
        assert views.information.unit == context.information(0).unit
        assert "entropy" not in [figure.key for figure in network_figures(views.networks[0], views.information)]

    def test_dead_neurons_are_counted(self):
        model = tiny.make_model("llama")
        with torch.no_grad():
            model.model.layers[1].mlp.up_proj.weight[4:6] = 0
        context = open_context(wrap_model(model, tiny.make_tokenizer()), None, make_recipe(FAST))
        views = survey(context, context.plan([np.arange(12)] * 2), context.calibration.batches)
        assert [view.constant for view in views] == [0, 2]

    def test_what_is_odd_is_told_in_words(self):
        views = [make_view(seed=seed) for seed in range(3)]
        views = [replace(view, constant=0) for view in views[:2]] + [replace(views[2], constant=4)]
        (dead,) = find_survey_warnings(views, 512)
        assert "on 512 tokens, in network 2 (4 of 24 looked at)" in dead
        assert find_survey_warnings(views[:2], 512) == []

    def test_of_many_neurons_some_are_looked_at(self):
        model = tiny.make_model("llama", intermediate_size=MOST_NEURONS + 100)
        context = open_context(wrap_model(model, tiny.make_tokenizer()), None, make_recipe(FAST))
        view = survey(context, context.plan([np.arange(300)] * 2), context.calibration.batches)[0]
        assert len(set(view.neurons.tolist())) == len(view.information) == MOST_NEURONS
        assert view.width_before == MOST_NEURONS + 100
        assert "612 neurons, drawn at random" in heat_map(view, make_prune_record().information).note

    def test_a_network_of_which_nothing_looked_at_stays(self):
        context = open_tiny()
        views = survey(context, context.plan([np.arange(0), np.arange(1)]), context.calibration.batches)
        assert set(views[0].nearest.tolist()) == {-1}
        assert views[0].redundancy.max() == 0
        assert all(network_figures(view, make_prune_record().information) for view in views)

    @pytest.mark.parametrize("case", ["t5", "albert", "gpt2", "modernbert"])
    def test_every_kind_of_model_can_be_looked_at(self, case):
        context = open_tiny(case, method="random", refit=False)
        before = hash_weights(context.loaded.model)
        result = finish(context, make_plan(context), with_report=True)
        assert hash_weights(context.loaded.model) == before
        assert len(result.views.networks) == len(context.feedforwards)
        assert all(np.isfinite(reading.after) for reading in result.views.look.readings)


def test_classical_scaling_finds_points_by_their_distances():
    points = np.random.default_rng(0).standard_normal((7, 2))
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    found = scale_classically(distance, 2)
    assert np.allclose(np.linalg.norm(found[:, None] - found[None], axis=2), distance)
    assert scale_classically(np.zeros((1, 1)), 2).shape == (1, 2)


class TestLook:
    def look(self, case, **settings):
        context = open_tiny(case, **settings)
        batches = context.calibration.head(256).batches
        one = take_impression(context.loaded, batches, batches[0])
        return compare_impressions(context.loaded, batches, "some text", one, one)

    def test_a_model_is_like_itself(self):
        look = self.look("llama")
        readings = {reading.name: reading for reading in look.readings}
        assert readings["perplexity"].before == readings["perplexity"].after
        assert readings["same most likely token"].after == 1.0
        assert all(example.before == example.after and example.text for example in look.examples)

    @pytest.mark.parametrize(
        ("case", "name"),
        [("bert", "same class"), ("bert-model", "likeness of embeddings"), ("t5", "likeness of outputs")],
    )
    def test_each_kind_has_its_measure(self, case, name):
        (reading,) = (reading for reading in self.look(case).readings if reading.name == name)
        assert reading.after == pytest.approx(1.0, abs=1e-5)

    @pytest.mark.parametrize(
        ("case", "spoil"),
        [
            ("bert-model", lambda batch: {"input_ids": batch["input_ids"]}),
            ("bert-model", lambda batch: {"inputs_embeds": torch.randn(*batch["input_ids"].shape, tiny.HIDDEN)}),
            ("llama", lambda batch: {"input_ids": batch["input_ids"].int()}),
            ("llama", lambda batch: {"inputs_embeds": torch.randn(*batch["input_ids"].shape, tiny.HIDDEN)}),
            ("llama", lambda batch: {name: value.flip(1) for name, value in batch.items()}),  # padded on the left
            ("llama", lambda batch: {"input_ids": batch["input_ids"].reshape(-1, 1)}),
            ("t5", lambda batch: {"input_ids": batch["input_ids"]}),
        ],
    )
    def test_batches_of_every_kind_can_be_looked_at(self, case, spoil):
        loaded = wrap_model(tiny.make_model(case), tiny.make_tokenizer())
        rows = [loaded.tokenizer("a few words here " * count)["input_ids"] for count in (3, 5, 9, 12)]
        batches = [spoil(pad_rows(rows, 0)) for _ in range(4)]
        result = secateurs.prune(
            loaded.model, tokenizer=loaded.tokenizer, calibration=batches, keep=0.5, round_to=1, with_report=True
        )
        assert result.views is not None, result.warnings
        assert result.views.look.text.endswith("which was calibrated on")
        assert all(np.isfinite(reading.after) for reading in result.views.look.readings)

    def test_a_model_that_makes_the_input_of_its_decoder_itself(self):
        torch.manual_seed(0)
        model = transformers.T5ForSequenceClassification(transformers.T5Config(**tiny.T5, num_labels=2)).eval()
        ids = torch.randint(3, tiny.VOCABULARY, (8, 12))
        ids[:, -1] = 2  # the end of the text, which the head reads
        settings = {"calibration": [{"input_ids": ids}], "keep": 0.5, "round_to": 1, "method": "minitron"}
        result = secateurs.prune(model, **settings, with_report=True)
        assert result.views.look.readings[0].name == "same class"

    def test_images_are_few(self):
        model = tiny.make_model("vit")
        size = model.config.image_size
        batches = [{"pixel_values": torch.randn(20, model.config.num_channels, size, size)} for _ in range(3)]
        result = secateurs.prune(model, calibration=batches, keep=0.5, round_to=1, with_report=True)
        patches = (size // model.config.patch_size) ** 2 + 1
        assert result.views.information.tokens == 16 * patches
        assert "one input" in result.views.look.readings[-1].note

    def test_without_a_tokenizer_there_are_no_examples(self):
        batches = open_tiny().calibration.batches
        result = secateurs.prune(tiny.make_model("llama"), calibration=batches, keep=0.5, round_to=1, with_report=True)
        assert result.views.look.examples == ()

    def test_a_prompt_is_shown_as_it_was_given(self):
        context = open_tiny()
        rows = [[5, 6, 7], list(range(5, 40))]
        batches = [pad_rows([row], 0) for row in rows]
        one = take_impression(context.loaded, batches, batches[1])
        look = compare_impressions(context.loaded, batches, "some text", one, one)
        assert [example.text for example in look.examples] == [context.loaded.tokenizer.decode(rows[1][:16])]

    def test_what_is_timed_is_the_longest_row(self):
        context = open_tiny("bert", max_length=48)
        timed = observe(context, context.plan([np.arange(12)] * 2), None).timed
        assert timed["attention_mask"].sum() == 48

    def test_perplexity_is_that_of_the_windows(self):
        context = open_tiny()
        batches = context.calibration.head(256).batches
        found = take_impression(context.loaded, batches, batches[0]).score
        ids = batches[0]["input_ids"][:1]
        with torch.no_grad():
            loss = context.loaded.model(input_ids=ids, labels=ids).loss
        assert found.window_losses[0] == pytest.approx(float(loss), rel=1e-5)


class TestUnseen:
    def test_it_goes_on_where_calibration_stopped(self, tmp_path):
        path = tmp_path / "text.txt"
        path.write_text(" ".join(f"word{number}" for number in range(4000)))
        loaded = wrap_model(tiny.make_model("llama"), tiny.make_tokenizer())
        recipe = make_recipe({**FAST, "calibration": str(path)})
        used = prepare_calibration(None, loaded, recipe)
        unseen = prepare_unseen(None, loaded, recipe, used)
        everything = loaded.tokenizer(path.read_text(), add_special_tokens=False)["input_ids"]
        first = unseen.batches[0]["input_ids"].flatten().tolist()
        assert first == everything[1500 : 1500 + len(first)]

    @pytest.mark.parametrize("length", [24, None])
    def test_rows_of_an_encoder_are_others_than_those_calibrated_on(self, length):
        loaded = wrap_model(tiny.make_model("bert"), tiny.make_tokenizer())
        recipe = make_recipe({**FAST, "max_length": length})
        used = prepare_calibration(None, loaded, recipe)
        unseen = prepare_unseen(None, loaded, recipe, used)

        def rows_of(calibration):
            return {tuple(row[row != 0].tolist()) for batch in calibration.batches for row in batch["input_ids"]}

        assert rows_of(unseen)
        assert not rows_of(unseen) & rows_of(used)

    def test_without_more_it_is_text_that_comes_with_python(self):
        loaded = wrap_model(tiny.make_model("llama"), tiny.make_tokenizer())
        texts, recipe = ["a few words " * 20] * 8, make_recipe(FAST)
        unseen = prepare_unseen(texts, loaded, recipe, prepare_calibration(texts, loaded, recipe))
        assert unseen.summary.source == "text that comes with Python, test part"

    def test_of_a_task_it_is_validation_rows(self, tmp_path):
        write_task(tmp_path, "sst2", {"train": flowers(400), "validation": flowers(40)})
        loaded = wrap_model(tiny.make_model("bert"), tiny.make_tokenizer())
        recipe = make_recipe({**FAST, "task": "sst2", "data": str(tmp_path)})
        unseen = prepare_unseen(None, loaded, recipe, prepare_calibration(None, loaded, recipe))
        assert "validation" in unseen.summary.source
        assert unseen.labels is None
        (tmp_path / "sst2" / "validation.tsv").unlink()
        seen = prepare_unseen(None, loaded, recipe, prepare_calibration(None, loaded, recipe))
        assert seen.summary.source.endswith("which was calibrated on")

    def test_of_batches_it_is_the_first_of_them(self):
        context = open_tiny()
        unseen = prepare_unseen(context.calibration.batches, context.loaded, context.recipe, context.calibration)
        first = unseen.batches[0]["input_ids"]
        assert torch.equal(first, context.calibration.batches[0]["input_ids"][: len(first)])


class TestRecord:
    @pytest.mark.parametrize("record", [make_prune_record(), make_compare_record()], ids=["prune", "compare"])
    def test_it_is_read_back_as_it_was(self, record, tmp_path):
        write_record(record, tmp_path / "report.json")
        again = read_record(tmp_path / "report.json")
        assert render(again) == render(record)
        if record.kind == "compare":
            assert again == record
        else:
            assert np.array_equal(again.networks[1].information, record.networks[1].information)

    def test_figures_that_are_not_finite_come_back(self, tmp_path):
        record = make_compare_record()
        point = replace(record.rows[0].points[0], quality=float("inf"))
        record = replace(record, rows=(replace(record.rows[0], points=(point,)),))
        write_record(record, tmp_path / "report.json")
        assert read_record(tmp_path / "report.json") == record
        assert "not finite" in render(record)

    def test_arrays_keep_shape_and_bytes(self):
        values = np.arange(6, dtype="<f4").reshape(2, 3)
        assert np.array_equal(decode_array(json.loads(json.dumps(encode_array(values)))), values)

    @pytest.mark.parametrize(
        ("spoil", "told"),
        [
            (lambda text: "", "can't be read as a report"),
            (lambda text: "[1, 2]", "can't be read as a report"),
            (lambda text: "{" * 100_000, "can't be read as a report"),
            (lambda text: text.replace('"format": 1', '"format": 2'), "has format 2"),
            (lambda text: text.replace('"<f2"', '"|O"'), "dtype, shape and base64"),
            (lambda text: text.replace('"shape": [24, 24]', '"shape": [24, 99]'), "has 1152 bytes"),
            (lambda text: text.replace('"shape": [24, 24]', '"shape": [48, 12]'), "do not fit each other"),
            (lambda text: re.sub('"networks": .*?}], "warnings"', '"networks": [], "warnings"', text), "do not fit"),
            (lambda text: text.replace('"kind": "prune"', '"kind": "other"'), "can't be read as a report"),
            (lambda text: text.replace('"keep": 0.5', '"keep": "half"'), "can't be read as a report"),
        ],
    )
    def test_a_damaged_one_is_refused_in_one_line(self, spoil, told, tmp_path):
        path = tmp_path / "report.json"
        write_record(make_prune_record(), path)
        path.write_text(spoil(path.read_text()))
        with pytest.raises(InputError, match=told) as error:
            read_record(path)
        assert "\n" not in str(error.value)


class TestPage:
    @pytest.mark.parametrize("record", [make_prune_record(), make_compare_record()], ids=["prune", "compare"])
    def test_scripts_are_those_that_the_policy_names(self, record):
        page = render(record)
        policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
        named = set(re.findall(r"&#39;sha256-([^&]*)&#39;|'sha256-([^']*)'", policy))
        found = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts_of(page)}
        assert {one or two for one, two in named} == found
        assert len(found) == 2
        assert "default-src 'none'" in policy.replace("&#39;", "'")
        assert "unsafe-eval" not in policy

    @pytest.mark.parametrize("make", [make_prune_record, make_compare_record])
    def test_texts_never_become_markup(self, make):
        page = render(make(text=HOSTILE))
        for script in scripts_of(page):
            page = page.replace(script, "")
        assert "<img" not in page
        assert "<b>" not in page
        assert "49" not in re.sub(r"[\w+/=]{40,}", "", page.split("<h1>")[1].split("</h1>")[0])
        assert page.count("</script>") == 3

    def test_the_same_record_gives_the_same_page(self):
        assert render(make_prune_record()) == render(make_prune_record())

    def test_many_networks_have_smaller_heat_maps(self):
        def side_of(record):
            data = json.loads(re.search(r'id="data">(.*?)</script>', render(record), re.DOTALL)[1])
            return data["networks"][0]["figures"][0]["marks"][0]["side"]

        assert side_of(make_prune_record(networks=9, neurons=200, width=200)) == 192
        assert side_of(make_prune_record(networks=8, neurons=200, width=200)) == 200
        assert HEAT_SIDE == 512

    @pytest.mark.parametrize(("networks", "width", "most_mb"), [(30, 1536, 12), (80, 28672, 25)])
    def test_large_models_have_pages_of_bounded_size(self, networks, width, most_mb):
        page = render(make_prune_record(networks=networks, neurons=512, width=width))
        assert len(page.encode()) < most_mb * 1e6

    @pytest.mark.parametrize(("networks", "neurons"), [(1, 24), (30, 512), (80, 512)])
    def test_files_are_no_larger_than_the_bound(self, networks, neurons, tmp_path):
        record = make_prune_record(networks=networks, neurons=neurons, width=max(neurons, 1536))
        (tmp_path / "secateurs").mkdir()
        write_checkpoint_report(record, tmp_path)
        written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
        assert written < bound_bytes(record.networks) < 2 * written

    def test_what_was_not_measured_is_left_out(self):
        record = make_prune_record()
        views = tuple(
            replace(view, entropy_nats=np.empty(0, "<f4"), error_cut=None, error_refit=None) for view in record.networks
        )
        page = render(replace(record, networks=views, bytes_before=None))
        assert 'id="network-entropy"' not in page
        assert 'id="across-errors"' not in page
        assert "file size" not in page

    def test_what_is_not_finite_leaves_no_broken_bar(self):
        record = make_prune_record()
        broken = (Reading("perplexity", 20.0, float("nan")),)
        page = render(replace(record, look=replace(record.look, readings=broken)))
        assert "nan" not in page.split("<main")[1].split("</section>")[0].lower()
        assert "not finite" in page

    def test_neurons_that_are_padded_with_zeros_count_as_removed(self):
        record = make_prune_record(networks=2)
        padded = replace(record, after=replace(record.after, widths=(24, 24)), networks=record.networks[:1])
        assert count_neurons(padded) == (48, 36)
        assert "padded with zeros" in render(padded)

    def test_every_figure_has_words_for_it(self):
        for _, figure in name_figures(make_prune_record()) + name_figures(make_compare_record()):
            assert figure.title
            assert len(figure.alt) > 30


class TestComparisonPlot:
    def test_every_point_is_there(self):
        record = make_compare_record()
        marks = quality_plot(record).marks
        assert [len(mark.x) for mark in marks] == [2, 2, 2]
        assert marks[0].y.tolist() == [point.gap for point in record.rows[0].points]
        assert [mark.is_dashed for mark in marks] == [False, True, False]

    def test_many_ways_look_different(self):
        record = make_compare_record(methods=[f"method {number}" for number in range(48)])
        looks = {(mark.colour, mark.symbol, mark.is_dashed) for mark in quality_plot(record).marks}
        assert len(looks) == 48

    def test_at_one_width_rows_stand_beneath_each_other_best_on_top(self):
        figure = quality_plot(make_compare_record(keeps=(0.6,)))
        assert figure.y.names[-1] == "secateurs: refit"
        assert figure.marks[-1].y.tolist() == [2]

    @pytest.mark.parametrize(("keeps", "along"), [((0.4, 0.8), "y"), ((0.6,), "x")])
    def test_other_scores_than_losses_have_a_line_before_pruning(self, keeps, along):
        first = quality_plot(replace(make_compare_record(keeps=keeps), is_loss=False, metric="accuracy")).marks[0]
        assert first.name == "before pruning"
        assert getattr(first, along).tolist() == [20.0, 20.0]


class TestImages:
    def test_every_figure_can_be_drawn(self, tmp_path):
        record = make_prune_record(networks=1)
        files = write_figures(record, tmp_path)
        assert len(files) == 2 * len(name_figures(record)) == 20
        assert all(path.stat().st_size > 1000 for path in files)

    def test_hostile_names_can_be_drawn(self, tmp_path):
        for keeps in ((0.5,), (0.4, 0.8)):
            write_figures(make_compare_record(methods=(HOSTILE, "a $\\frac$", "$x$"), keeps=keeps), tmp_path)
            assert "<img" not in (tmp_path / "quality.svg").read_text()

    def test_what_is_drawn_is_what_was_found(self):
        from matplotlib.figure import Figure

        sizes = card_figures(make_prune_record())[0]
        canvas = Figure()
        draw_figure(canvas, sizes)
        heights = [bar.get_height() for bar in canvas.axes[0].patches]
        assert heights == pytest.approx([0.5] * 5)


class TestCommands:
    def prune(self, tmp_path, *words):
        tiny.save_checkpoint(tmp_path / "whole", "llama")
        flags = ["--keep", "0.5", "--round-to", "1", "--calibration-tokens", "1500", "--max-length", "64"]
        return run(["prune", str(tmp_path / "whole"), str(tmp_path / "out"), *flags, *words])

    def test_prune_writes_a_report_and_a_card_with_images(self, tmp_path, capsys):
        assert self.prune(tmp_path) == 0
        out = tmp_path / "out"
        assert str(out / "report.html") in capsys.readouterr().out.replace("\n", "")
        card = (out / "README.md").read_text()
        images = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", card)
        assert len(images) == 3
        assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in images)
        record = read_record(find_record(out))
        assert record.provenance.command.startswith("secateurs prune")
        assert (
            record.provenance.hashes["weights after"]
            == json.loads((out / "secateurs/manifest.json").read_text())["weights_sha256"]["after"]
        )
        assert record.bytes_after == (out / "model.safetensors").stat().st_size

    def test_no_report_writes_none(self, tmp_path):
        assert self.prune(tmp_path, "--no-report") == 0
        assert not (tmp_path / "out" / "report.html").exists()
        assert not (tmp_path / "out" / "secateurs" / "report.json").exists()

    def test_without_the_extra_prune_says_how_to_get_it_and_goes_on(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "plotly", None)
        assert self.prune(tmp_path) == 0
        assert "pip install plotly" in capsys.readouterr().err
        assert (tmp_path / "out" / "model.safetensors").exists()
        assert not (tmp_path / "out" / "report.html").exists()

    def test_from_python_what_is_missing_is_told_before_any_work(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "jinja2", None)
        with pytest.raises(InputError, match="pip install jinja2"):
            secateurs.prune("no/such/model", with_report=True)

    def test_the_report_changes_nothing_else(self, tmp_path):
        assert self.prune(tmp_path) == 0
        first = (tmp_path / "out" / "model.safetensors").read_bytes()
        assert self.prune(tmp_path, "--overwrite", "--no-report") == 0
        assert (tmp_path / "out" / "model.safetensors").read_bytes() == first

    def test_a_look_that_fails_costs_only_the_report(self, tmp_path, monkeypatch, capsys):
        def fail(*args, **settings):
            raise RuntimeError("out of\nmemory")

        monkeypatch.setattr("secateurs.surveying.mutual_information", fail)
        assert self.prune(tmp_path) == 0
        printed = capsys.readouterr()
        assert "there is no report, as looking at the model failed: out of memory" in printed.err
        assert "report.html" not in printed.out
        assert (tmp_path / "out" / "model.safetensors").exists()

    def test_a_report_is_made_again_the_same(self, tmp_path, capsys):
        assert self.prune(tmp_path) == 0
        page = tmp_path / "out" / "report.html"
        first = page.read_bytes()
        page.unlink()
        assert run(["report", str(tmp_path / "out"), "--figures", "--json"]) == 0
        printed = capsys.readouterr().out
        told = json.loads(printed[printed.index('{\n  "page"') :])
        assert page.read_bytes() == first
        assert len(told["figures"]) == 2 * len(name_figures(read_record(find_record(tmp_path / "out"))))

    def test_a_report_that_cannot_be_written_costs_only_the_report(self, tmp_path, monkeypatch):
        def fail(*args, **settings):
            raise ValueError("no canvas")

        monkeypatch.setattr("secateurs.reporting.write_plot", fail)
        with pytest.warns(UserWarning, match="there is no report, as writing it failed: no canvas"):
            assert self.prune(tmp_path) == 0
        out = tmp_path / "out"
        assert (out / "model.safetensors").exists()
        assert not (out / "report.html").exists()
        assert sorted(path.name for path in (out / "secateurs").iterdir()) == [
            "manifest.json",
            "plan.json",
            "plan.safetensors",
        ]

    def test_with_another_number_format_file_sizes_are_of_that_format(self, tmp_path):
        assert self.prune(tmp_path, "--dtype", "bfloat16") == 0
        record = read_record(find_record(tmp_path / "out"))
        assert record.bytes_before == 2 * record.before.parameters
        assert "bfloat16" in record.bytes_note

    def test_everything_kept_is_shown_too(self, tmp_path):
        assert self.prune(tmp_path, "--keep", "1.0", "--no-refit") == 0
        assert (tmp_path / "out" / "report.html").exists()

    def test_a_pruned_model_pruned_again_has_its_own_report(self, tmp_path):
        assert self.prune(tmp_path) == 0
        assert run(["report", str(tmp_path / "out"), "--figures"]) == 0
        words = ["prune", str(tmp_path / "out"), str(tmp_path / "again"), "--keep", "0.5", "--round-to", "1"]
        assert run([*words, "--calibration-tokens", "1500", "--max-length", "64", "--no-report"]) == 0
        assert not (tmp_path / "again" / "report.html").exists()
        assert not (tmp_path / "again" / "secateurs" / "report.json").exists()
        assert not list((tmp_path / "again").rglob("figures"))

    def test_a_folder_that_cannot_be_written_to_is_told(self, tmp_path, capsys):
        assert self.prune(tmp_path) == 0
        (tmp_path / "out" / "report.html").unlink()
        (tmp_path / "out" / "report.html").mkdir()
        assert run(["report", str(tmp_path / "out")]) == 2
        assert "can't be written" in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["nowhere", "empty"])
    def test_a_folder_without_a_report_is_refused(self, name, tmp_path, capsys):
        (tmp_path / "empty").mkdir()
        assert run(["report", str(tmp_path / name)]) == 2
        assert capsys.readouterr().err.startswith("error: ")


def test_random_needs_nothing_so_a_report_measures_by_itself():
    assert RANDOM.needs == frozenset()
    context = open_tiny(method="random", refit=False)
    assert len(finish(context, make_plan(context), with_report=True).views.networks[0].information) == tiny.WIDTH


def test_views_are_of_the_size_that_is_told():
    assert make_view(neurons=8, width=30).information.shape == (8, 8)
