"""The commands that list what there is: methods, families, versions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from secateurs.cli.options import Debug, Json
from secateurs.cli.output import print_json, print_table


def methods_command(*, as_json: Json = False, debug: Debug = False) -> None:
    """List the pruning methods: what each needs, and which useless neurons it can see."""
    from secateurs.methods import METHODS

    columns = ("name", "summary", "needs", "sees", "allocations", "corrects what is left")
    rows = [
        (m.name, m.summary, *map(_join, (m.needs, m.sees, m.allocations)), "yes" if m.corrects else "no")
        for m in METHODS.values()
    ]
    _print_listing("methods", columns, rows, as_json=as_json)


def families_command(*, as_json: Json = False, debug: Debug = False) -> None:
    """List the model families that can be pruned."""
    from secateurs.models.families import FAMILIES

    rows = [(f.name, f.model_type, f.kind, f.width_key) for f in FAMILIES.values()]
    _print_listing("families", ("name", "model_type", "kind", "width_key"), rows, as_json=as_json)


def env_command(*, as_json: Json = False, debug: Debug = False) -> None:
    """Show versions, threads and devices: what a bug report needs."""
    import torch

    from secateurs.checkpoint.manifest import find_versions
    from secateurs.information.backends import find_instruction_sets

    instruction_sets = find_instruction_sets()
    facts = {
        **find_versions(),
        "compiled kernel": instruction_sets[0] if instruction_sets else "none: torch computes information, slower",
        "threads": str(torch.get_num_threads()),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
    _print_listing("environment", ("name", "value"), list(facts.items()), as_json=as_json)


def _join(words: Iterable[str]) -> str:
    return ", ".join(sorted(words))


def _print_listing(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, as_json: bool) -> None:
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(title, columns, rows)


LISTINGS = {"methods": methods_command, "families": families_command, "env": env_command}
"""Commands by name."""
