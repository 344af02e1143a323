"""What a run leaves behind so that it can be done again: settings, command line, versions."""

from __future__ import annotations

import platform
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

from secateur.recipe import Recipe


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


def find_versions() -> dict[str, str]:
    """Versions of Python and of the packages that figures depend on."""
    packages = (
        "secateur",
        "torch",
        "transformers",
        "numpy",
        "scipy",
        "kmedoids",
        "safetensors",
        "huggingface_hub",
    )
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
