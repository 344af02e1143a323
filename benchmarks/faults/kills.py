"""End `secateurs prune` at random moments of each phase, go on with --resume, and compare with an unbroken run.

    python benchmarks/faults/kills.py --model $SECATEURS_MODELS/bert-tiny-base --json benchmarks/faults/kills.json

Every trial is a line of JSON that is written when it is done; trials that are in the file already are not done again.
Processes are forked from one that has imported everything and computed nothing, which saves most of the time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import torch

from secateurs import pipeline
from secateurs.checkpoint import staging, writing
from secateurs.cli import main
from secateurs.methods import contract

PLACES: dict[str, tuple[ModuleType, str]] = {
    "capture": (contract, "capture"),
    "information": (contract, "mutual_information"),
    "selection": (pipeline, "make_plan"),
    "writing": (writing, "_fill"),
    "exchange": (staging, "_swap"),
}
"""Phase -> the function that is run in it, once or several times."""
WAYS = ("new", "exchanged", "two renames")
"""OUT does not exist; it is exchanged in one step; the system can't do that."""
RECIPE = ["--method", "redundancy", "--keep", "0.6", "--calibration-tokens", "2000", "--no-report", "--threads", "1"]


@dataclass(frozen=True)
class Trial:
    """One kill and what came after it."""

    phase: str
    number: int
    way: str
    moment: float
    """Part of the phase that was over."""
    was_killed: bool
    """Whether it was still running then."""
    exit_code: int
    """Of the first run; negative where a signal killed it."""
    seconds_to_end: float
    """From the signal to its end."""
    pieces_kept: int
    """Finished pieces beside OUT after the kill."""
    out_was: str
    """What OUT was after the kill: "as before", the whole "new" checkpoint, or, between two renames, not there and the
    old one "aside", from where the next run puts it back; else "neither"."""
    reuse: str
    """What the second run says that it took over."""
    is_identical: bool
    """Whether weights, config and plan are those of an unbroken run, to the last byte."""
    left_over: list[str]
    """What lies beside OUT in the end."""


