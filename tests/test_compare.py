"""Methods compared on one model: resuming, honesty of the figures, and that they are those of pruning by itself."""

import csv
import gc
import json
import re
import sys
import time

import numpy as np
import pytest
import torch

import secateurs
import tiny
from secateurs.cli import run
from secateurs.compare import comparison, contenders, quality
from secateurs.compare.comparison import compare
from secateurs.compare.contenders import Contender, left_out_of_presets
from secateurs.compare.costs import Ledger, MemoryWatch, watch_memory
from secateurs.compare.entries import BIAS_NOT_STORABLE, Entry
from secateurs.compare.quality import PERPLEXITY, Metric, Quality, split_score
from secateurs.compare.settings import make_settings
from secateurs.compare.tables import compare_groups, gap_rows, make_rows
from secateurs.compare.trials import Bench, Trial, biased
from secateurs.errors import InputError
from secateurs.evaluation.perplexity import evaluate_perplexity
from secateurs.methods import METHODS, contract
from secateurs.models.families import find_feedforwards
from secateurs.models.loading import load_model
from secateurs.models.sizes import measure_size
from secateurs.recipe import PRESETS
from secateurs.report.stored import read_record
from secateurs.reporting import find_record
from secateurs.texts import default_passages
from tiny_tasks import BAD, GOOD, flowers, write_task

