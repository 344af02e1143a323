"""A pruned model, and what goes to disk with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from warnings import warn

from torch import nn

from secateurs.checkpoint.card import CardImage
from secateurs.checkpoint.manifest import describe_command, find_versions
from secateurs.checkpoint.staging import MANIFEST_NAME
from secateurs.checkpoint.writing import CheckpointRecord, write_checkpoint
from secateurs.encoding import Batch
from secateurs.errors import one_line
from secateurs.models.loading import LoadedModel, hash_weights, number_format
from secateurs.models.safety import bytes_on_disk, weight_bytes
from secateurs.recipe import Recipe
from secateurs.reporting import REPORT_FAILURES, bound_bytes, remove_checkpoint_report, write_checkpoint_report
from secateurs.results import CalibrationSummary, ModelSize, Progress, PruningPlan, no_progress
from secateurs.results.record import Provenance, PruneRecord
from secateurs.surveying import Views, find_survey_warnings


@dataclass(frozen=True, slots=True)
class PruneResult:
    """A pruned model, and how it came about."""

    model: nn.Module
    """The smaller model, in evaluation mode."""
    plan: PruningPlan
    """What was cut, enough to do it again with `secateurs.apply`."""
    before: ModelSize
    """Size of the original."""
    after: ModelSize
    """Size of the pruned model."""
    calibration: CalibrationSummary
    """What was measured on."""
    warnings: tuple[str, ...]
    """What the user should know."""
    seconds: Mapping[str, float]
    """Time spent, by phase."""
    loaded: LoadedModel = field(repr=False)
    """Tokenizer, family and source."""
    recipe: Recipe = field(repr=False)
    """The settings."""
    example: Batch = field(repr=False)
    """A batch that the written checkpoint is verified on."""
    threads: int
    """CPU threads that it was made with."""
    information_backends: tuple[str, ...]
    """What computed the information between neurons; empty where none was asked for."""
    rates: Mapping[str, float]
    """Speeds of the choice, such as "candidates per second"; empty where there is nothing to tell."""
    is_from_recipe: bool
    """Whether the recipe alone says what was read (rather than texts or batches given from Python)."""
    views: Views | None = field(default=None, repr=False)
    """What its report shows beside the above; None where none was asked for."""

    @property
    def relative_ffn_flops(self) -> float:
        """FLOPs after / before, scope ffn."""
        return self.after.ffn_multiply_adds / self.before.ffn_multiply_adds

    @property
    def relative_model_flops(self) -> float:
        """FLOPs after / before, scope model."""
        return self.after.model_multiply_adds / self.before.model_multiply_adds

    def save(self, out: str | Path, *, overwrite: bool = False, progress: Progress = no_progress) -> None:
        """Write an ordinary Hugging Face checkpoint, verified, with plan, manifest and model card.

        Raises:
            InputError: `out` exists (and may not be replaced) or lies in the original's folder.
            SecateursError: writing failed; nothing is left at `out`.
        """
        progress("writing and verifying", 0, 1)
        command = self._describe_making(Path(out).name)
        manifest = self._manifest(command)
        record = CheckpointRecord(
            plan=self.plan,
            before=self.before,
            after=self.after,
            calibration=self.calibration,
            manifest=manifest,
            command=command,
            write_report=lambda folder: self._write_report(folder, manifest),
            report_bytes=0 if self.views is None else bound_bytes(self.views.networks),
        )
        write_checkpoint(replace(self.loaded, model=self.model), record, self.example, Path(out), overwrite=overwrite)
        progress("writing and verifying", 1, 1)

    def _write_report(self, folder: Path, manifest: Mapping[str, Any]) -> list[CardImage]:
        """The report, if one was asked for, beside weights that are written; gives back images for the card."""
        if self.views is None:
            return []
        try:
            return write_checkpoint_report(self._record(manifest, weight_bytes(folder)), folder)
        except REPORT_FAILURES as error:
            remove_checkpoint_report(folder)
            warn(f"there is no report, as writing it failed: {one_line(error)}", stacklevel=2)
            return []

    def _record(self, manifest: Mapping[str, Any], bytes_after: int) -> PruneRecord:
        """What the report shows."""
        assert self.views is not None
        read, source, information = self.calibration, self.loaded.source, self.views.information
        is_as_stored = source is not None and source.gguf_file is None and self.recipe.dtype is None
        unpacked = self.before.parameters * next(self.model.parameters()).element_size()
        hashes = {f"weights {when}": found for when, found in manifest["weights_sha256"].items()}
        return PruneRecord(
            model=self.loaded.name,
            method=self.plan.method,
            keep=self.plan.keep,
            kept_fraction=self.plan.kept_fraction,
            before=self.before,
            after=self.after,
            bytes_before=bytes_on_disk(source) if source is not None and is_as_stored else unpacked,
            bytes_after=bytes_after,
            bytes_note="" if is_as_stored else f"before: the original's weights as {number_format(self.model)}",
            calibration=f"{read.tokens:,} tokens from {read.source}",
            look=self.views.look,
            information=information,
            networks=self.views.networks,
            warnings=(*self.warnings, *find_survey_warnings(self.views.networks, information.tokens)),
            provenance=Provenance(
                command=manifest["command"],
                settings=manifest["recipe"],
                versions=manifest["versions"],
                hashes={**hashes, "calibration token ids": read.sha256},
                machine={"device": self.loaded.card, "threads": self.threads, "seed": self.recipe.seed},
                seconds=manifest["seconds"],
            ),
        )

    def _describe_making(self, out: str) -> str:
        """The command that does it again; from Python, only the call can be named."""
        source = self.loaded.source
        if source is None or not self.is_from_recipe:
            return f"secateurs.prune(...) from Python, with the settings in secateurs/{MANIFEST_NAME}"
        return describe_command(source.asked, out, self.recipe)

    def _manifest(self, command: str) -> dict[str, Any]:
        return {
            "command": command,
            "recipe": dict(self.plan.settings),
            "base_model": self.loaded.name,
            "weights_sha256": {"before": self.plan.weights_sha256, "after": hash_weights(self.model)},
            "calibration": {
                "source": self.calibration.source,
                "rows": self.calibration.rows,
                "tokens": self.calibration.tokens,
                "token_ids_sha256": self.calibration.sha256,
            },
            "card": self.loaded.card,
            "threads": self.threads,
            "information_backends": list(self.information_backends),
            "versions": find_versions(),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "warnings": list(self.warnings),
        }
