"""Writing a folder so that it appears whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from secateurs.errors import InputError, SecateursError
from secateurs.files import PARTIAL, flush, making_parents
from secateurs.former_name import FOLDERS, NAME
from secateurs.models.source import as_path

MANIFEST_NAME = "manifest.json"
MARKER = f"{NAME}/{MANIFEST_NAME}"
"""File that marks a folder as one that Secateurs wrote, and so may replace."""
ASIDE, OLD = ".old", "old"
"""End of the name of a folder beside OUT that the old OUT waits in, and its name there."""
AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Linux's numbers for paths from the working folder, and for swapping two of them."""


def check_target(out: Path, *, source: Path | None, overwrite: bool) -> None:
    """Raise InputError unless a checkpoint may be written to `out`; `source` is the folder it is made from, if any."""
    target = find_target(out)
    if source is not None and (target == source.resolve() or source.resolve() in target.parents):
        raise InputError(f"OUT must lie outside the model's own folder, got {out}")
    if source is not None and target in source.resolve().parents:
        raise InputError(f"OUT must not contain the model's own folder, got {out}")
    if target.is_file():
        raise InputError(f"OUT must be a folder, got the file {out}")
    if not target.exists():
        _check_parents(target, out)
        return
    if not overwrite:
        raise InputError(f"OUT must not exist yet, got {out}; --overwrite replaces a folder that Secateurs wrote")
    if any(target.iterdir()) and find_manifest(target) is None:
        raise InputError(f"{out} was not written by Secateurs (no {MARKER}), so --overwrite leaves it alone")


def find_manifest(folder: Path) -> Path | None:
    """The file that marks a folder as one that Secateurs wrote, by either name of the package; None without."""
    places = (folder / name / MANIFEST_NAME for name in FOLDERS)
    return next((place for place in places if place.is_file()), None)


def _check_parents(target: Path, out: Path) -> None:
    nearest = next(parent for parent in target.parents if parent.exists())
    if not nearest.is_dir():
        raise InputError(f"OUT can't be made: {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"OUT can't be made: no permission to write in {nearest}")
    if len(os.fsencode(target.name)) > 200:
        raise InputError(
            f"OUT must have a name of at most 200 bytes, got {len(os.fsencode(target.name))}: {out.name[:40]}..."
        )


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A new folder beside `out` to write in; on leaving it takes the place of `out`.

    If the block fails, the folder is removed and `out` is as it was. Parents that had to be made go too.
    """
    target = find_target(out)
    try:
        with making_parents(target), _stage_beside(target) as stage:
            yield stage
            settle(stage)
            _swap(stage, target)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SecateursError(f"{out} was not written: {reason}") from error


@contextmanager
def _stage_beside(target: Path) -> Iterator[Path]:
    """A new folder beside the target, which is gone in the end unless it was moved."""
    stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=PARTIAL, dir=target.parent))
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def settle(folder: Path) -> None:
    """Give files the modes that the user's umask asks for (safetensors makes them 0600), and flush them to disk."""
    umask = os.umask(0)
    os.umask(umask)
    for path in [folder, *folder.rglob("*")]:
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
        flush(path)


def require_space(out: Path, needed: int) -> None:
    """Raise SecateursError unless so many bytes are free where `out` goes."""
    target = find_target(out)
    nearest = next(parent for parent in target.parents if parent.exists())
    free = shutil.disk_usage(nearest).free
    if free < needed:
        raise SecateursError(f"{out} was not written: it needs {needed:,} bytes, and {free:,} are free in {nearest}")


def recover(target: Path) -> None:
    """Put back the folder that a run moved aside and was killed before it could put the new one in its place."""
    if target.exists() or not target.parent.is_dir():
        return
    left = [folder / OLD for folder in list_leftovers(target, ASIDE) if (folder / OLD).is_dir()]
    if left:
        newest = max(left, key=lambda path: path.stat().st_mtime)
        newest.rename(target)
        shutil.rmtree(newest.parent, ignore_errors=True)


def list_leftovers(target: Path, ending: str) -> list[Path]:
    """Folders beside a target that `tempfile` made for it, with names that end so; those of `target.more` are not."""
    made = re.compile(rf"\.{re.escape(target.name)}\.[a-z0-9_]{{8}}{re.escape(ending)}")
    return [path for path in target.parent.iterdir() if made.fullmatch(path.name)]


def find_target(out: str | Path) -> Path:
    """Where `out` lies, links followed."""
    return as_path(out).resolve()


def _swap(stage: Path, target: Path) -> None:
    """Put the stage in the target's place, in one step where the system can; a folder there before ends as the stage.

    Where it can't, the old folder is moved aside, and removed only once the new one is there; `recover` puts it back if
    nothing could happen between.
    """
    if not target.exists():
        stage.rename(target)
    elif not _exchange(stage, target):
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=ASIDE, dir=target.parent))
        target.rename(aside / OLD)
        try:
            stage.rename(target)
        except BaseException:  # a signal too
            if not target.exists():
                (aside / OLD).rename(target)
            raise
        finally:
            if target.exists():
                shutil.rmtree(aside, ignore_errors=True)
    flush(target.parent)


def _exchange(one: Path, two: Path) -> bool:
    """Swap the names of two folders in one step; False where the system or the file system can't."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    if rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(two), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(two))
