"""Scoring encoders on labelled tasks."""

from __future__ import annotations

from typing import Any

import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor, nn

from secateurs.encoding import TaskRows, batches_by_length
from secateurs.errors import InputError
from secateurs.models.loading import LoadedModel
from secateurs.models.outputs import is_classifier
from secateurs.results import Progress, no_progress
from secateurs.tasks import Metric, Task

BATCH_ROWS = 64


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
    if not is_classifier(model):
        hint = "; fine-tune it with secateurs finetune" if loaded.family.kind == "encoder" else ""
        raise InputError(f"{type(model).__name__} has no head for {task.name}{hint}")
    if model.config.num_labels != task.classes:
        raise InputError(f"{task.name} needs {task.classes} output(s), the model has {model.config.num_labels}")
