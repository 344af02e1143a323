"""Runs that were stopped and go on: nothing is done twice, and what comes out is the same to the last byte."""

import copy
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

import secateurs
import tiny
from secateurs import refitting
from secateurs.checkpoint import holding
from secateurs.checkpoint.holding import held, state_folder
from secateurs.checkpoint.manifest import describe_run
from secateurs.checkpoint.state import find_differences, open_state
from secateurs.cli import run
from secateurs.errors import InputError, SecateursError, Stopped, tell
from secateurs.information import mutual_information
from secateurs.information.backends import JointBlock
from secateurs.models.loading import LoadedModel, hash_weights, wrap_model
from secateurs.pieces import Blocks, Keeper, Pieces, blocks, codec, keep_information
from secateurs.pipeline import open_context
from secateurs.recipe import make_recipe
from secateurs.report.stored import read_record
from secateurs.results import LayerPlan, MutualInformation, PruningPlan, Update
from secateurs.selection.scaling import Scaling

FAST = ["--keep", "0.5", "--round-to", "1", "--calibration-tokens", "2000", "--max-length", "64", "--no-report"]
WAYS = {
    "network after network": [],
    "all at once": ["--no-in-turn"],
    "one budget": ["--allocation", "global"],
    "not refitted": ["--no-refit"],
    "redundancy": ["--method", "redundancy"],
    "clusters": ["--method", "clusters", "--seeds", "3"],
    "osscar": ["--method", "osscar"],
    "wanda-sp": ["--method", "wanda-sp", "--no-refit"],
    "flap": ["--method", "flap"],
}


@pytest.fixture
def checkpoint(tmp_path):
    return tiny.save_checkpoint(tmp_path / "model")


def read_weights(out):
    return (out / "model.safetensors").read_bytes()


def run_stopped(words, pieces):
    """Run a command that is stopped by a signal once so many pieces are kept; gives back what stopped it."""
    keep, left = Pieces.keep, [pieces + 1]  # the first describes the run

    def counted(self, name, value):
        keep(self, name, value)
        left[0] -= 1
        if left[0] == 0:
            raise Stopped(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pieces, "keep", counted)
        with pytest.raises(Stopped) as stopped:
            run(words)
    return stopped.value


