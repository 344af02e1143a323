"""The paper's experiments, on tiny models: structure, resuming, and that the figures are what they say."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

import tiny
from secateurs.cells import Cell
from secateurs.cli import run
from secateurs.errors import InputError
from secateurs.methods import METHODS, find_method
from secateurs.models.loading import load_model
from secateurs.paper import seeds, sensitivity
from secateurs.paper.bench import (
    Variant,
    open_bench,
    open_pruning,
    relative_flops,
    score,
    tune_models,
    width_at,
)
from secateurs.paper.experiments import EXPERIMENTS, run_experiment
from secateurs.paper.results import find_floor, has_signal, is_tie, mean_and_spread
from secateurs.paper.seeds import choose_among
from secateurs.paper.study import make_study, run_cells
from secateurs.paper.variants import ALPHAS, LITERAL, SCALED, SHARES, TABLE_VARIANTS, find_variants
from secateurs.pipeline import as_plan, carry_out
from secateurs.results import no_progress
from secateurs.texts import default_passages
from tiny_tasks import BAD, GOOD, flowers, write_task


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data of three tasks, a base model and, once trained, its fine-tuned models."""
    folder = tmp_path_factory.mktemp("paper")
    pairs = [("a rose", (GOOD if row % 2 else BAD)[row % 3], row % 2) for row in range(40)]
    write_task(folder / "data", "sst2", {"train": flowers(120), "validation": flowers(30)})
    for name in ("mrpc", "stsb", "qqp"):
        write_task(folder / "data", name, {"train": pairs, "validation": pairs[:20]})
    tiny.save_checkpoint(folder / "base", "bert-model")
    return folder


def study_in(place, out, **settings):
    given = {"tasks": "sst2,stsb", "scope": "ffn", "quick": True, "jobs": 1, "freeze_embeddings": False}
    given |= {"model": str(place / "base"), "data": place / "data", "models": place / "models", "folder": out}
    return make_study(**{**given, **settings})


@pytest.fixture
def few(monkeypatch):
    """Few random starts, so that the presets are quick."""
    monkeypatch.setattr("secateurs.paper.study.QUICK_CANDIDATES", 3)
    monkeypatch.setattr("secateurs.paper.study.CANDIDATES", 3)
    monkeypatch.setattr(seeds, "CANDIDATES", 6)
    monkeypatch.setattr(seeds, "COUNTS", (1, 2, 6))


def write_texts(data):
    """The two texts that sensitivity reads, of words that the tokenizer of tiny models knows."""
    for name in ("validation.tokens.txt", "test.raw.txt"):
        (data / "wikitext2").mkdir(exist_ok=True)
        (data / "wikitext2" / name).write_text("\n".join(default_passages("test"))[:60_000])


def without_seconds(content):
    if isinstance(content, dict):
        return {k: without_seconds(v) for k, v in content.items() if "second" not in k}
    return [without_seconds(value) for value in content] if isinstance(content, list) else content


