"""What a run has finished, kept beside OUT until OUT is written, so that a run that was stopped can go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateurs.checkpoint.holding import held
from secateurs.errors import InputError
from secateurs.former_name import rename
from secateurs.pieces import Pieces

RUN = "run"
"""Piece that holds what the run is: model, recipe, calibration, versions."""


@dataclass(slots=True)
class State:
    """The state folder of one run."""

    pieces: Pieces
    """What is finished."""
    has_begun: bool = False
    """Whether they were found to be of this run."""

    @property
    def finished(self) -> list[str]:
        """Names of the pieces of finished work."""
        return [name for name in self.pieces.names() if name != RUN]

    def begin(self, run: Mapping[str, Any]) -> Pieces:
        """The pieces, for a run that is described by plain values; those that are there must be of the same run.

        Raises:
            InputError: they are of another; all differences are told.
        """
        before = rename(self.pieces.recall(RUN))
        if before is None or not self.finished:  # of work whose run is not known any more nothing can be used
            self.pieces.damaged |= set(self.finished)
            self.pieces.drop("*")
            self.pieces.keep(RUN, dict(run))
        elif differences := find_differences(before, run):
            raise InputError(
                f"{self.pieces.folder} holds another run's work: {'; '.join(differences)}; repeat that run, or remove "
                "the folder to begin afresh"
            )
        self.has_begun = True
        return self.pieces

    def describe_reuse(self) -> str:
        """What was taken over and what had to be done again, in words; empty where nothing was there."""
        reused, damaged = (names - {RUN} for names in (self.pieces.reused, self.pieces.damaged))
        parts = [f"took over {_count(reused)}"] if reused else []
        parts += [f"did again, as it was damaged: {_count(damaged)}"] if damaged else []
        return "; ".join(parts)


@contextmanager
def open_state(
    out: str | Path,
    *,
    source: Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    keep: bool = False,
) -> Iterator[State]:
    """The state of a run that is to write `out`, and the right to write there, while this lasts.

    If the block ends well, the state is removed; otherwise finished work stays, for a run with `resume`.

    Args:
        out: where the checkpoint goes.
        source: the folder that it is made from, if any.
        overwrite: whether it may replace what Secateurs wrote.
        resume: go on with what an earlier run finished, if there is any.
        keep: leave the state there in the end.

    Raises:
        InputError: `out` may not be written, or there is finished work and `resume` is not asked for.
        SecateursError: another run holds `out`; the message names that.
    """
    with held(Path(out), source=source, overwrite=overwrite) as folder:
        state = State(Pieces(folder))
        if state.finished and not resume:
            raise InputError(
                f"{folder} holds finished work of an earlier run; --resume goes on with it, or remove that folder to "
                "begin afresh"
            )
        try:
            yield state
        except BaseException as error:
            if not state.finished:
                state.pieces.drop("*")
            elif state.has_begun:
                error.add_note(f"finished pieces kept: {len(state.finished)}; --resume goes on from there")
            raise
        if not keep:
            state.pieces.drop("*")


def find_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two descriptions of runs, in words."""
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return [f"{name} {before.get(name)} then, {now.get(name)} now" for name in names]


def _count(names: set[str]) -> str:
    """Names of pieces; those of which there is one a network are counted together."""
    kinds = Counter(name.split("-")[0] for name in names if "-" in name)
    counted = [f"{count} x {kind}" for kind, count in sorted(kinds.items())]
    return ", ".join(counted + sorted(name for name in names if "-" not in name))