def fork(work: Callable[[int], Any]) -> tuple[int, int]:
    """Run work(pipe) in a child; gives its process id and the other end of the pipe."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        code = 70
        try:
            with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):  # noqa: PTH123
                code = int(work(write) or 0)
        finally:
            os._exit(code)
    os.close(write)
    return child, read


def lines(pipe: int) -> Iterator[str]:
    """What a child says, line by line, until it ends."""
    with os.fdopen(pipe) as file:
        yield from file


def announce(pipe: int, fatal_line: int | None, sent: signal.Signals) -> None:
    """Have phases told on the pipe as they begin and end; at one line of the exchange the process gets a signal."""
    for phase, (module, name) in PLACES.items():
        function = getattr(module, name)
        if phase == "exchange":
            function = trace(function, fatal_line, sent, pipe)
        setattr(module, name, tell(phase, function, pipe))


def tell(phase: str, function: Callable[..., Any], pipe: int) -> Callable[..., Any]:
    """The function, with a line on the pipe before and after."""

    def told(*args: Any, **more: Any) -> Any:
        os.write(pipe, f"begin {phase} {time.time()}\n".encode())
        try:
            return function(*args, **more)
        finally:
            os.write(pipe, f"end {phase} {time.time()}\n".encode())

    return told


def trace(function: Callable[..., Any], fatal_line: int | None, sent: signal.Signals, pipe: int) -> Callable[..., Any]:
    """The function, whose lines are counted, and told in the end; at one of them the process gets a signal."""
    count = 0

    def follow(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        if event == "line":
            count += 1
            if count - 1 == fatal_line:
                os.kill(os.getpid(), sent)
        return follow

    def followed(*args: Any, **more: Any) -> Any:
        sys.settrace(follow)
        try:
            return function(*args, **more)
        finally:
            sys.settrace(None)
            os.write(pipe, f"lines {count}\n".encode())

    return followed


def prune(
    words: list[str], way: str, fatal_line: int | None = None, sent: signal.Signals = signal.SIGKILL
) -> Callable[[int], int]:
    """The work of a child: one command; gives its exit code."""

    def work(pipe: int) -> int:
        if way == "two renames":
            staging._exchange = lambda one, two: False
        announce(pipe, fatal_line, sent)
        with os.fdopen(os.dup(pipe), "w") as out, redirect_stdout(out):
            try:
                main(["prune", *words])
            except SystemExit as end:
                return int(end.code or 0)
        return 0

    return work


def finish(words: list[str], way: str) -> tuple[list[str], str]:
    """Run a command to its end; gives what was announced, and what its JSON says of resuming."""
    child, pipe = fork(prune(words, way))
    told = list(lines(pipe))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "".join(told)
    announcements = [line for line in told if line.split(" ")[0] in ("begin", "end", "lines")]
    rest = "".join(line for line in told if line not in announcements)
    return announcements, json.loads(rest)["resumed"]


def hash_file(path: Path) -> str:
    """SHA-256 of a file; empty where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def hash_folder(folder: Path) -> str:
    """Of all files of a folder, with their names; empty where there is none."""
    found = {str(path.relative_to(folder)): hash_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    return hashlib.sha256(json.dumps(found).encode()).hexdigest() if found else ""


def hash_parts(out: Path) -> list[str]:
    """Hashes of what two runs of one recipe have in common to the byte."""
    names = ("model.safetensors", "config.json", "tokenizer.json", "secateurs/plan.json", "secateurs/plan.safetensors")
    return [hash_file(out / name) for name in names]


@dataclass(frozen=True)
class Unbroken:
    """What a run looks like that nothing happens to."""

    parts: list[str]
    """Hashes of its files (`hash_parts`)."""
    delays: dict[str, tuple[float, float]]
    """Of each phase, seconds that its functions run, and how often it begins."""
    lines: dict[str, int]
    """Lines of the exchange, by way."""


def measure(model: str, folder: Path) -> Unbroken:
    """Run it in each way."""
    counts, parts, announcements = {}, [], []
    for way in WAYS:
        announcements, _ = finish([model, str(folder / "out"), *RECIPE, "--overwrite", "--json"], way)
        counts[way] = next(int(line.split()[1]) for line in announcements if line.startswith("lines"))
        parts.append(hash_parts(folder / "out"))
    assert parts[0] == parts[1] == parts[2], "two unbroken runs differ"
    spent: dict[str, tuple[float, float]] = {}
    begun = 0.0
    for line in announcements:
        kind, phase, *when = line.split()
        if kind == "begin":
            begun = float(when[0])
        elif kind == "end":
            seconds, times = spent.get(phase, (0.0, 0))
            spent[phase] = (seconds + float(when[0]) - begun, times + 1)
    return Unbroken(parts[0], spent, counts)


def try_kill(model: str, phase: str, number: int, unbroken: Unbroken, folder: Path, sent: signal.Signals) -> Trial:
    """End one run by a signal and let another one go on."""
    draw = random.Random(f"{phase} {number}")
    way = WAYS[number % len(WAYS)]
    moment, out = draw.random(), folder / "out"
    if way != "new":
        finish([model, str(out), *RECIPE, "--seed", "1", "--keep", "0.5", "--json"], way)
    before = hash_folder(out)
    words = [model, str(out), *RECIPE, "--overwrite"]
    fatal_line = int(moment * unbroken.lines[way]) if phase == "exchange" else None
    child, pipe = fork(prune(words, way, fatal_line, sent))
    seconds, times = unbroken.delays[phase]
    wait_for = int(moment * times)  # which time that the phase begins
    begun = time.perf_counter()
    for line in lines(pipe):
        if line.startswith(f"begin {phase}") and phase != "exchange":
            if wait_for == 0:
                time.sleep(seconds / times * (moment * times % 1))
                begun = time.perf_counter()
                os.kill(child, sent)
            wait_for -= 1
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seconds_to_end = time.perf_counter() - begun
    state = folder / ".out.state"
    kept = [path for path in state.glob("*.safetensors") if not path.name.startswith("run.")] if state.is_dir() else []
    after = hash_folder(out)
    is_whole = hash_parts(out) == unbroken.parts
    is_aside = any(hash_folder(left / "old") == before for left in folder.glob(".out.*.old"))
    _, reuse = finish([*words, "--resume", "--json"], way)
    return Trial(
        phase=phase,
        number=number,
        way=way,
        moment=round(moment, 3),
        was_killed=code in (-sent, 128 + sent),
        exit_code=code,
        seconds_to_end=round(seconds_to_end, 2),
        pieces_kept=len(kept),
        out_was="new" if is_whole else "as before" if after == before else "aside" if is_aside else "neither",
        reuse=reuse,
        is_identical=hash_parts(out) == unbroken.parts,
        left_over=sorted(path.name for path in folder.iterdir() if path.name != "out"),
    )


def run_trials() -> None:
    """Do the trials that are not in the file yet, and say what came of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--kills", type=int, default=30, help="in each phase")
    parser.add_argument("--signal", default="KILL", choices=["KILL", "TERM", "INT", "HUP"])
    parser.add_argument("--json", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    done = json.loads(asked.json.read_text())["trials"] if asked.json.is_file() else []
    sent = signal.Signals[f"SIG{asked.signal}"]
    known = {(trial["phase"], trial["number"]) for trial in done}
    with tempfile.TemporaryDirectory() as folder:
        unbroken = measure(asked.model, Path(folder))
        for number in range(asked.kills):
            for phase in PLACES:
                if (phase, number) in known:
                    continue
                place = Path(folder) / f"{phase}-{number}"
                place.mkdir()
                done.append(asdict(try_kill(asked.model, phase, number, unbroken, place, sent)))
                shutil.rmtree(place)
                write(asked.json, asked.model, done)
    print(json.dumps(summarise(done), indent=1))


def summarise(trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts."""
    return {
        "ended by the signal": {
            phase: sum(t["was_killed"] and t["phase"] == phase for t in trials) for phase in PLACES
        },
        "ended before it": sum(not t["was_killed"] for t in trials),
        "most seconds to the end": max((t["seconds_to_end"] for t in trials if t["phase"] != "exchange"), default=0.0),
        "OUT neither old nor new": sum(t["out_was"] == "neither" for t in trials),
        "other weights after going on": sum(not t["is_identical"] for t in trials),
        "something left beside OUT": sum(bool(t["left_over"]) for t in trials),
        "pieces kept": sum(t["pieces_kept"] for t in trials),
    }


def write(path: Path, model: str, trials: list[dict[str, Any]]) -> None:
    """The whole file anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"model": Path(model).name, "recipe": RECIPE, "summary": summarise(trials), "trials": trials}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)


if __name__ == "__main__":
    run_trials()
