"""The labelled tasks that encoders are fine-tuned and scored on, and reading their rows."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from secateurs.errors import InputError, unknown_name
from secateurs.texts import open_texts

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")
Metric = Literal["accuracy", "f1", "pearson", "spearman"]


@dataclass(frozen=True, slots=True)
class Task:
    """One task of GLUE, with the settings that the paper fine-tunes BERT-tiny by."""

    name: str
    """Its folder, and its name on the command line and in GLUE."""
    text_columns: tuple[str, ...]
    """Columns that hold the sentence, or the two of a pair."""
    classes: int
    """Number of classes, numbered from 0; 1 where the label is a number."""
    metrics: tuple[Metric, ...]
    """What it is scored by, the one that counts first."""
    max_length: int
    """Tokens in a row at most."""
    learning_rate: float
    """For BERT-tiny."""
    batch_size: int
    """For BERT-tiny."""

    @property
    def is_regression(self) -> bool:
        """Whether the label is a number rather than a class."""
        return self.classes == 1


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("sst2", ("sentence",), 2, ("accuracy",), 64, 5e-4, 8),
        Task("stsb", ("sentence1", "sentence2"), 1, ("pearson", "spearman"), 128, 5e-4, 8),
        Task("mrpc", ("sentence1", "sentence2"), 2, ("f1", "accuracy"), 128, 3e-4, 8),
        Task("qqp", ("question1", "question2"), 2, ("f1", "accuracy"), 128, 3e-4, 16),
        Task("qnli", ("question", "sentence"), 2, ("accuracy",), 128, 3e-4, 16),
    )
}
"""Settings from "Large Language Model Pruning" (arXiv 2406.00030), except the lengths, which it leaves open."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Labelled rows of one split."""

    texts: tuple[tuple[str, ...], ...]
    """A sentence, or two, for each row."""
    labels: tuple[float, ...]
    """A class number or a number for each row."""
    source: str
    """Where they came from."""

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, places: Sequence[int]) -> Examples:
        """Some rows, in the order of `places`."""
        return Examples(tuple(self.texts[p] for p in places), tuple(self.labels[p] for p in places), self.source)

    @property
    def sha256(self) -> str:
        """Hash of texts and labels, in order."""
        digest = hashlib.sha256()
        for texts, label in zip(self.texts, self.labels, strict=True):
            digest.update("\t".join([*texts, f"{label:g}\n"]).encode())
        return digest.hexdigest()


def find_task(name: str) -> Task:
    """The task of a name; an unknown one is an InputError that suggests the nearest."""
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]


def read_examples(
    task: Task, data: Path | None, split: Split, *, max_rows: int | None = None, seed: int = 0
) -> Examples:
    """Labelled rows from DATA/<task>/<split>.tsv, or with no folder from GLUE on the hub.

    Args:
        task: whose rows.
        data: folder with one folder a task; tab-separated files with a header row. None: the package `datasets`.
        split: train or validation.
        max_rows: keep a random sample of this many, in the order of the file.
        seed: of the sample.

    Raises:
        InputError: the file is missing, lacks a column, or holds a label that is none.
    """
    names = [*task.text_columns, "label"]
    if data is None:
        columns, source = _read_hub(task, split, names), f"GLUE {task.name}, {split}"
    else:
        path = data / task.name / f"{split}.tsv"
        if not path.is_file():
            raise InputError(f"no {task.name}/{split}.tsv in {data}")
        columns, source = [list(open_texts(path, name)) for name in names], f"{task.name}/{split}.tsv"
    labels = tuple(_parse_label(task, text, f"{source} row {row}") for row, text in enumerate(columns.pop(), start=1))
    if not labels:
        raise InputError(f"{source} has no rows")
    chosen: Sequence[int] = range(len(labels))
    if max_rows is not None and max_rows < len(labels):
        chosen = sorted(random.Random(seed).sample(chosen, max_rows))
    return Examples(tuple(zip(*columns, strict=True)), labels, source).at(chosen)


def _read_hub(task: Task, split: Split, names: Sequence[str]) -> list[list[Any]]:
    try:
        from datasets import load_dataset
    except ImportError:
        raise InputError("give --data, or read GLUE from the hub with pip install datasets") from None
    rows = load_dataset("nyu-mll/glue", task.name, split=split)
    return [list(rows[name]) for name in names]


def _parse_label(task: Task, text: Any, where: str) -> float:
    wanted = "a number" if task.is_regression else f"a whole number from 0 to {task.classes - 1}"
    try:
        label = float(text)
    except ValueError:
        raise InputError(f"{where}: the label must be {wanted}, got '{text}'") from None
    if label != label or (not task.is_regression and label not in range(task.classes)):
        raise InputError(f"{where}: the label must be {wanted}, got '{text}'")
    return label
