"""Two runs that write to one place."""

import subprocess
import sys

import pytest
from transformers import AutoModelForCausalLM

import tiny
from secateur.checkpoint.holding import state_folder

pytestmark = pytest.mark.faults

WORDS = [
    "--keep",
    "0.5",
    "--round-to",
    "1",
    "--calibration-tokens",
    "2000",
    "--max-length",
    "64",
    "--no-report",
    "--threads",
    "1",
]


@pytest.mark.parametrize("is_there", [False, True])
def test_one_of_two_runs_that_start_together_is_refused_and_the_other_is_whole(is_there, tmp_path):
    model, out = tiny.save_checkpoint(tmp_path / "model"), tmp_path / "out"
    command = [sys.executable, "-m", "secateur", "prune", str(model), str(out), *WORDS, "--overwrite"]
    if is_there:
        subprocess.run(command, check=True, capture_output=True)
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    ends = [(process.communicate()[1], process.returncode) for process in runs]
    refused = [told for told, code in ends if code == 1]
    assert [code for _, code in ends if code not in (0, 1)] == []
    assert len(refused) < 3  # those that came after the first had ended ran too
    pids = [str(process.pid) for process in runs]
    assert all("is being written by another run: " in told for told in refused)
    assert all(any(f"process {pid}," in told for pid in pids) or "not known yet" in told for told in refused)
    assert AutoModelForCausalLM.from_pretrained(out).config.intermediate_size == tiny.WIDTH // 2
    assert not state_folder(out).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]
