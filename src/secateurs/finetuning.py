"""Fine-tuning an encoder on a labelled task, epoch by epoch, so that it can stop and go on."""

from __future__ import annotations

import copy
import json
import random
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from secateurs.checkpoint.card import write_finetuned_card
from secateurs.checkpoint.manifest import find_versions
from secateurs.checkpoint.staging import staged
from secateurs.checkpoint.writing import write_folder
from secateurs.encoding import Batch, TaskRows, tokenise
from secateurs.errors import InputError
from secateurs.evaluation.classification import predict, score_predictions
from secateurs.models.loading import LoadedModel, hash_weights
from secateurs.results import Progress, no_progress
from secateurs.tasks import SPLITS, Metric, Task, read_examples

OTHER_LEARNING_RATE, OTHER_BATCH_SIZE = 5e-5, 32
"""For encoders other than BERT-tiny, which the task's own settings are for."""
BERT_TINY = (128, 2)
"""Hidden size and layers of BERT-tiny."""
WEIGHT_DECAY = 0.01
SORTED_BATCHES = 50
"""Batches' worth of shuffled rows that are sorted by length together."""
STATE_NAME = "state.json"
NEW_WEIGHTS = ("pooler.", "classifier.", "score.")
"""What a base model may lack: it starts at random."""


@dataclass(frozen=True, slots=True)
class Training:
    """How an encoder is fine-tuned."""

    learning_rate: float
    """At the start; it falls linearly to 0."""
    batch_size: int
    """Rows in a step."""
    epochs: int = 4
    """Passes over the training rows."""
    max_length: int | None = None
    """Tokens in a row at most; None: the task's own."""
    max_rows: int | None = None
    """Train on a random sample of this many rows; None: on all."""
    seed: int = 0
    """Of the new head, the sample, the order of rows and dropout."""
    freeze_embeddings: bool = False
    """Leave the word embeddings as they are: of few rows there is little to learn about words."""


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """A fine-tuned model, and how it came about."""

    loaded: LoadedModel
    """The model, in evaluation mode, with its tokenizer and source."""
    task: Task
    """What it was trained on."""
    training: Training
    """How."""
    rows: int
    """Rows trained on."""
    scores: Mapping[Metric, float]
    """On the validation rows."""
    validation_rows: int
    """How many those are."""
    rows_per_second: float
    """Training rows a second, scoring left out; of this run if it went on from an earlier one."""
    described: Mapping[str, Any]
    """What tells this training from another: task, settings, hashes of the base model and of the rows."""
    example: Batch = field(repr=False)
    """A batch that the written checkpoint is verified on."""

    def save(self, out: Path, *, overwrite: bool = False) -> None:
        """Write an ordinary Hugging Face checkpoint, verified.

        Raises:
            InputError: `out` exists (and may not be replaced) or lies in the original's folder.
            SecateursError: writing failed; nothing is left at `out`.
        """
        model: Any = self.loaded.model
        changes = {"architectures": [type(model).__name__], "problem_type": model.config.problem_type}
        changes |= {"id2label": _labels(self.task), "label2id": {name: i for i, name in _labels(self.task).items()}}
        manifest = {
            **self.described,
            "base_model": self.loaded.name,
            "rows": self.rows,
            "scores": dict(self.scores),
            "validation_rows": self.validation_rows,
            "rows_per_second": round(self.rows_per_second, 1),
            "weights_sha256": hash_weights(model),
            "versions": find_versions(),
        }
        source = self.loaded.source

        def write_beside(folder: Path) -> None:
            write_finetuned_card(
                folder,
                base_model=self.loaded.name,
                is_published=source is not None and source.is_published,
                task=self.task.name,
                settings=asdict(self.training),
                scores={str(metric): value for metric, value in self.scores.items()},
                rows=(self.rows, self.validation_rows),
                original=source.original_folder if source else None,
            )

        write_folder(
            self.loaded,
            out,
            self.example,
            manifest=manifest,
            changes=changes,
            write_beside=write_beside,
            overwrite=overwrite,
        )
        shutil.rmtree(training_folder(out), ignore_errors=True)


