"""Writing a folder so that it appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from secateur.errors import InputError, SecateurError
from secateur.models.source import as_path

MANIFEST_NAME = "manifest.json"
MARKER = f"secateur/{MANIFEST_NAME}"
"""File that marks a folder as one that Secateur wrote, and so may replace."""


def check_target(out: Path, *, source: Path | None, overwrite: bool) -> None:
    """Raise InputError unless a checkpoint may be written to `out`; `source` is the folder it is made from, if any."""
    target = as_path(out).resolve()
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
        raise InputError(f"OUT must not exist yet, got {out}; --overwrite replaces a folder that Secateur wrote")
    if any(target.iterdir()) and not (target / MARKER).is_file():
        raise InputError(f"{out} was not written by Secateur (no {MARKER}), so --overwrite leaves it alone")


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
    """A new folder beside `out` to write in; on leaving it takes the place of `out` in one rename.

    If the block fails, the folder is removed and `out` is as it was. Parents that had to be made go too.
    """
    target = out.expanduser().resolve()
    made = [parent for parent in target.parents if not parent.exists()]
    stage: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
        yield stage
        settle(stage)
        _swap(stage, target)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SecateurError(f"{out} was not written: {reason}") from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
        for parent in made:
            if parent.exists() and not any(parent.iterdir()):
                parent.rmdir()


def settle(folder: Path) -> None:
    """Give files the modes that the user's umask asks for (safetensors makes them 0600), and flush them to disk."""
    umask = os.umask(0)
    os.umask(umask)
    for path in [folder, *folder.rglob("*")]:
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _swap(stage: Path, target: Path) -> None:
    """Rename the stage to the target; a folder already there is moved aside and removed only once that worked."""
    if not target.exists():
        stage.rename(target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
    target.rename(aside / "old")
    try:
        stage.rename(target)
    except BaseException:  # a signal too
        if not target.exists():
            (aside / "old").rename(target)
        raise
    finally:
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)
