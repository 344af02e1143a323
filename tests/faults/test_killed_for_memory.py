"""Memory that runs out, and processes killed for it: one line, nothing half-written, and the next run succeeds.

The runs take place in forks of a process of their own (this module, as a command) that has all imports behind it. At
one point of a run its address space is limited to about what it takes up just then, or it is killed as the kernel does.
"""

import ctypes
import importlib
import io
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import partial
from pathlib import Path

import pytest

import tiny
from faults.runs import FAST, STATE, Outcomes, hash_files, tell_outcome
from secateurs import cli

pytestmark = pytest.mark.faults

MODEL = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "num_attention_heads": 4}
"""Tiny, but a matrix is more than the C library has at hand without asking the system."""
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}
"""Has the C library ask the system for every larger block, and give back what is freed."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
"""No thread outlives a fork, and OpenMP ends a process that it can't start one in."""
POINTS = {
    "reading the model": ("secateurs.pipeline", "load_model"),
    "reading text": ("secateurs.pipeline", "prepare_calibration"),
    "choosing": ("secateurs.pipeline", "make_plan"),
    "looking": ("secateurs.pipeline", "observe"),
    "cutting": ("secateurs.pipeline", "carry_out"),
    "writing": ("secateurs.pruned", "write_checkpoint"),
    "reporting": ("secateurs.pruned", "write_checkpoint_report"),
    "verifying": ("secateurs.checkpoint.writing", "verify"),
}
"""Functions at whose start it happens."""
OF_THE_REPORT = ("looking", "reporting")
"""Where want of memory costs no more than the report."""
SPARE_MB = (0, 4)
"""What is left at a point."""
BY_A_LIBRARY = (-signal.SIGABRT, -signal.SIGSEGV)
"""How a library ends a process in which it gets no memory: tokenizers, as Rust does, with a line of its own."""
TRIED_AGAIN = ("reading text", "choosing", "verifying")
"""Points after which, with nothing left, there is one more run."""
BLOCKS = (16 << 20, 1 << 20, 256 << 10, 64 << 10)
"""Sizes, in bytes, of what the C library holds free that are taken away first."""
PATIENCE = 60


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What came of all runs."""
    place = tmp_path_factory.mktemp("memory")
    tiny.make_model("llama", **MODEL).save_pretrained(place / "model")
    tiny.make_tokenizer().save_pretrained(place / "model")
    words = [sys.executable, "-m", "faults.test_killed_for_memory", str(place)]
    with Outcomes(words, place / "log", **MALLOC, **ONE_THREAD) as found:
        yield found


def check_failed(outcome):
    """One line, unless a library ended the process; nothing at OUT either way."""
    assert outcome["out"] == {}
    if outcome["code"] in BY_A_LIBRARY:
        return
    errors = [line for line in outcome["told"] if line.startswith("error: ")]
    assert len(errors) == 1, outcome["told"]
    assert "out of memory" in errors[0]
    assert "--batch-size" in errors[0]
    assert len(errors[0]) < 800
    assert outcome["code"] == 1
    assert set(outcome["beside"]) <= {STATE}


@pytest.mark.parametrize("spare", SPARE_MB)
@pytest.mark.parametrize("point", [point for point in POINTS if point not in OF_THE_REPORT])
def test_memory_that_runs_out_is_told_in_one_line_and_leaves_nothing(point, spare, outcomes):
    outcome = outcomes[f"{point}, {spare} MB"]
    assert not any("Traceback" in line for line in outcome["told"]), outcome["told"]
    if spare and outcome["code"] == 0:  # so little was enough
        assert outcome["weights"] == outcomes["undisturbed"]["weights"]
    else:
        check_failed(outcome)


@pytest.mark.parametrize("spare", SPARE_MB)
@pytest.mark.parametrize("point", OF_THE_REPORT)
def test_memory_that_runs_out_for_the_report_is_told_and_what_is_written_is_whole(point, spare, outcomes):
    outcome = outcomes[f"{point}, {spare} MB"]
    assert not any("Traceback" in line for line in outcome["told"]), outcome["told"]
    if outcome["code"] == 0:
        assert outcome["weights"] == outcomes["undisturbed"]["weights"]
        assert "report.html" in outcome["out"] or any("there is no report" in line for line in outcome["told"])
    else:
        check_failed(outcome)


def test_few_of_these_runs_were_ended_by_a_library(outcomes):
    codes = [outcomes[f"{point}, {spare} MB"]["code"] for point in POINTS for spare in SPARE_MB]
    assert sum(code in BY_A_LIBRARY for code in codes) <= len(codes) // 2
    assert codes.count(1) >= 4


@pytest.mark.parametrize("point", TRIED_AGAIN)
def test_after_want_of_memory_the_next_run_succeeds(point, outcomes):
    after = outcomes[f"{point}, 0 MB, after"]
    assert after["code"] == 0, after["told"]
    assert after["weights"] == outcomes["undisturbed"]["weights"]
    assert after["beside"] == ["out"]


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_run_leaves_the_old_out_as_it_was_and_the_next_one_succeeds(point, outcomes):
    outcome, after = outcomes[f"{point}, killed"], outcomes[f"{point}, killed, after"]
    assert outcome["code"] == -signal.SIGKILL
    assert outcome["out"] == outcomes["undisturbed"]["out"]
    assert after["code"] == 0, after["told"]
    assert after["weights"] == outcomes["undisturbed"]["weights"]
    assert after["beside"] == ["out"]


def test_no_run_changed_the_source(outcomes):
    before, after = outcomes["source"]
    assert before == after


def limit_memory(spare_mb):
    """Let this process have so much more memory than it has now, and none that the C library holds free."""
    malloc = ctypes.CDLL(None).malloc
    malloc.argtypes, malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    _limit_address_space(0)
    for size in BLOCKS:
        while malloc(size):
            pass
    _limit_address_space(spare_mb)


def _limit_address_space(spare_mb):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + spare_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def kill():
    """End this process as the kernel does when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def do_at(point, act):
    """Have `act` called at a point of the run, in this process."""
    name, attribute = POINTS[point]
    module = importlib.import_module(name)
    function = getattr(module, attribute)

    def acting(*arguments, **settings):
        act()
        return function(*arguments, **settings)

    setattr(module, attribute, acting)


