"""Makes transformers smaller by removing feed-forward neurons whose information others already carry."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateurs import information
    from secateurs.checkpoint.plans import load_plan, save_plan
    from secateurs.checkpoint.state import open_state
    from secateurs.models.cutting import apply
    from secateurs.pipeline import prune
    from secateurs.pruned import PruneResult
    from secateurs.recipe import Recipe
    from secateurs.results import MutualInformation, PruningPlan

__version__ = "0.1.0"
__all__ = [
    "MutualInformation",
    "PruneResult",
    "PruningPlan",
    "Recipe",
    "apply",
    "information",
    "load_plan",
    "open_state",
    "prune",
    "save_plan",
]
_HOMES = {
    "MutualInformation": "secateurs.results",
    "PruneResult": "secateurs.pruned",
    "PruningPlan": "secateurs.results",
    "Recipe": "secateurs.recipe",
    "apply": "secateurs.models.cutting",
    "load_plan": "secateurs.checkpoint.plans",
    "open_state": "secateurs.checkpoint.state",
    "prune": "secateurs.pipeline",
    "save_plan": "secateurs.checkpoint.plans",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, when it is asked for: `import secateurs` itself brings in nothing heavy."""
    if name == "information":
        return importlib.import_module("secateurs.information")
    if name not in _HOMES:
        raise AttributeError(f"module 'secateurs' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
