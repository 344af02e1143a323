"""Checkpoints as a stranger might hand them out: each entry spoils a good one in one way."""

from __future__ import annotations

import json
import os
import pickle
import struct

import torch
from safetensors.torch import load_file, save_file

WEIGHTS, CONFIG, INDEX = "model.safetensors", "config.json", "model.safetensors.index.json"
CASES = {}
"""Name -> (function that spoils a folder, words that the error holds)."""


class Bomb:
    """Writes the canary when it is unpickled."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return (os.mkdir, (self.canary,))


def noting_in(cases):
    """A decorator, with a name and words of the error, that notes a function as a case."""

    def case(name, words):
        def note(spoil):
            assert name not in cases
            cases[name] = (spoil, words)
            return spoil

        return note

    return case


case = noting_in(CASES)


def read_header(path):
    """Header and data of a safetensors file."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def write_header(path, header, data, *, length=None):
    """A safetensors file with any header, given as a mapping or as bytes."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)


def edit_header(change):
    """Spoils the header of the weights."""

    def spoil(folder, canary):
        header, data = read_header(folder / WEIGHTS)
        changed = change(header, data)
        header, data = changed if isinstance(changed, tuple) else (changed or header, data)
        write_header(folder / WEIGHTS, header, data)

    return spoil


def edit_tensors(change):
    """Spoils the tensors, in a file that is sound."""

    def spoil(folder, canary):
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return spoil


def edit_config(**changes):
    """Sets keys of config.json; ... removes one."""

    def spoil(folder, canary):
        config = json.loads((folder / CONFIG).read_text())
        for name, value in changes.items():
            if value is ...:
                config.pop(name, None)
            else:
                config[name] = value
        (folder / CONFIG).write_text(json.dumps(config))

    return spoil


def shard(weight_map, *, beside=None):
    """Turns the weights into shards with an index."""

    def spoil(folder, canary):
        tensors = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors")
        names = dict.fromkeys(tensors, "model-00001-of-00001.safetensors")
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map(names, folder)}))
        if beside:
            beside(folder, canary)

    return spoil


def first(header):
    """The first tensor's entry."""
    return next(entry for name, entry in header.items() if name != "__metadata__")


def set_first(key, value):
    """Sets a key of the first tensor's entry."""

    def change(header, data):
        first(header)[key] = value

    return edit_header(change)


# headers
case("header size 0", "header size")(lambda f, c: write_header(f / WEIGHTS, b"{}", b"", length=0))
case("header size beyond the file", "header size")(lambda f, c: write_header(f / WEIGHTS, b"{}", b"", length=1 << 40))
case("header size 2^64 - 1", "header size")(lambda f, c: (f / WEIGHTS).write_bytes(b"\xff" * 8 + b"{}"))
case("file of 3 bytes", "cut off")(lambda f, c: (f / WEIGHTS).write_bytes(b"abc"))
case("empty file", "cut off")(lambda f, c: (f / WEIGHTS).write_bytes(b""))
case("header cut off", "header size")(lambda f, c: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:40]))
case("data cut off", "damaged")(lambda f, c: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-10]))
case("bytes after the data", "damaged")(lambda f, c: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes() + b"more"))
case("header no JSON", "broken header")(lambda f, c: write_header(f / WEIGHTS, b"{nonsense", b""))
case("header a list", "broken header")(lambda f, c: write_header(f / WEIGHTS, b"[1, 2]", b""))
case("header deeply nested", "broken header")(lambda f, c: write_header(f / WEIGHTS, b"[" * 200_000, b""))
case("header not UTF-8", "broken header")(lambda f, c: write_header(f / WEIGHTS, b'{"\xff": 1}', b""))
case("header without tensors", "no floating-point weights")(lambda f, c: write_header(f / WEIGHTS, b"{}", b""))


@case("a tensor named twice", "appears twice")
def _twice(folder, canary):
    header, data = read_header(folder / WEIGHTS)
    name, entry = next((n, e) for n, e in header.items() if n != "__metadata__")
    raw = json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(entry)}}}"
    write_header(folder / WEIGHTS, raw.encode(), data)


def move_first(by):
    """Moves the first tensor's bytes, as many as they were."""

    def change(header, data):
        first(header)["data_offsets"] = [offset + by for offset in first(header)["data_offsets"]]

    return edit_header(change)