class TestGoingOn:
    @pytest.mark.parametrize("way", WAYS)
    def test_stopped_after_any_piece_the_weights_are_the_same(self, way, checkpoint, tmp_path, monkeypatch, capsys):
        words = [str(checkpoint), *FAST, *WAYS[way]]
        with monkeypatch.context() as patch:
            kept, keep = [], Pieces.keep
            patch.setattr(Pieces, "keep", lambda self, name, value: kept.append(name) or keep(self, name, value))
            assert run(["prune", *words, str(tmp_path / "whole")]) == 0
        count = len(kept) - 1
        assert count >= 2
        for pieces in range(1, count + 1):
            out = tmp_path / f"out{pieces}"
            run_stopped(["prune", *words, str(out)], pieces)
            assert not out.exists()
            capsys.readouterr()
            assert run(["prune", *words, str(out), "--resume", "--json"]) == 0
            assert json.loads(capsys.readouterr().out)["resumed"].startswith("took over ")
            assert read_weights(out) == read_weights(tmp_path / "whole")
            assert not state_folder(out).exists()

    def test_manifest_and_report_tell_the_same(self, checkpoint, tmp_path):
        words = [str(checkpoint), *FAST, "--method", "redundancy", "--report"]
        assert run(["prune", *words, str(tmp_path / "a")]) == 0
        run_stopped(["prune", *words, str(tmp_path / "b")], 7)  # the plan is there
        assert run(["prune", *words, str(tmp_path / "b"), "--resume"]) == 0
        one, other = (read_record(tmp_path / name / "secateurs" / "report.json") for name in "ab")
        assert one.information == other.information
        for a, b in zip(one.networks, other.networks, strict=True):
            assert np.array_equal(a.information, b.information)
        told = [json.loads((tmp_path / name / "secateurs" / "manifest.json").read_text()) for name in "ab"]
        assert {name for name in told[0] if told[0][name] != told[1][name]} == {"command", "seconds"}

    def test_finished_networks_are_not_fitted_again(self, checkpoint, tmp_path, monkeypatch):
        fitted, out = [], tmp_path / "out"
        fit = refitting.refit_network
        monkeypatch.setattr(
            refitting, "refit_network", lambda ffn, *rest, **more: fitted.append(ffn.path) or fit(ffn, *rest, **more)
        )
        run_stopped(["prune", str(checkpoint), str(out), *FAST], 1)
        assert run(["prune", str(checkpoint), str(out), *FAST, "--resume"]) == 0
        assert fitted == ["model.layers.0.mlp", "model.layers.1.mlp"]

    def test_what_was_stopped_says_how_to_go_on_and_is_not_thrown_away(self, checkpoint, tmp_path, monkeypatch, capsys):
        out, state = tmp_path / "out", tmp_path / ".out.state"
        stopped = run_stopped(["prune", str(checkpoint), str(out), *FAST], 1)
        assert tell(stopped) == "stopped by signal 15; finished pieces kept: 1; --resume goes on from there"
        assert run(["prune", str(checkpoint), str(out), *FAST]) == 2
        assert f"{state} holds finished work of an earlier run; --resume goes on with it" in capsys.readouterr().err
        assert len(list(state.glob("network-0.*"))) == 1

    def test_where_nothing_was_finished_it_begins(self, checkpoint, tmp_path, capsys):
        assert run(["prune", str(checkpoint), str(tmp_path / "out"), *FAST, "--resume"]) == 0
        assert "resumed: there was nothing to go on with" in capsys.readouterr().out

    def test_a_failure_before_anything_is_finished_leaves_nothing(self, checkpoint, tmp_path):
        (tmp_path / "short.txt").write_text("too short")
        words = ["prune", str(checkpoint), str(tmp_path / "a" / "out"), "--calibration", str(tmp_path / "short.txt")]
        assert run(words) == 2
        assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "short.txt"]

    def test_a_run_that_was_killed_before_anything_was_finished_holds_nobody_up(self, checkpoint, tmp_path):
        with open_state(tmp_path / "out", keep=True) as state:
            state.pieces.keep("run", {"model weights": "others"})
        assert run(["prune", str(checkpoint), str(tmp_path / "out"), *FAST]) == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]

    def test_when_the_plan_is_there_what_it_was_made_of_makes_room(self, checkpoint, tmp_path):
        assert run(["prune", str(checkpoint), str(tmp_path / "out"), *FAST, "--keep-state"]) == 0
        assert Pieces(state_folder(tmp_path / "out")).names() == ["plan", "run"]
        words = [str(checkpoint), str(tmp_path / "other"), *FAST, "--method", "clusters", "--seeds", "2"]
        assert run(["prune", *words, "--keep-state"]) == 0
        needed = [f"{kind}-{place}" for kind in ("information", "statistics") for place in (0, 1)]
        assert Pieces(state_folder(tmp_path / "other")).names() == sorted([*needed, "plan", "run"])

    def test_from_python_too(self, tmp_path):
        model, out = tiny.make_model("bert"), tmp_path / "out"
        given = [tiny.make_inputs(model, rows=3, seed=seed) for seed in range(9)]
        with open_state(out, keep=True) as state:
            first = secateurs.prune(model, calibration=given, keep=0.5, state=state)
        with open_state(out, resume=True) as state:
            second = secateurs.prune(model, calibration=given, keep=0.5, state=state)
            assert state.describe_reuse() == "took over plan"
        assert hash_weights(first.model) == hash_weights(second.model)