ACCURACY = Metric("accuracy", "accuracy")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with three tiny models and two tasks."""
    folder = tmp_path_factory.mktemp("compare")
    for name, case in (("llama", "llama"), ("opt", "opt"), ("bert", "bert"), ("bare", "bert-model")):
        tiny.save_checkpoint(folder / name, case)
    write_task(folder / "data", "sst2", {"train": flowers(120), "validation": flowers(40)})
    pairs = [("a rose", (GOOD if row % 2 else BAD)[row % 3], row % 4) for row in range(40)]
    write_task(folder / "data", "stsb", {"train": pairs, "validation": pairs})
    (folder / "text.txt").write_text("".join(default_passages("test"))[:12_000])
    return folder


def settings_in(place, out, model="llama", **changed):
    given = {"methods": "random,importance", "keep": "0.5,0.25", "refit": "both", "allocation": "uniform"}
    given |= {"calibration_tokens": 600, "max_length": 64, "tokens": 300, "window": 50, "calibration": None}
    if "task" in changed:
        given |= {"tokens": None, "window": None, "data": place / "data"}
    return make_settings(model=str(place / model), folder=out, **{**given, **changed})


def without_costs(content):
    if isinstance(content, dict):
        return {k: without_costs(v) for k, v in content.items() if "seconds" not in k and "peak" not in k}
    if isinstance(content, list):
        return [without_costs(value) for value in content]
    return re.sub(r"took [\d.]+ s a trial", "took some time a trial", content) if isinstance(content, str) else content


def as_plain(content):
    return json.loads(json.dumps(content))


def cell_name(path):
    return path.stem.removeprefix("trial-0-").rsplit("-", 1)[0]


def poison(monkeypatch, *targets):
    for target in targets:
        monkeypatch.setattr(target, lambda *args, **given: pytest.fail("this should not have been called"))


def entries_of(result, **wanted):
    return [entry for entry in result.content["cells"] if all(entry[key] == value for key, value in wanted.items())]


class TestResuming:
    def test_a_second_run_measures_and_scores_nothing(self, place, tmp_path, monkeypatch):
        first = compare(settings_in(place, tmp_path, methods="random,flap", trials=2))
        poison(monkeypatch, "secateurs.compare.quality.evaluate_perplexity", "secateurs.methods.contract.capture")
        second = compare(settings_in(place, tmp_path, methods="random,flap", trials=2))
        assert as_plain(second.content["cells"]) == as_plain(first.content["cells"])
        assert second.cells == first.cells
        assert second.notes == first.notes

    def test_activations_are_captured_only_for_those_who_look_at_them(self, place, tmp_path, monkeypatch):
        poison(monkeypatch, "secateurs.methods.contract.capture")
        result = compare(settings_in(place, tmp_path, methods="secateurs,random", refit="on"))
        assert {row.method for row in result.rows} == {"secateurs", "random"}
        assert result.content["trials"][0]["seconds_measuring"] is None

    def test_activations_are_captured_once_for_all_who_are_refitted_at_once(self, place, tmp_path, monkeypatch):
        captured, real = [], contract.capture
        monkeypatch.setattr(contract, "capture", lambda *a, **k: captured.append(1) or real(*a, **k))
        compare(settings_in(place, tmp_path, methods="flap,importance,random", refit="on", in_turn=False))
        assert len(captured) == 1

    def test_a_refit_at_once_is_not_warned_of_first_tokens(self, place, tmp_path):
        given = {"task": "sst2", "model": "bert", "methods": "importance", "refit": "on"}
        results = [compare(settings_in(place, tmp_path, in_turn=turn, **given)) for turn in (True, False)]
        few, calm = (any("few for a refit" in warning for warning in result.warnings) for result in results)
        assert few
        assert not calm

    def test_missing_damaged_and_differing_cells_alone_are_run(self, place, tmp_path, monkeypatch):
        settings = settings_in(place, tmp_path, methods="random,flap")
        first, scored, real = compare(settings), [], quality.evaluate_perplexity
        cells = {cell_name(path): path for path in (tmp_path / "cells").glob("*.json")}
        cells["random-uniform-0.5-refit"].unlink()
        cells["flap-uniform-0.5-bias-not-storable"].unlink()
        cells["random-uniform-0.25-published"].write_text("{")
        other = json.loads(cells["flap-uniform-0.25-refit"].read_text())
        other["settings"]["recipe"]["ridge"] = 7
        cells["flap-uniform-0.25-refit"].write_text(json.dumps(other))
        kept = cells["random-uniform-0.5-published"].stat().st_mtime_ns
        monkeypatch.setattr(quality, "evaluate_perplexity", lambda *a, **k: scored.append(1) or real(*a, **k))
        second = compare(settings)
        assert len(scored) == 4
        assert cells["random-uniform-0.5-published"].stat().st_mtime_ns == kept
        assert without_costs(as_plain(second.content["cells"])) == without_costs(as_plain(first.content["cells"]))

    @pytest.mark.parametrize("changed", [{"tokens": 250}, {"window": 60}, {"ridge": 0.2}, {"seed": 1}])
    def test_a_cell_counts_only_for_what_its_result_depends_on(self, place, tmp_path, changed):
        first = compare(settings_in(place, tmp_path, methods="random", keep="0.5"))
        before = {path: path.read_text() for path in (tmp_path / "cells").glob("trial-0-random*.json")}
        other = compare(settings_in(place, tmp_path, methods="random", keep="0.5", **changed))
        after = {path: path.read_text() for path in (tmp_path / "cells").glob("trial-0-random*.json")}
        assert as_plain(other.content["cells"]) != as_plain(first.content["cells"])
        assert (len(before), len(after)) == (2, 4)
        assert before.items() <= after.items()  # a return to the first settings finds its cells

    def test_new_rows_of_a_task_are_scored_anew(self, place, tmp_path):
        settings = settings_in(place, tmp_path / "out", "bert", task="sst2", methods="random", data=tmp_path)
        write_task(tmp_path, "sst2", {"train": flowers(120), "validation": flowers(40)})
        first = compare(settings)
        write_task(tmp_path, "sst2", {"train": flowers(120), "validation": flowers(40)[::-1][:30]})
        assert compare(settings).content["scored_on"]["rows_sha256"] != first.content["scored_on"]["rows_sha256"]
        assert sum(entries_of(compare(settings), method="random")[0]["weights"]) == 30


class TestFigures:
    def test_the_same_seed_gives_the_same_table(self, place, tmp_path):
        first, second = (compare(settings_in(place, tmp_path / name, trials=2)) for name in "ab")
        assert without_costs(as_plain(first.content)) == without_costs(as_plain(second.content))

    @pytest.mark.parametrize(
        ("method", "in_turn"),
        [
            ("redundancy", True),
            ("random", True),
            ("flap", True),
            ("flap", False),
            ("secateurs", True),
            ("secateurs", False),
        ],
    )
    def test_each_is_what_pruning_by_itself_gives(self, place, tmp_path, method, in_turn, monkeypatch):
        text, kept, real = place / "text.txt", {}, Bench.score_pruned

        def score_pruned(bench, context, layers, biases=()):
            kept[context.recipe.keep, layers[0].update is not None] = [layer.kept.tolist() for layer in layers]
            return real(bench, context, layers, biases)

        monkeypatch.setattr(Bench, "score_pruned", score_pruned)
        given = {"calibration": str(text), "text": str(text), "seed": 3, "in_turn": in_turn}
        settings = settings_in(place, tmp_path, "opt", methods=method, trials=1, **given)
        compared = compare(settings)
        loaded = load_model(str(place / "opt"))
        ids = loaded.tokenizer(text.read_text())["input_ids"][:300]
        for entry in compared.content["cells"]:
            alone = secateurs.prune(
                place / "opt",
                calibration=str(text),
                keep=entry["keep"],
                method=method,
                refit=entry["is_refitted"],
                in_turn=in_turn,
                seed=3,
                round_to=1,
                calibration_tokens=600,
                max_length=64,
            )
            perplexity = evaluate_perplexity(alone.model, ids, window=50).perplexity
            changes = alone.plan.layers[0].update is not None
            assert entry["scores"]["perplexity"] == pytest.approx(perplexity, rel=1e-6)
            assert kept[entry["keep"], changes] == [layer.kept.tolist() for layer in alone.plan.layers]
            assert entry["relative_ffn_flops"] == alone.relative_ffn_flops
            assert entry["relative_model_flops"] == alone.relative_model_flops
            assert entry["parameters"] == alone.after.parameters

    def test_nothing_is_lost_where_everything_is_kept(self, place, tmp_path):
        result = compare(settings_in(place, tmp_path, methods="random,flap,osscar", keep="1"))
        for row in result.rows:
            assert row.points[0].gap == pytest.approx(0, abs=1e-6)
            assert row.points[0].relative_ffn_flops == 1
            assert row.points[0].mark in ("best", "tied") or not row.is_saved_model

    def test_flops_and_parameters_follow_the_widths_rather_than_the_padding(self, place, tmp_path):
        result = compare(settings_in(place, tmp_path, methods="flap", allocation="both"))
        before = measure_size(load_model(str(place / "llama")).model, tiny.FAMILIES["llama"])
        uneven = [entry for entry in entries_of(result, allocation="global") if len(set(entry["widths"])) > 1]
        assert uneven
        assert any(note.startswith("global: FLOPs count the neurons that are kept") for note in result.notes)
        for entry in result.content["cells"]:
            assert sum(entry["widths"]) == 2 * round(24 * entry["keep"])
            assert entry["relative_ffn_flops"] == pytest.approx(entry["keep"])
            removed = 2 * 24 - sum(entry["widths"])
            assert entry["parameters"] == before.parameters - removed * 3 * tiny.HIDDEN
            assert entry["relative_parameters"] == entry["parameters"] / before.parameters

    def test_an_output_bias_that_cannot_be_stored_has_a_row_of_its_own(self, place, tmp_path):
        result = compare(settings_in(place, tmp_path, methods="flap,random", trials=2))
        rows = [row for row in result.rows if not row.is_saved_model]
        assert [row.correction for row in rows] == [f"own, {BIAS_NOT_STORABLE}"]
        assert {point.mark for point in rows[0].points} == {""}
        own = next(row for row in result.rows if row.correction == "own")
        assert own.points[0].quality != rows[0].points[0].quality
        assert any(BIAS_NOT_STORABLE in note for note in result.notes)
        with_bias = compare(settings_in(place, tmp_path / "opt", "opt", methods="flap"))
        assert all(row.is_saved_model for row in with_bias.rows)

    def test_biases_are_added_while_the_context_lasts(self, place):
        model = tiny.make_model("llama")
        ffns, inputs = find_feedforwards(model, tiny.family_of(model)), tiny.make_inputs(model)
        before = tiny.outputs(model, inputs)
        with biased(ffns, [torch.ones(tiny.HIDDEN), None]):
            assert not torch.allclose(tiny.outputs(model, inputs), before)
        assert torch.equal(tiny.outputs(model, inputs), before)

    def test_each_trial_reads_the_next_stretch_of_text_with_the_next_seed(self, place, tmp_path):
        result = compare(settings_in(place, tmp_path, trials=3, seed=5))
        trials = result.content["trials"]
        assert [trial["seed"] for trial in trials] == [5, 6, 7]
        assert len({trial["calibration"]["sha256"] for trial in trials}) == 3
        assert all(trial["seconds_measuring"] > 0 for trial in trials)
        entries = entries_of(result, method="random", keep=0.5, is_refitted=False)
        losses = [entry["scores"]["log_loss_nats"] for entry in entries]
        row = next(row for row in result.rows if (row.method, row.correction) == ("random", "none"))
        assert row.at(0.5).quality == pytest.approx(np.exp(np.mean(losses)))
        assert row.at(0.5).gap_spread == pytest.approx(np.std(losses, ddof=1))
        assert row.at(0.5).gap == pytest.approx(np.mean(losses) - result.content["dense"]["scores"]["log_loss_nats"])

    def test_too_little_text_for_so_many_trials_is_told_before_anything_is_measured(self, place, tmp_path, monkeypatch):
        poison(monkeypatch, "secateurs.compare.quality.evaluate_perplexity", "secateurs.methods.contract.capture")
        with pytest.raises(InputError, match=r"trial 1\d of 40: calibration needs"):
            compare(settings_in(place, tmp_path, calibration=str(place / "text.txt"), trials=40))

    def test_a_classifier_is_measured_on_other_rows_of_its_task_in_each_trial(self, place, tmp_path):
        settings = settings_in(place, tmp_path, "bert", task="sst2", methods="random,llm-pruner", trials=2)
        result = compare(settings)
        hashes = {trial["calibration"]["sha256"] for trial in result.content["trials"]}
        assert len(hashes) == 2
        assert "accuracy, higher is better" in result.notes[0]
        for entry in result.content["cells"]:
            assert sum(entry["weights"]) == 40
            assert np.average(entry["parts"], weights=entry["weights"]) == pytest.approx(entry["scores"]["accuracy"])

    def test_an_encoder_is_scored_by_its_embeddings(self, place, tmp_path):
        result = compare(settings_in(place, tmp_path, "bare", task="stsb-embeddings", methods="random,redundancy"))
        assert {row.method for row in result.rows} == {"random", "redundancy"}
        assert "spearman, higher is better" in result.notes[0]
        assert -1 <= result.content["dense"]["scores"]["spearman"] <= 1


def make_entry(value, *, method="a", trial=0, keep=0.5, parts=None, variant="", metric=PERPLEXITY):
    scores = {metric.ranked_by: value, metric.name: value}
    parts = [value] if parts is None else parts
    sizes = {"relative_parameters": 1.0, "relative_ffn_flops": 1.0, "relative_model_flops": 1.0}
    costs = {"seconds_choosing": 1.0, "peak_mb_choosing": 1.0}
    facts = {"needs": [], "corrects": False, "lacks_bias": False, "figures": {}}
    where = {"allocation": "uniform", "keep": keep, "is_refitted": False, "variant": variant, "trial": trial}
    weights = [1] * len(parts)
    return Entry(
        method,
        scores=scores,
        parts=parts,
        weights=weights,
        widths=[1],
        parameters=1,
        **where,
        **sizes,
        **costs,
        **facts,
    )


class TestRanking:
    def test_the_best_is_marked_and_what_its_parts_cannot_tell_apart_is_tied(self):
        parts = {"a": [1.0, 2.0, 3.0], "b": [1.1, 1.8, 3.2], "c": [2.0, 3.1, 4.0]}
        entries = [make_entry(float(np.mean(found)), method=name, parts=found) for name, found in parts.items()]
        rows = make_rows(entries, Quality({"log_loss_nats": 1.0}, [1.0] * 3, [1] * 3), PERPLEXITY)
        assert [(row.method, row.points[0].mark) for row in rows] == [("a", "best"), ("b", "tied"), ("c", "")]

    def test_higher_scores_are_better_and_nan_is_worst(self):
        entries = [make_entry(v, method=n, metric=ACCURACY) for n, v in (("a", 0.1), ("b", float("nan")), ("c", 0.3))]
        rows = make_rows(entries, Quality({"accuracy": 0.5}, [0.5], [1]), ACCURACY)
        assert [row.method for row in rows] == ["c", "a", "b"]
        assert rows[0].points[0].mark == "best"

    def test_what_cannot_be_saved_is_never_best(self):
        entries = [make_entry(1.0, variant="dream"), make_entry(2.0)]
        rows = make_rows(entries, Quality({"log_loss_nats": 1.0}, [1.0], [1]), PERPLEXITY)
        assert [(row.is_saved_model, row.points[0].mark) for row in rows] == [(False, ""), (True, "best")]

    def test_one_window_tells_nothing_apart(self):
        entries = [make_entry(1.0), make_entry(1.5, method="b"), make_entry(float("nan"), method="c")]
        rows = make_rows(entries, Quality({"log_loss_nats": 1.0}, [1.0], [1]), PERPLEXITY)
        assert [(row.method, row.points[0].mark) for row in rows] == [("a", "best"), ("b", "tied"), ("c", "")]
        assert rows[1].points[0].gap_standard_error is None
        assert gap_rows(rows, (0.5,))[1][3] == "+0.5000 ± unknown"

    def test_errors_of_windows_and_of_trials_both_count(self):
        first = [make_entry(1.0, trial=0, parts=[1.0, 1.0]), make_entry(1.0, trial=1, parts=[1.0, 1.0])]
        second = [make_entry(1.2, trial=0, parts=[1.1, 1.3]), make_entry(1.6, trial=1, parts=[1.5, 1.7])]
        difference, error = compare_groups(first, second, PERPLEXITY)
        of_windows, of_trials = np.std([0.3, 0.5], ddof=1) / np.sqrt(2), np.std([0.2, 0.6], ddof=1) / np.sqrt(2)
        assert difference == pytest.approx(0.4)
        assert error == pytest.approx(np.hypot(of_windows, of_trials))

    def test_windows_of_text_have_neighbours_and_groups_of_rows_have_none(self):
        parts = [float(place // 4) for place in range(32)]
        for metric, divisor in ((PERPLEXITY, 8), (ACCURACY, 32)):
            entry = make_entry(3.5, metric=metric, parts=parts)
            dense = Quality({metric.ranked_by: 0.0}, [0.0] * 32, [1] * 32)
            values = parts[::4] if divisor == 8 else parts
            error = make_rows([entry], dense, metric)[0].points[0].gap_standard_error
            assert error == pytest.approx(np.std(values, ddof=1) / np.sqrt(divisor))

    def test_a_width_that_could_not_be_run_is_a_dash(self):
        entries = [make_entry(1.0, keep=0.5), make_entry(2.0, keep=0.25), make_entry(1.5, method="b", keep=0.5)]
        rows = make_rows(entries, Quality({"log_loss_nats": 1.0}, [1.0], [1]), PERPLEXITY)
        assert [row.method for row in rows] == ["a", "b"]
        assert comparison.table_rows(rows, (0.25, 0.5), PERPLEXITY)[1][4] == "-"

    def test_the_jackknife_tells_the_standard_error_of_a_mean_and_of_a_correlation(self):
        random = np.random.default_rng(0)
        hits = (random.random(1000) < 0.8).astype(float)
        values, sizes = split_score(lambda places: float(hits[list(places)].mean()), 1000)
        assert np.average(values, weights=sizes) == pytest.approx(hits.mean())
        assert np.std(values, ddof=1) / np.sqrt(50) == pytest.approx(np.sqrt(0.8 * 0.2 / 1000), rel=0.3)
        x = random.standard_normal(1000)
        y = 0.6 * x + 0.8 * random.standard_normal(1000)
        values, _ = split_score(lambda places: float(np.corrcoef(x[list(places)], y[list(places)])[0, 1]), 1000)
        assert np.std(values, ddof=1) / np.sqrt(50) == pytest.approx((1 - 0.6**2) / np.sqrt(1000), rel=0.3)


class TestCosts:
    def test_whoever_uses_a_shared_result_is_charged_for_it_once(self):
        ledger, known = Ledger(MemoryWatch()), {}

        def shared(name, seconds, inner=None):
            ledger.use((name,))
            if name not in known:
                known[name] = ledger.compute((name,), lambda: (inner and inner(), time.sleep(seconds)))

        def outer():
            shared("outer", 0.03, lambda: shared("inner", 0.05))
            shared("inner", 0.05)

        costs = [ledger.bill(work)[1].seconds for work in (outer, outer, lambda: shared("inner", 9), lambda: None)]
        assert costs[0] == pytest.approx(0.08, abs=0.03)
        assert costs[1] == pytest.approx(0.08, abs=0.03)
        assert costs[2] == pytest.approx(0.05, abs=0.02)
        assert costs[3] < 0.02

    def test_memory_that_was_held_for_a_while_is_seen(self):
        def hold():
            held = np.ones(15_000_000)
            time.sleep(0.05)
            return len(held)

        gc.collect()  # garbage of other tests that goes meanwhile would hide it
        with watch_memory() as watch:
            ledger = Ledger(watch)
            assert ledger.bill(hold)[1].peak_mb > 60
            assert ledger.bill(lambda: 1)[1].peak_mb < 60


class TestWhoTakesPart:
    def leave(self, monkeypatch, *names):
        monkeypatch.setattr(contenders, "METHODS", {name: METHODS[name] for name in names})
        extra = {name: settings for name, settings in contenders.EXTRA.items() if settings["method"] in names}
        monkeypatch.setattr(contenders, "EXTRA", extra)

    def test_other_readings_of_a_method_take_part_under_names_of_their_own(self, place, tmp_path):
        result = compare(settings_in(place, tmp_path, methods="magnitude,magnitude-down,magnitude-group", keep="0.25"))
        gaps = {row.method: row.points[0].gap for row in result.rows if row.correction == "none"}
        assert len(set(gaps.values())) == 3

    def test_of_all_methods_those_that_cannot_run_are_left_out_with_a_line(self, place, tmp_path, monkeypatch):
        self.leave(monkeypatch, "random", "redundancy", "llm-pruner")
        settings = settings_in(place, tmp_path, "bare", task="stsb-embeddings", methods="all", refit="off", keep="0.5")
        result = compare(settings)
        assert {row.method for row in result.rows} == {"random", "redundancy", "importance"}
        assert len(result.warnings) == 1
        assert result.warnings[0].startswith("llm-pruner (uniform) was left out: BertModel has no loss")
        assert list(result.content["skipped"]) == ["llm-pruner (uniform)"]

    @pytest.mark.parametrize(
        ("model", "given", "message"),
        [
            ("bare", {"task": "stsb-embeddings"}, "BertModel has no loss"),
            ("bert", {"task": "sst2", "calibration": "text.txt"}, "needs labelled rows"),
        ],
    )
    def test_a_named_method_that_cannot_run_is_refused_before_anything_is_measured(
        self, place, tmp_path, monkeypatch, model, given, message
    ):
        poison(monkeypatch, "secateurs.compare.trials.Bench.score_dense", "secateurs.methods.contract.capture")
        given = {name: str(place / value) if name == "calibration" else value for name, value in given.items()}
        with pytest.raises(InputError, match=message):
            compare(settings_in(place, tmp_path, model, methods="random,textpruner", **given))

    def test_a_method_that_fails_midway_does_not_end_a_comparison_of_all(self, place, tmp_path, monkeypatch):
        self.leave(monkeypatch, "random", "redundancy")
        real = Trial.run

        def run_job(trial, job):
            if job.contender.name == "redundancy" and job.keep == 0.5:
                raise InputError("no information here")
            return real(trial, job)

        monkeypatch.setattr(Trial, "run", run_job)
        result = compare(settings_in(place, tmp_path, methods="all", refit="off"))
        assert "redundancy (uniform) was left out: no information here" in result.warnings
        assert [len(row.points) for row in result.rows if row.method == "redundancy"] == [1]
        with pytest.raises(InputError, match="no information here"):
            compare(settings_in(place, tmp_path, methods="redundancy", refit="off"))

    def test_a_method_that_fails_under_one_allocation_goes_on_under_the_other(self, place, tmp_path, monkeypatch):
        self.leave(monkeypatch, "flap")
        real = Trial.run

        def run_job(trial, job):
            if job.contender.allocation == "global":
                raise InputError("too few rows")
            return real(trial, job)

        monkeypatch.setattr(Trial, "run", run_job)
        settings = settings_in(place, tmp_path, methods="all", allocation="both", refit="on", keep="0.5", trials=2)
        result = compare(settings)
        assert [(entry["allocation"], entry["trial"]) for entry in result.content["cells"]] == [
            ("uniform", 0),
            ("uniform", 1),
        ]
        assert "flap (global) was left out: too few rows" in result.warnings

    def test_global_allocation_leaves_out_methods_without_it_or_refuses_them_by_name(self, place, tmp_path):
        entrants = contenders.find_entrants(settings_in(place, tmp_path, methods="all", allocation="global"))
        assert "flap" in {contender.name for contender in entrants.contenders}
        assert "has no global allocation" in entrants.skipped["random (global)"]
        with pytest.raises(InputError, match="'random' has no global allocation"):
            contenders.find_entrants(settings_in(place, tmp_path, methods="random", allocation="global"))
        both = contenders.find_entrants(settings_in(place, tmp_path, methods="random,flap", allocation="both"))
        assert [(c.name, c.allocation) for c in both.contenders] == [
            ("random", "uniform"),
            ("flap", "uniform"),
            ("flap", "global"),
        ]

    def test_presets_choose_in_their_own_way_on_the_shared_measurements(self, place, tmp_path):
        measured = settings_in(place, tmp_path).recipe
        recipe = Contender("paper", "uniform").recipe(measured, 0.5)
        for name in ("kernel_width", "kernels", "seeds", "distance"):
            assert getattr(recipe, name) == PRESETS["paper"][name]
        assert (recipe.samples, recipe.calibration_share, recipe.refit) == (measured.samples, None, True)
        left_out = left_out_of_presets((Contender("paper", "uniform"),))
        assert left_out == {"paper": ("calibration_share", "min_rows", "samples")}


class TestFiles:
    def test_random_starts_that_were_asked_for_count_before_those_of_a_preset(self, place, tmp_path):
        asked, plain = (settings_in(place, tmp_path, **more).recipe for more in ({"seeds": 3}, {}))
        assert Contender("paper", "uniform").recipe(asked, 0.5).seeds == 3
        assert Contender("paper", "uniform").recipe(plain, 0.5).seeds == PRESETS["paper"]["seeds"]
        assert "--seeds 3" in settings_in(place, tmp_path, seeds=3).describe_command()
        assert settings_in(place, tmp_path, in_turn=False).describe_command().endswith("--no-in-turn")
        assert settings_in(place, tmp_path, device="cpu").describe_command().endswith("--device cpu")

    def test_what_makes_a_refit_poor_is_warned_of_where_there_is_one(self, place, tmp_path, monkeypatch):
        monkeypatch.setattr(comparison, "find_refit_warnings", lambda context: ["few for a refit"])
        told = {refit: compare(settings_in(place, tmp_path, refit=refit)).warnings for refit in ("on", "off")}
        assert "few for a refit" in told["on"]
        assert "few for a refit" not in told["off"]

    def test_csv_json_and_markdown_agree(self, place, tmp_path):
        result = compare(settings_in(place, tmp_path, methods="random,flap", trials=2))
        content = json.loads((tmp_path / "compare.json").read_text())
        assert content == as_plain(result.content)
        lines = list(csv.DictReader((tmp_path / "compare.csv").open()))
        assert len(lines) == len(content["cells"]) == 2 * 2 * (2 + 3)
        for line, entry in zip(lines, content["cells"], strict=True):
            assert (line["method"], int(line["trial"])) == (entry["method"], entry["trial"])
            assert float(line["perplexity"]) == entry["scores"]["perplexity"]
            assert line["widths"] == " ".join(map(str, entry["widths"]))
            assert float(line["gap_standard_error"]) > 0
        markdown = (tmp_path / "compare.md").read_text()
        for row in result.cells:
            assert "| " + " | ".join(row) + " |" in markdown
        for row in content["rows"]:
            for point in row["points"]:
                shown = f"{point['gap']:+.4f} ± {point['gap_standard_error']:.4f} ({point['gap_spread']:.4f})"
                assert shown in markdown
        page = (tmp_path / "report.html").read_text() + (tmp_path / "report.json").read_text()
        assert str(place) not in (tmp_path / "compare.json").read_text() + markdown + page
        written = {f"compare.{ending}" for ending in ("json", "csv", "md", "png", "svg")}
        assert {path.name for path in result.files} == written | {"report.html", "report.json"}
        assert read_record(find_record(tmp_path)).rows == result.rows
        assert all(path.is_file() for path in result.files)

    def test_without_the_extra_there_is_no_report_but_a_hint(self, place, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        result = compare(settings_in(place, tmp_path, methods="random", keep="0.5", refit="off"))
        assert any("pip install matplotlib" in warning for warning in result.warnings)
        assert {path.suffix for path in result.files} == {".json", ".csv", ".md"}


class TestCommand:
    def test_it_prints_the_table_and_says_what_it_wrote(self, place, tmp_path, capsys):
        words = ["compare", place / "llama", "--methods", "random,importance", "--keep", "0.5", "--tokens", "200"]
        words += ["--calibration-tokens", "600", "--max-length", "64", "--out", tmp_path, "--refit", "off"]
        assert run([str(word) for word in words]) == 0
        printed = capsys.readouterr()
        for part in ("importance", "keep 0.5", "lower is better", "seed 0", "compare.csv"):
            assert part in printed.out
        assert "comparing: cells" in printed.err
        assert run([str(word) for word in [*words, "--json"]]) == 0
        content = json.loads(capsys.readouterr().out)
        assert content["command"].startswith("secateurs compare llama --methods random,importance --keep 0.5")

    def test_its_help_names_every_option(self, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setenv("TERMINAL_WIDTH", "200")
        assert run(["compare", "--help"]) == 0
        printed = capsys.readouterr().out
        for name in ("methods", "keep", "refit", "allocation", "calibration-tokens", "trials", "task", "out", "ridge"):
            assert f"--{name}" in printed

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--methods", "redundncy"], "unknown method 'redundncy'; did you mean 'redundancy'?"),
            (["--methods", ","], "methods must name at least one method, or all"),
            (["--methods", "all,random"], "methods must be all, or names"),
            (["--keep", "1.5"], "keep must be in (0, 1], got 1.5"),
            (["--keep", "nan"], "keep must be in (0, 1], got nan"),
            (["--keep", "half"], "keep must be numbers in (0, 1], separated by commas, got 'half'"),
            (["--keep", ""], "keep must name at least one fraction"),
            (["--refit", "maybe"], "unknown refit 'maybe'"),
            (["--allocation", "fair"], "unknown allocation 'fair'"),
            (["--trials", "0"], "trials must be a whole number of at least 1, got 0"),
            (["--task", "sst2", "--text", "a.txt"], "--task has its own data; leave out --text"),
            (["--task", "sst3", "--data", "{data}"], "unknown task 'sst3'; did you mean 'sst2'?"),
            (["--task", "mrpc", "--data", "{data}"], "no mrpc/validation.tsv in"),
            (["--task", "sst2", "--data", "nowhere"], "data must be a folder, got nowhere"),
            (["--task", "stsb-embeddings"], "task stsb-embeddings needs --data"),
            (["--out", "{data}/sst2/train.tsv"], "out must be a folder, got the file"),
            (["--out", "{data}/sst2"], "holds files that are not a comparison's"),
            (["--data", "{data}"], "--data is for the files of a --task"),
            (["--text", "nope.txt"], "got nothing there"),
            (["--calibration", "nope.txt"], "got nothing there"),
            (["--calibration", "-"], "calibration must be a file, got -"),
            (["--calibration-tokens", "5"], "calibration_tokens must be a whole number of at least 256, got 5"),
        ],
    )
    def test_wrong_calls_are_told_in_a_line_before_the_model_is_read(self, place, words, message, capsys, monkeypatch):
        poison(monkeypatch, "secateurs.compare.comparison.load_model")
        words = [word.format(data=place / "data") for word in words]
        assert run(["compare", str(place / "llama"), *words]) == 2
        printed = capsys.readouterr()
        assert message in printed.err
        assert len(printed.err.splitlines()) == 1
        assert printed.out == ""

    def test_models_that_cannot_be_scored_are_refused(self, place, tmp_path, capsys):
        tiny.save_checkpoint(tmp_path / "t5", "t5")
        data = ["--task", "sst2", "--data", str(place / "data")]
        for model, words, message in (
            (place / "bare", [], "BertModel has no perplexity; compare on a task: --task NAME --data DIR"),
            (place / "bare", data, "BertModel has no head for sst2"),
            (tmp_path / "t5", [], "T5ForConditionalGeneration has no perplexity"),
        ):
            assert run(["compare", str(model), "--out", str(tmp_path / "out"), *words]) == 2
            assert message in capsys.readouterr().err
