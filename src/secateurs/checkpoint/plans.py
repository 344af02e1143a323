"""Plans as files: JSON for what people read, safetensors for indices and updates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from secateurs.checkpoint.staging import settle
from secateurs.errors import InputError, one_line
from secateurs.former_name import FOLDERS, NAME, rename
from secateurs.results import LayerPlan, PruningPlan, Update

FORMAT = 1
PLAN_FOLDER = NAME
"""Folder inside a checkpoint. Not beside the weights: some runtimes load every .safetensors file they find there."""
JSON_NAME = "plan.json"
TENSORS_NAME = "plan.safetensors"


def save_plan(plan: PruningPlan, folder: str | Path) -> None:
    """Write a plan into a folder (made if need be), as plan.json and plan.safetensors."""
    where = Path(folder)
    where.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    for layer in plan.layers:
        tensors[f"{layer.path}:kept"] = torch.from_numpy(layer.kept)
        if layer.update is not None:
            tensors[f"{layer.path}:weight"] = layer.update.weight.contiguous()
            if layer.update.bias is not None:
                tensors[f"{layer.path}:bias"] = layer.update.bias.contiguous()
    save_file(tensors, where / TENSORS_NAME)
    content = {
        "format": FORMAT,
        "method": plan.method,
        "family": plan.family,
        "keep": plan.keep,
        "weights_sha256": plan.weights_sha256,
        "settings": dict(plan.settings),
        "layers": [
            {
                "path": layer.path,
                "original_width": layer.original_width,
                "width": layer.width,
                "figures": dict(layer.figures),
            }
            for layer in plan.layers
        ],
    }
    (where / JSON_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    settle(where)


def load_plan(folder: str | Path) -> PruningPlan:
    """The plan that `save_plan` wrote into a folder, or that lies in a checkpoint of `secateurs prune`.

    Raises:
        InputError: there is none, it is damaged, or a newer Secateurs wrote it.
    """
    where = Path(folder)
    where = next((where / name for name in FOLDERS if (where / name / JSON_NAME).is_file()), where)
    if not (where / JSON_NAME).is_file():
        raise InputError(f"there is no plan in {folder} (neither {JSON_NAME} nor {PLAN_FOLDER}/{JSON_NAME})")
    try:
        content = json.loads((where / JSON_NAME).read_text(encoding="utf-8"))
        if content["format"] > FORMAT:
            raise InputError(f"the plan in {where} has format {content['format']}, this Secateurs reads up to {FORMAT}")
        tensors = load_file(where / TENSORS_NAME)
        return PruningPlan(
            method=rename(content["method"]),
            family=content["family"],
            keep=content["keep"],
            weights_sha256=content["weights_sha256"],
            settings=rename(content["settings"]),
            layers=tuple(_load_layer(entry, tensors) for entry in content["layers"]),
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(f"the plan in {where} can't be read: {one_line(error)}") from None


def _load_layer(entry: dict[str, Any], tensors: dict[str, torch.Tensor]) -> LayerPlan:
    path = entry["path"]
    weight = tensors.get(f"{path}:weight")
    return LayerPlan(
        path=path,
        original_width=entry["original_width"],
        kept=tensors[f"{path}:kept"].numpy(),
        update=None if weight is None else Update(weight, tensors.get(f"{path}:bias")),
        figures=entry["figures"],
    )
