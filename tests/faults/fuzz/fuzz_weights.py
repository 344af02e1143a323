"""Coverage-guided fuzzing of the checks of weight files; needs atheris (pip install atheris==3.0.0).

    python tests/faults/fuzz/fuzz_weights.py --seconds 600 --corpus DIR --json FILE

Nothing but InputError, on one short line, may come out. What is found goes on to DIR, for the next time. Ends with 1
where an input crashed, hung or took too much memory; the input is kept in the current folder.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
LIMITS = ("-max_len=16384", "-timeout=10", "-rss_limit_mb=1024")
"""Bytes of an input, seconds for it, and memory of the process."""


def fuzz(folder, flags):
    """Run libFuzzer in this process with those flags; never returns."""
    import atheris

    # an editable install's own way to import modules evades atheris
    sys.meta_path[:] = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("_editable_")]
    sys.path.insert(0, str(HERE.parents[2] / "src"))
    with atheris.instrument_imports(include=["secateurs", "faults.fuzz.targets"]):
        from faults.fuzz.targets import check, check_gguf, check_weights
    from faults.fuzz.mutations import mutate

    for function in (check, check_gguf, check_weights):
        assert "__ATHERIS_INSTRUMENTED__" in function.__code__.co_consts, function

    def change(raw, most_bytes, seed):
        changed = mutate(raw, most_bytes, seed) if seed % 2 else raw
        return changed if changed != raw else atheris.Mutate(raw, most_bytes)

    itself = shlex.join([sys.executable, __file__, "--inside", str(folder)])  # libFuzzer starts it by a shell to merge
    atheris.Setup([itself, *flags], lambda raw: check(raw, folder), custom_mutator=change)
    atheris.Fuzz()


def run_fuzzer(*flags):
    """LibFuzzer in a process of its own, as it ends the one that it is in; what it says is in `stdout`."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as folder:
        command = [sys.executable, __file__, "--inside", folder, *map(str, flags)]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")


def write_dictionary(path):
    """Words that inputs are made of, for libFuzzer."""
    from faults.fuzz.targets import WORDS

    path.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in WORDS))


def find_counts(said):
    """What libFuzzer counted, by name."""
    status = re.findall(r"^#(\d+)\s.*?cov: (\d+) ft: (\d+) corp: (\d+)/", said, re.MULTILINE)
    executions, edges, features, inputs = map(int, status[-1]) if status else (0, 0, 0, 0)
    return {"executions": executions, "coverage_edges": edges, "coverage_features": features, "corpus_inputs": inputs}


def campaign(seconds, corpus, seed):
    """Fuzz for some seconds; gives back the counts, and what libFuzzer said."""
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        write_dictionary(words := Path(scratch) / "words.txt")
        (crashes := Path(scratch) / "crashes").mkdir()
        start = time.perf_counter()
        flags = [
            f"-max_total_time={seconds}",
            f"-seed={seed}",
            f"-dict={words}",
            f"-artifact_prefix={crashes}/",
            *LIMITS,
        ]
        done = run_fuzzer(*flags, corpus, CORPUS)
        spent = time.perf_counter() - start
        found = [shutil.copy(path, ".") for path in sorted(crashes.iterdir())]
    counts = find_counts(done.stdout)
    return {
        **counts,
        "seconds": round(spent, 1),
        "executions_per_second": round(counts["executions"] / spent),
        "corpus_bytes": sum(path.stat().st_size for path in corpus.iterdir()),
        "crashes": len(found) or int(done.returncode != 0),
        "crash_files": found,
    }, done.stdout


def parse(arguments):
    """The settings of a campaign."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, help="inputs found before and after (default: a folder that is removed)")
    parser.add_argument("--json", type=Path, help="where the counts go")
    parser.add_argument("--smallest", type=Path, help="where the fewest inputs go that cover as much")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(arguments)


def main(arguments):
    """Exit code of a campaign."""
    options = parse(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        corpus = options.corpus or Path(scratch)
        counts, said = campaign(options.seconds, corpus, options.seed)
        if options.smallest:
            options.smallest.mkdir(parents=True, exist_ok=True)
            run_fuzzer("-merge=1", options.smallest, corpus)
    counts |= {"python": platform.python_version(), "atheris": version("atheris"), "seed": options.seed}
    text = json.dumps(counts, indent=2) + "\n"
    if options.json:
        options.json.write_text(text)
    print(said[-6000:] + text if counts["crashes"] else text, end="")
    return 1 if counts["crashes"] else 0


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parents[1]))
    if sys.argv[1:2] == ["--inside"]:
        fuzz(Path(sys.argv[2]), sys.argv[3:])
    sys.exit(main(sys.argv[1:]))
