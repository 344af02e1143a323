"""OUT belongs to one run at a time: a lock beside it, and what killed runs left there is put right."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from secateurs.checkpoint.staging import ASIDE, check_target, find_target, list_leftovers, recover
from secateurs.errors import SecateursError
from secateurs.files import PARTIAL, making_parents, replacing

LOCK, HOLDER = "lock", "holder.json"
TRIES = 20
"""Times that the folder of the lock is made anew, where a run that ends just then removes it."""


def state_folder(out: Path) -> Path:
    """Hidden folder beside `out`: the lock while a run writes there, and finished work of one that was stopped."""
    target = find_target(out)
    return target.with_name(f".{target.name}.state")


@contextmanager
def held(out: Path, *, source: Path | None, overwrite: bool) -> Iterator[Path]:
    """While this lasts no other run writes to `out`; gives the state folder, which goes if nothing is kept in it.

    What a killed run left is put right: the lock of a dead process holds nobody, an old OUT that was moved aside is put
    back, half-written folders are removed. The same thread may hold it several times.

    Args:
        out: where a checkpoint is to be written.
        source: the folder that it is made from, if any.
        overwrite: whether it may replace what Secateurs wrote.

    Raises:
        InputError: `out` may not be written (`check_target`).
        SecateursError: another run holds it; the message names that.
    """
    check_target(out, source=source, overwrite=overwrite)
    folder, target = state_folder(out), find_target(out)
    with making_parents(target), _locked(folder, out):
        recover(target)
        for left in [*list_leftovers(target, PARTIAL), *list_leftovers(target, ASIDE)]:
            shutil.rmtree(left, ignore_errors=True)
        check_target(out, source=source, overwrite=overwrite)
        yield folder


@contextmanager
def _locked(folder: Path, out: Path) -> Iterator[None]:
    """Hold the lock in a folder, which is made, and removed if it is empty in the end."""
    lock = _acquire(folder, out)
    is_outermost = lock.lock_counter == 1
    try:
        if is_outermost:
            _note_holder(folder)
        yield
    finally:
        try:
            if is_outermost:
                _tidy(folder)
        finally:
            lock.release()


def _tidy(folder: Path) -> None:
    """Remove what names the holder, and the folder if nothing is kept in it."""
    with suppress(OSError):  # another run may want it just now
        (folder / HOLDER).unlink(missing_ok=True)
        if [path.name for path in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()  # while it is held: who opens it now finds that its name has gone
            folder.rmdir()


def _acquire(folder: Path, out: Path) -> FileLock:
    for _ in range(TRIES):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / LOCK, is_singleton=True)
            lock.acquire(blocking=False)
        except FileNotFoundError:  # another run has just ended
            time.sleep(0.01)
            continue
        except Timeout:
            raise SecateursError(
                f"{out} is being written by another run: {_name_holder(folder)}; wait for it or stop it"
            ) from None
        except OSError as error:
            raise SecateursError(f"{out} can't be locked: {folder}: {error.strerror or error}") from error
        return lock
    raise SecateursError(f"{out} can't be locked: {folder} can't be made, or comes and goes")


def _note_holder(folder: Path) -> None:
    content = {"pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    with suppress(OSError):  # a full disk, say: it only names who holds the lock
        (folder / HOLDER).unlink(missing_ok=True)  # of a killed run
        with replacing(folder / HOLDER) as partial:
            partial.write_text(json.dumps(content) + "\n", encoding="utf-8")


def _name_holder(folder: Path) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        holder = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"process {int(holder['pid'])}, since {holder['since']}"
    return "its process is not known yet"
