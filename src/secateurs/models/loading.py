"""Reading a model with transformers, strictly: nothing missing, nothing random, nothing executed."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from secateurs.errors import InputError, SecateursError, UnsupportedModelError, is_out_of_memory, one_line
from secateurs.models.families import Family, find_family, unsupported
from secateurs.models.gguf import check_gguf
from secateurs.models.outputs import is_classifier
from secateurs.models.safety import check_weights, read_config, read_json
from secateurs.models.source import Source, find_source


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory, in evaluation mode, with what is known about it."""

    model: nn.Module
    """The transformers model, of the class that its config names."""
    family: Family
    """Its row in the table of families."""
    tokenizer: Any | None
    """Its tokenizer, or None."""
    source: Source | None
    """Where it came from; None for a model made in memory."""
    warnings: tuple[str, ...] = ()
    """What a user should know about how it was read."""

    @property
    def name(self) -> str:
        """A name that may be published."""
        return self.source.base_model if self.source else type(self.model).__name__

    @property
    def card(self) -> str:
        """What it runs on: the GPU's name, else such as cpu."""
        device = next(self.model.parameters()).device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

    @property
    def is_language_model(self) -> bool:
        """Whether it predicts next tokens, so that perplexity is defined for it."""
        is_causal = type(self.model).__name__.endswith(("ForCausalLM", "LMHeadModel"))
        return is_causal and self.family.kind == "decoder"

    @property
    def reads_first_token(self) -> bool:
        """Whether of its last network's outputs only those at the first token of each row matter, to a classifier."""
        model: Any = self.model
        return self.pooling == "first" and model.base_model is not model

    @property
    def pooling(self) -> str | None:
        """What an encoder's output takes of a row: the "first" token, the "mean" of all, or as `find_pooling` has it.

        A classifier of images takes the first. None for other models, and where a head reads every token by itself.
        """
        model: Any = self.model
        if self.family.kind == "vision":
            return "first" if type(model).__name__.endswith("ForImageClassification") else None
        if self.family.kind != "encoder":
            return None
        if is_classifier(model):
            return "first" if getattr(model.config, "classifier_pooling", "cls") == "cls" else "mean"
        return find_pooling(self.source) if model.base_model is model else None


def find_pooling(source: Source | None) -> str:
    """What stands for a text, by the source's sentence-transformers files: "first", "mean" (default), or another name.

    Raises:
        InputError: the file that says it is broken.
    """
    path = source.folder / "1_Pooling" / "config.json" if source else None
    if path is None or not path.is_file():
        return "mean"
    settings = read_json(path)
    # one "pooling_mode": NAME, or in older files pooling_mode_NAME_token(s): true
    old = [name.removeprefix("pooling_mode_") for name, is_on in settings.items() if "mode_" in name and is_on is True]
    modes = old or [str(settings.get("pooling_mode", "mean"))]
    known = {"mean": "mean", "mean_tokens": "mean", "cls": "first", "cls_token": "first"}
    return known.get(modes[0], modes[0]) if len(modes) == 1 else " and ".join(modes)


def load_model(
    name: str, *, dtype: str | None = None, device: str = "auto", revision: str | None = None
) -> LoadedModel:
    """A model by folder, .gguf file, demo name or hub id, in its own number format unless `dtype` says otherwise.

    Raises:
        InputError: the files are missing, unsafe or broken, or weights are missing, misshaped or not finite.
        UnsupportedModelError: the model is of no supported family.
    """
    source, place = find_source(name, revision), find_device(device)
    with quiet_transformers():
        loaded = _load_gguf(source, dtype, place) if source.gguf_file else _load_folder(source, dtype)
    check_finite(loaded.model)
    loaded.model.to(place).eval()
    if place.type == "cpu":
        for parameter in loaded.model.parameters():
            parameter.data = parameter.data.clone()  # no view of the file: what is cut away is given back, file or not
    if dtype is None and loaded.model.dtype == torch.bfloat16 and is_slow_in_bfloat16(place):
        slow = "this processor computes bfloat16 many times slower than float32; --dtype float32 goes faster"
        loaded = replace(loaded, warnings=(*loaded.warnings, slow))
    return loaded


def wrap_model(model: nn.Module, tokenizer: Any | None = None) -> LoadedModel:
    """A model that the caller made, checked.

    Raises:
        InputError: weights are not finite.
        UnsupportedModelError: adapters, quantised weights or no supported family.
    """
    if not isinstance(getattr(model, "config", None), transformers.PreTrainedConfig):
        raise InputError(f"model must be a name or a transformers model, got {type(model).__name__}")
    if getattr(model, "peft_config", None):
        raise UnsupportedModelError("the model has adapters; merge them first (merge_and_unload)")
    if getattr(model.config, "quantization_config", None):
        raise UnsupportedModelError("the model's weights are quantised; load it unquantised")
    family = find_family(model.config)
    check_finite(model)
    formats = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})
    if len(formats) > 1 and not getattr(model, "_keep_in_fp32_modules", None):
        raise InputError(f"the model's weights must have one number format, got {', '.join(formats)}")
    return LoadedModel(model, family, tokenizer, None)


def find_device(device: str) -> torch.device:
    """The device of a name; auto is CUDA where there is one.

    Raises:
        InputError: CUDA was asked for and there is none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device must be one that is here, got cuda; use --device cpu or auto")
    return torch.device(device)


def is_slow_in_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 takes many times as long as float32: on processors without AVX-512 (measured: 40 times)."""
    return device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")


def number_format(model: nn.Module) -> str:
    """Name of the number format of a model's weights, say "bfloat16"."""
    return str(next(model.parameters()).dtype).removeprefix("torch.")


