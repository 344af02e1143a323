"""Options of the command line, made from the recipe so that each setting is written down once."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from secateur.recipe import Recipe, load_recipe, make_recipe


def with_recipe(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option for each field of the recipe, and --recipe; it gets them as the argument `recipe`.

    What is named on the command line counts before what the file says, and that before the defaults.
    """

    def command(**given: Any) -> None:
        settings = {name: given.pop(name) for name in Recipe.model_fields}
        path = given.pop("recipe")
        from_file = load_recipe(path) if path is not None else {}
        named = {name: value for name, value in settings.items() if value is not None}
        function(recipe=make_recipe({**from_file, **named}), **given)

    own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.name != "recipe"]
    fields = [_parameter(name, info) for name, info in Recipe.model_fields.items()]
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*own[:2], *fields, _recipe_parameter(), *own[2:]]
    )
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    return command


def _parameter(name: str, info: FieldInfo) -> inspect.Parameter:
    flag = "--" + name.replace("_", "-")
    kind = _plain_type(info.annotation)
    option = typer.Option(
        *([f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag]),
        help=info.description,
        show_default=False if info.default is None else _as_text(info.default, flag),
    )
    annotation: Any = Annotated[kind | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _recipe_parameter() -> inspect.Parameter:
    option = typer.Option("--recipe", help="YAML file with settings by name, such as 'keep: 0.8'.")
    return inspect.Parameter(
        "recipe", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[Path | None, option]
    )


def _plain_type(annotation: Any) -> Any:
    """The type without None: int for int | None, and text where several remain (the recipe sorts them out)."""
    if get_origin(annotation) not in (types.UnionType, Union):
        return annotation
    parts = [part for part in get_args(annotation) if part is not type(None)]
    return parts[0] if len(parts) == 1 else str


def _as_text(default: Any, flag: str) -> str:
    if isinstance(default, bool):
        return flag[2:] if default else f"no-{flag[2:]}"
    return str(default)
