"""The one source of every setting: its name, type, default, bounds and help."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError, model_validator

from secateurs.errors import InputError, one_line, unknown_name
from secateurs.former_name import FORMER_NAME, NAME

PAPER_SETTINGS: Mapping[str, Any] = {
    "calibration_share": 0.01,
    "min_rows": 8,
    "samples": 10_000,
    "alpha": 1.01,
    "kernel_rows": 100,
    "kernels": 100,
    "kernel_width": "scott",
    "distance": "exp",
    "seeds": 500,
    "refit": False,
    "round_to": 1,
}
"""Settings of "Large Language Model Pruning" (arXiv 2406.00030)."""
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": PAPER_SETTINGS,
    "paper-scaled": {**PAPER_SETTINGS, "min_rows": 500, "kernel_width": "scott-scaled", "distance": "normalised"},
}
"""Settings that the method of this name takes unless others are given."""


def _bounded(default: Any, wanted: str, **bounds: Any) -> Any:
    return Field(default, json_schema_extra={"wanted": wanted}, **bounds)


class Recipe(BaseModel):
    """How a model is pruned. The docstring under a field is its help on the command line."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    keep: float = _bounded(0.8, "in (0, 1]", gt=0, le=1)
    """Fraction of feed-forward neurons to keep, in (0, 1]."""
    method: str = NAME
    """How neurons are chosen; `secateurs methods` lists the names."""
    refit: bool = True
    """Make up for removed neurons by a closed-form change of the down projection."""
    in_turn: bool = True
    """Refit network after network (secateurs chooses there too), towards the unpruned model's residual stream."""
    information: bool = True
    """Let mutual information take part in the choice (secateurs, redundancy); without it plain importance decides."""
    layers: str | None = _bounded(None, "text such as 2-28 or 0,3,5-7")
    """Only these feed-forward networks, numbered from 0, for instance 2-28 or 0,3,5-7 (default: all)."""
    round_to: int | None = _bounded(None, "a whole number of at least 1", ge=1)
    """Round the width to the nearest multiple of this, up where layers differ (default: decoders 64, encoders 8)."""
    calibration: str | None = None
    """Text to measure on: a .txt, .jsonl, .tsv or .csv file, or - for standard input (default: Python's own docs)."""
    text_column: str | None = None
    """Column or field that holds the text in .jsonl, .tsv and .csv files."""
    calibration_tokens: int = _bounded(32768, "a whole number of at least 256", ge=256)
    """Tokens of calibration text to use at most."""
    calibration_skip: int = _bounded(0, "a whole number of at least 0", ge=0)
    """Tokens of calibration text to pass over first."""
    task: str | None = None
    """Measure on the labelled training rows of this task, drawn at random, not on text: sst2, stsb, mrpc, qqp, qnli."""
    data: str | None = None
    """Folder with TASK/train.tsv (default: GLUE from the hub)."""
    calibration_share: float | None = _bounded(None, "in (0, 1]", gt=0, le=1)
    """Use this fraction of the rows, drawn at random (encoders; default: rows in order, up to calibration_tokens)."""
    min_rows: int = _bounded(100, "a whole number of at least 1", ge=1)
    """Rows to use at least where calibration_share asks for fewer."""
    max_length: int | None = _bounded(None, "a whole number of at least 2", ge=2)
    """Tokens in a window (decoders, default 512) or row (encoders, default 128)."""
    batch_size: int = _bounded(8, "a whole number of at least 1", ge=1)
    """Windows or rows in one forward pass."""
    samples: int = _bounded(1000, "a whole number of at least 16", ge=16)
    """Activation rows a layer that are kept for the information between neurons."""
    sampling: Literal["cls", "tokens", "mean"] | None = None
    """Activation rows to sample: a row's first token, any token, or a row's mean (default: cls for classifiers)."""
    measure: Literal["renyi", "pearson", "binned", "ksg", "hsic"] = "renyi"
    """What information is measured by: the paper's Renyi mutual information, or a rival to it."""
    alpha: float = _bounded(1.01, "a number above 0", gt=0, allow_inf_nan=False)
    """Order of the Renyi entropy."""
    kernel_rows: int = _bounded(100, "a whole number of at least 8", ge=8)
    """Activation rows in one kernel; information is the mean over `kernels` of them."""
    kernels: int = _bounded(1, "a whole number of at least 1", ge=1)
    """Kernels that information is averaged over, as far as `samples` has rows for them."""
    kernel_width: Annotated[float, Field(gt=0, le=16)] | Literal["scott-scaled", "scott", "scott-layer"] = _bounded(
        0.42, "a number in (0, 16], scott-scaled, scott or scott-layer"
    )
    """Kernel widths: a number r = sigma / std for all neurons, or the rule by which each finds its own."""
    distance: Literal["normalised", "exp"] = "normalised"
    """Distance of two neurons in clusters: one less the share they have in common, or exp(-information)."""
    dimensions: int = _bounded(10, "a whole number of at least 1", ge=1)
    """Dimensions that clusters are found in (multidimensional scaling of the distances)."""
    seeds: int = _bounded(1, "a whole number of at least 1", ge=1)
    """Random starts of clusters; of several the one whose pruned model's outputs differ least is taken."""
    choose_by: Literal["representation", "logits"] = "representation"
    """Outputs that random starts are compared by: what the head reads, or what it says."""
    threshold_percentile: float | None = _bounded(None, "in [0, 100]", ge=0, le=100)
    """Threshold of algorithm1 among a layer's informations; --keep is not heeded (default: met by lowering it)."""
    mi_memory: ByteSize | None = _bounded(None, "a size such as 4GB")
    """Keep a layer's matrix of mutual informations in a temporary file if it is larger than this, such as 4GB."""
    noise: float | None = _bounded(None, "a number of at least 0", ge=0, allow_inf_nan=False)
    """Noise that `secateurs` assumes in each activation, as a share of its second moment (default: as `ridge`)."""
    ridge: float | None = _bounded(None, "a number of at least 1e-6", ge=1e-6, allow_inf_nan=False)
    """Noise that a refit assumes, as a share of each second moment (default: 0.3 for decoders, else 0.01, and at least
    0.14 x neurons / tokens)."""
    token_noise: float = _bounded(0.1, "in [0, 1)", ge=0, lt=1)
    """Share of calibration tokens that random ones replace, for `secateurs` and where networks are refitted in turn."""
    drift: float = _bounded(0.5, "in [0, 1]", ge=0, le=1)
    """Share of the difference to the unpruned model's hidden states that a refit in turn makes up for."""
    token_weights: bool | None = None
    """Weigh tokens as a norm after the network does, in refits in turn and `secateurs` (default: where one comes after
    the sum, as in BERT, unless the model gives texts' means)."""
    mean_weight: float = _bounded(1.0, "a number of at least 0", ge=0, allow_inf_nan=False)
    """Weight of each text's mean beside its tokens, in refits in turn and `secateurs`, where encoders give it."""
    allocation: Literal["uniform", "global"] = "uniform"
    """One width for all networks, or (methods that define it) the best neurons of all networks together."""
    magnitude: Literal["incoming-l1", "group-l1", "down-l2", "group-l2", "peak-to-peak"] = "incoming-l1"
    """Weights that magnitude counts: incoming (L1), with the outgoing (L1, L2), outgoing (L2), or incoming extremes."""
    iterations: int = _bounded(8, "a whole number of at least 1", ge=1)
    """Steps in which methods that score repeatedly (textpruner) reach the width."""
    as_published: bool = False
    """Do as a method's own code does where Secateurs has mended it (textpruner-self)."""
    seed: int = _bounded(0, "a whole number of at least 0", ge=0)
    """Seed of every random draw."""
    threads: int | None = _bounded(None, "a whole number of at least 1", ge=1)
    """CPU threads (default: as torch decides)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Number format of the model that is read and written (default: the source's own; GGUF: bfloat16, or float32 where
    the processor is slow in that)."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        if given.get("method") == FORMER_NAME:
            given = {**given, "method": NAME}
        return {**PRESETS.get(str(given.get("method")), {}), **given}


def make_recipe(settings: Mapping[str, Any]) -> Recipe:
    """A checked recipe from names and values.

    Raises:
        InputError: a name is unknown or a value out of bounds; the message names it in one line.
    """
    for name in settings:
        if name not in Recipe.model_fields:
            raise unknown_name("setting", name, Recipe.model_fields)
    try:
        return Recipe(**settings)
    except ValidationError as error:
        raise InputError(_describe(error)) from None


def load_recipe(path: Path) -> dict[str, Any]:
    """The settings in a YAML file, unchecked beyond being a mapping."""
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"the recipe {path} can't be read: {one_line(error)}") from None
    if settings is None:
        return {}
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise InputError(f"the recipe {path} must be a mapping of settings, such as 'keep: 0.8'")
    return settings


def parse_layers(text: str | None, count: int) -> tuple[int, ...]:
    """Layer numbers that a text such as "2-28" or "0,3,5-7" names, sorted; all of `count` for None."""
    if text is None:
        return tuple(range(count))
    chosen: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise InputError(f"layers must look like 2-28 or 0,3,5-7, got '{text}'")
        start, stop = int(first), int(last or first)
        if start > stop or stop >= count:
            raise InputError(f"layers must lie in 0-{count - 1}, first before last, got '{text}'")
        chosen.update(range(start, stop + 1))
    return tuple(sorted(chosen))


def _describe(error: ValidationError) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0])
    extra = Recipe.model_fields[name].json_schema_extra
    wanted = extra["wanted"] if isinstance(extra, dict) and "wanted" in extra else None
    if wanted is None:
        wanted = first.get("ctx", {}).get("expected") or first["msg"].removeprefix("Input should be ")
    return f"{name} must be {wanted}, got {first['input']!r}"
