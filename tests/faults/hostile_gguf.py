"""GGUF files written by hand: a good one, and what a stranger might make of it, each entry spoiling it in one way."""

from __future__ import annotations

import math
import pickle
import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from faults.hostile import Bomb, noting_in

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}
ALIGNMENT = 32
HIDDEN, WIDTH, LAYERS, HEADS = 16, 24, 2, 2
HUGE = 1 << 63
CASES = {}
"""Name -> (function of the good file and the canary that gives a File or bytes, words that the error holds)."""


@dataclass(frozen=True)
class Tensor:
    """A line of the table of tensors."""

    name: str | bytes
    shape: tuple[int, ...]
    offset: int
    kind: int = 0
    dimensions: int | None = None
    """Told instead of the length of the shape."""


@dataclass(frozen=True)
class File:
    """A GGUF file, part by part."""

    keys: tuple[tuple[Any, int, Any], ...]
    """Name, type and value; a bytearray stands for itself."""
    tensors: tuple[Tensor, ...]
    data: bytes
    magic: bytes = b"GGUF"
    version: bytes = struct.pack("<I", 3)
    key_count: int | None = None
    tensor_count: int | None = None
    """Told instead of the number of keys and tensors."""

    def encode(self):
        """Its bytes."""
        tensors = len(self.tensors) if self.tensor_count is None else self.tensor_count
        keys = len(self.keys) if self.key_count is None else self.key_count
        head = self.magic + self.version + struct.pack("<QQ", tensors, keys)
        head += b"".join(encode_text(name) + struct.pack("<I", kind) + encode(kind, v) for name, kind, v in self.keys)
        head += b"".join(map(encode_tensor, self.tensors))
        return head + bytes(-len(head) % ALIGNMENT) + self.data

    def with_key(self, name, kind, value):
        """The file with a key of that name, in the place of the one there is or behind the others."""
        entry = (name, kind, value)
        keys = tuple(entry if key[0] == name else key for key in self.keys)
        return replace(self, keys=keys if entry in keys else (*keys, entry))

    def without_key(self, name):
        """The file without a key."""
        return replace(self, keys=tuple(key for key in self.keys if key[0] != name))

    def with_tensor(self, number, **changes):
        """The file with changes to a tensor's line of the table."""
        tensors = list(self.tensors)
        tensors[number] = replace(tensors[number], **changes)
        return replace(self, tensors=tuple(tensors))


def encode_text(value, length=None):
    """A string with its length, or with another one."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def encode(kind, value):
    """A value of a key."""
    if isinstance(value, bytearray):
        return value
    if kind == STRING:
        return encode_text(value)
    if kind == ARRAY:
        inner, entries = value
        return struct.pack("<IQ", inner, len(entries)) + b"".join(encode(inner, entry) for entry in entries)
    return struct.pack("<" + FORMATS[kind], value)


def encode_tensor(tensor):
    """A line of the table of tensors."""
    dimensions = len(tensor.shape) if tensor.dimensions is None else tensor.dimensions
    numbers = struct.pack(f"<I{len(tensor.shape)}QIQ", dimensions, *tensor.shape, tensor.kind, tensor.offset)
    return encode_text(tensor.name) + numbers


def make_file(keys, shapes, *, seed=0):
    """A file with those keys and float32 tensors of those shapes, by name."""
    draw = np.random.default_rng(seed)
    tensors, data = [], b""
    for name, shape in shapes.items():
        tensors.append(Tensor(name, shape, len(data)))
        data += draw.normal(scale=0.5, size=math.prod(shape)).astype("<f4").tobytes()
        data += bytes(-len(data) % ALIGNMENT)
    return File(tuple(keys), tuple(tensors), data)


def make_good():
    """A tiny Llama that transformers reads, with its tokenizer."""
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, "Ġ", "<s>", "</s>", *("Ġ" + letter for letter in "tab")]
    return make_file(_good_keys(tokens), _good_shapes(len(tokens)))


def cut(good, mark, after):
    """The file's bytes up to some after a mark."""
    raw = good.encode()
    return raw[: raw.index(mark) + after]


