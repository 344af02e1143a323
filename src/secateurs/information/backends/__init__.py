"""Back ends for the joint entropies of all pairs, all tested against each other."""

from __future__ import annotations

from typing import Literal

import torch

from secateurs.errors import InputError, unknown_name
from secateurs.information.backends.contract import MOST_WHOLE_ROWS, Backend, JointBlock, Path
from secateurs.information.backends.eigenvalues import EIGENVALUES
from secateurs.information.backends.khatri_rao import KHATRI_RAO
from secateurs.information.backends.native import FLOAT64_NATIVE, NATIVE, find_instruction_sets
from secateurs.information.backends.product import PRODUCT

__all__ = [
    "BACKENDS",
    "MOST_WHOLE_ROWS",
    "Backend",
    "BackendName",
    "JointBlock",
    "Path",
    "choose_backend",
    "find_instruction_sets",
]

BackendName = Literal["auto", "native", "torch", "product", "eigenvalues"]
BACKENDS = {
    "float32": {b.name: b for b in (PRODUCT, NATIVE, KHATRI_RAO, EIGENVALUES)},
    "float64": {b.name: b for b in (FLOAT64_NATIVE, EIGENVALUES)},
}
"""By precision and name, the first that can serve is what "auto" takes; eigenvalues can serve anything."""


def choose_backend(name: str, precision: str, alpha: float, device: torch.device) -> Backend:
    """The back end of that name, or with "auto" the fastest that can serve.

    Raises:
        InputError: the name is unknown, or that back end can't serve.
    """
    choices = BACKENDS[precision]
    if name == "auto":
        return next(backend for backend in choices.values() if backend.refuses(alpha, device) is None)
    if name not in BACKENDS["float32"]:
        raise unknown_name("backend", name, [*BACKENDS["float32"], "auto"])
    if name not in choices:
        raise InputError(f"backend '{name}' works in float32 only; for float64 use {' or '.join(choices)}")
    reason = choices[name].refuses(alpha, device)
    if reason is not None:
        raise InputError(f"backend '{name}' {reason}")
    return choices[name]
