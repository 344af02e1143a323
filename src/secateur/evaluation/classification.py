"""Scoring encoders on labelled tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor, nn

from secateur.calibration import Batch, find_length, require_tokenizer
from secateur.errors import InputError
from secateur.models.loading import LoadedModel
from secateur.results import Progress, no_progress
from secateur.tasks import Examples, Metric, Task

BATCH_ROWS = 64


@dataclass(frozen=True, slots=True)
class TaskRows:
    """Labelled rows as token ids, tokenised once."""

    inputs: tuple[Mapping[str, Sequence[int]], ...]
    """input_ids, attention_mask and what else the tokenizer gives, for each row."""
    labels: Tensor
    """(rows,) float32 where the label is a number, int64 where it is a class."""
    tokenizer: Any
    """Pads them."""

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, places: Sequence[int]) -> Batch:
        """Some rows, padded to the longest of them."""
        batch: Batch = dict(self.tokenizer.pad([self.inputs[place] for place in places], return_tensors="pt"))
        return batch


def tokenise(loaded: LoadedModel, task: Task, examples: Examples, max_length: int | None = None) -> TaskRows:
    """Rows as token ids, cut to the task's length, or to another one."""
    tokenizer = require_tokenizer(loaded.tokenizer)
    length = find_length(loaded, max_length) if max_length else min(task.max_length, find_length(loaded, None))
    parts = [list(column) for column in zip(*examples.texts, strict=True)]
    encoded = tokenizer(*parts, truncation=True, max_length=length, verbose=False)
    names = list(encoded)
    inputs = tuple(dict(zip(names, values, strict=True)) for values in zip(*encoded.values(), strict=True))
    labels = torch.tensor(examples.labels)
    return TaskRows(inputs, labels if task.is_regression else labels.long(), tokenizer)


def batches_by_length(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Row numbers in batches of rows of about one length, shortest first."""
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    yield from (order[start : start + size] for start in range(0, len(order), size))


def predict(model: nn.Module, rows: TaskRows, progress: Progress = no_progress) -> Tensor:
    """(rows, classes) float32, the logits of each row; the model must be in evaluation mode."""
    logits: Tensor | None = None
    done = 0
    for places in batches_by_length([len(row["input_ids"]) for row in rows.inputs], BATCH_ROWS):
        batch = {name: value.to(next(model.parameters()).device) for name, value in rows.batch(places).items()}
        with torch.inference_mode():
            found = model(**batch).logits.float().cpu()
        logits = torch.zeros(len(rows), found.shape[1]) if logits is None else logits
        logits[torch.tensor(places)] = found
        done += len(places)
        progress("scoring rows", done, len(rows))
    assert logits is not None
    return logits


def score_predictions(task: Task, logits: Tensor, labels: Tensor) -> dict[Metric, float]:
    """Each metric of the task. Correlations of predictions that are all the same are 0."""
    if task.is_regression:
        predicted, truth = logits[:, 0].double().numpy(), labels.double().numpy()
        if predicted.std() == 0:
            return dict.fromkeys(task.metrics, 0.0)
        found = {"pearson": pearsonr(predicted, truth).statistic, "spearman": spearmanr(predicted, truth).statistic}
    else:
        predicted, truth = logits.argmax(dim=1).numpy(), labels.numpy()
        found = {"accuracy": accuracy_score(truth, predicted), "f1": f1_score(truth, predicted, zero_division=0)}
    return {metric: float(found[metric]) for metric in task.metrics}


def require_head(loaded: LoadedModel, task: Task) -> None:
    """Raise InputError unless the model has a classification head that fits the task."""
    model: Any = loaded.model
    if not type(model).__name__.endswith("ForSequenceClassification"):
        raise InputError(f"{type(model).__name__} has no head for {task.name}; fine-tune it with secateur finetune")
    if model.config.num_labels != task.classes:
        raise InputError(f"{task.name} needs {task.classes} output(s), the model has {model.config.num_labels}")
