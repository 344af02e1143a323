"""Checks of a GGUF file before anything else reads it: counts, lengths, types and extents that can't be true."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from secateurs.errors import InputError
from secateurs.models.safety import MOST_LAYERS, quote

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""How values of fixed length are packed, by GGUF's numbers for their types."""
UINT32, STRING, ARRAY = 4, 8, 9
BLOCKS = {
    **dict.fromkeys((0, 26), (1, 4)),  # F32, I32
    **dict.fromkeys((1, 25, 30), (1, 2)),  # F16, I16, BF16
    **dict.fromkeys((27, 28), (1, 8)),  # I64, F64
    24: (1, 1),  # I8
    **dict.fromkeys((2, 20), (32, 18)),  # Q4_0, IQ4_NL
    3: (32, 20),  # Q4_1
    6: (32, 22),  # Q5_0
    7: (32, 24),  # Q5_1
    8: (32, 34),  # Q8_0
    9: (32, 40),  # Q8_1
    10: (256, 84),  # Q2_K
    **dict.fromkeys((11, 21), (256, 110)),  # Q3_K, IQ3_S
    12: (256, 144),  # Q4_K
    13: (256, 176),  # Q5_K
    14: (256, 210),  # Q6_K
    15: (256, 292),  # Q8_K
    16: (256, 66),  # IQ2_XXS
    17: (256, 74),  # IQ2_XS
    18: (256, 98),  # IQ3_XXS
    19: (256, 50),  # IQ1_S
    22: (256, 82),  # IQ2_S
    23: (256, 136),  # IQ4_XS
    29: (256, 56),  # IQ1_M
    34: (256, 54),  # TQ1_0
    35: (256, 66),  # TQ2_0
    39: (32, 17),  # MXFP4
    40: (64, 36),  # NVFP4
    41: (128, 18),  # Q1_0
}
"""Weights and bytes of a block, by ggml's numbers for the types of tensors."""
ARCHITECTURE, ALIGNMENT, LAYERS = "general.architecture", "general.alignment", "block_count"
RESERVED = ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count")
"""Keys under which gguf's reader notes what stands before the keys."""
DEFAULT_ALIGNMENT = 32
ALIGNMENTS = [1 << power for power in range(3, 17)]
MOST_KEYS = 10_000
"""Real files have some 50."""
MOST_TENSORS = 100_000
MOST_ENTRIES = 2_000_000
"""Of all arrays together; each costs transformers some 16 us. SmolLM2 has 147,000; a vocabulary of 262,144 tokens, with
scores and types, has 786,432."""
MOST_DIMENSIONS = 4
MOST_KEY_BYTES = 65_535
MOST_NAME_BYTES = 64
"""Of a tensor; this and the last two are the format's own limits."""
MOST_STRING_BYTES = 1 << 20
MOST_ENTRY_BYTES = 4096
"""Of a string in an array: merges are found in a time that grows with the square of a token's length."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    start: int
    """Bytes from where the data begins."""
    length: int
    weights: int


@dataclass(slots=True)
class _Header:
    """A GGUF file, read from its start and never past its end."""

    path: Path
    file: BinaryIO
    size: int
    position: int = 0
    place: str = "its start"
    """What is being read, for messages."""
    entries: int = 0
    """Of the arrays so far."""

    def fault(self, text: str) -> InputError:
        return InputError(f"{self.path} has a broken header: {text} (byte {self.position:,})")

    def take(self, length: int) -> bytes:
        self._check_left(length)
        raw = self.file.read(length)
        if len(raw) != length:
            raise self.fault(f"the file became shorter while {self.place} was read")
        self.position += length
        return raw

    def skip(self, length: int) -> None:
        self._check_left(length)
        self.position = self.file.seek(self.position + length)

    def _check_left(self, length: int) -> None:
        if length > self.size - self.position:
            left = self.size - self.position
            raise self.fault(f"the file ends in {self.place}: {length:,} bytes should follow, {left:,} do")

    def numbers(self, formats: str) -> tuple[Any, ...]:
        return struct.unpack("<" + formats, self.take(struct.calcsize("<" + formats)))

    def string(self, most: int) -> bytes:
        (length,) = struct.unpack("<Q", self.take(8))
        if length > most:
            raise self.fault(f"{self.place} has a string of {length:,} bytes, must be at most {most:,}")
        return self.take(length)

    def text(self, most: int) -> str:
        try:
            return self.string(most).decode()
        except UnicodeDecodeError:
            raise self.fault(f"{self.place} has a string that is not UTF-8") from None


def check_gguf(path: Path) -> int:
    """The number of weights in a GGUF file, after its header was checked; the data isn't read.

    Raises:
        InputError: it is no GGUF file, a count, length, type, shape or offset in it can't be true, or it asks for so
            much that to read it would take for ever.
    """
    if not path.is_file():  # a pipe would never end
        raise InputError(f"{path} is no file")
    try:
        with path.open("rb") as file:
            return _check_header(_Header(path, file, path.stat().st_size))
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from None


def _check_header(header: _Header) -> int:
    tensor_count, key_count = _read_counts(header)
    values = _read_keys(header, key_count)
    _check_layers(header, values, tensor_count)
    alignment = values.get(ALIGNMENT, DEFAULT_ALIGNMENT)
    tensors = _read_tensors(header, tensor_count, alignment)
    _check_extents(header, tensors, alignment)
    return sum(tensor.weights for tensor in tensors)


def _read_counts(header: _Header) -> tuple[int, int]:
    """How many tensors and how many keys there are."""
    if header.size < 4 or header.take(4) != MAGIC:
        raise InputError(f"{header.path} is no GGUF file: it does not start with '{MAGIC.decode()}'")
    (version,) = header.numbers("I")
    if version not in VERSIONS:
        big = " (of a big-endian machine)" if version and version & 0xFFFF == 0 else ""
        raise header.fault(f"its version must be 2 or 3, got {version:,}{big}")
    tensors, keys = header.numbers("QQ")
    for name, count, most, least_bytes in (("tensors", tensors, MOST_TENSORS, 32), ("keys", keys, MOST_KEYS, 13)):
        if not 1 <= count <= (most := min(most, header.size // least_bytes)):
            raise header.fault(f"the number of {name} must be from 1 to {most:,} in such a file, got {count:,}")
    return tensors, keys


def _read_keys(header: _Header, count: int) -> dict[str, Any]:
    """The architecture and every value that is a number, by key."""
    values: dict[str, Any] = {}
    seen = set(RESERVED)
    for number in range(1, count + 1):
        header.place = f"key {number:,} of {count:,}"
        key = header.text(MOST_KEY_BYTES)
        header.place = f"the key {quote(key)}"
        if key in seen:
            raise header.fault(f"{header.place} appears twice")
        seen.add(key)
        (kind,) = header.numbers("I")
        value = _read_value(header, kind)
        if key == ALIGNMENT and (kind != UINT32 or value not in ALIGNMENTS):
            raise header.fault(f"{header.place} must be a whole power of two from 8 to 65536, got {str(value)[:20]!r}")
        if isinstance(value, int | float) or key == ARCHITECTURE:
            values[key] = value
    if not isinstance(values.get(ARCHITECTURE), str):
        raise header.fault(f"the key '{ARCHITECTURE}' must be there and a string")
    return values


def _read_value(header: _Header, kind: int) -> int | float | str | None:
    """The value of a key; None for an array, which is skipped."""
    if kind == ARRAY:
        _skip_array(header)
        return None
    if kind == STRING:
        return header.text(MOST_STRING_BYTES)
    if kind not in SCALARS:
        raise header.fault(f"{header.place} is of the unknown type {kind:,}")
    value: int | float = header.numbers(SCALARS[kind])[0]
    return value


def _skip_array(header: _Header) -> None:
    kind, count = header.numbers("IQ")
    if kind != STRING and kind not in SCALARS:
        what = "arrays" if kind == ARRAY else f"the unknown type {kind:,}"
        raise header.fault(f"{header.place} is an array of {what}")
    header.entries += count
    if header.entries > MOST_ENTRIES:
        raise header.fault(f"{header.place} has {count:,} entries, all arrays may have {MOST_ENTRIES:,}")
    if kind == STRING:
        for _ in range(count):
            header.string(MOST_ENTRY_BYTES)
    else:
        header.skip(count * struct.calcsize("<" + SCALARS[kind]))


def _check_layers(header: _Header, values: dict[str, Any], tensors: int) -> None:
    """Raise InputError where no layers are asked for, or more than so many tensors can be of."""
    for key, value in values.items():
        if key.endswith(LAYERS) and not 1 <= value <= max(tensors, MOST_LAYERS):
            raise header.fault(f"the key {quote(key)} asks for {value:,} layers; there are {tensors:,} tensors")


def _read_tensors(header: _Header, count: int, alignment: int) -> list[_Tensor]:
    tensors: dict[str, _Tensor] = {}
    for number in range(1, count + 1):
        header.place = f"tensor {number:,} of {count:,}"
        tensor = _read_tensor(header, alignment)
        if tensor.name in tensors:
            raise header.fault(f"{header.place} appears twice")
        tensors[tensor.name] = tensor
    return list(tensors.values())


def _read_tensor(header: _Header, alignment: int) -> _Tensor:
    name = header.text(MOST_NAME_BYTES)
    header.place = f"the tensor {quote(name)}"
    shape = _read_shape(header)
    kind, start = header.numbers("IQ")
    if kind not in BLOCKS:
        raise header.fault(f"{header.place} is of the unknown type {kind:,}")
    block, block_bytes = BLOCKS[kind]
    if shape[0] % block:
        raise header.fault(f"{header.place} has rows of {shape[0]:,} weights, its type has blocks of {block}")
    if start % alignment:
        raise header.fault(f"{header.place} lies at {start:,}, which is no multiple of {alignment:,}")
    weights = math.prod(shape)
    return _Tensor(name, start, weights // block * block_bytes, weights)


def _read_shape(header: _Header) -> tuple[int, ...]:
    (dimensions,) = header.numbers("I")
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        raise header.fault(f"{header.place} has {dimensions:,} dimensions, must be 1 to {MOST_DIMENSIONS}")
    shape = header.numbers(f"{dimensions}Q")
    if not 1 <= math.prod(shape) < 1 << 63:
        raise header.fault(f"{header.place} has the shape {' x '.join(map(str, shape))}, which no tensor can have")
    return shape


def _check_extents(header: _Header, tensors: list[_Tensor], alignment: int) -> None:
    """Raise InputError unless the tensors lie one behind the other, and fill the file."""
    there = header.size - _align(header.position, alignment)
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.start):
        if tensor.start != _align(end, alignment):
            what = "overlaps the one before it" if tensor.start < end else "leaves a gap before it"
            raise header.fault(f"the tensor {quote(tensor.name)} at {tensor.start:,} {what}")
        end = tensor.start + tensor.length
    if not end <= there <= _align(end, alignment):
        raise InputError(f"{header.path} is damaged: the header speaks of {end:,} bytes, {max(there, 0):,} are there")


def _align(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
