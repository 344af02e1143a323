"""Options of the command line, made from the recipe so that each setting is written down once."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from pydantic import ByteSize
from pydantic.fields import FieldInfo

from secateurs.recipe import Recipe, load_recipe, make_recipe

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


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

    _sign(command, function, "recipe", [*_parameters(Recipe.model_fields), _recipe_parameter()])
    return command


def with_settings(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command options for some fields of the recipe; it gets those that a call names, as `settings`."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def command(**given: Any) -> None:
            named = {name: value for name in names if (value := given.pop(name)) is not None}
            function(settings=named, **given)

        _sign(command, function, "settings", _parameters(names))
        return command

    return decorate


def _sign(command: Any, function: Callable[..., None], argument: str, options: Sequence[inspect.Parameter]) -> None:
    """Make a command look like a function, with options where that has an argument."""
    own = list(inspect.signature(function, eval_str=True).parameters.values())
    place = [parameter.name for parameter in own].index(argument)
    command.__signature__ = inspect.Signature([*own[:place], *options, *own[place + 1 :]])
    command.__name__, command.__doc__ = function.__name__, function.__doc__


def _parameters(names: Iterable[str]) -> list[inspect.Parameter]:
    return [_parameter(name, Recipe.model_fields[name]) for name in names]


def _parameter(name: str, info: FieldInfo) -> inspect.Parameter:
    flag = "--" + name.replace("_", "-")
    kind = plain_type(info.annotation)
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


def plain_type(annotation: Any) -> Any:
    """The type without None: int for int | None.

    Text where several remain, or one that not every typer knows; the recipe sorts it out.
    """
    if get_origin(annotation) not in (types.UnionType, Union):
        return annotation
    parts = [part for part in get_args(annotation) if part is not type(None)]
    return parts[0] if len(parts) == 1 and parts[0] is not ByteSize else str


def _as_text(default: Any, flag: str) -> str:
    if isinstance(default, bool):
        return flag[2:] if default else f"no-{flag[2:]}"
    return str(default)