class TestTable2:
    def test_it_has_every_method_with_and_without_refit_at_the_asked_flops(self, place, tmp_path, few):
        document, _ = run_experiment("table2", study_in(place, tmp_path, tasks="sst2,stsb,qqp"))
        for variant in TABLE_VARIANTS:
            assert f"| {variant.label} | no |" in document.markdown
            assert f"| {variant.label} | yes |" in document.markdown
        for cell in document.content["cells"]:
            assert len(cell["entries"]) == 2 * (10 if cell["method"] == "random" else 1)
            for entry in cell["entries"]:
                assert entry["width"] == 10  # 0.4 of 24
                assert entry["relative_ffn_flops"] == pytest.approx(10 / 24)
        dense = {entry["task"]: entry for entry in document.content["dense"]}
        assert set(dense["qqp"]["floor"]) == {"f1", "accuracy"}
        assert dense["sst2"]["margin"] == pytest.approx(dense["sst2"]["scores"][0]["accuracy"] - 0.5)

    def test_the_same_seeds_give_the_same_table(self, place, tmp_path, few):
        first, second = (
            run_experiment("table2", study_in(place, tmp_path / name, models=place / f"models-{name}"))[0]
            for name in ("a", "b")
        )
        assert first.markdown == second.markdown
        assert without_seconds(first.content) == without_seconds(second.content)

    def test_what_is_done_is_not_done_again_unless_a_setting_changed(self, place, tmp_path, few):
        study, seen = study_in(place, tmp_path, tasks="sst2"), []
        run_experiment("table2", study)
        cells = sorted((tmp_path / "cells" / "table2").glob("*.json"))
        assert len(cells) == len(TABLE_VARIANTS)
        kept = {path: path.stat().st_mtime_ns for path in cells}
        cells[0].unlink()
        stored = json.loads(cells[1].read_text())
        stored["settings"]["relative_flops"] = 0.9
        cells[1].write_text(json.dumps(stored))
        run_experiment("table2", study, lambda *report: seen.append(report))
        assert ("table2: cells", len(cells) - 2, len(cells)) in seen
        assert all(path.stat().st_mtime_ns == kept[path] for path in cells[2:])
        assert json.loads(cells[1].read_text())["settings"]["relative_flops"] == 0.4

    def test_its_figures_are_those_of_the_cells_and_ties_are_told(self, place, tmp_path, few, monkeypatch):
        monkeypatch.setattr("secateurs.paper.study.SEEDS", (0, 1))
        document, _ = run_experiment("table2", study_in(place, tmp_path, tasks="sst2", quick=False))
        rows = [[part.strip() for part in line.split("|")] for line in document.markdown.splitlines() if "|" in line]
        printed = {(row[1], row[2]): row[3] for row in rows if len(row) == 5}
        means = {}
        for refit in (False, True):
            for variant in TABLE_VARIANTS:
                cells = [cell for cell in document.content["cells"] if cell["method"] == variant.label]
                assert [cell["seed"] for cell in cells] == [0, 1]
                of_seeds = [
                    np.mean([e["scores"]["accuracy"] for e in cell["entries"] if e["refit"] == refit]) for cell in cells
                ]
                key = (variant.label, "yes" if refit else "no")
                means[key] = np.mean(of_seeds)
                assert mean_and_spread(of_seeds) in printed[key]
        (dense,) = document.content["dense"]
        if dense["has_signal"]:
            best = [key for key, text in printed.items() if text.startswith("**")]
            assert len(best) == 1
            assert means[best[0]] == max(means.values())
        assert "standard errors" in document.markdown

    def test_a_choice_is_made_once_for_both_rows(self, place, tmp_path, few, monkeypatch):
        method, chosen = METHODS["paper"], []
        counted = replace(method, plan=lambda context: chosen.append(1) or method.plan(context))
        monkeypatch.setitem(METHODS, "paper", counted)
        document, _ = run_experiment("table2", study_in(place, tmp_path, tasks="sst2"))
        cell = next(cell for cell in document.content["cells"] if cell["method"] == "paper")
        assert len(chosen) == 1
        assert len({entry["seconds_choosing"] for entry in cell["entries"]}) == 1

    def test_a_refit_changes_the_weights_and_says_by_how_much(self, place, tmp_path, few):
        document, _ = run_experiment("table2", study_in(place, tmp_path, tasks="stsb"))
        for cell in document.content["cells"]:
            for entry in cell["entries"]:
                assert ("relative_error_refit" in entry["figures"]) == entry["refit"]


@pytest.mark.parametrize("name", ["fig2", "fig3", "fig4", "fig5", "fig6", "fig7"])
def test_every_figure_is_drawn_and_written(name, place, tmp_path, few):
    _, files = run_experiment(name, study_in(place, tmp_path))
    assert [path.suffix for path in files] == [".json", ".md", ".svg", ".png"]
    assert files[2].read_text().lstrip().startswith("<?xml")
    content = json.loads(files[0].read_text())
    assert content["experiment"] == name
    assert str(place) not in files[0].read_text()
    assert content["cells"]


def test_curves_have_a_point_at_every_level(place, tmp_path, few):
    document, _ = run_experiment("fig2", study_in(place, tmp_path, tasks="sst2"))
    widths = [entry["width"] for entry in document.content["cells"][1]["entries"]]
    assert widths == [2, 5, 7, 10, 12, 14, 17, 19, 22]