def check_finite(model: nn.Module) -> None:
    """Raise InputError where a weight is NaN or infinite."""
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise InputError(f"the weight {name} is not loaded (it lies on torch's meta device)")
        if not bool(torch.isfinite(parameter).all()):
            raise InputError(f"the weight {name} holds NaN or infinite values")


def hash_weights(model: nn.Module) -> str:
    """SHA-256 over names, number formats, shapes and bytes of all weights, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict(keep_vars=False).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _load_folder(source: Source, dtype: str | None) -> LoadedModel:
    settings = read_config(source.folder)
    stored = check_weights(source.folder, settings)
    config = _as_config(source)
    family = find_family(config)
    model_class: Any = _find_class(settings, config, family, source)
    _check_size(source, partial(model_class._from_config, copy.deepcopy(config)), stored.count)
    model, info = _call(
        source,
        model_class.from_pretrained,
        source.folder,
        config=config,
        dtype=getattr(torch, dtype or stored.formats[0]),
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # they are refused below, by name
        local_files_only=True,
        output_loading_info=True,
    )
    _check_complete(info, source)
    warnings = []
    if ignored := sorted(info["unexpected_keys"]):
        warnings.append(f"{len(ignored)} stored tensors are not part of {model_class.__name__}: {ignored[0]}")
    formats = stored.formats
    if len(formats) > 1 and dtype is None:
        warnings.append(f"the weights are stored as {', '.join(formats)}; all are read and written as {formats[0]}")
    return LoadedModel(model, family, _load_tokenizer(source), source, tuple(warnings))


def _load_gguf(source: Source, dtype: str | None, device: torch.device) -> LoadedModel:
    default = "float32" if is_slow_in_bfloat16(device) else "bfloat16"
    stored = check_gguf(_find_place(source))
    config = _as_config(source)
    family = find_family(config)
    _check_size(source, partial(AutoModelForCausalLM.from_config, copy.deepcopy(config)), stored)
    model, info = _call(
        source,
        AutoModelForCausalLM.from_pretrained,
        source.folder,
        gguf_file=source.gguf_file,
        dtype=getattr(torch, dtype or default),
        ignore_mismatched_sizes=True,  # they are refused below, by name
        local_files_only=True,
        output_loading_info=True,
    )
    _check_complete(info, source)
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return LoadedModel(model, family, _load_tokenizer(source), source)


def _check_size(source: Source, build: Callable[[], Any], stored: int) -> None:
    """Raise InputError where a model is far larger than the weights that are stored, before room is made for it."""
    with torch.device("meta"):
        model = _call(source, build)
    asked = sum(parameter.numel() for parameter in model.parameters())
    if asked > 2 * stored:  # what is missing of a smaller one is told by name
        raise InputError(f"{_find_place(source)} asks for a model of {asked:,} weights and holds {stored:,}")


def _check_complete(info: dict[str, Any], source: Source) -> None:
    for key, meaning in (("missing_keys", "has no weights for"), ("mismatched_keys", "has misshaped weights for")):
        if info[key]:
            names = ", ".join(sorted(str(entry) for entry in info[key])[:3])
            raise InputError(f"{_find_place(source)} {meaning} {names} (they would be random)")


def _as_config(source: Source) -> Any:
    return _call(source, AutoConfig.from_pretrained, source.folder, **_gguf_argument(source), local_files_only=True)


def _load_tokenizer(source: Source) -> Any | None:
    markers = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "tokenizer.model", "vocab.json")
    if source.gguf_file is None and not any((source.folder / name).exists() for name in markers):
        return None
    return _call(
        source,
        AutoTokenizer.from_pretrained,
        source.folder,
        **_gguf_argument(source),
        trust_remote_code=False,  # else transformers asks on the terminal
        local_files_only=True,
    )


def _find_place(source: Source) -> Path:
    """What a message about a source names: the GGUF file, or the folder."""
    return source.folder / (source.gguf_file or "")


def _gguf_argument(source: Source) -> dict[str, str]:
    return {"gguf_file": source.gguf_file} if source.gguf_file else {}


def _find_class(settings: dict[str, Any], config: Any, family: Family, source: Source) -> Any:
    """The class that config.json names; the bare encoder where it names none, as Google's small BERTs do."""
    named = settings.get("architectures")
    if named is None and family.kind == "encoder":
        return transformers.MODEL_MAPPING[type(config)]
    if not isinstance(named, list) or len(named) != 1 or not isinstance(named[0], str):
        raise InputError(f"config.json in {source.folder} must name one class under 'architectures', got {named!r}")
    found = getattr(transformers, named[0], None)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise unsupported(f"the architecture '{named[0]}', which transformers {transformers.__version__} lacks")
    return found


def _call(source: Source, function: Any, *args: Any, **settings: Any) -> Any:
    """Call into transformers; what it raises about the checkpoint becomes one line about the checkpoint."""
    try:
        return function(*args, **settings)
    except (SecateursError, MemoryError):
        raise
    except ImportError as error:
        if source.gguf_file:
            raise InputError("reading GGUF needs two more packages: pip install gguf accelerate") from error
        raise InputError(f"{source.folder} needs a package that is missing: {one_line(error)}") from error
    except Exception as error:  # tokenizers raises bare Exception for a file it can't use
        if is_out_of_memory(error):
            raise
        raise InputError(f"transformers can't read {_find_place(source)}: {one_line(error)}") from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own progress bars and remarks off the terminal (GGUF's bar heeds no setting of its own)."""
    from transformers.utils import logging

    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with redirect_stderr(StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()