def _good_keys(tokens):
    return [
        ("general.architecture", STRING, "llama"),
        ("general.name", STRING, "tiny"),
        ("general.alignment", U32, ALIGNMENT),
        ("llama.block_count", U32, LAYERS),
        ("llama.context_length", U32, 160),
        ("llama.embedding_length", U32, HIDDEN),
        ("llama.feed_forward_length", U32, WIDTH),
        ("llama.attention.head_count", U32, HEADS),
        ("llama.attention.head_count_kv", U32, HEADS),
        ("llama.attention.layer_norm_rms_epsilon", F32, 1e-5),
        ("llama.rope.freq_base", F32, 10_000.0),
        ("llama.rope.dimension_count", U32, HIDDEN // HEADS),
        ("llama.vocab_size", U32, len(tokens)),
        ("tokenizer.ggml.model", STRING, "gpt2"),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)),
        ("tokenizer.ggml.token_type", ARRAY, (I32, [1] * len(tokens))),
        ("tokenizer.ggml.merges", ARRAY, (STRING, ["Ġ " + letter for letter in "tab"])),
        ("tokenizer.ggml.add_bos_token", BOOL, False),
        ("tokenizer.ggml.bos_token_id", U32, tokens.index("<s>")),
        ("tokenizer.ggml.eos_token_id", U32, tokens.index("</s>")),
    ]


def _good_shapes(vocabulary):
    """Shapes of the tensors by name, GGUF's way: the length of a row first."""
    square, up = (HIDDEN, HIDDEN), (HIDDEN, WIDTH)
    layer = {"attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,), "ffn_gate": up, "ffn_up": up, "ffn_down": (WIDTH, HIDDEN)}
    layer |= dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), square)
    layers = {f"blk.{place}.{name}.weight": shape for place in range(LAYERS) for name, shape in layer.items()}
    return {"token_embd.weight": (HIDDEN, vocabulary), "output_norm.weight": (HIDDEN,), **layers}


case = noting_in(CASES)


# the first bytes
case("empty file", "is no GGUF file")(lambda good, c: b"")
case("file of 3 bytes", "is no GGUF file")(lambda good, c: b"GGU")
case("another magic", "is no GGUF file")(lambda good, c: replace(good, magic=b"GGML"))
case("a pickle named as GGUF", "is no GGUF file")(lambda good, c: pickle.dumps(Bomb(c)))
case("a pickle behind the magic", "must be 2 or 3")(lambda good, c: b"GGUF" + pickle.dumps(Bomb(c)))
case("magic and nothing else", "the file ends in its start: 4 bytes should")(lambda good, c: b"GGUF")
case("version 1", "must be 2 or 3, got 1")(lambda good, c: replace(good, version=struct.pack("<I", 1)))
case("version 2^32 - 1", "must be 2 or 3, got 4,294")(lambda good, c: replace(good, version=b"\xff" * 4))
case("big-endian", "big-endian")(lambda good, c: replace(good, version=struct.pack(">I", 3)))
case("cut off in the counts", "in its start: 16 bytes should follow, 4 do")(lambda good, c: good.encode()[:12])
case("no tensors told", "number of tensors")(lambda good, c: replace(good, tensor_count=0))
case("2^63 tensors told", "number of tensors")(lambda good, c: replace(good, tensor_count=HUGE))
case("no keys told", "number of keys")(lambda good, c: replace(good, key_count=0))
case("2^64 - 1 keys told", "number of keys")(lambda good, c: replace(good, key_count=2 * HUGE - 1))
case("more keys told than the file has bytes for", "number of keys")(lambda good, c: replace(good, key_count=5000))
case("a key too many told", "broken header")(lambda good, c: replace(good, key_count=len(good.keys) + 1))
case("a key too few told", "broken header")(lambda good, c: replace(good, key_count=len(good.keys) - 1))
case("a tensor too many told", "broken header")(lambda good, c: replace(good, tensor_count=len(good.tensors) + 1))
case("a tensor too few told", "damaged")(lambda good, c: replace(good, tensor_count=len(good.tensors) - 1))


# keys
def put_key(name, kind, value):
    """Sets a key."""
    return lambda good, canary: good.with_key(name, kind, value)


def array(kind, count, raw=b""):
    """An array whose type and length may lie."""
    return bytearray(struct.pack("<IQ", kind, count) + raw)