class TestDamage:
    @pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
    @pytest.mark.parametrize("name", ["network-0", "network-1", "plan"])
    def test_a_damaged_piece_is_made_again(self, name, damage, checkpoint, tmp_path, capsys):
        out = tmp_path / "out"
        assert run(["prune", str(checkpoint), str(tmp_path / "whole"), *FAST]) == 0
        whole = read_weights(tmp_path / "whole")
        run_stopped(["prune", str(checkpoint), str(out), *FAST], 3 if name == "plan" else 2)
        (path,) = state_folder(out).glob(f"{name}.*")
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.write_bytes({"flipped": raw, "cut": raw[:-5], "empty": b""}[damage])
        capsys.readouterr()
        assert run(["prune", str(checkpoint), str(out), *FAST, "--resume", "--json"]) == 0
        told = "plan" if name == "plan" else "1 x network"
        assert f"did again, as it was damaged: {told}" in json.loads(capsys.readouterr().out)["resumed"]
        assert read_weights(out) == whole

    def test_of_a_run_that_is_not_known_any_more_nothing_is_used(self, checkpoint, tmp_path, capsys):
        out = tmp_path / "out"
        assert run(["prune", str(checkpoint), str(tmp_path / "whole"), *FAST]) == 0
        whole = read_weights(tmp_path / "whole")
        run_stopped(["prune", str(checkpoint), str(out), *FAST], 2)
        next(state_folder(out).glob("run.*")).write_bytes(b"")
        capsys.readouterr()
        assert run(["prune", str(checkpoint), str(out), *FAST, "--resume", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["resumed"] == "did again, as it was damaged: 2 x network"
        assert read_weights(out) == whole

    def test_a_disk_without_room_for_it_costs_a_warning(self, checkpoint, tmp_path, monkeypatch):
        def fail(value, path):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("secateurs.pieces.store.write_value", fail)
        with pytest.warns(UserWarning, match="finished work is no longer kept for --resume: .*No space left"):
            assert run(["prune", str(checkpoint), str(tmp_path / "out"), *FAST]) == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


class TestAnotherRun:
    @pytest.fixture
    def stopped(self, checkpoint, tmp_path, monkeypatch):
        text = tmp_path / "text.txt"
        text.write_text("roses want water and light\n" * 200)
        run_stopped(["prune", str(checkpoint), str(tmp_path / "out"), *FAST, "--calibration", str(text)], 1)
        return ["prune", str(checkpoint), str(tmp_path / "out"), *FAST, "--calibration", str(text), "--resume"]

    def test_other_settings_are_all_named(self, stopped, capsys):
        assert run([*stopped, "--keep", "0.75", "--seed", "3"]) == 2
        told = capsys.readouterr().err
        assert "holds another run's work: " in told
        assert "keep 0.5 then, 0.75 now; seed 0 then, 3 now" in told
        assert told.splitlines()[-1].endswith("repeat that run, or remove the folder to begin afresh")

    def test_other_weights_are(self, stopped, tmp_path, capsys):
        shutil.rmtree(tmp_path / "model")
        tiny.save_checkpoint(tmp_path / "model", seed=1)
        assert run(stopped) == 2
        assert "model weights " in capsys.readouterr().err

    def test_another_config_is(self, stopped, tmp_path, capsys):
        path = tmp_path / "model" / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "rms_norm_eps": 0.1}))
        assert run(stopped) == 2
        assert "model config " in capsys.readouterr().err

    def test_other_text_is(self, stopped, tmp_path, capsys):
        (tmp_path / "text.txt").write_text("tulips want water and light\n" * 200)
        assert run(stopped) == 2
        assert "calibration tokens " in capsys.readouterr().err

    def test_other_threads_are(self, stopped, capsys):
        before = torch.get_num_threads()
        assert run([*stopped, "--threads", str(before + 1)]) == 2
        assert f"threads in use {before} then, {before + 1} now" in capsys.readouterr().err

    def test_the_same_numbers_in_other_batches_are(self, tmp_path):
        model = tiny.make_model("llama")
        ids = torch.randint(3, tiny.VOCABULARY, (16, 32), generator=torch.Generator().manual_seed(0))
        with open_state(tmp_path / "out", keep=True) as state:
            secateurs.prune(model, calibration=[{"input_ids": ids}], keep=0.5, state=state)
        others = [{"input_ids": ids.reshape(32, 16)}]
        with (
            pytest.raises(InputError, match="calibration batches"),
            open_state(tmp_path / "out", resume=True) as state,
        ):
            secateurs.prune(model, calibration=others, keep=0.5, state=state)

    def test_all_that_work_depends_on_is_described(self, monkeypatch):
        model, labels = tiny.make_model("bert"), torch.tensor([0, 1, 0])
        loaded, eager = wrap_model(model, tiny.make_tokenizer()), copy.deepcopy(model)
        eager.set_attn_implementation("eager")
        batches = [tiny.make_inputs(model, rows=3, seed=seed) for seed in range(9)]

        def describe(subject=loaded, labels=labels):
            given = [{**batch, "labels": labels} for batch in batches]
            return describe_run(open_context(subject, given, make_recipe({"keep": 0.5})))

        before = describe()
        assert find_differences(before, describe()) == []
        found = {
            "attention by": describe(replace(loaded, model=eager)),
            "vocabulary": describe(replace(loaded, tokenizer=None)),
            "calibration labels": describe(labels=1 - labels),
        }
        for name in ("pooling", "card"):
            monkeypatch.setattr(LoadedModel, name, "another")
            found["runs on" if name == "card" else name] = describe()
        for name, now in found.items():
            assert any(told.startswith(f"{name} ") for told in find_differences(before, now)), name

    def test_other_versions_are(self, stopped, capsys, monkeypatch):
        monkeypatch.setattr("secateurs.checkpoint.manifest.version", lambda name: "0")
        assert run(stopped) == 2
        assert "torch " in capsys.readouterr().err

    def test_the_same_one_elsewhere_is_not(self, stopped, tmp_path):
        (tmp_path / "moved").mkdir()
        (tmp_path / "model").rename(tmp_path / "moved" / "model")
        (tmp_path / "text.txt").rename(tmp_path / "moved" / "text.txt")
        moved = [word.replace("/model", "/moved/model").replace("/text", "/moved/text") for word in stopped]
        assert run(moved) == 0


