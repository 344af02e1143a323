"""The pruned model's config.json: the original, with the width changed and nothing else lost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateurs.models.families import Family
from secateurs.models.safety import read_config


def write_config(
    folder: Path,
    *,
    original: Path | None,
    family: Family,
    width: int,
    dtype: str,
    changes: Mapping[str, Any] | None = None,
) -> None:
    """Write config.json into a folder that transformers has just saved a model into.

    The original file is the start where there is one, since transformers rewrites keys that other programs read
    (rope_theta, torch_dtype). Only the width changes, the number format where it was changed too, and `changes`.

    Args:
        folder: the new checkpoint; its present config.json is replaced.
        original: folder of the model that was pruned, or None (GGUF, or made in memory).
        family: of the model.
        width: neurons in each feed-forward network.
        dtype: number format of the weights.
        changes: other keys with new values.
    """
    path = folder / "config.json"
    if original is not None:
        content = read_config(original)
    else:
        content = json.loads(path.read_text(encoding="utf-8"))
        for key in ("_name_or_path", "quantization_config"):
            content.pop(key, None)
        _add_old_rope_keys(content)
    content |= {family.width_key: width, **(changes or {})}
    dtype_key = "torch_dtype" if "torch_dtype" in content else "dtype"
    if content.get(dtype_key) != dtype and (original is None or dtype_key in content):
        content[dtype_key] = dtype
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _add_old_rope_keys(content: dict[str, Any]) -> None:
    """Runtimes that don't know transformers 5's rope_parameters look for rope_theta at top level."""
    rope = content.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_theta" not in rope:
        return
    content.setdefault("rope_theta", rope["rope_theta"])
    if rope.get("rope_type", "default") != "default":
        content.setdefault("rope_scaling", {key: rope[key] for key in rope if key != "rope_theta"})