NASTY = "\x1b[31m\nred\u202e"
case("cut off in a key", "in key 17 of 20: 21 bytes should follow, 5 do")(
    lambda good, c: cut(good, b"tokenizer.ggml.merges", 5)
)
case("cut off in a value", "in the key 'tokenizer.ggml.merges': 4 bytes should follow, 2 do")(
    lambda good, c: cut(good, b"tokenizer.ggml.merges", 23)
)
case("a key twice", "'general.name' appears twice")(
    lambda good, c: replace(good, keys=(*good.keys, ("general.name", STRING, "other")))
)
case("a key of the reader's own", "appears twice")(put_key("GGUF.version", U32, 3))
case("a key of 65,536 bytes", "at most 65,535")(put_key("k" * 65_536, U32, 1))
case("a key of 2^63 bytes", "string of 9,223")(
    lambda good, c: good.encode()[:24] + struct.pack("<Q", HUGE) + good.encode()[32:]
)
case("a key not UTF-8", "not UTF-8")(put_key(b"\xff\xfe", U32, 1))
case("a key of unknown type 13", "unknown type 13")(put_key("x", 13, bytearray(8)))
case("a key of unknown type 2^32 - 1", "unknown type 4,294")(put_key("x", (1 << 32) - 1, bytearray(8)))
case("a key with line ends and colours", r"'\x1b[31m\nred\u202e' is of the unknown type")(
    put_key(NASTY, 99, bytearray())
)
case("a string of 2^64 - 1 bytes", "string of 18,446")(put_key("x", STRING, bytearray(b"\xff" * 8)))
case("a string of 2 MiB", "at most 1,048,576")(put_key("x", STRING, "x" * (1 << 21)))
case("a string not UTF-8", "'x' has a string that is not UTF-8")(put_key("x", STRING, b"\xff\xfe"))
case("an array of 2^63 bytes", "2,000,000")(put_key("x", ARRAY, array(U8, HUGE)))
case("an array of 2^60 strings", "2,000,000")(put_key("x", ARRAY, array(STRING, 1 << 60)))
case("an array of 2.1 million bytes", "2,000,000")(put_key("x", ARRAY, array(U8, 2_100_000, bytes(2_100_000))))
case("an array longer than the file", "the file ends in the key 'x'")(put_key("x", ARRAY, array(U64, 1_000_000)))
case("strings longer than the file", "broken header")(put_key("x", ARRAY, array(STRING, 1_000_000, bytes(99))))
case("a token of 5,000 bytes", "at most 4,096")(put_key("x", ARRAY, (STRING, ["x" * 5000])))
case("a token of 2^63 bytes", "string of 9,223")(put_key("x", ARRAY, array(STRING, 1, struct.pack("<Q", HUGE))))
case("an array of arrays", "array of arrays")(put_key("x", ARRAY, (ARRAY, [(U8, [1])])))
case("arrays nested 10,000 times", "array of arrays")(
    put_key("x", ARRAY, bytearray(struct.pack("<IQ", ARRAY, 1) * 10_000))
)
case("an array of an unknown type", "array of the unknown type 77")(put_key("x", ARRAY, array(77, 1)))
case("no architecture", "general.architecture")(lambda good, c: good.without_key("general.architecture"))
case("architecture a number", "general.architecture")(put_key("general.architecture", U32, 7))
case("architecture a list", "general.architecture")(put_key("general.architecture", ARRAY, (STRING, ["llama"])))
case("architecture unknown", "evil is not supported")(put_key("general.architecture", STRING, "evil"))
case("architecture a path", "not supported")(put_key("general.architecture", STRING, "../../evil"))
case("architecture empty", "not supported")(put_key("general.architecture", STRING, ""))
for _kind, _value in ((U32, 0), (U32, 1), (U32, 24), (U32, 1 << 31), (I32, -8), (U64, 32), (F32, 32.0), (STRING, "32")):
    case(f"alignment {_value} of type {_kind}", "power of two")(put_key("general.alignment", _kind, _value))
case("alignment a list", "power of two")(put_key("general.alignment", ARRAY, (U32, [32])))
case("alignment not as in the file", "damaged")(put_key("general.alignment", U32, 64))


# tensors
def put_tensor(number, **changes):
    """Changes a tensor's line of the table."""
    return lambda good, canary: good.with_tensor(number, **changes)


