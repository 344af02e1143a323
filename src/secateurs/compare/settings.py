"""What is compared on what, checked before anything is read."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from secateurs.errors import InputError, unknown_name
from secateurs.evaluation.embeddings import read_stsb
from secateurs.former_name import rename
from secateurs.methods.contract import Allocation
from secateurs.recipe import Recipe, make_recipe
from secateurs.scoring import EMBEDDINGS_TASK
from secateurs.tasks import TASKS, read_examples
from secateurs.texts import open_texts

ALL = "all"
CELLS = "cells"
"""Folder of finished cells, beside the results."""
REFITS: Mapping[str, tuple[bool, ...]] = {"both": (False, True), "on": (True,), "off": (False,)}
ALLOCATIONS: Mapping[str, tuple[Allocation, ...]] = {
    **{name: (name,) for name in get_args(Allocation)},
    "both": get_args(Allocation),
}
NAMED_SETTINGS = (
    "calibration",
    "text_column",
    "max_length",
    "batch_size",
    "in_turn",
    "noise",
    "ridge",
    "token_noise",
    "drift",
    "mean_weight",
    "token_weights",
    "seed",
    "seeds",
    "threads",
    "device",
    "dtype",
)
"""Settings of the recipe that a comparison can be given, besides calibration_tokens."""
TOKENS = 8192
"""Tokens that a language model is scored on, unless said otherwise."""


@dataclass(frozen=True, slots=True)
class Settings:
    """A comparison that was asked for."""

    model: str
    """A folder, a .gguf file, a demo name or a hub id."""
    methods: tuple[str, ...]
    """Names of methods; "all" alone stands for every one that can run."""
    keeps: tuple[float, ...]
    """Fractions of the neurons to keep, ascending."""
    refits: tuple[bool, ...]
    """Whether to score as published, with Secateurs' refit, or both ways."""
    allocations: tuple[Allocation, ...]
    """How the neurons that stay may be spread over the networks."""
    trials: int
    """Draws of calibration data, each with a seed of its own."""
    folder: Path
    """Where results and finished cells go."""
    text: str | None
    """Text that a language model is scored on; None: text that comes with Python."""
    tokens: int
    """Tokens of it to use."""
    window: int | None
    """Tokens in a window; None: 512, or all that fit."""
    task: str | None
    """Task to score on instead of text."""
    data: Path | None
    """Folder with the task's files; None: GLUE from the hub."""
    recipe: Recipe
    """How the first trial is measured."""

    @property
    def is_all(self) -> bool:
        """Whether every method that can run was asked for."""
        return self.methods == (ALL,)

    def trial_recipe(self, number: int) -> Recipe:
        """How a trial is measured: other rows or the next stretch of text, and another seed."""
        skip = 0 if self.recipe.task is not None else number * self.recipe.calibration_tokens
        return self.recipe.model_copy(update={"seed": self.recipe.seed + number, "calibration_skip": skip})

    def describe_command(self) -> str:
        """The command line that does it again, without the folders of paths."""
        words = ["secateurs", "compare", _last_part(self.model), "--methods", ",".join(self.methods)]
        words += ["--keep", ",".join(f"{keep:g}" for keep in reversed(self.keeps))]
        words += ["--refit", _name_of(REFITS, self.refits), "--allocation", _name_of(ALLOCATIONS, self.allocations)]
        if self.task is None:
            words += [] if self.text is None else ["--text", _last_part(self.text)]
            words += ["--tokens", str(self.tokens)] + ([] if self.window is None else ["--window", str(self.window)])
        else:
            words += ["--task", self.task] + ([] if self.data is None else ["--data", self.data.name])
        words += ["--trials", str(self.trials), "--calibration-tokens", str(self.recipe.calibration_tokens)]
        for name in NAMED_SETTINGS:
            value, flag = getattr(self.recipe, name), name.replace("_", "-")
            if value != Recipe.model_fields[name].default:
                words += [f"--no-{flag}"] if value is False else [f"--{flag}", _last_part(str(value))]
        return shlex.join(words)


