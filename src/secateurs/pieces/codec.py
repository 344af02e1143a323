"""Results of the steps as JSON and tensors, and back: never a pickle, and only of the kinds that are listed here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from secateurs.capture import LayerStatistics
from secateurs.information.backends import JointBlock
from secateurs.results import LayerPlan, MutualInformation, PruningPlan, Update
from secateurs.selection.allocation import Profile
from secateurs.selection.scaling import Scaling

KINDS = {
    kind.__name__: kind
    for kind in (JointBlock, LayerPlan, LayerStatistics, MutualInformation, Profile, PruningPlan, Scaling, Update)
}
"""Dataclasses that can be kept, beside numbers, text, lists, tuples, mappings with text as keys, tensors and arrays."""
CONTENT = "content"


def write_value(value: Any, path: Path) -> None:
    """Write a value as a safetensors file whose metadata holds all that is no tensor.

    Raises:
        TypeError: something in it is of no known kind.
    """
    tensors: dict[str, Tensor] = {}
    content = _pack(value, tensors)
    save_file(tensors, path, metadata={CONTENT: json.dumps(content)})


def read_value(path: Path) -> Any:
    """The value that `write_value` wrote, to the last bit; tensors are on the device that they were on."""
    with safe_open(path, framework="pt") as file:
        # copies, as what lies in a file's map may begin anywhere, and sums then differ in their last digits
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        return _unpack(json.loads(file.metadata()[CONTENT]), tensors)


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Tensor | np.ndarray):
        tensor = torch.from_numpy(np.asarray(value, order="C")) if isinstance(value, np.ndarray) else value
        name = _add(tensor.detach().cpu().contiguous(), tensors)
        return {"array": name} if isinstance(value, np.ndarray) else {"tensor": name, "device": str(tensor.device)}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_pack(entry, tensors) for entry in value]}
    if isinstance(value, Mapping):
        return {"mapping": {name: _pack(entry, tensors) for name, entry in value.items()}}
    if KINDS.get(type(value).__name__) is type(value):
        entries = {field.name: _pack(getattr(value, field.name), tensors) for field in fields(value)}
        return {"kind": type(value).__name__, "fields": entries}
    raise TypeError(f"a {type(value).__name__} can't be kept")


def _add(tensor: Tensor, tensors: dict[str, Tensor]) -> str:
    """The name that a tensor gets among those to be written, none of which may share memory with another."""
    name, memory = str(len(tensors)), {other.untyped_storage().data_ptr() for other in tensors.values()}
    tensors[name] = tensor.clone() if tensor.untyped_storage().data_ptr() in memory else tensor
    return name


def _unpack(content: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(content, dict):
        return content
    if "kind" in content:
        entries = {name: _unpack(entry, tensors) for name, entry in content["fields"].items()}
        return KINDS[content["kind"]](**entries)
    if "array" in content:
        return tensors[content["array"]].numpy()
    if "tensor" in content:
        return tensors[content["tensor"]].to(content["device"])
    if "mapping" in content:
        return {name: _unpack(entry, tensors) for name, entry in content["mapping"].items()}
    ((kind, entries),) = content.items()
    unpacked = [_unpack(entry, tensors) for entry in entries]
    return tuple(unpacked) if kind == "tuple" else unpacked
