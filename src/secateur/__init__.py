"""Makes transformers smaller by removing feed-forward neurons whose information others already carry."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur import information
    from secateur.checkpoint.plans import load_plan, save_plan
    from secateur.checkpoint.state import open_state
    from secateur.models.cutting import apply
    from secateur.pipeline import prune
    from secateur.pruned import PruneResult
    from secateur.recipe import Recipe
    from secateur.results import MutualInformation, PruningPlan

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
    "MutualInformation": "secateur.results",
    "PruneResult": "secateur.pruned",
    "PruningPlan": "secateur.results",
    "Recipe": "secateur.recipe",
    "apply": "secateur.models.cutting",
    "load_plan": "secateur.checkpoint.plans",
    "open_state": "secateur.checkpoint.state",
    "prune": "secateur.pipeline",
    "save_plan": "secateur.checkpoint.plans",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, when it is asked for: `import secateur` itself brings in nothing heavy."""
    if name == "information":
        return importlib.import_module("secateur.information")
    if name not in _HOMES:
        raise AttributeError(f"module 'secateur' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
