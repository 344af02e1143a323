"""The compiled kernel; native/ has its source. Arrays are C-contiguous, and results are written into them."""

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Status = NDArray[np.uint8]

def isas() -> list[str]:
    """Instruction sets that were compiled and that this processor has, best first."""

def low_rank(
    a: Float32,
    spectrum_a: Float32,
    b: Float32,
    spectrum_b: Float32,
    *,
    triangle: bool,
    smallest: float,
    most_features: int,
    shifts: Float64,
    coefficients: Float64,
    threads: int,
    loss: Float64,
    trace: Float32,
    status: Status,
    isa: str = "",
) -> None:
    """Trace of the fit over joint Gram matrices from features (Ka, n, ra), (Kb, n, rb) with spectra (Ka, ra), (Kb, rb).

    `loss` and `trace` (of what was kept, 1 in all) are (Ka, Kb); `status` is 1 where they are set, 2 where a pivot was
    rounding noise, and left alone where a pair needs more than `most_features` products.
    """

def full(
    a: Float32,
    b: Float32,
    *,
    rows: int,
    triangle: bool,
    shifts: Float64,
    coefficients: Float64,
    threads: int,
    loss: Float64,
    status: Status,
    isa: str = "",
) -> None:
    """The same from whole Gram matrices, packed (Ka, n (n + 1) / 2), where `status` is 0."""

def spectra(
    a: Float64, b: Float64, *, rows: int, pairs: NDArray[np.int32], threads: int, values: Float64, isa: str = ""
) -> None:
    """Eigenvalues (M, n), unsorted, of the joint Gram / n of pairs (M, 2) of packed Gram matrices; NaN if unsettled."""

def guttman(wanted: Float32, points: Float32, *, threads: int, moved: Float32, crossed: Float64, isa: str = "") -> None:
    """Guttman transform of points (S, K, p), p at most 16, towards distances (K, K), into `moved` (S, K, p).

    `crossed` (S,) becomes the sum over pairs of wanted x found distance.
    """

def multiply_adds(rounds: int, isa: str = "") -> float:
    """Does rounds x 20 x lanes float32 multiply-adds from registers, to find a core's peak."""
