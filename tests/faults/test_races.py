"""Several runs that write to one place."""

import json
import subprocess
import sys
import time

import pytest
from transformers import AutoModelForCausalLM

import tiny
from secateurs.checkpoint.holding import HOLDER, state_folder

pytestmark = pytest.mark.faults

WORDS = ["--keep", "0.5", "--round-to", "1", "--calibration-tokens", "2000", "--max-length", "64", "--no-report"]
SLOW = """
import sys, time
from secateurs import cli, pipeline

make_plan = pipeline.make_plan
pipeline.make_plan = lambda *given: time.sleep(15) or make_plan(*given)
cli.main(sys.argv[1:])
"""
"""A run that takes long enough for others to come while it is at work."""


def start(*words):
    return subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("is_there", [False, True])
def test_runs_that_come_while_another_is_at_work_are_refused_and_what_it_writes_is_whole(is_there, tmp_path):
    model, out = tiny.save_checkpoint(tmp_path / "model"), tmp_path / "out"
    words = ["prune", str(model), str(out), *WORDS, "--overwrite"]
    if is_there:
        start("-m", "secateurs", *words).communicate()
        assert out.is_dir()
    first = start("-c", SLOW, *words)
    while not (state_folder(out) / HOLDER).exists():
        assert first.poll() is None
        time.sleep(0.05)
    assert json.loads((state_folder(out) / HOLDER).read_text())["pid"] == first.pid
    others = [start("-m", "secateurs", *words) for _ in range(2)]
    for other in others:
        told = other.communicate()[1]
        assert other.returncode == 1
        assert f"out is being written by another run: process {first.pid}, since " in told
    first.communicate()
    assert first.returncode == 0
    assert AutoModelForCausalLM.from_pretrained(out).config.intermediate_size == tiny.WIDTH // 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


def test_many_that_hold_it_for_a_moment_never_do_so_together_and_leave_nothing(tmp_path):
    program = f"""
import os, time
from pathlib import Path
from secateurs.checkpoint.holding import held
from secateurs.errors import SecateursError

out, mine = Path({str(tmp_path / "out")!r}), Path({str(tmp_path / "inside")!r})
begun, times = time.time(), 0
while time.time() < begun + 4:
    try:
        with held(out, source=None, overwrite=True):
            os.close(os.open(mine, os.O_CREAT | os.O_EXCL))
            mine.unlink()
            times += 1
    except SecateursError:
        pass
print(times)
"""
    runs = [start("-c", program) for _ in range(3)]
    ends = [run.communicate() for run in runs]
    assert [error for _, error in ends] == ["", "", ""]
    assert sum(int(times) for times, _ in ends) > 100
    assert list(tmp_path.iterdir()) == []