case("offsets overlap", "overlap or leave gaps")(move_first(4))
case("offsets before the data", "overlap or leave gaps")(move_first(-4))
case("offsets beyond the data", "overlap or leave gaps")(move_first(1 << 62))
case("offsets backwards", "does not fit")(set_first("data_offsets", [8, 4]))
case("offsets huge", "does not fit")(set_first("data_offsets", [1 << 62, 1 << 63]))
case("offsets three", "broken header")(set_first("data_offsets", [0, 4, 8]))
case("offsets missing", "broken header")(edit_header(lambda header, data: first(header).pop("data_offsets") and None))
case("offsets text", "broken header")(set_first("data_offsets", ["a", "b"]))
case("offsets one number", "broken header")(set_first("data_offsets", [0]))
case("offsets not finite", "broken header")(set_first("data_offsets", [float("nan"), 1]))
case("an entry that is a list", "broken header")(edit_header(lambda h, d: {**h, "extra": [1]}))
case("an entry that is null", "broken header")(edit_header(lambda h, d: {**h, "extra": None}))
case("shape too large", "broken header")(set_first("shape", [1 << 40, 1 << 40]))
case("shape negative", "broken header")(set_first("shape", [-1, 4]))
case("shape text", "broken header")(set_first("shape", "wide"))
case("shape that does not fit the bytes", "broken header")(set_first("shape", [1, 1]))
case("shape missing", "broken header")(edit_header(lambda header, data: first(header).pop("shape") and None))
case("dtype unknown", "broken header")(set_first("dtype", "F31"))
case("dtype missing", "broken header")(edit_header(lambda header, data: first(header).pop("dtype") and None))
case("dtype a list", "broken header")(set_first("dtype", ["F32"]))

# indexes
case("index to the parent folder", "outside the folder")(shard(lambda n, f: dict.fromkeys(n, "../evil.safetensors")))
case("index to an absolute path", "outside the folder")(shard(lambda n, f: dict.fromkeys(n, "/etc/passwd")))
case("index to a subfolder", "outside the folder")(shard(lambda n, f: dict.fromkeys(n, "sub/evil.safetensors")))
case("index to a pickle", "no safetensors")(shard(lambda n, f: dict.fromkeys(n, "pytorch_model.bin")))
case("index to a shard that is not there", "lacks the shard")(shard(lambda n, f: dict.fromkeys(n, "x.safetensors")))
case("index without a map", "weight_map")(lambda f, c: _index(f, {"metadata": {}}))
case("index map a list", "weight_map")(lambda f, c: _index(f, {"weight_map": ["a"]}))
case("index map to numbers", "weight_map")(lambda f, c: _index(f, {"weight_map": {"a": 1}}))
case("index empty", "no floating-point weights")(lambda f, c: _index(f, {"weight_map": {}}))
case("index no JSON", "can't be read")(lambda f, c: _index(f, None, "{"))
case("index deeply nested", "can't be read")(lambda f, c: _index(f, None, "[" * 200_000))


def split(folder, both=False):
    """Two shards with an index; the first tensor in the second, or in both."""
    tensors, one, two = load_file(folder / WEIGHTS), "model-1.safetensors", "model-2.safetensors"
    name = next(iter(tensors))
    moved = {name: tensors[name]}
    save_file(tensors if both else {key: value for key, value in tensors.items() if key != name}, folder / one)
    save_file(moved, folder / two)
    return name, {**dict.fromkeys(tensors, one), "other": two}


@case("a tensor in two shards", "is in model-1.safetensors and in model-2.safetensors")
def _two_shards(folder, canary):
    _index(folder, {"weight_map": split(folder, both=True)[1]})


@case("index places a tensor in the wrong shard", "places the tensor")
def _wrong_shard(folder, canary):
    _index(folder, {"weight_map": split(folder)[1]})


@case("index lists a tensor twice", "appears twice")
def _listed_twice(folder, canary):
    name, places = split(folder)
    text = json.dumps({"weight_map": {**places, name: "model-2.safetensors"}})
    _index(folder, None, text.replace("}}", f', "{name}": "model-1.safetensors"}}}}'))


@case("a shard that is a link out of the folder", "link")
def _link(folder, canary):
    outside = folder.parent / "outside.safetensors"
    (folder / WEIGHTS).rename(outside)
    (folder / WEIGHTS).symlink_to(outside)


def _index(folder, content, text=None):
    (folder / WEIGHTS).unlink(missing_ok=True)
    (folder / INDEX).write_text(json.dumps(content) if text is None else text)