def training_folder(out: Path) -> Path:
    """Hidden folder beside `out` that a training is kept in until it is done."""
    return out.with_name(f".{out.name}.training")


def choose_training(loaded: LoadedModel, task: Task, **settings: Any) -> Training:
    """Settings with what was not given (None) filled in: the paper's for BERT-tiny, else 5e-5 and batches of 32."""
    config: Any = loaded.model.config
    is_tiny = (getattr(config, "hidden_size", 0), getattr(config, "num_hidden_layers", 0)) == BERT_TINY
    rate, size = (task.learning_rate, task.batch_size) if is_tiny else (OTHER_LEARNING_RATE, OTHER_BATCH_SIZE)
    given = {name: value for name, value in settings.items() if value is not None}
    training = Training(**{"learning_rate": rate, "batch_size": size, **given})
    for name in ("learning_rate", "batch_size", "epochs", "max_rows"):
        value = getattr(training, name)
        if value is not None and value <= 0:
            raise InputError(f"{name} must be above 0, got {value}")
    return training


def finetune(
    base: LoadedModel,
    task: Task,
    data: Path | None,
    training: Training,
    *,
    state: Path | None = None,
    restart: bool = False,
    progress: Progress = no_progress,
) -> FinetuneResult:
    """An encoder with a new head, fine-tuned on a task's training rows and scored on its validation rows.

    AdamW (betas 0.9 and 0.999, eps 1e-8, weight decay 0.01 but for biases and norms), linear decay without warm-up,
    dropout as the model's config has it. The given model is not changed.

    Args:
        base: the encoder; a head that it has is not used.
        task: what to learn.
        data: folder with the task's files; None: GLUE from the hub.
        training: the settings.
        state: folder that is written after each epoch, and that the same training goes on from.
        restart: begin afresh where `state` holds another training, instead of refusing.
        progress: told after each step.

    Raises:
        InputError: the model is no encoder, has no tokenizer, the data does not fit, or `state` holds another training.

    Source:
        "Large Language Model Pruning" (arXiv 2406.00030); it leaves open weight decay, schedule and lengths.
    """
    model = add_head(base, task, training.seed)
    words: Any = model.get_input_embeddings()  # type: ignore[operator]
    words.weight.requires_grad_(not training.freeze_embeddings)
    loaded = replace(base, model=model)
    examples = read_examples(task, data, "train", max_rows=training.max_rows, seed=training.seed)
    validation = read_examples(task, data, "validation")
    rows, held_out = (tokenise(loaded, task, part, training.max_length) for part in (examples, validation))
    seconds, trained = 0.0, 0
    steps = training.epochs * -(-len(rows) // training.batch_size)
    optimizer, epoch = _make_optimizer(model, training.learning_rate), 0
    described = describe_training(base, task, training, data)
    if state is not None and (state / STATE_NAME).is_file():
        stored = json.loads((state / STATE_NAME).read_text(encoding="utf-8"))
        if difference := _find_difference(stored, described):
            if not restart:
                raise InputError(f"{state} holds an unfinished training with {difference}; --overwrite begins afresh")
        else:
            _restore_(model, optimizer, state)
            epoch = int(stored["epochs_done"])
    for number in range(epoch, training.epochs):
        start = time.perf_counter()
        _train_epoch_(model, optimizer, rows, training, number, steps, progress)
        seconds, trained = seconds + time.perf_counter() - start, trained + len(rows)
        if state is not None:
            _save_state(model, optimizer, state, {**described, "epochs_done": number + 1})
    model.eval().requires_grad_(True)
    scores = score_predictions(task, predict(model, held_out, progress), held_out.labels)
    rate = trained / seconds if trained else 0.0
    example = held_out.batch(range(min(2, len(held_out))))
    return FinetuneResult(
        loaded=loaded,
        task=task,
        training=training,
        rows=len(rows),
        scores=scores,
        validation_rows=len(held_out),
        rows_per_second=rate,
        described=described,
        example=example,
    )


def add_head(base: LoadedModel, task: Task, seed: int) -> nn.Module:
    """A copy of an encoder with a new classification head; also a new pooler where it has none.

    Raises:
        InputError: the model is no encoder, or its family has no classifier in transformers.
    """
    if base.family.kind != "encoder":
        raise InputError(f"{base.family.name} models are not fine-tuned here, only encoders")
    config: Any = copy.deepcopy(base.model.config)
    config.num_labels = task.classes
    config.id2label, config.label2id = _labels(task), {name: i for i, name in _labels(task).items()}
    config.problem_type = "regression" if task.is_regression else "single_label_classification"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model: Any = transformers.AutoModelForSequenceClassification.from_config(config)
        except ValueError as error:
            raise InputError(f"{base.family.name} has no classifier in transformers: {error}") from None
    source: Any = base.model
    found = model.base_model.load_state_dict(source.base_model.state_dict(), strict=False)
    missing = [name for name in found.missing_keys if not name.startswith(NEW_WEIGHTS)]
    assert not missing, missing
    model.to(device=source.device, dtype=torch.float32)
    head: nn.Module = model
    return head


def _labels(task: Task) -> dict[int, str]:
    return {number: f"LABEL_{number}" for number in range(task.classes)}


def _make_optimizer(model: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]  # biases and norms
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=True)


