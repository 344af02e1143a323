"""Speed and accuracy of the information engine, every back end in one run, on real activations.

    SECATEURS_DATA=... python benchmarks/information/run.py

Neurons are MiniLM's feed-forward neurons (layer 2; beyond 1,536 all six layers, and again on other rows), rows the
first tokens of SST-2 sentences. Parts that results.json holds are not run again; delete it to start afresh.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from threadpoolctl import threadpool_limits
from torch import Tensor

from secateurs import _kernel
from secateurs.checkpoint.manifest import find_versions
from secateurs.information import mutual_information
from secateurs.information.backends import BACKENDS, Backend
from secateurs.information.kernels import estimate_std, neuron_grams
from secateurs.information.matrix import plan_blocks
from secateurs.information.neurons import Neurons, prepare_neurons
from secateurs.models.loading import load_model
from secateurs.pipeline import open_context
from secateurs.recipe import make_recipe

RESULTS = Path(__file__).with_name("results.json")
SENTENCES = Path(os.environ["SECATEURS_DATA"]) / "sst2" / "train.tsv"
ALPHA = 1.01
WIDTHS = (6.0, 2.0, 1.0, 0.42)
REPEATS = 5
SAMPLE_PAIRS = 2000
WHOLE_GRAM_FLOPS = 4 / 3  # x n^3, of one tridiagonalisation
Timing = dict[str, float]


def main() -> None:
    """Run the parts that are still missing."""
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    layers = capture_activations()
    parts: dict[str, Callable[[], Any]] = {
        "machine": describe_machine,
        "pair kernel, K = 512, n = 100": lambda: [measure_width(layers[2][:100, :512], r) for r in WIDTHS],
        "whole call, scott-scaled, K = 512, n = 100": lambda: measure_call(layers[2][:100, :512]),
        "threads, K = 512, n = 100": lambda: [measure_threads(layers[2][:100, :512], r) for r in (6.0, 0.42)],
        "growth with K, n = 100": lambda: [measure_neurons(layers, k, r) for k in (512, 1536, 11008) for r in WIDTHS],
        "growth with n, K = 128": lambda: [
            measure_rows(layers[2][:n, :128], r)
            for n in (50, 100, 200, 500, 1000, 2000, 4000, 8000)
            for r in (6.0, 2.0)
        ],
        "one kernel over 1000 rows": lambda: [measure_many_rows(layers[2][:1000], r, 12) for r in WIDTHS],
        "one kernel over 4000 rows": lambda: [measure_many_rows(layers[2][:4000], r, 3) for r in WIDTHS],
        "memory, K = 28672, n = 100": lambda: measure_memory(layers, 28672, 6.0),
        "alpha, n = 100, K = 128": lambda: [
            {"alpha": alpha, **check_accuracy(layers[2][:100, :128], r, alpha)}
            for alpha in (1.0, 1.01, 2.0, 5.0)
            for r in WIDTHS
        ],
    }
    for name, part in parts.items():
        if name not in results:
            results[name] = part()
            RESULTS.write_text(json.dumps(results, indent=2) + "\n")
            print(name, json.dumps(results[name]), flush=True)


def capture_activations() -> list[Tensor]:
    """(8000, 1536) float64 of each of MiniLM's six layers."""
    settings = {"calibration": str(SENTENCES), "text_column": "sentence", "sampling": "cls", "samples": 8000}
    settings["calibration_tokens"] = 160_000
    context = open_context(load_model("minilm"), None, make_recipe({**settings, "refit": False}))
    return [layer.samples.double() for layer in context.statistics]


