"""The table of model families. Nothing else in the code names an architecture."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from secateurs.errors import UnsupportedModelError
from secateurs.models.feedforward import FeedForward, is_projection

Kind = Literal["decoder", "encoder", "encoder-decoder", "vision"]
Residual = Literal["up input", "layer output", "unknown"]
ATTENTION_NAMES = frozenset({"attention", "attn", "self_attn", "SelfAttention", "EncDecAttention"})
"""What families call the attention modules inside a layer."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where one kind of feed-forward network sits; names are relative to the module that `owner` matches."""

    owner: str
    """Regular expression for the end of the owner's module path."""
    up: str
    """The up projection; with `is_fused` it also holds the gate."""
    down: str
    """The down projection."""
    gate: str | None = None
    """The gate projection, where it is a module of its own."""
    is_fused: bool = False
    """Whether `up` holds two blocks of rows, neuron i at rows i and i + width."""
    stack: Literal["main", "decoder"] = "main"
    """Which token mask counts: that of the input, or of the decoder's input."""


@dataclass(frozen=True, slots=True)
class Family:
    """One row of the table."""

    name: str
    """As people say it."""
    model_type: str
    """`model_type` in config.json."""
    kind: Kind
    """What the model reads and how it is scored."""
    layers: str
    """Regular expression for the module path of one transformer layer."""
    locations: tuple[Location, ...]
    """Where its feed-forward networks are; several where they come in several forms."""
    width_key: str = "intermediate_size"
    """Key in config.json that holds the width."""
    default_width_factor: int | None = None
    """Width over hidden size where the key is null."""
    sharing_key: str | None = None
    """Key in config.json that counts distinct layers, where layers are applied more than once."""
    reserved_positions: int = 0
    """Position embeddings that no token can use."""
    residual: Residual = "layer output"
    """What the output of its networks is added to: the layer's output less their own (norms come first), or the input
    of the up projection (norms come after the sum), or unknown, as where a norm comes before the sum."""
    norm_first_key: str | None = None
    """Key in config.json that is false where norms come after the sum, whatever `residual` says."""


_BERT = Location(owner=r"encoder\.layer\.\d+", up="intermediate.dense", down="output.dense")
_GLU = Location(owner=r"layers\.\d+\.mlp", up="up_proj", gate="gate_proj", down="down_proj")


def _bert_like(name: str, model_type: str, reserved_positions: int = 0) -> Family:
    return Family(
        name,
        model_type,
        "encoder",
        r"encoder\.layer\.\d+",
        (_BERT,),
        reserved_positions=reserved_positions,
        residual="up input",
    )


def _llama_like(name: str, model_type: str, residual: Residual = "layer output") -> Family:
    return Family(name, model_type, "decoder", r"layers\.\d+", (_GLU,), residual=residual)


def _t5_location(stack: Literal["main", "decoder"], sublayer: int, *, is_gated: bool) -> Location:
    side = "encoder" if stack == "main" else "decoder"
    return Location(
        owner=rf"{side}\.block\.\d+\.layer\.{sublayer}\.DenseReluDense",
        up="wi_1" if is_gated else "wi",
        gate="wi_0" if is_gated else None,
        down="wo",
        stack=stack,
    )


_ROWS = (
    _bert_like("BERT", "bert"),
    _bert_like("RoBERTa", "roberta", reserved_positions=2),
    _bert_like("ELECTRA", "electra"),
    Family(
        "DistilBERT",
        "distilbert",
        "encoder",
        r"transformer\.layer\.\d+",
        (Location(owner=r"transformer\.layer\.\d+\.ffn", up="lin1", down="lin2"),),
        width_key="hidden_dim",
        residual="up input",
    ),
    Family(
        "ALBERT",
        "albert",
        "encoder",
        r"albert_layers\.\d+",
        (Location(owner=r"albert_layers\.\d+", up="ffn", down="ffn_output"),),
        sharing_key="num_hidden_groups",
        residual="up input",
    ),
    Family(
        "ModernBERT",
        "modernbert",
        "encoder",
        r"layers\.\d+",
        (Location(owner=r"layers\.\d+\.mlp", up="Wi", down="Wo", is_fused=True),),
    ),
    Family(
        "GPT-2",
        "gpt2",
        "decoder",
        r"h\.\d+",
        (Location(owner=r"h\.\d+\.mlp", up="c_fc", down="c_proj"),),
        width_key="n_inner",
        default_width_factor=4,
    ),
    Family(
        "OPT",
        "opt",
        "decoder",
        r"decoder\.layers\.\d+",
        (Location(owner=r"decoder\.layers\.\d+", up="fc1", down="fc2"),),
        width_key="ffn_dim",
        norm_first_key="do_layer_norm_before",
    ),
    Family(
        "GPT-NeoX",
        "gpt_neox",
        "decoder",
        r"layers\.\d+",
        (Location(owner=r"layers\.\d+\.mlp", up="dense_h_to_4h", down="dense_4h_to_h"),),
    ),
    _llama_like("Llama", "llama"),
    _llama_like("Mistral", "mistral"),
    _llama_like("Qwen2", "qwen2"),
    _llama_like("Qwen3", "qwen3"),
    _llama_like("Gemma 2", "gemma2", residual="unknown"),
    _llama_like("Gemma 3 (text)", "gemma3_text", residual="unknown"),
    Family(
        "Phi-3",
        "phi3",
        "decoder",
        r"layers\.\d+",
        (Location(owner=r"layers\.\d+\.mlp", up="gate_up_proj", down="down_proj", is_fused=True),),
    ),
    Family(
        "T5",
        "t5",
        "encoder-decoder",
        r"(?:encoder|decoder)\.block\.\d+",
        (
            _t5_location("main", 1, is_gated=False),
            _t5_location("main", 1, is_gated=True),
            _t5_location("decoder", 2, is_gated=False),
            _t5_location("decoder", 2, is_gated=True),
        ),
        width_key="d_ff",
    ),
    Family(
        "ViT",
        "vit",
        "vision",
        r"(?:encoder\.layer|layers)\.\d+",
        (_BERT, Location(owner=r"layers\.\d+\.mlp", up="fc1", down="fc2")),
    ),
)
FAMILIES: Mapping[str, Family] = {row.model_type: row for row in _ROWS}