def test_sensitivity_compares_three_kinds_of_model_by_the_margin_that_is_left(place, tmp_path, few, monkeypatch):
    write_texts(place / "data")
    tiny.save_checkpoint(place / "encoder", "bert-model", seed=3)
    tiny.save_checkpoint(place / "decoder", "llama")
    loads = {"minilm": str(place / "encoder"), "smollm2": str(place / "decoder")}
    monkeypatch.setattr(sensitivity, "load_model", lambda name, **given: load_model(loads[name], **given))
    monkeypatch.setattr(sensitivity, "TOKENS", 300)
    monkeypatch.setattr(sensitivity, "WINDOW", 100)
    document, _ = run_experiment("sensitivity", study_in(place, tmp_path))
    cells = {(cell["model"], cell["method"]): cell for cell in document.content["cells"]}
    assert {model for model, _ in cells} == {"bert-tiny", "minilm", "smollm2"}
    decoder = cells["smollm2", "magnitude"]
    assert decoder["floor"] == pytest.approx(-np.log(tiny.VOCABULARY))
    for entry in decoder["entries"]:
        left = (entry["score"] - decoder["floor"]) / (decoder["dense"] - decoder["floor"])
        assert entry["left"] == pytest.approx(left)
    means = [
        np.mean([e["left"] for e in c["entries"] if e["level"] == 0.5]) for (m, _), c in cells.items() if m == "minilm"
    ]
    assert document.content["spread"]["minilm"]["0.5"]["range"] == pytest.approx(max(means) - min(means))


def test_sensitivity_says_before_anything_else_what_data_it_lacks(place, tmp_path):
    with pytest.raises(InputError, match="sensitivity needs wikitext2/"):
        run_experiment("sensitivity", study_in(place, tmp_path, data=tmp_path))
    with pytest.raises(InputError, match="sensitivity needs --data"):
        run_experiment("sensitivity", study_in(place, tmp_path, data=None))


def test_masked_scores_of_figure_7_are_those_of_the_cut_model(place, tmp_path, few):
    study = study_in(place, tmp_path, tasks="stsb")
    document, _ = run_experiment("fig7", study)
    cell = document.content["cells"][0]
    bench = open_bench(study, "stsb", 0)
    context = open_pruning(bench, Variant("", {"method": "paper", "seeds": 6}, least_rows=8), 0)
    context = context.under(context.recipe, 10)
    best = int(np.argmin(cell["kl_nats"]))
    plan = as_plan(context, find_method("paper").plan(context))
    assert plan.layers[0].figures["start"] == best
    cut = score(carry_out(plan, bench.loaded, in_place=False), bench, "stsb")["pearson"]
    assert cut == pytest.approx(cell["scores"][best], abs=1e-5)


def test_table_1_says_what_is_not_here(place, tmp_path):
    document, files = run_experiment("table1", study_in(place, tmp_path))
    assert "| qqp | f1 / accuracy | not measured here |" in document.markdown
    assert "| sst2 | accuracy | 120 | 30 | 0.500 |" in document.markdown
    assert [path.name for path in files] == ["table1.json", "table1.md"]


def test_a_model_that_is_there_is_not_trained_again_unless_its_settings_differ(place, tmp_path):
    study = study_in(place, tmp_path, tasks="sst2", models=tmp_path / "models")
    tune_models(study, no_progress)
    manifest = tmp_path / "models" / "sst2-0" / "secateurs" / "manifest.json"
    before = manifest.stat().st_mtime_ns
    tune_models(study, no_progress)
    assert manifest.stat().st_mtime_ns == before
    write_task(tmp_path / "data", "sst2", {"train": flowers(90), "validation": flowers(30)})
    tune_models(replace(study, data=tmp_path / "data"), no_progress)
    assert json.loads(manifest.read_text())["rows"] == 90
    tune_models(replace(study, freeze_embeddings=True), no_progress)
    assert json.loads(manifest.read_text())["training"]["freeze_embeddings"] is True


def test_flops_in_scope_model_leave_fewer_neurons(place, tmp_path):
    study = study_in(place, tmp_path, tasks="sst2")
    tune_models(study, no_progress)
    bench = open_bench(study, "sst2", 0)
    assert width_at(bench, 0.4, "ffn") == 10
    width = width_at(bench, 0.8, "model")
    assert width < width_at(bench, 0.8, "ffn")
    nearest = min(range(1, 25), key=lambda w: abs(relative_flops(bench, w)["relative_model_flops"] - 0.8))
    assert width == nearest


