"""What fine-tuning settings bring on the small base model: learning rates, epochs, frozen embeddings; seed 0.

    SECATEURS_DATA=... SECATEURS_MODELS=... python benchmarks/paper/tuning.py

Runs that tuning.json holds are not run again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from secateurs.finetuning import Training, finetune
from secateurs.models.loading import load_model
from secateurs.paper.results import find_floor
from secateurs.tasks import TASKS, read_examples

RESULTS = Path(__file__).with_name("tuning.json")
DATA = Path(os.environ["SECATEURS_DATA"])
RUNS = [  # task, learning rate, batch size, epochs
    ("stsb", 5e-4, 8, 4),
    ("qnli", 3e-4, 16, 4),
    ("mrpc", 3e-4, 8, 4),
    ("mrpc", 1e-4, 8, 4),
    ("mrpc", 3e-5, 8, 4),
    ("mrpc", 3e-5, 8, 10),
    ("mrpc", 1e-3, 32, 4),
]


def main() -> None:
    """Run what is missing, with the embeddings trained and frozen."""
    torch.set_num_threads(1)
    base = load_model(os.environ["SECATEURS_MODELS"] + "/bert-tiny-base", dtype="float32", device="cpu")
    done = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for name, rate, size, epochs in RUNS:
        for frozen in (False, True):
            run = {"task": name, "learning_rate": rate, "batch_size": size, "epochs": epochs, "frozen": frozen}
            if any(run.items() <= entry.items() for entry in done):
                continue
            training = Training(rate, size, epochs, freeze_embeddings=frozen)
            scores = finetune(base, TASKS[name], DATA, training).scores
            floor = find_floor(name, read_examples(TASKS[name], DATA, "validation").labels)
            done.append({**run, "scores": dict(scores), "floor": floor})
            RESULTS.write_text(json.dumps(done, indent=1) + "\n")
            print(json.dumps(done[-1]), flush=True)


if __name__ == "__main__":
    main()
