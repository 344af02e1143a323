"""Peak memory of a whole process that measures a model on a text: it does not grow with the text."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

STATUS = Path("/proc/self/status")
PROGRAM = """
import sys
import tiny
from secateurs.calibration import prepare_calibration
from secateurs.capture import capture
from secateurs.models.families import find_feedforwards
from secateurs.models.loading import wrap_model
from secateurs.recipe import Recipe

case, path = sys.argv[1:]
loaded = wrap_model(tiny.make_model(case, num_hidden_layers=1), tiny.make_tokenizer())
found = prepare_calibration(path, loaded, Recipe(calibration_tokens=10**9, max_length=64, batch_size=64))
networks = find_feedforwards(loaded.model, loaded.family)
(measured,) = capture(loaded.model, networks, found.batches, samples=1000, sampling="tokens", seed=0)
assert (found.summary.unread, found.summary.tokens) == ("nothing", measured.tokens)
# not getrusage: its peak takes in that of the process that this one was started by
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(found.summary.tokens, int(peak.split()[1]) / 1024)
"""

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not STATUS.exists(), reason="the peak is read from /proc"),
]


def write_text(path, size, end):
    """So many bytes in lines of 60 short words that end as told."""
    draw, line = random.Random(0), []
    with path.open("w") as file:
        while file.tell() + 400 < size:
            line = draw.choices(["the", "and", "of", "to", "in", "is"], k=60)
            file.write(" ".join(line) + end)
        file.write("x" * (size - file.tell()))
    return path


def measure_peak(case, path):
    """Tokens read, and the peak in MiB of a process that read them."""
    settings = {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, case, str(path)]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=True)
    tokens, peak = done.stdout.split()
    return int(tokens), float(peak)


@pytest.mark.parametrize("case", ["llama", "bert"])
def test_20_mb_of_text_take_no_more_memory_than_1_mb(case, tmp_path):
    (few, low), (many, high) = (
        measure_peak(case, write_text(tmp_path / f"{size}.txt", size * 10**6, end="\n")) for size in (1, 20)
    )
    assert many > 15 * few > 15 * 10**5
    assert high < 1.1 * low


def test_a_line_of_8_mb_takes_no_more_memory_than_one_of_3_mb(tmp_path):
    (few, low), (many, high) = (
        measure_peak("llama", write_text(tmp_path / f"{size}.txt", size * 10**6, end=" ")) for size in (3, 8)
    )
    assert many > 2 * few > 2 * 10**5
    assert high < 1.1 * low