case("cut off in the table", "the file ends in the tensor 'output_norm.weight'")(
    lambda good, c: cut(good, b"output_norm", 20)
)
case("cut off before the data", "damaged")(lambda good, c: good.encode()[: -len(good.data)])
case("cut off in the data", "damaged")(lambda good, c: good.encode()[:-100])
case("one byte too few", "damaged")(lambda good, c: good.encode()[:-1])
case("bytes behind the data", "damaged")(lambda good, c: good.encode() + b"more")
case("a tensor twice", "'token_embd.weight' appears twice")(put_tensor(1, name="token_embd.weight"))
case("a tensor's name of 65 bytes", "at most 64")(put_tensor(1, name="n" * 65))
case("a tensor's name not UTF-8", "not UTF-8")(put_tensor(1, name=b"\xff"))
case("a tensor's name with line ends", r"'\x1b[31m\nred\u202e' is of the unknown")(put_tensor(1, name=NASTY, kind=99))
case("no dimensions", "0 dimensions, must be 1 to 4")(put_tensor(1, shape=()))
case("5 dimensions", "5 dimensions, must be 1 to 4")(put_tensor(1, shape=(16, 1, 1, 1, 1)))
case("2^32 - 1 dimensions", "dimensions, must be")(put_tensor(1, dimensions=(1 << 32) - 1))
case("a dimension 0", "the shape 0, which")(put_tensor(1, shape=(0,)))
case("a dimension 2^64 - 1", "'output_norm.weight'")(put_tensor(1, shape=(2 * HUGE - 1,)))
case("dimensions whose product overflows to 16", "no tensor can have")(
    put_tensor(1, shape=(1 << 32, (1 << 32) + 1, 16))
)
case("a shape larger than the file", "overlaps the one before")(put_tensor(0, shape=(1 << 40, 1), offset=0))
case("the last shape larger than the file", "damaged")(put_tensor(-1, shape=(1 << 40, 16)))
for _kind in (4, 5, 31, 36, 42, (1 << 32) - 1):
    case(f"tensor type {_kind}", "unknown type")(put_tensor(1, kind=_kind))
case("rows of no whole blocks", "has blocks of 32")(put_tensor(1, kind=8))
case("an offset not aligned", "no multiple of 32")(put_tensor(1, offset=4))
case("offsets overlap", "overlaps the one before")(put_tensor(2, offset=0))
case("offset in the tensor before", "overlaps the one before")(put_tensor(1, offset=64))
case("offset huge", "gap before it")(put_tensor(-1, offset=HUGE))
case("offset near 2^64", "gap before it")(put_tensor(-1, offset=2 * HUGE - ALIGNMENT))
case("a gap", "gap before it")(
    lambda good, c: replace(good.with_tensor(-1, offset=good.tensors[-1].offset + 32), data=good.data + bytes(32))
)

# the model that it speaks of
for _name, _value in {
    "block_count": 100_000,
    "embedding_length": 1 << 40,
    "feed_forward_length": 1 << 40,
    "vocab_size": 1 << 40,
    "attention.head_count": 1 << 40,
    "rope.dimension_count": 1 << 40,
}.items():
    case(f"{_name} huge", "")(put_key(f"llama.{_name}", U64, _value))
    case(f"{_name} 0", "")(put_key(f"llama.{_name}", U32, 0))
    case(f"{_name} negative", "")(put_key(f"llama.{_name}", I32, -2))
    case(f"{_name} text", "")(put_key(f"llama.{_name}", STRING, "wide"))
    case(f"{_name} a list", "")(put_key(f"llama.{_name}", ARRAY, (U32, [16, 16])))
case("block_count 2^64 - 1", "layers; there are 20 tensors")(put_key("llama.block_count", U64, 2 * HUGE - 1))
case("block_count infinite", "layers; there are 20 tensors")(put_key("llama.block_count", F32, math.inf))
case("vocabulary of 100 million", "asks for a model of")(put_key("llama.vocab_size", U32, 100_000_000))
case("no embedding_length", "asks for a model of")(lambda good, c: good.without_key("llama.embedding_length"))
case("width one more", "misshaped weights")(put_key("llama.feed_forward_length", U32, WIDTH + 1))
case("a layer more", "no weights for")(put_key("llama.block_count", U32, LAYERS + 1))
case("a tensor of another name", "no weights for")(put_tensor(1, name="evil.weight"))
case("weights not finite", "NaN or infinite")(lambda good, c: replace(good, data=b"\xff" * len(good.data)))
case("whole numbers as weights", "")(put_tensor(1, kind=26))
case("tokenizer of unknown kind", "evil")(put_key("tokenizer.ggml.model", STRING, "evil"))
case("no tokens", "")(lambda good, c: good.without_key("tokenizer.ggml.tokens"))
case("tokens numbers", "")(put_key("tokenizer.ggml.tokens", ARRAY, (U32, [1, 2])))
case("a token not UTF-8", "")(put_key("tokenizer.ggml.tokens", ARRAY, (STRING, [b"\xff"] * 100)))
case("merges that merge nothing", "")(put_key("tokenizer.ggml.merges", ARRAY, (STRING, ["a", "b c d"])))
case("a first token that is not there", "")(put_key("tokenizer.ggml.bos_token_id", U32, (1 << 32) - 1))
