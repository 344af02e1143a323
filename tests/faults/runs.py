"""Runs of Secateurs in a process of their own, whose outcomes come one by one."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import tiny

FAST = ["--keep", "0.5", "--round-to", "1", "--calibration-tokens", "600", "--max-length", "64", "--kernel-rows", "64"]
STATE = ".out.state"
"""A folder of this name may be left beside OUT."""


class Outcomes:
    """What a process tells of its runs, by name; waits for what has not come yet. The process ends with the block."""

    def __init__(self, words, log, **environment):
        self.log, self.found = log, {}
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                words,
                cwd=Path(tiny.__file__).parent,
                env=os.environ | environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.communicate()

    def __getitem__(self, name):
        while name not in self.found:
            line = self.process.stdout.readline()
            assert line, f"no outcome '{name}':\n{self.log.read_text()}"
            self.found |= json.loads(line)
        return self.found[name]


def tell_outcome(name, outcome):
    """Have the process that waits know."""
    sys.__stdout__.write(json.dumps({name: outcome}) + "\n")
    sys.__stdout__.flush()
    return outcome


def hash_files(folder):
    """Every file and folder, by name."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }
