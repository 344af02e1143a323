"""Checks of a checkpoint's files that transformers lets pass: escapes, pickles, remote code, broken headers."""

from __future__ import annotations

import json
import struct
from collections import Counter
from pathlib import Path
from typing import Any

from secateur.errors import InputError, UnsupportedModelError, one_line
from secateur.models.source import Source

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
MAX_HEADER_BYTES = 100_000_000


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


def check_weights(folder: Path) -> list[str]:
    """The number formats of the checkpoint's weights, most bytes first, after its files were checked.

    Raises:
        InputError: files are missing, lie outside the folder, are pickles, or have broken headers.
    """
    sizes: Counter[str] = Counter()
    for path in _weight_files(folder):
        for name, entry in _read_header(path).items():
            if name != "__metadata__" and entry.get("dtype") in FLOAT_TYPES:
                start, end = entry["data_offsets"]
                sizes[FLOAT_TYPES[entry["dtype"]]] += end - start
    if not sizes:
        raise UnsupportedModelError(f"{folder} has no floating-point weights (quantised?)")
    return [name for name, _ in sizes.most_common()]


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
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        names = read_json(folder / INDEX).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise InputError(f"{folder / INDEX} has no usable 'weight_map'")
        shards = sorted(set(names.values()))
        for shard in shards:
            if Path(shard).name != shard or not shard.endswith(".safetensors"):
                raise InputError(f"{INDEX} in {folder} points outside the folder or at no safetensors: '{shard}'")
            if not (folder / shard).is_file():
                raise InputError(f"{folder} lacks the shard '{shard}' that its index names")
        return [folder / shard for shard in shards]
    pickles = [*folder.glob("pytorch_model*.bin"), *folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]
    if pickles:
        raise InputError(
            f"{folder} has weights only as a pickle ({pickles[0].name}), which can run code; "
            "convert it to safetensors first"
        )
    raise InputError(f"{folder} has no weights ({SINGLE} or {INDEX})")


def _read_header(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise InputError(f"{path} is no safetensors file: it is cut off or its header size is wrong")
        try:
            header = json.loads(file.read(length), object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} has a broken header: {error}") from None
    if not isinstance(header, dict):
        raise InputError(f"{path} has a broken header: not an object")
    _check_extents(path, header, size - 8 - length)
    return header


def _check_extents(path: Path, header: dict[str, Any], data_bytes: int) -> None:
    entries = [entry for name, entry in header.items() if name != "__metadata__"]
    try:
        extents = sorted((int(e["data_offsets"][0]), int(e["data_offsets"][1])) for e in entries)
    except (TypeError, KeyError, IndexError, ValueError):
        raise InputError(f"{path} has a broken header: an entry without data_offsets") from None
    position = 0
    for start, end in extents:
        if start != position or end < start:
            raise InputError(f"{path} has a broken header: tensors overlap or leave gaps")
        position = end
    if position != data_bytes:
        raise InputError(f"{path} is damaged: the header speaks of {position} bytes, {data_bytes} are there")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"'{twice[0]}' appears twice")
    return dict(pairs)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; InputError where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} can't be read: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object")
    return content
