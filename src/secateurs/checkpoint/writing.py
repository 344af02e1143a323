"""Writing a pruned model as an ordinary checkpoint, verified before it appears."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from secateurs.checkpoint.card import SOURCE_CARD, CardImage, write_card
from secateurs.checkpoint.config import write_config
from secateurs.checkpoint.holding import held
from secateurs.checkpoint.plans import PLAN_FOLDER, save_plan
from secateurs.checkpoint.staging import MARKER, require_space, staged
from secateurs.encoding import Batch
from secateurs.errors import VerificationError
from secateurs.former_name import FOLDERS
from secateurs.memory import give_back
from secateurs.models.families import configured_width
from secateurs.models.loading import LoadedModel, hash_weights, number_format, quiet_transformers
from secateurs.models.outputs import require_finite_outputs
from secateurs.models.safety import own_folder, shard_limit
from secateurs.results import CalibrationSummary, ModelSize, PruningPlan

WEIGHT_SUFFIXES = {
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".h5",
    ".msgpack",
    ".gguf",
    ".onnx",
    ".ot",
    ".tflite",
}
REPLACED_FILES = {
    "config.json",
    "README.md",
    "report.html",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
}
LEFT_FOLDERS = {"onnx", "openvino", "coreml", *FOLDERS}
"""Weights of other runtimes, and what an earlier pruning of the original left."""
VERIFIED_ROWS, VERIFIED_TOKENS = 2, 64
SPARE = 32 << 20
"""Bytes that are to be free beside the weights, for all small files."""


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """All that goes beside the weights."""

    plan: PruningPlan
    """What was cut."""
    before: ModelSize
    """Size of the original."""
    after: ModelSize
    """Size of the pruned model."""
    calibration: CalibrationSummary
    """What was measured on."""
    manifest: Mapping[str, Any]
    """Recipe, versions, hashes, timings."""
    command: str
    """The command line or call that does it again."""
    write_report: Callable[[Path], Sequence[CardImage]] = lambda folder: ()
    """Writes a report into the folder, and gives back images for the card."""
    report_bytes: int = 0
    """That it takes at most."""


def write_checkpoint(
    pruned: LoadedModel, record: CheckpointRecord, example: Batch, out: Path, *, overwrite: bool = False
) -> None:
    """Write a folder that plain transformers loads; nothing appears at `out` unless it reads back exactly.

    Args:
        pruned: the model; `source` is where the original came from.
        record: goes beside the weights.
        example: a batch of inputs; both models must give the same outputs on it.
        out: where the folder goes.
        overwrite: replace a folder that Secateurs wrote before.

    Raises:
        InputError: `out` may not be written.
        SecateursError: writing failed (a full disk).
        VerificationError: the folder does not give back the model.
    """
    source = pruned.source
    original = source.original_folder if source else None

    def write_beside(folder: Path) -> None:
        save_plan(record.plan, folder / PLAN_FOLDER)
        write_card(
            folder,
            base_model=pruned.name,
            is_published=source is not None and source.is_published,
            plan=record.plan,
            before=record.before,
            after=record.after,
            calibration=record.calibration,
            command=record.command,
            original=original,
            images=record.write_report(folder),
        )

    updates = [layer.update.weight.nbytes for layer in record.plan.layers if layer.update is not None]
    write_folder(
        pruned,
        out,
        example,
        manifest=record.manifest,
        write_beside=write_beside,
        overwrite=overwrite,
        extra_bytes=sum(updates) + record.report_bytes,
    )


def write_folder(
    loaded: LoadedModel,
    out: Path,
    example: Batch,
    *,
    manifest: Mapping[str, Any],
    changes: Mapping[str, Any] | None = None,
    write_beside: Callable[[Path], None] = lambda folder: None,
    overwrite: bool = False,
    extra_bytes: int = 0,
) -> None:
    """Write weights, config, tokenizer and a manifest; the same promises as `write_checkpoint`.

    Args:
        loaded: the model; `source` is where it came from.
        out: where the folder goes.
        example: a batch of inputs.
        manifest: how the model came about.
        changes: keys of the original's config.json that have other values now.
        write_beside: writes what else belongs into the folder.
        overwrite: replace a folder that Secateurs wrote before.
        extra_bytes: that `write_beside` takes.
    """
    original = loaded.source.original_folder if loaded.source else None
    needed = extra_bytes + weights_in_memory(loaded.model) + sum(map(_size, list_other_files(original))) + SPARE
    with held(out, source=original, overwrite=overwrite):
        require_space(out, needed)
        with staged(out) as folder, quiet_transformers():
            _fill(folder, loaded, example, original, manifest=manifest, changes=changes, write_beside=write_beside)


def _fill(
    folder: Path,
    loaded: LoadedModel,
    example: Batch,
    original: Path | None,
    *,
    manifest: Mapping[str, Any],
    changes: Mapping[str, Any] | None,
    write_beside: Callable[[Path], None],
) -> None:
    """All files of a checkpoint, verified."""
    _save_weights(loaded, folder, original)
    write_config(
        folder,
        original=original,
        family=loaded.family,
        width=configured_width(loaded.model.config, loaded.family),
        dtype=number_format(loaded.model),
        changes=changes,
    )
    if original is not None:
        copy_other_files(original, folder)
    elif loaded.tokenizer is not None:
        loaded.tokenizer.save_pretrained(folder)
    (folder / MARKER).parent.mkdir(exist_ok=True)
    (folder / MARKER).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    write_beside(folder)
    verify(folder, loaded.model, example)


def copy_other_files(original: Path, folder: Path) -> None:
    """Copy tokenizer, templates, licence and the like byte for byte."""
    for path in list_other_files(original):
        name = path.relative_to(original)
        target = folder / (SOURCE_CARD if str(name) == "README.md" else name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def list_other_files(original: Path | None) -> list[Path]:
    """Files of the original that carry over as they are; weights in other formats stay behind.

    Links that lead out of the original are not followed, except into the blobs of a hub cache.
    """
    if original is None:
        return []
    allowed, found = own_folder(original), []
    for path in sorted(original.rglob("*")):
        name = path.relative_to(original)
        hidden = any(part.startswith(".") for part in name.parts)
        is_left = path.suffix in WEIGHT_SUFFIXES or name.parts[0] in LEFT_FOLDERS
        if not path.is_file() or hidden or is_left or str(name) in REPLACED_FILES - {"README.md"}:
            continue
        if allowed in path.resolve().parents:
            found.append(path)
    return found


def weights_in_memory(model: Any) -> int:
    """Bytes of all weights, tied ones counted once."""
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in model.state_dict().values()}.values())


def _size(path: Path) -> int:
    return path.stat().st_size


def verify(folder: Path, model: Any, example: Batch) -> None:
    """Re-open a folder with plain transformers and compare weights and outputs with a model in memory.

    Raises:
        VerificationError: they differ.
    """
    give_back()  # what writing took
    again, info = type(model).from_pretrained(
        folder,
        dtype=next(model.parameters()).dtype,
        attn_implementation=model.config._attn_implementation,
        local_files_only=True,
        output_loading_info=True,
    )
    if info["missing_keys"] or info["mismatched_keys"]:
        raise VerificationError(f"the written checkpoint lacks weights: {sorted(map(str, info['missing_keys']))[:3]}")
    again.to(model.device).eval()
    if hash_weights(again) != hash_weights(model):
        raise VerificationError("the written checkpoint holds other weights than the pruned model")
    for name, parameter in model.named_parameters():
        again.get_parameter(name).data = parameter.data  # the same, and held once while outputs are computed
    stored = again.state_dict()
    for name, buffer in model.named_buffers():  # those that no checkpoint stores; the caller may have cast them
        if name not in stored:
            again.get_buffer(name).data = buffer
    inputs = {name: value[:VERIFIED_ROWS].to(model.device) for name, value in example.items()}
    inputs = {name: value[:, :VERIFIED_TOKENS] if value.ndim == 2 else value for name, value in inputs.items()}
    with torch.inference_mode():
        wanted, got = require_finite_outputs(model(**inputs)[0]), again(**inputs)[0]
    if not torch.allclose(wanted, got, rtol=1e-5, atol=1e-6):
        raise VerificationError(
            f"the written checkpoint computes other outputs: largest difference {(wanted - got).abs().max():.2e}"
        )


def _save_weights(pruned: LoadedModel, folder: Path, original: Path | None) -> None:
    model: Any = pruned.model
    limit = shard_limit(original) if original else None
    generation = getattr(model, "generation_config", None)
    if generation is not None and original is not None:
        model.generation_config = (
            GenerationConfig()
        )  # the original file is copied; some don't pass transformers' checks
    try:
        model.save_pretrained(folder, **({"max_shard_size": limit} if limit else {}))
    finally:
        if generation is not None:
            model.generation_config = generation
    if original is not None:
        (folder / "generation_config.json").unlink(missing_ok=True)
