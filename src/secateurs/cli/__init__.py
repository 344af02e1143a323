"""The command line: `secateurs`."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from typing import Any

from secateurs.cli.stopping import stop_on_signals
from secateurs.errors import SecateursError, Stopped, is_out_of_memory, one_line, tell, tell_notes

RESUMABLE = ("compare", "finetune", "paper")
"""Commands that go on where they were stopped when they are given again."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command and leave with the exit code of what happened.

    0: done, 1: failed, 2: the caller's mistake, 129, 130 and 143: stopped by a signal.
    """
    stop_on_signals()
    warnings.showwarning = _show_warning
    words = sys.argv[1:] if arguments is None else arguments
    try:
        code = run(words)
    except Stopped as stopped:
        is_resumable = bool(words) and words[0] in RESUMABLE
        hint = "; what is finished is kept, and the same command goes on from there" if is_resumable else ""
        sys.stderr.write(f"{tell(stopped)}{hint}\n")
        code = stopped.exit_code
    except BrokenPipeError:  # whoever read the output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:  # standard output is a full disk, say
        sys.stderr.write(f"error: {error.filename or 'standard output'}: {error.strerror or error}\n")
        if "--debug" in words:
            traceback.print_exc()
        code = 1
    sys.exit(code)


def run(words: list[str]) -> int:
    """The exit code of one command line."""
    try:
        return _run(words)
    except (ImportError, MemoryError, OSError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if "--debug" in words:
            traceback.print_exc()
        hint = "a smaller --batch-size, fewer --calibration-tokens or --dtype bfloat16 take less"
        told = f"error: out of memory: {one_line(error) or 'Python got none'}; {hint}{tell_notes(error)}\n"
        sys.stderr.write(told)  # laying it out would take more memory
        return 1


def _run(words: list[str]) -> int:
    import typer

    from secateurs.cli.app import app
    from secateurs.cli.output import warn

    # typer carries its own click or uses the package, depending on its version; this is its ClickException
    command_error: Any = typer.BadParameter.__bases__[0].__bases__[0]
    try:
        code = app(words, standalone_mode=False)
    except command_error as error:
        if error.format_message():  # empty where the help was printed for want of a command
            warn(" ".join(error.format_message().split()), label="error")
        return int(error.exit_code)
    except SecateursError as error:
        if "--debug" in words:
            traceback.print_exc()
        warn(tell(error), label="error")
        return error.exit_code
    return code if isinstance(code, int) else 0


def _show_warning(message: Warning | str, *rest: Any, **more: Any) -> None:
    """Python's warnings on one line, without the place in the code."""
    sys.stderr.write(f"warning: {' '.join(str(message).split())}\n")
