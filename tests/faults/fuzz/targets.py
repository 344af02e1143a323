"""What is fuzzed: any bytes, as files of a checkpoint, which Secateurs' checks accept or refuse."""

from __future__ import annotations

import struct
from pathlib import Path

from secateurs.errors import InputError
from secateurs.models.gguf import check_gguf
from secateurs.models.safety import INDEX, SINGLE, check_weights, read_config

BETWEEN = b"\n--\n"
"""Stands between the parts of an input that becomes several files."""
SHARDS = ("model-1.safetensors", "model-2.safetensors")
LONGEST_MESSAGE = 500
"""Characters, besides the folder."""
WORDS = (
    *(
        BETWEEN,
        b'"__metadata__":',
        b'"dtype":',
        b'"shape":',
        b'"data_offsets":',
        b'"F32"',
        b'"BF16"',
        b'"I64"',
        b'"F4"',
    ),
    *(b"[2,3]", b"[0,24]", b'{"a":', b'"weight_map":', b"model-1.safetensors", b"model-2.safetensors", b"../", b"NaN"),
    *(
        rb"\ud800",
        rb"\n",
        b"1e999",
        b"9" * 50,
        b'"num_hidden_layers":',
        b'"auto_map":',
        b"GGUF",
        b"\3\0\0\0",
        b"\2\0\0\0",
    ),
    *(b"general.architecture", b"general.alignment", b".block_count", b"\4\0\0\0", b"\x08\0\0\0", b"\x09\0\0\0"),
    *(b"\xff" * 8, b"\0\0\0\0\0\0\0\x80", b"\1\0\0\0\0\0\0\0", b"\x20\0\0\0\0\0\0\0"),
)
"""For the fuzzer's dictionary."""


def check(raw: bytes, folder: Path) -> str | None:
    """What is said when the bytes are refused, None when they are accepted; anything but one short line is an error.

    The first byte says what they are; what follows is put into the folder, which is empty before and after.
    """
    files, read = FORMS[(raw[0] - ord("0")) % len(FORMS)](raw[1:]) if raw else ({}, _read_weights)
    said = None
    try:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        read(folder)
    except InputError as error:
        said = str(error)
    finally:
        for name in files:
            (folder / name).unlink(missing_ok=True)
    if said is not None and (not said.isprintable() or len(said.replace(str(folder), "")) > LONGEST_MESSAGE):
        raise ValueError(f"not one line of bounded length: {said[:2000]!r}")
    return said


def _read_weights(folder):
    check_weights(folder, {})


def _read_configured(folder):
    check_weights(folder, read_config(folder))


def _read_gguf(folder):
    check_gguf(folder / "m.gguf")


def _with_length(header, data=b""):
    return struct.pack("<Q", len(header)) + header + data


def _as_file(raw):
    """A safetensors file as it stands."""
    return {SINGLE: raw}, _read_weights


def _as_header(raw):
    """A header and data, as a safetensors file with the right length of its header."""
    header, _, data = raw.partition(BETWEEN)
    return {SINGLE: _with_length(header, data)}, _read_weights


def _as_index(raw):
    """An index, and up to two shards as headers and data."""
    index, *parts = raw.split(BETWEEN)
    shards = zip(SHARDS, parts[::2], parts[1::2], strict=False)
    return {INDEX: index, **{name: _with_length(header, data) for name, header, data in shards}}, _read_weights


def _as_config(raw):
    """A config.json beside good weights."""
    header = b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'
    return {"config.json": raw, SINGLE: _with_length(header, bytes(8))}, _read_configured


def _as_gguf(raw):
    """A GGUF file as it stands."""
    return {"m.gguf": raw}, _read_gguf


FORMS = (_as_file, _as_header, _as_index, _as_config, _as_gguf)
"""By the first byte, counted from "0", modulo their number."""
