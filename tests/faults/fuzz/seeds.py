"""The inputs that fuzzing starts from: good ones of every form, and those that once made trouble.

Writes them to a folder: python tests/faults/fuzz/seeds.py tests/faults/fuzz/corpus
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from faults.fuzz.targets import BETWEEN
from faults.hostile_gguf import ARRAY, BOOL, F64, I8, STRING, U32, U64, make_file

SIX = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
HALF = {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}
QUARTER = {"dtype": "F4", "shape": [4], "data_offsets": [32, 34]}
TWO = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
ONE = {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}
MANY_DIGITS = 10**700


def encode(content):
    """JSON as bytes."""
    return json.dumps(content).encode()


def make_good():
    """Accepted inputs by name; each begins with the byte of its form."""
    header = encode({"__metadata__": {"format": "pt"}, "a": SIX, "b": HALF, "c": QUARTER})
    index = encode({"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
    gguf = make_file(
        [
            ("general.architecture", STRING, "llama"),
            ("general.alignment", U32, 32),
            ("llama.block_count", U32, 2),
            ("numbers", ARRAY, (U64, [1, 2])),
            ("words", ARRAY, (STRING, ["a", "bc"])),
            ("is", BOOL, True),
        ],
        {"a": (4, 2), "b": (4,)},
    )
    plain = make_file([("general.architecture", STRING, "x"), ("d", F64, 1.0), ("i", I8, -1)], {"w": (8, 1, 1, 1)})
    return {
        "file": b"0" + struct.pack("<Q", len(header)) + header + bytes(34),
        "header": b"1" + header + BETWEEN + bytes(34),
        "index": b"2" + BETWEEN.join((index, encode({"a": TWO}), bytes(8), encode({"b": ONE}), bytes(8))),
        "config": b"3" + encode({"model_type": "llama", "num_hidden_layers": 2, "auto_map": None}),
        "gguf": b"4" + gguf.encode(),
        "gguf-plain": b"4" + plain.encode(),
        "gguf-blocks": b"4" + plain.with_tensor(0, shape=(32, 1), kind=8).encode()[:-32] + bytes(34),
    }


def make_found():
    """Inputs by name at which the checks once failed: by an error of another kind, or one of many lines."""
    long_name = "x" * 300 + ".safetensors"
    return {
        "a-key-with-a-line-end": b"3" + encode({"num_layers\n": 1 << 31}),
        "many-digits-of-layers": b"3" + encode({"num_layers": MANY_DIGITS}),
        "a-name-with-a-zero": b"1" + encode({"\0": [1]}),
        "a-name-twice-in-colour": b"1" + b'{"\\u001b[31m": 1, "\\u001b[31m": 1}',
        "half-a-character-as-dtype": b"1" + encode({"a": {**SIX, "dtype": "\ud800"}}),
        "many-digits-of-bytes": b"1" + encode({"a": {**SIX, "data_offsets": [-MANY_DIGITS, MANY_DIGITS]}}),
        "a-shard-with-a-long-name": b"2" + encode({"weight_map": {"a": long_name}}),
        "a-shard-with-a-line-end": b"2" + encode({"weight_map": {"a": "\n.safetensors"}}),
    }


def write_seeds(folder):
    """Write them all."""
    for kind, inputs in (("good", make_good()), ("found", make_found())):
        for name, raw in inputs.items():
            (folder / f"{kind}-{name}").write_bytes(raw)


if __name__ == "__main__":
    write_seeds(Path(sys.argv[1]))
