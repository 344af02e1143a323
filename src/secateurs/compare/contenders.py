"""Who takes part: methods by name, and which of them can run on a model and its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from secateurs.compare.settings import ALL, Settings
from secateurs.errors import InputError, unknown_name
from secateurs.methods import METHODS, Method, PruningContext, check_context, check_recipe
from secateurs.methods.contract import CHOOSING_SETTINGS, Allocation
from secateurs.recipe import PRESETS, Recipe

EXTRA: Mapping[str, Mapping[str, Any]] = {
    "importance": {"method": "redundancy", "information": False},
    "magnitude-down": {"method": "magnitude", "magnitude": "down-l2"},
    "magnitude-group": {"method": "magnitude", "magnitude": "group-l2"},
    "textpruner-self-published": {"method": "textpruner-self", "as_published": True},
}
"""Names beyond those of methods, and the settings that each stands for."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A method under one allocation."""

    name: str
    """Its name in tables."""
    allocation: Allocation
    """How it spreads the neurons that stay over the networks."""

    @property
    def title(self) -> str:
        """Its name with its allocation."""
        return f"{self.name} ({self.allocation})"

    @property
    def method(self) -> Method:
        """Its entry in the table of methods."""
        return METHODS[str(EXTRA.get(self.name, {"method": self.name})["method"])]

    def recipe(self, measured: Recipe, keep: float) -> Recipe:
        """The recipe of measurements, with its own way to choose.

        Presets count as far as they are about choosing and leave open what was asked for.
        """
        preset = {
            name: value
            for name, value in PRESETS.get(self.method.name, {}).items()
            if _is_about_choosing(name) and not (name == "seeds" and name in measured.model_fields_set)
        }
        chosen = {**preset, **EXTRA.get(self.name, {}), "method": self.method.name}
        return measured.model_copy(update={**chosen, "allocation": self.allocation, "keep": keep})


@dataclass(frozen=True, slots=True)
class Entrants:
    """Who takes part, and who does not."""

    contenders: tuple[Contender, ...]
    """In the order of the table of methods, or as asked for."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Why a contender takes no part, by its title."""


def find_entrants(settings: Settings) -> Entrants:
    """The methods that were asked for, under each allocation that they define.

    Raises:
        InputError: a method is unknown, or one that was named has no such allocation or does not fit the settings.
    """
    known, found, skipped = [*METHODS, *EXTRA], [], {}
    for name in known if settings.is_all else settings.methods:
        if name not in known:
            raise unknown_name("method", name, [*known, ALL])
        for contender in _under_allocations(name, settings):
            try:
                check_recipe(contender.recipe(settings.recipe, settings.keeps[0]))
                found.append(contender)
            except InputError as error:
                if not settings.is_all:
                    raise
                skipped[contender.title] = str(error)
    return Entrants(tuple(found), skipped)


def keep_able(entrants: Entrants, context: PruningContext, settings: Settings) -> Entrants:
    """Those that can run on the model and its calibration data.

    Raises:
        InputError: one that was named can't, or none is left.
    """
    found, skipped = [], dict(entrants.skipped)
    for contender in entrants.contenders:
        try:
            check_context(replace(context, recipe=contender.recipe(context.recipe, context.recipe.keep)))
            found.append(contender)
        except InputError as error:
            if not settings.is_all:
                raise InputError(f"{contender.name}: {error}") from None
            skipped[contender.title] = str(error)
    if not found:
        raise InputError("none of the methods can run on this model and data")
    return Entrants(tuple(found), skipped)


def left_out_of_presets(contenders: tuple[Contender, ...]) -> dict[str, tuple[str, ...]]:
    """By method, settings of its preset that a comparison does not heed, since all are measured in the same way."""
    presets = {contender.method.name for contender in contenders} & set(PRESETS)
    return {
        name: tuple(key for key in PRESETS[name] if not _is_about_choosing(key) and key not in ("refit", "round_to"))
        for name in sorted(presets)
    }


def _under_allocations(name: str, settings: Settings) -> list[Contender]:
    wanted = [Contender(name, allocation) for allocation in settings.allocations]
    if len(wanted) == 1:
        return wanted
    return [contender for contender in wanted if contender.allocation in contender.method.allocations]


def _is_about_choosing(name: str) -> bool:
    return name in CHOOSING_SETTINGS - {"refit"}