class TestHolding:
    def test_a_second_run_fails_at_once_and_names_the_first(self, checkpoint, tmp_path, capsys):
        out = tmp_path / "out"
        code = f"""
import sys, time
from pathlib import Path
from secateurs.checkpoint.holding import held
with held(Path({str(out)!r}), source=None, overwrite=False):
    print("held", flush=True)
    sys.stdin.read()
"""
        first = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert first.stdout.readline() == "held\n"
        assert run(["prune", str(checkpoint), str(out), *FAST]) == 1
        assert f"out is being written by another run: process {first.pid}, since 20" in capsys.readouterr().err
        first.kill()
        first.communicate()
        assert run(["prune", str(checkpoint), str(out), *FAST]) == 0  # the lock of a dead process holds nobody
        assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]

    def test_the_same_run_may_hold_it_again(self, tmp_path):
        with held(tmp_path / "out", source=None, overwrite=False) as folder:
            with held(tmp_path / "out", source=None, overwrite=False):
                pass
            assert sorted(path.name for path in folder.iterdir()) == [holding.HOLDER, holding.LOCK]
        assert list(tmp_path.iterdir()) == []

    def test_what_killed_runs_left_half_written_goes(self, tmp_path):
        others = [".out.v2.abcd1234.partial", ".out.v2.abcd1234.old", ".other.abcd1234.partial"]
        for name in (".out.abcd1234.partial", ".out.v2.abcd1234.old/old", *others):
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / ".out.abcd1234.partial" / "model.safetensors").write_text("half")
        with held(tmp_path / "out", source=None, overwrite=False):
            pass
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
        assert (tmp_path / ".out.v2.abcd1234.old" / "old").is_dir()

    def test_a_piece_that_was_half_written_goes(self, tmp_path):
        with open_state(str(tmp_path / "out"), keep=True) as state:
            state.pieces.keep("plan", [1])
            (state.pieces.folder / ".network-0.partial").write_text("half")
        with open_state(str(tmp_path / "out"), resume=True):
            pass
        assert list(tmp_path.iterdir()) == []

    def test_a_lock_that_comes_and_goes_is_told(self, tmp_path, monkeypatch):
        def gone(*args, **more):
            raise FileNotFoundError

        monkeypatch.setattr(holding.FileLock, "acquire", gone)
        with (
            pytest.raises(SecateursError, match="comes and goes"),
            held(tmp_path / "out", source=None, overwrite=False),
        ):
            pass

    def test_python_must_ask_to_resume_too(self, tmp_path):
        with open_state(tmp_path / "out", keep=True) as state:
            state.pieces.keep("plan", [1])
        with pytest.raises(InputError, match="holds finished work"), open_state(tmp_path / "out"):
            pass
        with open_state(tmp_path / "out", resume=True) as state:
            assert state.finished == ["plan"]