def _train_epoch_(
    model: Any,
    optimizer: torch.optim.Optimizer,
    rows: TaskRows,
    training: Training,
    epoch: int,
    steps: int,
    progress: Progress,
) -> None:
    """One pass. Its order and dropout depend on the seed and the epoch alone, so that it can be done again."""
    model.train()
    batches = list(_shuffled_batches(rows, training.batch_size, random.Random(f"{training.seed} {epoch}")))
    with torch.random.fork_rng():
        torch.manual_seed(1000 * training.seed + epoch)
        for number, places in enumerate(batches):
            step = epoch * len(batches) + number
            for group in optimizer.param_groups:
                group["lr"] = training.learning_rate * (1 - step / steps)
            batch = {name: value.to(model.device) for name, value in rows.batch(places).items()}
            loss = model(**batch, labels=rows.labels[places].to(model.device)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            progress("fine-tuning", step + 1, steps)


def _shuffled_batches(rows: TaskRows, size: int, draw: random.Random) -> Iterator[list[int]]:
    """Row numbers in random batches of rows of about one length."""
    order = list(range(len(rows)))
    draw.shuffle(order)
    batches = []
    for start in range(0, len(order), size * SORTED_BATCHES):
        some = sorted(order[start : start + size * SORTED_BATCHES], key=lambda row: len(rows.inputs[row]["input_ids"]))
        batches += [some[first : first + size] for first in range(0, len(some), size)]
    draw.shuffle(batches)
    yield from batches


def describe_training(base: LoadedModel, task: Task, training: Training, data: Path | None) -> dict[str, Any]:
    """What tells one training from another; the manifest of a fine-tuned checkpoint holds the same."""
    return {
        "task": task.name,
        "training": asdict(training),
        "base_sha256": hash_weights(base.model),
        "rows_sha256": [read_examples(task, data, split).sha256 for split in SPLITS],
    }


def _save_state(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path, described: Mapping[str, Any]) -> None:
    tensors = {f"model.{name}": value.contiguous() for name, value in model.state_dict().items()}
    for place, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{place}.{name}": value.contiguous() for name, value in values.items()}
    with staged(folder) as stage:
        save_file({name: value.clone() for name, value in tensors.items()}, stage / "state.safetensors")
        (stage / STATE_NAME).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def _find_difference(stored: Mapping[str, Any], described: Mapping[str, Any]) -> str | None:
    """The first setting that two trainings differ in, in words; None where they are the same."""
    before, now = ({**values, **values["training"]} for values in (stored, described))
    names = [name for name in now if name != "training" and before.get(name) != now[name]]
    return f"{names[0]} {before.get(names[0])} instead of {now[names[0]]}" if names else None


def _restore_(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Take over weights and optimizer of an interrupted training."""
    tensors = load_file(folder / "state.safetensors")
    weights = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    model.load_state_dict(weights)
    state = optimizer.state_dict()
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, place, key = name.split(".")
            state["state"].setdefault(int(place), {})[key] = value
    optimizer.load_state_dict(state)
