"""Checks of a checkpoint's files that transformers lets pass: escapes, pickles, remote code, broken headers."""

from __future__ import annotations

import json
import math
import re
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch

from secateurs.errors import InputError, UnsupportedModelError, one_line
from secateurs.models.source import Source

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
REFUSED_KEYS = {
    "auto_map": "would run code from the checkpoint",
    "_attn_implementation": "would choose attention code by name",
    "_attn_implementation_internal": "would choose attention code by name",
    "quantization_config": "holds quantised weights",
    "configuration_files": "would put another file in the place of config.json",
}
FLOAT_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
ITEM_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits of an entry, by the dtypes of safetensors."""
MAX_HEADER_BYTES = 100_000_000
MOST_LAYERS = 1000
"""Layers that are built however few tensors there are (layers may share them)."""


def read_config(folder: Path) -> dict[str, Any]:
    """The checkpoint's config.json, checked.

    Raises:
        InputError: it isn't a JSON object, or names code that would run.
        UnsupportedModelError: its weights are quantised or adapters.
    """
    config = read_json(folder / "config.json")
    for key, effect in REFUSED_KEYS.items():
        if config.get(key) is not None:
            kind = UnsupportedModelError if key == "quantization_config" else InputError
            raise kind(f"config.json in {folder} has '{key}', which {effect}; remove it or use another model")
    if (folder / "adapter_config.json").exists():
        raise UnsupportedModelError(f"{folder} holds an adapter; merge it into its base model first")
    return config


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """What a checkpoint's weight files hold."""

    formats: tuple[str, ...]
    """Number formats, most bytes first."""
    count: int
    """Numbers in all of them."""