def test_the_floor_is_what_saying_the_same_of_every_row_gets():
    labels = [0, 1, 1, 1, 0]
    assert find_floor("mrpc", labels) == {"f1": f1_score(labels, [1] * 5), "accuracy": accuracy_score(labels, [1] * 5)}
    assert find_floor("qqp", [0, 0, 1])["f1"] == f1_score([0, 0, 1], [1, 1, 1])
    assert find_floor("sst2", [0, 0, 1]) == {"accuracy": pytest.approx(2 / 3)}
    assert find_floor("stsb", [0.5, 3.0]) == {"pearson": 0.0, "spearman": 0.0}


def test_a_dense_score_within_three_spreads_of_its_floor_says_nothing():
    assert has_signal([0.80, 0.81, 0.82], 0.5) is True
    assert has_signal([0.52, 0.50, 0.54], 0.5) is False
    assert has_signal([0.9], 0.5) is None
    assert has_signal([0.4], 0.5) is False
    assert has_signal([0.5, 0.5, 0.5], 0.5) is False


def test_methods_within_two_standard_errors_are_a_tie():
    first = np.array([0.80, 0.82, 0.81])
    assert is_tie(first, first - 0.01 * np.array([1, -1, 1]))
    assert not is_tie(first, first - np.array([0.05, 0.051, 0.049]))
    assert is_tie(first, first)


def test_means_are_written_with_their_spread():
    assert mean_and_spread([0.5, 0.7]) == "0.600 ± 0.141"
    assert mean_and_spread([0.5]) == "0.500"


def test_of_more_starts_the_one_nearest_the_original_is_taken(monkeypatch):
    monkeypatch.setattr(seeds, "COUNTS", (1, 3))
    cell = {"kl_nats": [0.3, 0.1, 0.2], "scores": [0.5, 0.9, 0.7]}
    chosen = choose_among(cell)
    assert chosen[3][0] == pytest.approx(
        (19 * 0.9 + 7 * 0.7 + 0.5) / 27, abs=0.02
    )  # of 27 sets of three, drawn with return
    assert chosen[1][0] == pytest.approx(0.7, abs=0.03)


def test_presets_take_the_studys_number_of_starts(place, tmp_path):
    variants = {variant.label: variant for variant in find_variants([LITERAL, SCALED], study_in(place, tmp_path))}
    assert variants["paper"].settings["seeds"] == 50
    assert (variants["paper"].least_rows, variants["paper-scaled"].least_rows) == (8, 500)
    assert ALPHAS == (0.5, 1.01, 1.5, 2.0, 3.0, 5.0)
    assert SHARES == (0.01, 0.1, 0.5, 1.0)


def double(study, cell):
    return {"value": 2 * cell.settings["number"]}


def test_cells_run_in_several_processes_and_come_back_in_order(place, tmp_path):
    cells = [Cell(f"cell-{number}", {"number": number}) for number in range(5)]
    study = study_in(place, tmp_path, jobs=2)
    found = run_cells(study, "test", cells, double, no_progress)
    assert [result["value"] for result in found] == [0, 2, 4, 6, 8]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table3"], "unknown experiment 'table3'; did you mean 'table2'?"),
        (["table1", "--tasks", "sst3"], "unknown task 'sst3'; did you mean 'sst2'?"),
        (["table1", "--tasks", ","], "tasks must name at least one task"),
        (["table1", "--scope", "all"], "unknown scope 'all'"),
        (["table1", "--data", "nowhere"], "data must be a folder, got nowhere"),
        (["table1", "--data", "{data}", "--tasks", "qnli"], "no qnli/train.tsv in"),
    ],
)
def test_wrong_calls_are_told_in_a_line(words, message, place, capsys):
    assert run(["paper", *(word.format(data=place / "data") for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_the_command_prints_the_table_and_says_what_it_wrote(place, tmp_path, capsys):
    words = ["paper", "table1", "--data", place / "data", "--tasks", "sst2", "--out", tmp_path / "out"]
    assert run([str(word) for word in words]) == 0
    printed = capsys.readouterr().out
    assert "| sst2 | accuracy | 120 | 30 | 0.500 |" in printed
    assert "table1.md" in printed
    assert set(EXPERIMENTS) >= {"table1", "table2", "sensitivity"}


def test_plots_need_matplotlib_and_say_how_to_get_it(place, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run_experiment("table1", study_in(place, tmp_path))
    with pytest.raises(InputError, match=r"pip install matplotlib"):
        run_experiment("fig2", study_in(place, tmp_path))
