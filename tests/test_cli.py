"""The command line, in process and as a command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal, get_origin

import pytest
import torch
from transformers import AutoModelForCausalLM

import tiny
from secateurs.cli import options, run
from secateurs.cli.output import progress_on_stderr
from secateurs.recipe import Recipe

FAST = ["--keep", "0.5", "--round-to", "1", "--calibration-tokens", "600", "--max-length", "64", "--kernel-rows", "64"]


def call(*words, capsys):
    code = run([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_prune_writes_a_checkpoint_and_prints_before_and_after(checkpoint, tmp_path, capsys):
    code, out, err = call("prune", checkpoint, tmp_path / "out", *FAST, capsys=capsys)
    assert code == 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.intermediate_size == 12
    for words in ("FFN width obtained", "scope ffn", "scope model", "read 600 tokens", "left unread"):
        assert words in out
    assert "pruning network after network" in err
    assert "\x1b" not in out + err


def test_json_on_stdout_is_one_document(checkpoint, tmp_path, capsys):
    code, out, _ = call("prune", checkpoint, tmp_path / "out", *FAST, "--json", capsys=capsys)
    content = json.loads(out)
    assert code == 0
    assert content["after"]["widths"] == [12, 12]
    assert content["calibration"]["tokens"] == 600
    for command in (["methods"], ["families"], ["env"], ["inspect", checkpoint]):
        code, out, _ = call(*command, "--json", capsys=capsys)
        assert code == 0
        assert json.loads(out)


@pytest.mark.parametrize(("found", "told"), [(["avx2", "generic"], "avx2"), ([], "none: torch")])
def test_env_tells_whether_the_kernel_is_compiled(found, told, capsys, monkeypatch):
    monkeypatch.setattr("secateurs.information.backends.find_instruction_sets", lambda: found)
    _, out, _ = call("env", "--json", capsys=capsys)
    facts = {row["name"]: row["value"] for row in json.loads(out)}
    assert facts["compiled kernel"].startswith(told)


def test_dry_run_writes_nothing_and_foretells_the_size(checkpoint, tmp_path, capsys):
    _, foretold, _ = call("prune", checkpoint, tmp_path / "out", *FAST, "--dry-run", "--json", capsys=capsys)
    assert not (tmp_path / "out").exists()
    _, done, _ = call("prune", checkpoint, tmp_path / "out", *FAST, "--json", capsys=capsys)
    assert f"-> {json.loads(done)['after']['parameters']:,}" in json.loads(foretold)["parameters"]


def test_dry_run_of_one_budget_foretells_no_less_than_the_widest_network_asks(checkpoint, tmp_path, capsys):
    words = ("prune", checkpoint, tmp_path / "out", *FAST, "--allocation", "global", "--json")
    _, foretold, _ = call(*words, "--dry-run", capsys=capsys)
    facts = json.loads(foretold)
    assert "-> at least " in facts["parameters"]
    assert "mean of all networks" in facts["width"]
    _, done, _ = call(*words, capsys=capsys)
    least = int(facts["parameters"].split("at least ")[1].replace(",", ""))
    assert json.loads(done)["after"]["parameters"] >= least


def test_a_recipe_file_says_what_options_say_and_options_win(checkpoint, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("keep: 0.25\nround_to: 1\ncalibration_tokens: 600\nmax_length: 64\nrefit: false\n")
    _, out, _ = call("prune", checkpoint, tmp_path / "a", "--recipe", recipe, "--json", capsys=capsys)
    assert json.loads(out)["after"]["widths"] == [6, 6]
    words = ("--recipe", recipe, "--keep", "0.5", "--refit", "--json")
    _, out, _ = call("prune", checkpoint, tmp_path / "b", *words, capsys=capsys)
    assert json.loads(out)["after"]["widths"] == [12, 12]
    assert "relative_error_refit" in json.loads(out)["layers"][0]


def test_every_setting_is_an_option_with_its_help(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    code, out, _ = call("prune", "--help", capsys=capsys)
    assert code == 0
    for name, field in Recipe.model_fields.items():
        assert "--" + name.replace("_", "-") in out
        assert field.description, name
    for flag in ("--no-refit", "--no-information", "--recipe", "--dry-run", "--overwrite", "--json", "--debug"):
        assert flag in out


@pytest.mark.parametrize("name", Recipe.model_fields)
def test_every_option_has_a_type_that_every_typer_in_range_reads(name):
    kind = options.plain_type(Recipe.model_fields[name].annotation)
    assert kind in (bool, int, float, str) or get_origin(kind) is Literal


def test_evaluate_scores_a_language_model_and_compares_two(checkpoint, tmp_path, capsys):
    call("prune", checkpoint, tmp_path / "out", *FAST, capsys=capsys)
    words = ("evaluate", tmp_path / "out", "--tokens", "300", "--window", "64", "--against", checkpoint, "--json")
    code, out, _ = call(*words, capsys=capsys)
    score = json.loads(out)["score"]
    assert code == 0
    assert score["perplexity"] > 1
    assert score["tokens_predicted"] == 300 - 5
    assert score["gap_standard_error_nats"] > 0
    code, out, _ = call("evaluate", checkpoint, "--tokens", "300", capsys=capsys)
    assert code == 0
    assert "perplexity" in out


def test_evaluate_prints_size_before_it_refuses_to_score(tmp_path, capsys):
    folder = tiny.save_checkpoint(tmp_path / "t5", "t5")
    code, out, err = call("evaluate", folder, "--tokens", "100", capsys=capsys)
    assert code == 2
    assert "latency" in out
    assert "T5ForConditionalGeneration has no perplexity" in err
    code, out, _ = call("evaluate", folder, capsys=capsys)
    assert code == 0
    assert "none: T5 models are not scored here" in out


def test_evaluate_compares_the_embeddings_of_encoders(tmp_path, capsys):
    folder = tiny.save_checkpoint(tmp_path / "bert", "bert-model")
    code, out, _ = call("evaluate", folder, "--against", folder, "--json", capsys=capsys)
    assert code == 0
    assert json.loads(out)["score"]["mean_cosine"] == pytest.approx(1, abs=1e-5)


def test_options_that_would_be_ignored_are_refused(checkpoint, capsys):
    code, _, err = call("evaluate", checkpoint, "--task", "stsb-embeddings", "--against", checkpoint, capsys=capsys)
    assert code == 2
    assert "--task has its own data" in err


def test_inspect_shows_what_can_be_pruned(checkpoint, capsys):
    code, out, _ = call("inspect", checkpoint, capsys=capsys)
    assert code == 0
    for words in ("Llama (decoder)", "intermediate_size", "share of parameters", "model.layers.0.mlp"):
        assert words in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--keep", "30"], "keep must be in (0, 1], got 30.0"),
        (["--kep", "1"], "No such option"),
        (["--method", "redundncy"], "did you mean 'redundancy'?"),
        (["--calibration", "nope.txt"], "got nothing there"),
        (["--recipe", "nope.yaml"], "nope.yaml can't be read"),
        (["--round-to", "x"], "Invalid value for '--round-to'"),
        (["--sampling", "some"], "'cls', 'tokens', 'mean'"),
        (["--max-length", "9999"], "must have at most 160 tokens"),
        (["--text-column", "a"], "text column"),
    ],
)
def test_the_callers_mistake_is_one_line_and_exit_code_2(checkpoint, tmp_path, capsys, words, message):
    if words[0] == "--text-column":
        (tmp_path / "a.txt").write_text("text " * 400)
        words = [*words, "--calibration", str(tmp_path / "a.txt")]
    code, out, err = call("prune", checkpoint, tmp_path / "out", *words, capsys=capsys)
    assert code == 2
    assert out == ""
    assert message in err
    *progress, last = err.splitlines()
    assert last.startswith("error: ")
    assert all(line.startswith("reading the model") for line in progress)
    assert not (tmp_path / "out").exists()


def test_recipe_files_with_unknown_or_no_settings_are_refused(checkpoint, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    for content, message in (
        ("kep: 0.5", "did you mean 'keep'?"),
        ("- keep", "must be a mapping"),
        ("a: [", "can't be"),
    ):
        path.write_text(content)
        code, _, err = call("prune", checkpoint, tmp_path / "out", "--recipe", path, capsys=capsys)
        assert code == 2
        assert message in err


def test_bad_targets_are_refused_before_anything_is_loaded(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("secateurs.pipeline.prune", None)
    (tmp_path / "mine").mkdir()
    for out, message in (("mine", "must not exist yet"), ("model", "must lie outside")):
        code, _, err = call("prune", checkpoint, tmp_path / out, capsys=capsys)
        assert code == 2
        assert message in err


def test_a_missing_text_is_told_before_anything_is_loaded(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("secateurs.pipeline.load_model", None)
    code, _, err = call("prune", checkpoint, tmp_path / "out", "--calibration", "nope.txt", capsys=capsys)
    assert code == 2
    assert "got nothing there" in err


def test_debug_shows_the_traceback(checkpoint, tmp_path, capsys):
    _, _, err = call("prune", checkpoint, tmp_path / "out", "--keep", "30", "--debug", capsys=capsys)
    assert "Traceback" in err


def test_every_command_is_documented_in_the_readme():
    from pathlib import Path

    from secateurs.cli.app import app

    readme = (Path(__file__).parent.parent / "README.md").read_text()
    for command in app.registered_commands:
        assert f"secateurs {command.name}" in readme, command.name


def command(*words, **settings):
    return subprocess.Popen([sys.executable, "-m", "secateurs", *map(str, words)], text=True, **settings)


def test_as_a_command_results_go_to_stdout_and_progress_to_stderr(checkpoint, tmp_path):
    process = command(
        "prune", checkpoint, tmp_path / "out with ü", *FAST, "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert json.loads(out)["out"].endswith("out with ü")
    assert "pruning network after network" in err
    assert "\x1b" not in out + err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_it_leaves_nothing(checkpoint, tmp_path, number, code):
    (tmp_path / "big.txt").write_text("roses want water and light\n" * 30000)
    process = command(
        *("prune", checkpoint, tmp_path / "out", "--calibration", tmp_path / "big.txt", "--batch-size", "1"),
        *("--calibration-tokens", "300000", "--max-length", "16"),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert "reading the model" in process.stderr.readline()
    time.sleep(1)  # now activations are being measured
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "stopped by signal" in err
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big.txt", "model"]


def test_long_phases_tell_how_far_they_are_where_there_is_no_terminal(capsys, monkeypatch):
    clock = iter([0.0, 30.0, 61.0, 70.0, 90.0])
    monkeypatch.setattr("secateurs.cli.output.time.perf_counter", lambda: next(clock))
    with progress_on_stderr() as report:
        for done in range(5):
            report("scoring", done, 4)
    assert capsys.readouterr().err.splitlines() == ["scoring: 2 of 4, 61 s", "scoring: 4 of 4, 90 s"]


@pytest.mark.parametrize("stop", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_every_signal_that_stops_leaves_nothing_but_what_to_go_on_from(stop, checkpoint, tmp_path):
    words = ["prune", str(checkpoint), str(tmp_path / "out"), "--keep", "0.5", "--calibration-tokens", "2000"]
    code = f"""
