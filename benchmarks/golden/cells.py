"""Hashes of what pruning gives, cell by cell: kept indices and weights of a matrix of recipes.

Run by `run.py`, once in the environment of each commit. It uses the public names of the package only, and `tiny.py` of
the tests, so that one file serves commits with other insides; PACKAGE is the name that the package had.

    PYTHONPATH=CHECKOUT/tests python cells.py PACKAGE OUT.json --smollm2 FOLDER [--only PATTERN]
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import importlib
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

METHODS = (
    "default",
    "redundancy",
    "medoids",
    "clusters",
    "algorithm1",
    "paper",
    "paper-scaled",
    "magnitude",
    "minitron",
    "wanda-sp",
    "flap",
    "osscar",
    "kcm",
    "llm-pruner",
    "textpruner",
    "textpruner-self",
    "mask-tuning",
    "kprune",
    "random",
)
ALLOCATIONS = ("uniform", "global")
REFITS: Mapping[str, Mapping[str, bool]] = {"in turn": {}, "at once": {"in_turn": False}, "off": {"refit": False}}
FAST = {"keep": 0.5, "round_to": 1, "kernel_rows": 32, "threads": 1, "seed": 1}
FEW_STARTS = {"clusters": 3, "paper": 3, "paper-scaled": 3}
"""Random starts of methods that have several by default, or should have."""
TEXT = {"calibration_tokens": 600, "max_length": 64}
REAL = {"calibration_tokens": 2048, "threads": 1}
NOT_RESULTS = re.compile(r"second|peak|version|command|machine|rates")
"""Keys of results whose values differ from run to run."""


def digest(*parts: bytes) -> str:
    """SHA-256 of some bytes."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def hash_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, number formats, shapes and bytes, sorted by name."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        found.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def hash_content(content: Any) -> str:
    """SHA-256 of plain values, but for those that differ from run to run and the name of the default method."""

    def keep(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: keep(entry) for name, entry in value.items() if not NOT_RESULTS.search(name)}
        return [keep(entry) for entry in value] if isinstance(value, list) else value

    return digest(json.dumps(keep(content), sort_keys=True).replace('"secateurs"', '"secateur"').encode())