def check_weights(folder: Path, config: Mapping[str, Any]) -> StoredWeights:
    """What the checkpoint's weights are stored as, after its files were checked.

    Raises:
        InputError: files are missing, lie outside the folder, are pickles, or have broken headers; or the config asks
            for so many layers that to build them alone would take for ever.
    """
    sizes: Counter[str] = Counter()
    names: dict[str, str] = {}
    for path in _weight_files(folder):
        for name, entry in _read_header(path).items():
            if name in names:
                raise InputError(
                    f"the tensor {quote(name)} is in {names[name]} and in {path.name}, its index names one"
                )
            names[name] = path.name
            if entry["dtype"] in FLOAT_TYPES:
                start, end = entry["data_offsets"]
                sizes[FLOAT_TYPES[entry["dtype"]]] += end - start
    if not sizes:
        raise UnsupportedModelError(f"{folder} has no floating-point weights (quantised?)")
    _check_index(folder, names)
    _check_layers(folder, config, len(names))
    count = sum(size // getattr(torch, name).itemsize for name, size in sizes.items())
    return StoredWeights(tuple(name for name, _ in sizes.most_common()), count)


def shard_limit(folder: Path) -> int | None:
    """Bytes of the largest weight file of a sharded checkpoint; None where there is but one."""
    files = _weight_files(folder)
    return max(path.stat().st_size for path in files) if len(files) > 1 else None


def weight_bytes(folder: Path) -> int:
    """Bytes of all weight files of a checkpoint."""
    return sum(path.stat().st_size for path in _weight_files(folder))


def bytes_on_disk(source: Source) -> int:
    """Bytes of the weights that a model was read from: its GGUF file, or all weight files."""
    if source.gguf_file is not None:
        return (source.folder / source.gguf_file).stat().st_size
    return weight_bytes(source.folder)


def _weight_files(folder: Path) -> list[Path]:
    if (folder / SINGLE).is_file():  # transformers looks for it first, too
        _check_inside(folder / SINGLE)
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        names = read_json(folder / INDEX, is_strict=True).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise InputError(f"{folder / INDEX} has no usable 'weight_map'")
        shards = sorted(set(names.values()))
        for shard in shards:
            if Path(shard).name != shard or not shard.endswith(".safetensors"):
                raise InputError(f"{INDEX} in {folder} points outside the folder or at no safetensors: {quote(shard)}")
            if not _can_be_file(shard) or not (folder / shard).is_file():
                raise InputError(f"{folder} lacks the shard {quote(shard)} that its index names")
            _check_inside(folder / shard)
        return [folder / shard for shard in shards]
    pickles = [*folder.glob("pytorch_model*.bin"), *folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]
    if pickles:
        raise InputError(
            f"{folder} has weights only as a pickle ({pickles[0].name}), which can run code; "
            "convert it to safetensors first"
        )
    raise InputError(f"{folder} has no weights ({SINGLE} or {INDEX})")


def _can_be_file(name: str) -> bool:
    """Whether a file system takes a name, and a message can hold it."""
    return name.isprintable() and len(name.encode()) <= 255


def quote(name: str) -> str:
    """A name from a file, in quotation marks, for messages: on one line of bounded length whatever is in it."""
    return repr(name[:80])[:100]


def _check_inside(path: Path) -> None:
    """Raise InputError where a file is a link out of its folder, other than into the blobs of a hub cache."""
    if own_folder(path.parent) not in path.resolve().parents:
        raise InputError(f"{path} is a link out of its folder")


def own_folder(folder: Path) -> Path:
    """The folder that a checkpoint's files must lie in: itself, or of a snapshot in a hub cache all of the model's."""
    inside = folder.resolve()
    return inside.parent.parent if inside.parent.name == "snapshots" else inside


def _check_index(folder: Path, names: Mapping[str, str]) -> None:
    """Raise InputError where the index, if there is one that counts, places a tensor in another shard than it is in."""
    if (folder / SINGLE).is_file():
        return
    for name, shard in read_json(folder / INDEX)["weight_map"].items():
        if names.get(name, shard) != shard:
            raise InputError(
                f"the index in {folder} places the tensor {quote(name)} in {shard}, it is in {names[name]}"
            )


def _check_layers(folder: Path, config: Mapping[str, Any], tensors: int) -> None:
    """Raise InputError where the config asks for more layers than so many tensors can be of, or that may share them."""
    for key, count in config.items():
        if re.search(r"layers?$", key) and isinstance(count, int) and count > max(tensors, MOST_LAYERS):
            asked = f"{count:,}"[:40]
            raise InputError(
                f"config.json in {folder} asks for {asked} layers ({quote(key)}); there are {tensors} tensors"
            )


def _read_header(path: Path) -> dict[str, Any]:
    """The entries of the tensors in a file, checked."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
                raise InputError(f"{path} is no safetensors file: it is cut off or its header size is wrong")
            header = json.loads(file.read(length), object_pairs_hook=_unique)
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} has a broken header: {one_line(error)}") from None
    if not isinstance(header, dict):
        raise InputError(f"{path} has a broken header: not an object")
    header.pop("__metadata__", None)
    for name, entry in header.items():
        _check_entry(path, name, entry)
    _check_extents(path, header, size - 8 - length)
    return header


def _check_entry(path: Path, name: str, entry: Any) -> None:
    """Raise InputError unless dtype, shape and offsets of a tensor fit each other."""
    fault = f"{path} has a broken header: the entry of {quote(name)}"
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        raise InputError(f"{fault} names no dtype")
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not _are_whole(shape) or not _are_whole(offsets) or len(offsets) != 2:
        raise InputError(f"{fault} has no usable shape or data_offsets")
    bits = ITEM_BITS.get(entry["dtype"])
    if bits is None:
        raise InputError(f"{fault} names the unknown dtype {quote(entry['dtype'])}")
    start, end = offsets
    if min(shape, default=0) < 0 or math.prod(shape) * bits != 8 * (end - start):
        raise InputError(f"{fault} has a shape that does not fit its {end - start:,} bytes")


def _are_whole(values: Any) -> TypeGuard[list[int]]:
    """Whether these are whole numbers, of a size that messages can hold."""
    return isinstance(values, list) and all(type(value) is int and abs(value) < 1 << 64 for value in values)


def _check_extents(path: Path, header: dict[str, Any], data_bytes: int) -> None:
    position = 0
    for start, end in sorted(tuple(entry["data_offsets"]) for entry in header.values()):
        if start != position or end < start:
            raise InputError(f"{path} has a broken header: tensors overlap or leave gaps")
        position = end
    if position != data_bytes:
        raise InputError(f"{path} is damaged: the header speaks of {position} bytes, {data_bytes} are there")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{quote(twice[0])} appears twice")
    return dict(pairs)


def read_json(path: Path, *, is_strict: bool = False) -> dict[str, Any]:
    """The JSON object in a file; InputError where there is none, or if strict where a name appears twice."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique if is_strict else None)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} can't be read: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object")
    return content
