"""What a run leaves behind so that it can be done again: settings, command line, versions."""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from secateurs.information.backends import find_instruction_sets
from secateurs.methods import PruningContext
from secateurs.recipe import Recipe
from secateurs.token_noise import find_special_ids

HASH_LENGTH = 16
"""Characters of a hash that tell one thing from another."""


def public_settings(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, without the folders that calibration text and data lie in."""
    settings = recipe.model_dump()
    for name in ("calibration", "data"):
        if settings[name] not in (None, "-"):
            settings[name] = Path(settings[name]).name
    return settings


def describe_command(model: str, out: str, recipe: Recipe) -> str:
    """The command line that does it again: every setting that is not at its (or the method's) default."""
    words: list[str] = []
    defaults = Recipe(method=recipe.method)
    always = {"keep"} if recipe.method == Recipe().method else {"keep", "method"}
    for name, value in public_settings(recipe).items():
        if name not in always and value == getattr(defaults, name):
            continue
        flag = "--" + name.replace("_", "-")
        words += [flag if value else f"--no-{flag[2:]}"] if isinstance(value, bool) else [flag, str(value)]
    names = ["--", model, out] if model.startswith("-") or out.startswith("-") else [model, out]
    return shlex.join(["secateurs", "prune", *(words + names if names[0] == "--" else names + words)])


def describe_run(context: PruningContext) -> dict[str, Any]:
    """All that what a run computes depends on, as plain values."""
    loaded, calibration = context.loaded, context.calibration
    config: Any = loaded.model.config
    shapes = [
        {name: (str(value.dtype), *value.shape) for name, value in batch.items()} for batch in calibration.batches
    ]
    labels = None if calibration.labels is None else [batch.tolist() for batch in calibration.labels]
    vocabulary = 0 if loaded.tokenizer is None else len(loaded.tokenizer)
    return {
        "model weights": context.weights_sha256[:HASH_LENGTH],
        "model config": _digest({**config.to_dict(), "_name_or_path": ""}),
        "attention by": config._attn_implementation,
        "pooling": loaded.pooling,
        "vocabulary": _digest([vocabulary, find_special_ids(loaded)]),
        "calibration tokens": calibration.summary.sha256[:HASH_LENGTH],
        "calibration batches": _digest(shapes),
        "calibration labels": _digest(labels),
        "rows sampled": context.sampling,
        "runs on": loaded.card,
        "processor's instructions": ", ".join(find_instruction_sets()),
        "threads in use": torch.get_num_threads(),
        **public_settings(context.recipe),
        **find_versions(),
    }


def _digest(content: Any) -> str:
    """The start of a hash of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:HASH_LENGTH]


def find_versions() -> dict[str, str]:
    """Versions of Python and of the packages that figures depend on."""
    packages = (
        "secateurs",
        "torch",
        "transformers",
        "numpy",
        "scipy",
        "safetensors",
        "huggingface_hub",
    )
    found = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    with suppress(PackageNotFoundError):  # it is optional
        found["kmedoids"] = version("kmedoids")
    return found