class TestCodec:
    def test_all_kinds_come_back_to_the_last_bit(self, tmp_path):
        update = Update(torch.randn(2, 3).to(torch.bfloat16), None)
        layer = LayerPlan("a", 4, np.array([0, 2]), update, torch.randn(3), {"error": 0.1})
        for value in (
            PruningPlan("m", "f", 0.5, "hash", {"keep": 0.5, "layers": None, "list": [1, 2.5]}, (layer,)),
            MutualInformation(
                "renyi", np.random.rand(3, 3), "nats", "native", 8, 1, {"full": 1.0}, width=np.array([np.inf])
            ),
            JointBlock(torch.rand(2, 2).double(), torch.zeros(2, 2).double(), torch.ones(2, 2, dtype=torch.uint8)),
            Scaling(torch.rand(1, 2, 3), torch.rand(1).double(), torch.rand(1).double(), torch.tensor([3]), 300),
            (torch.rand(0, 3), torch.tensor(1.5), np.array(2.5)),
            [update.weight, update.weight],
            float("inf"),
        ):
            codec.write_value(value, tmp_path / "file")
            assert_same(value, codec.read_value(tmp_path / "file"))

    def test_of_what_is_not_listed_nothing_is_written(self, tmp_path):
        with pytest.raises(TypeError, match="a Keeper can't be kept"):
            codec.write_value([Keeper()], tmp_path / "file")
        assert not (tmp_path / "file").exists()


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            assert_same(a[name], b[name])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    elif type(a).__name__ in codec.KINDS:
        for field in fields(a):
            assert_same(getattr(a, field.name), getattr(b, field.name))
    else:
        assert a == b


class TestBlocks:
    @pytest.fixture
    def rows(self):
        return torch.randn(40, 70, generator=torch.Generator().manual_seed(0))

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch):
        monkeypatch.setattr("secateurs.information.matrix.BLOCK", 16)
        monkeypatch.setattr(blocks, "SECONDS", 0.0)

    @pytest.mark.parametrize("debias", [0, 2])
    def test_a_measurement_goes_on_from_its_last_block(self, rows, debias, tmp_path):
        pieces, whole = Pieces(tmp_path), mutual_information(rows, batch_size=20, debias=debias)
        total = 2 * 15 * (1 + debias)
        for last in (0, 7, total - 1):
            with pytest.raises(Stopped):
                mutual_information(rows, batch_size=20, debias=debias, keep=stopping(Blocks(pieces, "a"), last))
        computed = []
        keep = counting(Blocks(pieces, "a"), computed)
        assert_same(whole, mutual_information(rows, batch_size=20, debias=debias, keep=keep))
        assert computed == [total - 1]

    def test_a_damaged_block_alone_is_measured_again(self, rows, tmp_path):
        pieces, whole = Pieces(tmp_path), mutual_information(rows, batch_size=None)
        mutual_information(rows, batch_size=None, keep=Blocks(pieces, "a"))
        next(tmp_path.glob("a-from-4.*")).write_bytes(b"")
        computed = []
        found = mutual_information(rows, batch_size=None, keep=counting(Blocks(pieces, "a"), computed))
        assert_same(whole, found)
        assert computed == [4]

    def test_several_blocks_are_one_piece_where_they_are_quick(self, rows, tmp_path, monkeypatch):
        monkeypatch.setattr(blocks, "SECONDS", 3.0)
        clock = iter(range(1000))
        monkeypatch.setattr(blocks.time, "perf_counter", lambda: float(next(clock)))
        mutual_information(rows, batch_size=None, keep=Blocks(Pieces(tmp_path), "a"))
        assert Pieces(tmp_path).names() == [f"a-from-{first}" for first in (0, 12, 3, 6, 9)]

    def test_the_whole_takes_the_place_of_its_blocks(self, rows, tmp_path):
        pieces = Pieces(tmp_path)
        found = keep_information(pieces, "a", lambda keep: mutual_information(rows, batch_size=None, keep=keep))
        assert pieces.names() == ["a"]
        assert_same(found, keep_information(pieces, "a", lambda keep: pytest.fail("measured again")))

    def test_of_a_matrix_that_is_too_large_the_blocks_stay(self, rows, tmp_path):
        pieces = Pieces(tmp_path)

        def measure(keep):
            return mutual_information(rows, batch_size=None, keep=keep, most_bytes=10)

        found = keep_information(pieces, "a", measure)
        assert "a" not in pieces.names()
        computed = []
        again = keep_information(pieces, "a", lambda keep: measure(counting(keep, computed)))
        assert np.array_equal(found.values, again.values)
        assert computed == []


def counting(keep, computed):
    """Notes the numbers of the blocks that are computed."""
    return lambda number, compute: keep(number, lambda: computed.append(number) or compute())


def stopping(keep, last):
    """Stops before it would compute that block."""

    def stop(number, compute):
        if number == last:
            raise Stopped(signal.SIGTERM)
        return keep(number, compute)

    return stop
