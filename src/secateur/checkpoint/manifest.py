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

from secateur.information.backends import find_instruction_sets
from secateur.methods import PruningContext
from secateur.recipe import Recipe

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
    words = ["secateur", "prune", model, out]
    defaults = Recipe(method=recipe.method)
    always = {"keep"} if recipe.method == Recipe().method else {"keep", "method"}
    for name, value in public_settings(recipe).items():
        if name not in always and value == getattr(defaults, name):
            continue
        flag = "--" + name.replace("_", "-")
        words += [flag if value else f"--no-{flag[2:]}"] if isinstance(value, bool) else [flag, str(value)]
    return shlex.join(words)


def describe_run(context: PruningContext) -> dict[str, Any]:
    """All that what a run computes depends on, as plain values."""
    config: Any = context.loaded.model.config
    settings = json.dumps({**config.to_dict(), "_name_or_path": ""}, sort_keys=True, default=str)
    return {
        "model weights": context.weights_sha256[:HASH_LENGTH],
        "model config": hashlib.sha256(settings.encode()).hexdigest()[:HASH_LENGTH],
        "calibration tokens": context.calibration.summary.sha256[:HASH_LENGTH],
        "device": context.loaded.card,
        "processor's instructions": ", ".join(find_instruction_sets()),
        "threads in use": torch.get_num_threads(),
        **public_settings(context.recipe),
        **find_versions(),
    }


def find_versions() -> dict[str, str]:
    """Versions of Python and of the packages that figures depend on."""
    packages = (
        "secateur",
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
