"""The kinds of error, each with the exit code that the command line gives it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SecateursError(Exception):
    """Something failed that was nobody's mistake: a full disk, a checkpoint that does not read back."""

    exit_code: int = 1


class InputError(SecateursError):
    """The caller's mistake; the message says what, got and wanted in one line."""

    exit_code: int = 2


class UnsupportedModelError(InputError):
    """The model is of a kind that Secateurs can't prune; the message lists what it can."""


class VerificationError(SecateursError):
    """A written checkpoint does not give back the model in memory."""


class Stopped(BaseException):
    """The process was asked to stop by a signal; the exit code is 128 + its number, as shells have it.

    Like KeyboardInterrupt it is no Exception, so that no library takes it for a fault of its own.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.exit_code = 128 + signal_number


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory left: Python's, or torch's on a CPU or a GPU."""
    words = ("can't allocate memory", "out of memory", "Cannot allocate memory", "failed to map segment")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def tell(error: BaseException) -> str:
    """What an error says, with the notes that were added on its way."""
    return f"{error}{tell_notes(error)}"


def tell_notes(error: BaseException) -> str:
    """The notes that were added to an error, to be appended to what it says."""
    return "".join(f"; {note}" for note in getattr(error, "__notes__", ()))


def one_line(error: BaseException) -> str:
    """What an error says, on one line of bounded length."""
    return " ".join(str(error).split())[:300]


def unknown_name(what: str, got: str, known: Iterable[str]) -> InputError:
    """An error for a name that isn't in a table: the nearest one is suggested, all are listed."""
    names = sorted(known)
    near = difflib.get_close_matches(got, names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return InputError(f"unknown {what} '{' '.join(got.split())[:80]}'{hint} (known: {', '.join(names)})")
