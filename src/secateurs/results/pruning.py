"""What pruning is measured by, decides, and leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from secateurs.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

Progress = Callable[[str, int, int], None]
"""Called as progress(phase, done, total)."""


def no_progress(phase: str, done: int, total: int) -> None:
    """Take no notice of progress."""


@dataclass(frozen=True, slots=True)
class MutualInformation:
    """How much every pair of K neurons has in common, with what it was measured by."""

    measure: str
    """Name of the measure."""
    values: NDArray[np.floating[Any]]
    """(K, K) symmetric; the diagonal is a neuron's own. Debiased if asked. May be a memory-mapped temporary file."""
    unit: Literal["nats", "one"]
    """"nats" for a mutual information; "one" for a correlation, in [0, 1]."""
    backend: str
    """Which code computed the pairs."""
    rows_per_kernel: int
    """n, rows in one Gram matrix, or in one estimate."""
    kernels: int
    """Number of Gram matrices (batches) that were averaged."""
    path_share: Mapping[str, float]
    """Share of the pairs that was computed each way: "low rank", "full" (whole Gram matrices), "float64"."""
    alpha: float | None = None
    """Order of the Renyi entropy; None for other measures, as are the fields that follow."""
    entropy_nats: NDArray[np.floating[Any]] | None = None
    """(K,) entropy of each neuron, nats, in [0, log n]."""
    error_bound_nats: NDArray[np.floating[Any]] | None = None
    """(K,) no entry in row k is further than this from what float64 eigenvalues give."""
    baseline: NDArray[np.floating[Any]] | None = None
    """(K, K) mean over shuffled copies of the data, in the unit of `values`; None unless debias was asked for."""
    width: NDArray[np.floating[Any]] | None = None
    """(K,) kernel width sigma in the units of the activations, infinite for a constant neuron; None without kernels."""
    width_over_std: NDArray[np.floating[Any]] | None = None
    """(K,) r = sigma / population standard deviation, 0 for a constant neuron; None without kernels."""
    saturated: bool = False
    """True where the layer's kernel is so narrow that its Gram is nearly the identity and widths carry nothing."""

    @property
    def mi_nats(self) -> NDArray[np.floating[Any]]:
        """(K, K) mutual information in nats.

        Raises:
            AttributeError: the measure is not a mutual information.
        """
        if self.unit != "nats":
            raise AttributeError(f"{self.measure} is no mutual information; see `values`")
        return self.values

    @property
    def mean_width_over_std(self) -> float:
        """Mean r = sigma / std of the kernels; 0 without kernels."""
        return 0.0 if self.width_over_std is None else float(self.width_over_std.mean())

    @property
    def normalised(self) -> NDArray[np.floating[Any]]:
        """(K, K) I(k,l) / min(I(k,k), I(l,l)) in [0, 1]; 0 where a neuron carries no information."""
        return self.normalised_rows(slice(None))

    def normalised_rows(self, rows: slice | NDArray[np.integer[Any]]) -> NDArray[np.floating[Any]]:
        """Some rows of `normalised`, (len(rows), K), without the rest of the matrix in memory."""
        import numpy as np

        own = np.diagonal(self.values)
        smaller = np.minimum(own[rows, None], own[None, :])
        part = np.asarray(self.values[rows])
        share = np.divide(part, smaller, out=np.zeros_like(part), where=smaller > 1e-9)
        clipped: NDArray[np.floating[Any]] = np.clip(share, 0.0, 1.0, out=share)
        return clipped


@dataclass(frozen=True, slots=True)
class Update:
    """New values for what is left of a down projection; they replace the old ones when the plan is applied."""

    weight: torch.Tensor
    """(width, H) in the model's number format, one row per kept neuron: its column of the down projection."""
    bias: torch.Tensor | None = None
    """(H,) in the model's number format: output bias, only where the family can store one."""

    @property
    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        parts = (self.weight,) if self.bias is None else (self.weight, self.bias)
        return all(bool(part.isfinite().all()) for part in parts)


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """What is cut in one feed-forward network.

    Raises:
        InputError: the update is NaN or infinite, as where a number format overflowed.
    """

    path: str
    """Module path of the feed-forward network."""
    original_width: int
    """Neurons before the cut."""
    kept: NDArray[np.int64]
    """(width,) sorted, unique indices of the neurons that stay."""
    update: Update | None = None
    """New down projection of the kept neurons, or None to leave it as it is."""
    unsaved_bias: torch.Tensor | None = None
    """(H,) float32, what the method would add to the output where the family can't store a bias; only a comparison
    applies it, and a saved model lacks it."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Named figures about the choice, for the record (refit error, mean width of the kernels, ...)."""

    def __post_init__(self) -> None:
        if self.update is not None and not self.update.is_finite:
            raise InputError(f"the new down projection of {self.path} is NaN or infinite; try --dtype float32")

    @property
    def width(self) -> int:
        """Number of neurons kept."""
        return len(self.kept)


@dataclass(frozen=True, slots=True)
class PruningPlan:
    """What is cut, how it was chosen, and of which weights."""

    method: str
    """Name of the method."""
    family: str
    """Name of the model family."""
    keep: float
    """Fraction that was asked for."""
    weights_sha256: str
    """Hash of the weights that the plan was made for."""
    settings: Mapping[str, Any]
    """The recipe in full."""
    layers: tuple[LayerPlan, ...]
    """One entry for every feed-forward network that is cut."""

    @property
    def kept_fraction(self) -> float:
        """Fraction of the neurons in the plan's layers that stay."""
        return sum(layer.width for layer in self.layers) / sum(layer.original_width for layer in self.layers)


@dataclass(frozen=True, slots=True)
class ModelSize:
    """How large a model is, and what one sequence costs it."""

    parameters: int
    """Number of weights, tied ones counted once."""
    widths: tuple[int, ...]
    """Width of each feed-forward network, in order."""
    sequence_length: int
    """Tokens in the sequence that the multiply-adds are stated for."""
    ffn_multiply_adds: int
    """Multiply-adds in all feed-forward networks."""
    model_multiply_adds: int
    """Multiply-adds in all layers: attention and feed-forward; embeddings and heads are left out."""

    @property
    def width_text(self) -> str:
        """The width, or the range of widths where layers differ."""
        low, high = min(self.widths), max(self.widths)
        return str(low) if low == high else f"{low} to {high}"


@dataclass(frozen=True, slots=True)
class CalibrationSummary:
    """What was read of the calibration text, and what was left."""

    source: str
    """Where the text came from."""
    rows: int
    """Windows (decoders) or rows (encoders) used."""
    tokens: int
    """Tokens used, padding never counted."""
    unread: str
    """What was left unread, in words."""
    sha256: str
    """Hash of the token ids (or of the tensors given) in order."""
