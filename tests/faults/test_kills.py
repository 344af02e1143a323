"""Processes that are killed in the middle: the campaign of benchmarks/faults/kills.py, a few times for each phase."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "faults" / "kills.py"
KILLS = 4


def test_killed_at_random_moments_nothing_is_lost(tmp_path):
    model = Path(os.environ.get("SECATEURS_MODELS", "")) / "bert-tiny-base"
    if not model.is_dir():
        pytest.skip("SECATEURS_MODELS names no folder with bert-tiny-base")
    words = ["--model", model, "--kills", KILLS, "--json", tmp_path / "kills.json"]
    subprocess.run([sys.executable, SCRIPT, *map(str, words)], check=True, capture_output=True, timeout=600)
    found = json.loads((tmp_path / "kills.json").read_text())
    assert len(found["trials"]) == 5 * KILLS
    assert found["summary"]["OUT neither old nor new"] == 0
    assert found["summary"]["other weights after going on"] == 0
    assert found["summary"]["something left beside OUT"] == 0
    assert min(found["summary"]["ended by the signal"].values()) >= 1
    assert found["summary"]["ended before it"] <= KILLS  # a moment that came too late
    assert any(trial["reuse"] for trial in found["trials"])