class Golden:
    """The package of one commit, by its public names."""

    def __init__(self, package: str, smollm2: Path | None, work: Path) -> None:
        self.package = importlib.import_module(package)
        self.run: Callable[[list[str]], int] = importlib.import_module(f"{package}.cli").run
        self.input_error: type[Exception] = importlib.import_module(f"{package}.errors").InputError
        self.tiny: Any = importlib.import_module("tiny")
        self.tasks: Any = importlib.import_module("tiny_tasks")
        self.smollm2, self.work = smollm2, work

    def prune(self, model: Any, **settings: Any) -> dict[str, str]:
        """Hashes of one pruning, or that it was refused."""
        try:
            return self.hash_result(self.package.prune(model, **settings))
        except self.input_error:
            return {"refused": "yes"}

    def hash_result(self, result: Any) -> dict[str, str]:
        """Kept indices, new down projections, and the weights of the pruned model."""
        from safetensors.torch import load_file

        with tempfile.TemporaryDirectory() as folder:
            self.package.save_plan(result.plan, folder)
            plan = load_file(Path(folder) / "plan.safetensors")
        kept = {name: tensor for name, tensor in plan.items() if name.endswith(":kept")}
        rest = {name: tensor for name, tensor in plan.items() if name not in kept}
        found = {"kept": hash_tensors(kept), "weights": hash_tensors(result.model.state_dict())}
        return {**found, "corrections": hash_tensors(rest)} if rest else found

    def batches(self, model: Any, *, labelled: bool = False) -> list[dict[str, torch.Tensor]]:
        """Random rows for a tiny model, padded, in several batches."""
        found = []
        for number in range(8):
            batch = dict(self.tiny.make_inputs(model, rows=5, tokens=24, seed=number))
            if labelled:
                rows = len(next(iter(batch.values())))
                batch["labels"] = (torch.arange(rows) + number) % model.config.num_labels
            found.append(batch)
        return found

    def cells(self) -> Iterator[tuple[str, Callable[[], dict[str, str]]]]:
        """Every cell by name, with what makes it."""
        yield from self.method_cells()
        yield from self.family_cells()
        yield from self.plan_cells()
        yield from self.study_cells()
        yield from self.real_cells()

    def method_cells(self) -> Iterator[tuple[str, Callable[[], dict[str, str]]]]:
        """All methods, both allocations, each way to refit, on a tiny decoder with text and a labelled tiny encoder."""
        llama, bert = self.tiny.make_model("llama"), self.tiny.make_model("bert")
        given: dict[str, tuple[Any, dict[str, Any]]] = {
            "llama": (llama, {"tokenizer": self.tiny.make_tokenizer(), **TEXT}),
            "bert": (bert, {"calibration": self.batches(bert, labelled=True)}),
        }
        for case, (model, inputs) in given.items():
            for method in METHODS:
                for allocation in ALLOCATIONS:
                    for refit, settings in REFITS.items():
                        chosen: dict[str, Any] = {} if method == "default" else {"method": method}
                        if method in FEW_STARTS:
                            chosen["seeds"] = FEW_STARTS[method]
                        # a preset has a refit of its own unless one is named
                        chosen |= {"refit": True, **settings, "allocation": allocation, **FAST, **inputs}
                        name = f"tiny {case}/{method}/{allocation}/{refit}"
                        yield name, lambda model=model, chosen=chosen: self.prune(model, **chosen)

    def family_cells(self) -> Iterator[tuple[str, Callable[[], dict[str, str]]]]:
        """The default and magnitude on each family's tiny model."""
        for case in self.tiny.CASES:
            model = self.tiny.make_model(case)
            for method in ("default", "magnitude"):
                chosen = {} if method == "default" else {"method": method}
                settings = {**chosen, **FAST, "calibration": self.batches(model)}
                yield f"family {case}/{method}", lambda model=model, chosen=settings: self.prune(model, **chosen)

    def plan_cells(self) -> Iterator[tuple[str, Callable[[], dict[str, str]]]]:
        """Saved plans carried out again, and runs that were stopped and go on."""
        for case, settings in (("llama", {}), ("bert-model", {"method": "flap", "refit": False}), ("gpt2", {})):
            yield f"apply {case}", lambda case=case, settings=settings: self.apply(case, settings)
        ways = {"default": {}, "global": {"allocation": "global"}, "redundancy": {"method": "redundancy"}}
        for name, settings in ways.items():
            yield f"resumed {name}", lambda name=name, settings=settings: self.resume(name, settings)

    def apply(self, case: str, settings: Mapping[str, Any]) -> dict[str, str]:
        """What a plan gives after a round trip through disk."""
        model, folder = self.tiny.make_model(case), self.work / f"plan-{case}"
        result = self.package.prune(model, calibration=self.batches(model), **FAST, **settings)
        self.package.save_plan(result.plan, folder)
        again = self.package.apply(self.package.load_plan(folder), model)
        return {"weights": hash_tensors(again.state_dict())}

    def resume(self, name: str, settings: Mapping[str, Any]) -> dict[str, str]:
        """What a run gives that was stopped after its first network."""
        folder, out = self.tiny.save_checkpoint(self.work / f"resumed-{name}"), self.work / f"out-{name}"
        settings = {**FAST, **TEXT, **settings}

        def stop(phase: str, done: int, total: int) -> None:
            if phase.startswith(("pruning", "refitting", "trying", "measuring information")) and 0 < done < total:
                raise KeyboardInterrupt

        try:
            with self.package.open_state(out) as state:
                self.package.prune(folder, state=state, progress=stop, **settings)
        except KeyboardInterrupt:
            pass
        with self.package.open_state(out, resume=True) as state:
            result = self.package.prune(folder, state=state, **settings)
            result.save(out)
        return {**self.hash_result(result), "file": digest((out / "model.safetensors").read_bytes())}

    def study_cells(self) -> Iterator[tuple[str, Callable[[], dict[str, str]]]]:
        """Cells of compare, paper and finetune."""
        yield "compare llama", lambda: self.compare("llama", [])
        yield "compare bert", lambda: self.compare("bert", ["--task", "sst2", "--data", str(self.data())])
        yield "paper table2", self.paper
        yield "finetune", self.finetune

    def data(self) -> Path:
        """A small labelled task on disk."""
        folder = self.work / "data"
        if not folder.exists():
            splits = {"train": self.tasks.flowers(120), "validation": self.tasks.flowers(40)}
            self.tasks.write_task(folder, "sst2", splits)
        return folder

    def compare(self, case: str, words: list[str]) -> dict[str, str]:
        """Every entry of a comparison of all methods under both allocations."""
        folder, out = self.tiny.save_checkpoint(self.work / f"compare-{case}", case), self.work / f"compared-{case}"
        scored = words or ["--tokens", "300", "--window", "50"]
        measured = ["--calibration-tokens", "600", "--max-length", "64", "--threads", "1", "--seeds", "3"]
        told = ["compare", str(folder), "--keep", "0.5", "--allocation", "both", "--trials", "2", "--out", str(out)]
        assert self.run([*told, *scored, *measured, "--json"]) == 0
        content = json.loads((out / "compare.json").read_text())
        return {"cells": hash_content(content["cells"]), "dense": hash_content(content["dense"])}

    def paper(self) -> dict[str, str]:
        """Every cell of Table 2, by one fine-tuning seed."""
        folder, out = self.tiny.save_checkpoint(self.work / "paper-base", "bert-model"), self.work / "paper"
        words = ["--model", str(folder), "--data", str(self.data()), "--tasks", "sst2", "--quick", "--jobs", "1"]
        assert self.run(["paper", "table2", *words, "--out", str(out), "--json"]) == 0
        content = json.loads((out / "table2.json").read_text())
        return {"cells": hash_content(content["cells"]), "dense": hash_content(content["dense"])}

    def finetune(self) -> dict[str, str]:
        """Weights of a fine-tuned encoder."""
        folder, out = self.tiny.save_checkpoint(self.work / "tuned-base", "bert-model"), self.work / "tuned"
        words = ["--data", str(self.data()), "--epochs", "2", "--threads", "1", "--json"]
        assert self.run(["finetune", str(folder), "sst2", str(out), *words]) == 0
        return {"file": digest((out / "model.safetensors").read_bytes())}

    def real_cells(self) -> Iterator[tuple[str, Callable[[], dict[str, str]]]]:
        """Real models on 2,048 tokens of text that comes with Python."""
        for method in ("default", "flap", "clusters"):
            chosen = {**REAL, **({} if method == "default" else {"method": method})}
            yield f"minilm/{method}", lambda chosen=chosen: self.prune("minilm", keep=0.6, **chosen)
        if self.smollm2 is not None:
            for allocation in ALLOCATIONS:
                chosen = {**REAL, "allocation": allocation, "keep": 0.8, "dtype": "float32"}
                yield f"smollm2/default/{allocation}", lambda chosen=chosen: self.prune(self.smollm2, **chosen)


def main() -> None:
    """Make every cell that is asked for, and write all hashes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package")
    parser.add_argument("out", type=Path)
    parser.add_argument("--smollm2", type=Path)
    parser.add_argument("--only", default="*")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found, seconds = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        golden = Golden(asked.package, asked.smollm2, Path(folder))
        for name, make in golden.cells():
            if fnmatch.fnmatch(name, asked.only):
                begun = time.perf_counter()
                found[name] = make()
                seconds[name] = round(time.perf_counter() - begun, 2)
                print(f"{name}: {seconds[name]} s", file=sys.stderr, flush=True)
    asked.out.write_text(json.dumps({"cells": found, "seconds": seconds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