import os, signal
from secateurs import cli
from secateurs.checkpoint import writing

def stop(*args):
    os.kill(os.getpid(), signal.{stop})
    raise AssertionError("went on")

writing.verify = stop
signal.signal(signal.{stop}, signal.SIG_DFL)  # whatever runs the tests
cli.main({words!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 128 + getattr(signal, stop)
    assert "Traceback" not in done.stderr
    assert "finished pieces kept: 1; --resume goes on from there" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.state", "model"]


def test_a_reader_that_goes_away_is_no_traceback():
    command = f"{sys.executable} -m secateurs families --json | head -c 5"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_an_output_that_is_full_is_one_line():
    command = f"{sys.executable} -m secateurs families --json > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_in_the_middle_of_a_long_computation_it_ends_within_5_seconds(number, code):
    program = """
import sys, torch
from secateurs import cli

def compute(words):
    matrix = torch.randn(5000, 5000, dtype=torch.float64)
    print("computing", flush=True)
    torch.linalg.eigh(matrix)

cli.run = compute
cli.main(["families"])
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "computing\n"
    time.sleep(0.2)
    begun = time.perf_counter()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert time.perf_counter() - begun < 5
    assert process.returncode == code
    assert err.startswith(f"stopped by signal {int(number)} in the middle of a computation; finished pieces are kept")


def test_nobody_reading_does_not_keep_it_from_ending():
    program = """
import os, torch
from secateurs import cli

def compute(words):
    matrix = torch.randn(5000, 5000, dtype=torch.float64)
    os.set_blocking(2, False)
    try:
        while True:
            os.write(2, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(2, True)
    print("computing", flush=True)
    torch.linalg.eigh(matrix)

cli.run = compute
cli.main(["families"])
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"computing\n"
    begun = time.perf_counter()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert time.perf_counter() - begun < 5
    process.communicate()


def test_under_nohup_a_hang_up_does_not_stop_it():
    program = """
import os, signal
from secateurs import cli

signal.signal(signal.SIGHUP, signal.SIG_IGN)
cli.run = lambda words: os.kill(os.getpid(), signal.SIGHUP) or 7
cli.main(["families"])
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 7


def test_a_second_signal_does_not_disturb_the_end_in_good_order(checkpoint, tmp_path):
    program = f"""
import os, signal
from secateurs import cli
from secateurs.checkpoint import writing

def stop(*given):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)

writing.verify = stop
cli.main(["prune", {str(checkpoint)!r}, {str(tmp_path / "out")!r}, "--calibration-tokens", "600", "--no-report"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 143
    assert done.stderr.splitlines()[-1] == "stopped by signal 15; finished pieces kept: 1; --resume goes on from there"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.state", "model"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1]\nDefaultCPUAllocator: can't allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    ],
)
@pytest.mark.parametrize(
    "place", ["secateurs.pipeline.load_model", "secateurs.capture.run_body", "secateurs.walking.run_body"]
)
def test_want_of_memory_is_one_line_that_says_what_takes_less(place, error, checkpoint, tmp_path, monkeypatch, capsys):
    def fail(*args, **more):
        raise error

    monkeypatch.setattr(place, fail)
    words = ["--method", "flap"] if "capture" in place else []
    assert run(["prune", str(checkpoint), str(tmp_path / "out"), "--calibration-tokens", "600", *words]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: out of memory: ")
    assert "a smaller --batch-size" in line
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