def describe_machine() -> dict[str, Any]:
    """Processor, versions, and the float32 multiply-adds that one core does when nothing else is asked of it."""
    model = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    name = _kernel.isas()[0]
    return {
        "processor": model.partition(":")[2].strip(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "instruction_set": name,
        "peak_gflops_one_core": round(max(_peak(name) for _ in range(REPEATS)) / 1e9, 1),
        "versions": find_versions(),
    }


def measure_width(x: Tensor, r: float) -> dict[str, Any]:
    """All back ends at one width, per pair, and the errors of the compiled one."""
    n, neurons = len(x), prepare(x, r)
    pairs = x.shape[1] * (x.shape[1] + 1) // 2
    loops = [time_seconds(lambda: numpy_loop(neurons, 500)) / 500 for _ in range(3)]
    batched = [time_seconds(lambda: batched_eigenvalues(neurons, SAMPLE_PAIRS)) / SAMPLE_PAIRS for _ in range(3)]
    native = [time_seconds(lambda: all_pairs(BACKENDS["float32"]["native"], neurons)) / pairs for _ in range(REPEATS)]
    few = neurons.select(slice(0, None, 8))  # a sample of the torch back end's work
    some = len(few) * (len(few) + 1) // 2
    by_torch = [time_seconds(lambda: all_pairs(BACKENDS["float32"]["torch"], few)) / some for _ in range(3)]
    wholes = [time_seconds(lambda: all_pairs(BACKENDS["float64"]["native"], few)) / some for _ in range(3)]
    peak = max(_peak(_kernel.isas()[0]) for _ in range(REPEATS))
    return {
        "width": r,
        "microseconds_per_pair": {
            "numpy loop": spread(loops),
            "torch.linalg.eigvalsh, batched": spread(batched),
            "eigenvalues in float64, native": spread(wholes),
            "torch": spread(by_torch),
            "native": spread(native),
        },
        "times_faster_than_numpy_loop": round(median(loops) / median(native), 1),
        "whole_gram_flops_share_of_peak": round(WHOLE_GRAM_FLOPS * n**3 / median(native) / peak, 3),
        **check_accuracy(x, r, ALPHA),
    }


def check_accuracy(x: Tensor, r: float, alpha: float) -> dict[str, Any]:
    """The compiled kernel in float32 against float64 eigenvalues, over all pairs."""
    found = mutual_information(x, width=r, alpha=alpha, batch_size=None, backend="native")
    exact = mutual_information(x, width=r, alpha=alpha, batch_size=None, backend="native", dtype="float64")
    error = np.abs(found.mi_nats - exact.mi_nats)
    upper = np.triu_indices(len(error), 1)
    a, b = (m.mi_nats - 1e9 * np.eye(len(error)) for m in (found, exact))
    at = (np.arange(len(error)), a.argmax(axis=1))
    same = (a.argmax(axis=1) == b.argmax(axis=1)) | (b[at] >= b.max(axis=1))
    return {
        "width": r,
        "path_share": found.path_share,
        "max_error_nats": float(error.max()),
        "spearman": float(spearmanr(found.mi_nats[upper], exact.mi_nats[upper]).statistic),
        "same_nearest_neighbour": float(same.mean()),
        "bound_holds": bool((error.max(axis=1) <= found.error_bound_nats).all()),
        "median_bound_nats": float(np.median(found.error_bound_nats)),
        "max_bound_nats": float(found.error_bound_nats.max()),
    }


def measure_call(x: Tensor) -> dict[str, Any]:
    """The whole call with widths by alignment, against the numpy loop over its pairs alone."""
    pairs = x.shape[1] * (x.shape[1] + 1) // 2
    calls = [time_seconds(lambda: mutual_information(x, width="scott-scaled", alpha=ALPHA)) for _ in range(REPEATS)]
    found = mutual_information(x, width="scott-scaled", alpha=ALPHA)
    loops = [time_seconds(lambda: numpy_loop(prepare(x, 2.0), 500)) / 500 * pairs for _ in range(3)]
    return {
        "seconds": spread(calls, 1),
        "numpy_loop_seconds": spread(loops, 1),
        "times_faster": round(median(loops) / median(calls), 1),
        "median_width": float(np.median(found.width_over_std)),
        "path_share": found.path_share,
    }


def measure_threads(x: Tensor, r: float) -> dict[str, Any]:
    """One and two threads in turn, best of 10 each."""
    neurons, native = prepare(x, r), BACKENDS["float32"]["native"]
    wall: dict[int, list[float]] = {1: [], 2: []}
    cpu: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(10):
        for threads in wall:
            torch.set_num_threads(threads)
            before = time.process_time()
            wall[threads].append(time_seconds(lambda: all_pairs(native, neurons)))
            cpu[threads].append(time.process_time() - before)
    torch.set_num_threads(1)
    return {
        "width": r,
        "best_seconds": {str(t): min(wall[t]) for t in wall},
        "speed_up": round(min(wall[1]) / min(wall[2]), 2),
        "cpu_seconds_ratio": round(min(cpu[2]) / min(cpu[1]), 2),
        "median_cpu_seconds_ratio": round(median(cpu[2]) / median(cpu[1]), 2),
    }


def measure_neurons(layers: list[Tensor], count: int, r: float) -> dict[str, Any]:
    """Seconds for K neurons; beyond 1536 from a sample of blocks."""
    neurons, native = prepare(many_neurons(layers, count), r), BACKENDS["float32"]["native"]
    blocks = list(plan_blocks(count, 100))
    off_diagonal = [block for block in blocks if block[0] != block[1]] or blocks
    chosen = blocks if count <= 1536 else off_diagonal[:: max(1, len(off_diagonal) // 3)][:3]
    seconds, done = 0.0, 0
    for a, b in chosen:
        left, right = neurons.select(a), neurons.select(b)
        seconds += time_seconds(lambda: native.joint(left, right, ALPHA, a == b))  # noqa: B023
        done += len(left) * (len(left) + 1) // 2 if a == b else len(left) * len(right)
    pairs = count * (count + 1) // 2
    share = done / pairs
    return {
        "K": count,
        "width": r,
        "seconds": round(seconds / share, 2),
        "microseconds_per_pair": round(1e6 * seconds / done, 3),
        "sampled_share": round(share, 4),
    }


def measure_rows(x: Tensor, r: float) -> dict[str, Any]:
    """One kernel over n rows."""
    neurons, pairs = prepare(x, r), x.shape[1] * (x.shape[1] + 1) // 2
    times = [time_seconds(lambda: all_pairs(BACKENDS["float32"]["native"], neurons)) / pairs for _ in range(3)]
    return {"n": len(x), "width": r, "microseconds_per_pair": spread(times)}


def measure_many_rows(x: Tensor, r: float, checked: int) -> dict[str, Any]:
    """One kernel over many rows: time for 32 neurons, widths and features included, and errors on a few."""
    few = x[:, :checked]
    exact = mutual_information(few, width=r, batch_size=None, backend="eigenvalues", dtype="float64")
    found = mutual_information(few, width=r, batch_size=None)
    error = np.abs(found.mi_nats - exact.mi_nats)
    timed = mutual_information(x[:, :32], width=r, batch_size=None)
    seconds = [time_seconds(lambda: mutual_information(x[:, :32], width=r, batch_size=None)) for _ in range(3)]
    return {
        "n": len(x),
        "width": r,
        "milliseconds_per_pair": spread([each / (32 * 33 / 2) for each in seconds], 1e3),
        "path_share": timed.path_share,
        "max_error_nats": float(error.max()),
        "bound_holds": bool((error.max(axis=1) <= found.error_bound_nats).all()),
        "median_bound_nats": float(np.median(timed.error_bound_nats)),
    }


def measure_memory(layers: list[Tensor], count: int, r: float) -> dict[str, Any]:
    """The whole call with the matrix in a temporary file, two threads; memory is what is not backed by a file."""
    x = many_neurons(layers, count)
    before, peak, done = anonymous_memory(), [0], Event()

    def watch() -> None:
        while not done.wait(0.1):
            peak[0] = max(peak[0], anonymous_memory())

    watcher = Thread(target=watch)
    watcher.start()
    seconds = time_seconds(lambda: mutual_information(x, width=r, batch_size=None, most_bytes=1 << 20, threads=2))
    done.set()
    watcher.join()
    return {
        "K": count,
        "width": r,
        "threads": 2,
        "seconds": round(seconds, 1),
        "matrix_bytes": 4 * count**2,
        "peak_memory_bytes_beyond_start": peak[0] - before,
    }


def many_neurons(layers: list[Tensor], count: int) -> Tensor:
    """(100, K): layer 2's, and beyond its 1536 those of all layers, on other rows where these are used up."""
    if count <= 1536:
        return layers[2][:100, :count]
    rounds = -(-count // (6 * 1536))
    return torch.cat([x[100 * i : 100 * (i + 1)] for i in range(rounds) for x in layers], dim=1)[:, :count]


def anonymous_memory() -> int:
    """Bytes of this process in memory that no file backs."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


def prepare(x: Tensor, r: float) -> Neurons:
    """Neurons with features, sorted by rank as the whole call does."""
    std = estimate_std(x)
    neurons = prepare_neurons(x, torch.where(std > 0, r * std, torch.inf), ALPHA, with_features=True)
    return neurons.select(neurons.features.rank.argsort(stable=True))


def all_pairs(backend: Backend, neurons: Neurons) -> None:
    """Joint entropies of every pair k <= l, block by block."""
    for a, b in plan_blocks(len(neurons), neurons.rows):
        backend.joint(neurons.select(a), neurons.select(b), ALPHA, a == b)


def numpy_loop(neurons: Neurons, count: int) -> None:
    """What a user writes first: one product and one eigvalsh a pair."""
    grams = neuron_grams(neurons.scaled).numpy() / neurons.rows
    generator = np.random.default_rng(0)
    with threadpool_limits(1):
        for k, other in generator.integers(len(grams), size=(count, 2)):
            joint = grams[k] * grams[other] * neurons.rows
            values = np.linalg.eigvalsh(joint).clip(min=0)
            np.log((values**ALPHA).sum()) / (1 - ALPHA)


def batched_eigenvalues(neurons: Neurons, count: int) -> None:
    """The same with 250 pairs to a call of torch's solver."""
    grams = neuron_grams(neurons.scaled)
    generator = torch.Generator().manual_seed(0)
    for pairs in torch.randint(len(grams), (count, 2), generator=generator).split(250):
        values = torch.linalg.eigvalsh(grams[pairs[:, 0]] * grams[pairs[:, 1]] / neurons.rows).clamp(min=0)
        values.pow(ALPHA).sum(-1).log() / (1 - ALPHA)


def time_seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def spread(seconds: list[float], unit: float = 1e6) -> Timing:
    """Median, least and most, in microseconds unless told."""
    return {
        "median": round(median(seconds) * unit, 3),
        "least": round(min(seconds) * unit, 3),
        "most": round(max(seconds) * unit, 3),
    }


def _peak(isa: str) -> float:
    """Float32 operations a second of one core."""
    rounds = 2_000_000
    lanes = {"avx512": 16, "avx2": 8}.get(isa, 4)
    return 2 * 20 * lanes * rounds / time_seconds(lambda: _kernel.multiply_adds(rounds, isa))


if __name__ == "__main__":
    main()
