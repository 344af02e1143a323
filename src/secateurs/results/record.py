"""What a report shows of a pruning or a comparison, and how that is kept as JSON."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PlainSerializer, PlainValidator

from secateurs.results.comparison import Row
from secateurs.results.pruning import ModelSize

DTYPES = ("<f2", "<f4", "<i4", "|b1")
"""Number formats that arrays are kept in."""


def encode_array(values: NDArray[Any]) -> dict[str, Any]:
    """An array as {"dtype", "shape", "base64"}: its bytes in C order, little-endian."""
    data = base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
    return {"dtype": values.dtype.str, "shape": list(values.shape), "base64": data}


def decode_array(stored: Any) -> NDArray[Any]:
    """An array that `encode_array` wrote, or one as it is.

    Raises:
        ValueError: it is damaged.
    """
    if isinstance(stored, np.ndarray):
        return stored
    if not isinstance(stored, dict) or set(stored) != {"dtype", "shape", "base64"} or stored["dtype"] not in DTYPES:
        raise ValueError("an array must be given by dtype, shape and base64")
    shape, dtype = stored["shape"], np.dtype(stored["dtype"])
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("the shape of an array must be whole numbers")
    try:
        data = base64.b64decode(stored["base64"], validate=True)
    except (TypeError, binascii.Error):
        raise ValueError("an array is not base64") from None
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"an array of shape {shape} has {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape)


Array = Annotated[NDArray[Any], PlainValidator(decode_array), PlainSerializer(encode_array, when_used="json")]


@dataclass(frozen=True, slots=True)
class Reading:
    """One figure of a model before and after."""

    name: str
    """What was measured."""
    before: float
    """Of the original."""
    after: float
    """Of the pruned model."""
    unit: str = ""
    """Such as ms; empty for a plain number."""
    note: str = ""
    """On what, and how sure it is."""


@dataclass(frozen=True, slots=True)
class Example:
    """What a model made of one text, before and after."""

    text: str
    """What it was given."""
    before: str
    """Of the original."""
    after: str
    """Of the pruned model."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the models make of some text, before and after."""

    text: str
    """Where it is from, in words."""
    readings: tuple[Reading, ...]
    """Quality and latency."""
    task: str
    """What the examples show, in words."""
    examples: tuple[Example, ...]
    """A few of the texts."""


@dataclass(frozen=True, slots=True)
class InformationSummary:
    """What the information in a report was measured by."""

    measure: str
    """Its name and settings, in words."""
    unit: str
    """Of its values."""
    rows: int
    """Activation rows, for each kernel where there are kernels."""
    text: str
    """What the rows are of, in words."""
    tokens: int
    """Tokens of text that all else was measured on (importance, dead neurons)."""


@dataclass(frozen=True, slots=True)
class NetworkView:
    """A sample of S neurons of one network of the unpruned model, and what pruning did to it.

    Arrays go by the order of a dendrogram, so that neurons with much in common stand together.
    """

    path: str
    """Module path."""
    width_before: int
    """Neurons before the cut."""
    width_after: int
    """Neurons after it."""
    neurons: Array
    """(S,) int32, numbers of the neurons."""
    is_kept: Array
    """(S,) bool, whether each stays."""
    cluster: Array
    """(S,) int32, from 1: groups of neurons with much in common."""
    importance: Array
    """(S,) float32, root mean square of the activation x length of the neuron's down-projection column."""
    redundancy: Array
    """(S,) float32, most that it has in common with another neuron of the sample that stays; 0 without one."""
    nearest: Array
    """(S,) int32, number of that neuron; -1 where there is none."""
    entropy_nats: Array
    """(S,) float32, entropy of each; empty where the measure has none."""
    width_over_std: Array
    """(S,) float32, r = kernel width / standard deviation: that of the information, or where this has one for all
    neurons the one that Scott's rule, scaled, finds for each; empty where the measure has no kernels."""
    position: Array
    """(S, 2) float32, a map on which neurons with much in common lie near each other (classical scaling)."""
    information: Array
    """(S, S) float16, what pairs have in common."""
    edges: Array
    """(bins + 1,) float32, of the histograms."""
    pairs: Array
    """(bins,) float32, share of all pairs of different neurons by what they have in common."""
    baseline: Array
    """(bins,) float32, the same with each neuron's rows shuffled, so that nothing is in common."""
    baseline_mean: float
    """Mean of what shuffled neurons seem to have in common."""
    constant: int
    """Neurons of the sample that do not vary: dead."""
    is_saturated: bool
    """Whether the layer's kernel is too narrow for its widths to mean anything."""
    error_cut: float | None
    """Relative error of the network's output where nothing makes up for the cut; None where not measured."""
    error_refit: float | None
    """The same after the refit."""

    @property
    def removed_share(self) -> float:
        """Share of the network's neurons that went."""
        return 1 - self.width_after / self.width_before


@dataclass(frozen=True, slots=True)
class Provenance:
    """How to do it again."""

    command: str
    """The command line or call."""
    settings: Mapping[str, Any]
    """The recipe in full."""
    versions: Mapping[str, str]
    """Of the packages."""
    hashes: Mapping[str, str]
    """Of weights and text, SHA-256."""
    machine: Mapping[str, Any]
    """Device and threads."""
    seconds: Mapping[str, float]
    """Time spent, by phase."""


@dataclass(frozen=True, slots=True)
class PruneRecord:
    """All that the report of a pruning shows."""

    model: str
    """Name of the original."""
    method: str
    """How neurons were chosen."""
    keep: float
    """Fraction asked for."""
    kept_fraction: float
    """Fraction obtained, of the neurons in networks that were pruned."""
    before: ModelSize
    """Size of the original."""
    after: ModelSize
    """Size of the pruned model."""
    bytes_before: int | None
    """Of the original's weights in a file of the same kind; None where not known."""
    bytes_after: int | None
    """Of the pruned model's; None where not known."""
    bytes_note: str
    """What a reader has to know about these, in words; empty where nothing."""
    calibration: str
    """What was measured on, in words."""
    look: Look
    """What the models make of some text."""
    information: InformationSummary
    """What `NetworkView.information` was measured by."""
    networks: tuple[NetworkView, ...]
    """Each network that was pruned."""
    warnings: tuple[str, ...]
    """What the user should know."""
    provenance: Provenance
    """How to do it again."""
    kind: Literal["prune"] = "prune"
    """Tells the records apart."""


@dataclass(frozen=True, slots=True)
class CompareRecord:
    """All that the report of a comparison shows."""

    model: str
    """Name of the model."""
    metric: str
    """What the methods are ranked by."""
    is_loss: bool
    """Whether lower is better; then gaps are log-losses in nats a token."""
    dense: float
    """Score before pruning."""
    keeps: tuple[float, ...]
    """Fractions that were kept, ascending."""
    rows: tuple[Row, ...]
    """One for each way to prune, best first."""
    notes: tuple[str, ...]
    """How to read them."""
    warnings: tuple[str, ...]
    """What the user should know."""
    provenance: Provenance
    """How to do it again."""
    kind: Literal["compare"] = "compare"
    """Tells the records apart."""


Record = Annotated[PruneRecord | CompareRecord, Field(discriminator="kind")]
