"""The pruning methods: one file each, one entry here each."""

from collections.abc import Mapping

from secateurs.errors import InputError, unknown_name
from secateurs.methods.algorithm1 import ALGORITHM1
from secateurs.methods.clusters import CLUSTERS, PAPER, PAPER_SCALED
from secateurs.methods.contract import Method, PruningContext
from secateurs.methods.flap import FLAP
from secateurs.methods.kcm import KCM
from secateurs.methods.kprune import KPRUNE
from secateurs.methods.llm_pruner import LLM_PRUNER
from secateurs.methods.magnitude import MAGNITUDE
from secateurs.methods.mask_tuning import MASK_TUNING
from secateurs.methods.medoids import MEDOIDS
from secateurs.methods.minitron import MINITRON
from secateurs.methods.osscar import OSSCAR
from secateurs.methods.random import RANDOM
from secateurs.methods.redundancy import REDUNDANCY
from secateurs.methods.secateurs import SECATEURS
from secateurs.methods.textpruner import TEXTPRUNER, TEXTPRUNER_SELF
from secateurs.methods.wanda_sp import WANDA_SP
from secateurs.models.gradients import find_target
from secateurs.recipe import Recipe

METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        SECATEURS,
        REDUNDANCY,
        MEDOIDS,
        CLUSTERS,
        ALGORITHM1,
        PAPER,
        PAPER_SCALED,
        MAGNITUDE,
        MINITRON,
        WANDA_SP,
        FLAP,
        OSSCAR,
        KCM,
        LLM_PRUNER,
        TEXTPRUNER,
        TEXTPRUNER_SELF,
        MASK_TUNING,
        KPRUNE,
        RANDOM,
    )
}


def find_method(name: str) -> Method:
    """The method of a name; an unknown one is an InputError that suggests the nearest."""
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]


def check_recipe(recipe: Recipe) -> None:
    """Raise InputError where the method is unknown or settings make no sense together."""
    if recipe.calibration is not None and recipe.task is not None:
        raise InputError("measure either on calibration text or on a task's rows, got both")
    if recipe.data is not None and recipe.task is None:
        raise InputError("data is where a task's rows lie; name the task, or give calibration text")
    method = find_method(recipe.method)
    if recipe.allocation not in method.allocations:
        names = ", ".join(sorted(m.name for m in METHODS.values() if recipe.allocation in m.allocations))
        raise InputError(f"method '{method.name}' has no {recipe.allocation} allocation; these do: {names}")
    method.check(recipe)


def check_context(context: PruningContext) -> None:
    """Raise InputError where the recipe's method needs gradients of a loss, or labels, that are not to be had."""
    needs = find_method(context.recipe.method).needs
    if "labels" in needs:
        context.require_loss()
    elif "gradients" in needs:
        find_target(context.loaded.model)


__all__ = ["METHODS", "Method", "PruningContext", "check_context", "check_recipe", "find_method"]