def make_settings(
    *,
    methods: str,
    keep: str,
    refit: str,
    allocation: str,
    text: str | None = None,
    tokens: int | None = None,
    window: int | None = None,
    task: str | None = None,
    data: Path | None = None,
    calibration: str | None = None,
    model: str,
    trials: int = 1,
    folder: Path,
    **measuring: Any,
) -> Settings:
    """A comparison, checked as far as that goes without the model and without reading any text.

    Args:
        methods: names separated by commas, or "all".
        keep: fractions separated by commas.
        refit: on, off or both.
        allocation: uniform, global or both.
        text: to score a language model on.
        tokens: of the text.
        window: tokens in a window.
        task: to score on instead of text.
        data: folder with the task's files.
        calibration: text to measure on; None: the training rows of a labelled task, or text that comes with Python.
        model: its name.
        trials: draws of calibration data.
        folder: where results go.
        **measuring: fields of the recipe by name, such as calibration_tokens or seed; None stands for the default.

    Raises:
        InputError: the message says what, got and wanted.
    """
    if task is not None and any(given is not None for given in (text, tokens, window)):
        raise InputError("--task has its own data; leave out --text, --tokens and --window")
    if task is None and data is not None:
        raise InputError("--data is for the files of a --task, got no task")
    if trials < 1:
        raise InputError(f"trials must be a whole number of at least 1, got {trials}")
    if calibration == "-":
        raise InputError("calibration must be a file, got -: it is read once for each trial")
    given = {name: value for name, value in measuring.items() if value is not None}
    if task in TASKS and calibration is None:
        given |= {"task": task, "data": None if data is None else str(data)}
    return Settings(
        model=model,
        methods=_parse_names(methods),
        keeps=_parse_keeps(keep),
        refits=_choose("refit", refit, REFITS),
        allocations=_choose("allocation", allocation, ALLOCATIONS),
        trials=trials,
        folder=folder,
        text=text,
        tokens=TOKENS if tokens is None else tokens,
        window=window,
        task=task,
        data=data,
        recipe=make_recipe({**given, "calibration": calibration, "refit": True, "round_to": 1}),
    )


def check_data(settings: Settings) -> None:
    """Raise InputError where a text, a task or its files can't be had, or the folder for results holds other things."""
    check_folder(settings.folder)
    if settings.recipe.calibration is not None:
        open_texts(settings.recipe.calibration, settings.recipe.text_column)
    if settings.data is not None and not settings.data.is_dir():
        raise InputError(f"data must be a folder, got {settings.data}")
    if settings.task is None:
        if settings.text is not None:
            open_texts(settings.text)
    elif settings.task == EMBEDDINGS_TASK:
        read_stsb(require_data(settings))
    elif settings.task not in TASKS:
        raise unknown_name("task", settings.task, [*TASKS, EMBEDDINGS_TASK])
    else:
        read_examples(TASKS[settings.task], settings.data, "validation")


def check_folder(folder: Path) -> None:
    """Raise InputError where results would lie among files that are not a comparison's."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"out must be a folder, got the file {folder}")
    nearest = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"out can't be made or written to: no permission to write in {nearest}")
    holds_files = folder.is_dir() and any(path.is_file() for path in folder.iterdir())
    if holds_files and not (folder / CELLS).is_dir():
        raise InputError(f"{folder} holds files that are not a comparison's; give a new folder by --out")


def require_data(settings: Settings) -> Path:
    """The folder with the task's files."""
    if settings.data is None:
        raise InputError(f"task {settings.task} needs --data, the folder with stsb/validation.tsv")
    return settings.data


def _parse_names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(rename(part.strip()) for part in text.split(",") if part.strip()))
    if not names:
        raise InputError("methods must name at least one method, or all")
    if ALL in names and len(names) > 1:
        raise InputError(f"methods must be all, or names, got '{text}'")
    return names


def _parse_keeps(text: str) -> tuple[float, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise InputError("keep must name at least one fraction, such as 0.8,0.6")
    try:
        keeps = sorted({float(part) for part in parts})
    except ValueError:
        raise InputError(f"keep must be numbers in (0, 1], separated by commas, got '{text}'") from None
    for keep in keeps:
        if not 0 < keep <= 1:
            raise InputError(f"keep must be in (0, 1], got {keep:g}")
    return tuple(keeps)


def _choose(what: str, name: str, table: Mapping[str, Any]) -> Any:
    if name not in table:
        raise unknown_name(what, name, table)
    return table[name]


def _name_of(table: Mapping[str, Sequence[Any]], value: Sequence[Any]) -> str:
    return next(name for name, known in table.items() if known == value)


def _last_part(text: str) -> str:
    """A path without its folders; other names as they are."""
    return Path(text).name if Path(text).exists() else text
