"""Changes to the JSON in an input that leave it JSON: changes of single bytes hardly ever do."""

from __future__ import annotations

import json
import random

from faults.fuzz.targets import BETWEEN

NUMBERS = (
    0,
    1,
    2,
    3,
    4,
    8,
    16,
    -1,
    2**31,
    2**63,
    2**64,
    10**20,
    10**4299,
    -(10**4299),
    0.5,
    float("nan"),
    float("inf"),
)
STRINGS = (
    *(
        "",
        "a",
        "b",
        "F32",
        "BF16",
        "I64",
        "F4",
        "F6_E2M3",
        "F31",
        "layers",
        "num_hidden_layers\n",
        "auto_map",
        "data_offsets",
    ),
    *(
        "model-1.safetensors",
        "model-2.safetensors",
        "model-3.safetensors",
        "../model-1.safetensors",
        "/etc/passwd",
        "x.bin",
    ),
    *(
        "line\nend",
        "\x1b[31m",
        "\ud800",
        "\0",
        "'",
        "x" * 300,
        "x" * 300 + ".safetensors",
        "\n.safetensors",
        "__metadata__",
    ),
)
MOST_DEPTH = 6


def mutate(raw: bytes, most_bytes: int, seed: int) -> bytes:
    """The input with a change to one of its parts; as it was where that part is no JSON or becomes too long."""
    draw = random.Random(seed)
    parts = raw[1:].split(BETWEEN)
    place = draw.randrange(len(parts))
    try:
        content = json.loads(parts[place])
        for _ in range(draw.choice((1, 1, 2, 4))):
            content = _change(content, draw)
        parts[place] = json.dumps(content).encode()
    except (ValueError, RecursionError):
        if parts[place] and not any(parts[place]):  # the data behind a header
            parts[place] = bytes(draw.choice((0, 1, 2, 4, 8, 12, 16, 24, 32)))
    changed = raw[:1] + BETWEEN.join(parts)
    return changed if len(changed) <= most_bytes else raw


def _change(content, draw, depth=0):
    """The value, with one change somewhere in it."""
    if not content or not isinstance(content, dict | list) or depth == MOST_DEPTH or draw.random() < 0.1:
        return _value(draw)
    if isinstance(content, list):
        return _change_list(content, draw, depth)
    names = list(content)
    name = draw.choice(names)
    action = draw.randrange(8)
    if action == 0:
        return {key: value for key, value in content.items() if key != name}
    if action == 1:
        return {**content, draw.choice(STRINGS): content[name]}
    if action == 2:
        return {(draw.choice(STRINGS) if key == name else key): value for key, value in content.items()}
    return {**content, name: _change(content[name], draw, depth + 1)}


def _change_list(content, draw, depth):
    place = draw.randrange(len(content))
    action = draw.randrange(5)
    if action == 0:
        return content[:place] + content[place + 1 :]
    if action == 1:
        return [*content, draw.choice(content)]
    return [_change(entry, draw, depth + 1) if number == place else entry for number, entry in enumerate(content)]


def _value(draw):
    simple = draw.choice((draw.choice(NUMBERS), draw.choice(STRINGS), draw.choice((None, True, False))))
    wrapped = (simple, simple, simple, [simple], [simple, draw.choice(NUMBERS)], {draw.choice(STRINGS): simple}, [], {})
    return draw.choice(wrapped)
