"""Memory that is free but not given back."""

from __future__ import annotations

import ctypes
import sys


def give_back() -> None:
    """Have the C library return what was freed to the system, where it can be asked to (glibc).

    It keeps blocks of up to 32 MB in its heap, which gaps between them spread over several times what is in use.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries on Linux lack it
        if trim is not None:
            trim(0)