# pickles and code
@case("weights only as a pickle", "pickle")
def _pickle(folder, canary):
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(canary)))


@case("a pickle named as safetensors", "safetensors")
def _named(folder, canary):
    (folder / WEIGHTS).write_bytes(pickle.dumps(Bomb(canary)))


def with_code(**changes):
    """Names code that lies in the checkpoint, which would write the canary."""

    def spoil(folder, canary):
        (folder / "evil.py").write_text(f"import os\nos.mkdir({str(canary)!r})\nclass Evil: pass\n")
        edit_config(**changes)(folder, canary)

    return spoil


case("auto_map", "auto_map")(with_code(auto_map={"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.Evil"}))
case("attention by name", "_attn_implementation")(with_code(_attn_implementation="evil/kernel"))
case("attention by its inner name", "_attn")(with_code(_attn_implementation_internal="evil/kernel"))
case("quantised", "quantization_config")(edit_config(quantization_config={"quant_method": "evil"}))
case("another config in its place", "configuration_files")(with_code(configuration_files=["config.4.0.0.json"]))
case("an adapter", "adapter")(lambda f, c: (f / "adapter_config.json").write_text("{}"))


@case("a tokenizer's code", "custom code")
def _tokenizer_code(folder, canary):
    with_code()(folder, canary)
    path = folder / "tokenizer_config.json"
    named = {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"}
    path.write_text(json.dumps({**json.loads(path.read_text()), **named}))


# tensors
case("NaN", "NaN")(edit_tensors(lambda tensors: next(iter(tensors.values())).fill_(float("nan"))))
case("infinite", "infinite")(edit_tensors(lambda tensors: next(iter(tensors.values())).fill_(float("inf"))))
case("a weight missing", "no weights for")(
    edit_tensors(lambda tensors: tensors.pop("model.layers.0.mlp.up_proj.weight"))
)
case("misshaped", "misshaped")(
    edit_tensors(lambda tensors: tensors.update({"model.layers.0.mlp.up_proj.weight": torch.ones(3, 3)}))
)
case("whole numbers only", "no floating-point weights")(
    edit_tensors(lambda tensors: tensors.update({name: value.int() for name, value in tensors.items()}))
)

# configs
for _name, _changes in {
    "width 0": {"intermediate_size": 0},
    "width negative": {"intermediate_size": -24},
    "width huge": {"intermediate_size": 1 << 40},
    "width text": {"intermediate_size": "wide"},
    "width null": {"intermediate_size": None},
    "width a fraction": {"intermediate_size": 24.5},
    "width a list": {"intermediate_size": [24]},
    "layers huge": {"num_hidden_layers": 1 << 40},
    "layers negative": {"num_hidden_layers": -1},
    "layers text": {"num_hidden_layers": "two"},
    "heads 0": {"num_attention_heads": 0},
    "hidden size huge": {"hidden_size": 1 << 40},
    "vocabulary huge": {"vocab_size": 1 << 45},
    "vocabulary negative": {"vocab_size": -5},
    "model type unknown": {"model_type": "evil"},
    "model type a list": {"model_type": ["llama"]},
    "architecture unknown": {"architectures": ["EvilForCausalLM"]},
    "architecture no model": {"architectures": ["LlamaConfig"]},
    "architecture a path": {"architectures": ["../../evil"]},
    "architecture dunder": {"architectures": ["__import__"]},
    "activation unknown": {"hidden_act": "evil"},
    "number format unknown": {"dtype": "evil", "torch_dtype": "evil"},
}.items():
    case(f"config: {_name}", "")(edit_config(**_changes))
case("config no JSON", "can't be read")(lambda f, c: (f / CONFIG).write_text("{"))
case("config empty", "can't be read")(lambda f, c: (f / CONFIG).write_text(""))
case("config a list", "JSON object")(lambda f, c: (f / CONFIG).write_text("[]"))
case("config deeply nested", "can't be read")(lambda f, c: (f / CONFIG).write_text('{"a":' * 100_000))
case("config not UTF-8", "can't be read")(lambda f, c: (f / CONFIG).write_bytes(b'{"a": "\xff"}'))
case("config a folder", "")(lambda f, c: ((f / CONFIG).unlink(), (f / CONFIG).mkdir()))
case("config missing", "no config.json")(lambda f, c: (f / CONFIG).unlink())