def run_in_fork(words, told, point=None, act=None):
    """The exit code of a run in a copy of this process, negative for a signal; what it tells goes to a file."""
    child = os.fork()
    if child:
        return wait_for(child)
    code = 99  # an exception came through
    try:
        descriptor = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        if point is not None:
            do_at(point, act)
        cli.main(words)
    except SystemExit as left:
        code = left.code
    finally:
        if code == 99:
            traceback.print_exc()
        os._exit(code)


def wait_for(child):
    """The exit code of a child; it is killed where it takes too long."""
    until = time.monotonic() + PATIENCE
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
            return "it hung"
        time.sleep(0.02)


def attempt(place, flags, point=None, act=None):
    """What came of one run."""
    out, told = place / "disk" / "out", place / "told"
    flags = [*flags, *(["--resume"] if out.with_name(STATE).exists() else [])]
    code = run_in_fork(["prune", str(place / "model"), str(out), *FAST, *flags], told, point, act)
    files = hash_files(out)
    return {
        "code": code,
        "told": told.read_text().strip().splitlines(),
        "out": files,
        "weights": files.get("model.safetensors"),
        "beside": sorted(path.name for path in out.parent.iterdir()),
    }


def afresh(place, old=None):
    """An empty disk, or one with an OUT that was there before."""
    shutil.rmtree(place / "disk", ignore_errors=True)
    (place / "disk").mkdir()
    if old is not None:
        shutil.copytree(old, place / "disk" / "out")


def main(place):
    """Do all runs, and tell what came of them."""
    source = hash_files(place / "model")
    warm_up(place)
    afresh(place)
    tell_outcome("undisturbed", attempt(place, ["--no-report"]))
    old = shutil.copytree(place / "disk" / "out", place / "old")
    for point in sorted(POINTS, key=lambda point: point in OF_THE_REPORT):
        flags = [] if point in OF_THE_REPORT else ["--no-report"]
        for spare in SPARE_MB:
            afresh(place)
            tell_outcome(f"{point}, {spare} MB", attempt(place, flags, point, partial(limit_memory, spare)))
            if spare == 0 and point in TRIED_AGAIN:
                tell_outcome(f"{point}, 0 MB, after", attempt(place, flags))
    for point in POINTS:
        flags = ["--overwrite", *([] if point in OF_THE_REPORT else ["--no-report"])]
        afresh(place, old)
        tell_outcome(f"{point}, killed", attempt(place, flags, point, kill))
        tell_outcome(f"{point}, killed, after", attempt(place, flags))
    tell_outcome("source", [source, hash_files(place / "model")])


def warm_up(place):
    """Import all that a run does: no fork is to do it again, or to run out of memory over it."""
    nowhere = io.StringIO()
    with redirect_stdout(nowhere), redirect_stderr(nowhere), suppress(SystemExit):
        cli.main(["prune", str(place / "model"), str(place / "warm"), *FAST])
    assert (place / "warm" / "report.html").is_file()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