def find_family(config: Any) -> Family:
    """The row for a model's config.

    Raises:
        UnsupportedModelError: no row fits, or the layers are mixtures of experts.
    """
    model_type = getattr(config, "model_type", "") or "(none)"
    family = FAMILIES.get(model_type)
    if family is None:
        what = f"model type '{model_type}'"
        if any("expert" in key for key in getattr(config, "to_dict", dict)()):
            what += " (mixture of experts)"
        raise unsupported(what)
    return family


def unsupported(what: str) -> UnsupportedModelError:
    """An error that names what was found and lists what is supported."""
    names = ", ".join(f"{row.name} ({row.model_type})" for row in _ROWS)
    return UnsupportedModelError(
        f"can't prune {what}; supported families: {names}; a family is one row in secateurs/models/families.py"
    )


def find_residual(family: Family, config: Any) -> Residual:
    """What the output of a model's feed-forward networks is added to."""
    if family.norm_first_key is not None and not getattr(config, family.norm_first_key):
        return "up input"
    return family.residual


def find_layers(model: nn.Module, family: Family) -> list[tuple[str, nn.Module]]:
    """The transformer layers of a model, with their paths, in order."""
    pattern = re.compile(rf"(?:^|\.){family.layers}$")
    return [(path, module) for path, module in model.named_modules() if pattern.search(path)]


def count_attentions(layer: nn.Module) -> int:
    """Attentions in one transformer layer: 1, or 2 where a decoder also attends to an encoder."""
    paths = [path.split(".") for path, _ in layer.named_modules()]
    return sum(path[-1] in ATTENTION_NAMES and ATTENTION_NAMES.isdisjoint(path[:-1]) for path in paths)


def find_feedforwards(model: nn.Module, family: Family) -> list[FeedForward]:
    """The feed-forward networks of a model, in order.

    Raises:
        UnsupportedModelError: there is none, a projection is of an unknown (say, quantised) type, or widths are not
            what the config says.
    """
    config: Any = model.config
    passes = 1 if family.sharing_key is None else config.num_hidden_layers // getattr(config, family.sharing_key)
    if family.sharing_key is not None and config.num_hidden_layers % getattr(config, family.sharing_key):
        raise UnsupportedModelError(f"num_hidden_layers must be a multiple of {family.sharing_key} in config.json")
    found = []
    for path, module in model.named_modules():
        for location in family.locations:
            if re.search(rf"(?:^|\.){location.owner}$", path) and _has_parts(module, location):
                found.append(_build(path, module, location, passes))
    if not found:
        raise unsupported(f"{type(model).__name__}, in which no feed-forward network was found,")
    width = configured_width(config, family)
    for ffn in found:
        if ffn.width != width:
            raise UnsupportedModelError(
                f"{ffn.path} has {ffn.width} neurons where config.{family.width_key} says {width}"
            )
    return found


def configured_width(config: Any, family: Family) -> int:
    """Width of the feed-forward networks that the config states."""
    width = getattr(config, family.width_key, None)
    if width is None and family.default_width_factor is not None:
        width = family.default_width_factor * config.hidden_size
    if not isinstance(width, int):
        raise UnsupportedModelError(f"config.json has no whole number for '{family.width_key}', got {width!r}")
    return width


def _has_parts(module: nn.Module, location: Location) -> bool:
    names = dict(module.named_modules())
    return all(name is None or name in names for name in (location.up, location.down, location.gate))


def _build(path: str, module: nn.Module, location: Location, passes: int) -> FeedForward:
    parts = [module.get_submodule(name) for name in (location.up, location.down, location.gate) if name]
    for part in parts:
        if not is_projection(part):
            raise unsupported(f"{path}: projections of type {type(part).__name__} (quantised or adapted weights?)")
    return FeedForward(
        path=path,
        up=parts[0],
        down=parts[1],
        gate=parts[2] if location.gate else None,
        is_fused=location.is_fused,
        stack=location.stack,
        passes=passes,
        owner=module,
    )
