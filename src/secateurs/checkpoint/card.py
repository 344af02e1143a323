"""The model cards of written checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from secateurs.results import CalibrationSummary, ModelSize, PruningPlan

SOURCE_CARD = "README.source.md"
"""Name under which the original model's card is kept."""


@dataclass(frozen=True, slots=True)
class CardImage:
    """An image that a card shows."""

    file: str
    """Its path from the card."""
    alt: str
    """What it shows, in words."""


def write_card(
    folder: Path,
    *,
    base_model: str,
    is_published: bool,
    plan: PruningPlan,
    before: ModelSize,
    after: ModelSize,
    calibration: CalibrationSummary,
    command: str,
    original: Path | None,
    images: Sequence[CardImage] = (),
) -> None:
    """Write README.md: what was pruned, how, and what it measures. The licence of the original's card carries over."""
    rows = [
        ("FFN width", before.width_text, after.width_text),
        ("parameters", f"{before.parameters:,}", f"{after.parameters:,}"),
        ("multiply-adds, scope ffn", f"{before.ffn_multiply_adds:,}", f"{after.ffn_multiply_adds:,}"),
        ("multiply-adds, scope model", f"{before.model_multiply_adds:,}", f"{after.model_multiply_adds:,}"),
    ]
    refit = "refitted in closed form" if any(layer.update for layer in plan.layers) else "not refitted"
    text = f"""# {base_model}, pruned

Made from {_link(base_model, is_published)} with Secateurs: feed-forward neurons were removed, without
labels, gradients or retraining. It loads like any other checkpoint.

- method: `{plan.method}`, {refit}; keep {plan.keep} asked, {plan.kept_fraction:.4f} of the neurons obtained
- calibration: {calibration.tokens:,} tokens from {calibration.source}
- multiply-adds are those of one sequence of {before.sequence_length} tokens

{_table(rows)}

```
{command}
```

The folder `secateurs` holds the plan (kept neurons and new weights) and a manifest (settings, versions, hashes).
"""
    if images:
        shown = "\n\n".join(f"![{_as_alt(image.alt)}]({image.file})" for image in images)
        text += f"\n{shown}\n\n`report.html` shows more: open it in a browser.\n"
    _save(folder, text, ["secateurs", "pruning"], base_model if is_published else None, original)


def write_finetuned_card(
    folder: Path,
    *,
    base_model: str,
    is_published: bool,
    task: str,
    settings: Mapping[str, Any],
    scores: Mapping[str, float],
    rows: tuple[int, int],
    original: Path | None,
) -> None:
    """Write README.md: what was fine-tuned on which task, by which settings, and its scores.

    `rows` are those trained on and those scored on.
    """
    given = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items() if value is not None)
    results = ", ".join(f"{metric} {value:.4f}" for metric, value in scores.items())
    text = f"""# {base_model}, fine-tuned on {task}

Made from {_link(base_model, is_published)} with Secateurs, on {rows[0]:,} rows. It loads like any other checkpoint.

- on {rows[1]:,} validation rows: {results}
- {given}

The folder `secateurs` holds a manifest (settings, versions, hashes).
"""
    _save(folder, text, ["secateurs"], base_model if is_published else None, original)


def _save(folder: Path, text: str, tags: list[str], base_model: str | None, original: Path | None) -> None:
    license_name = _find_license(original)
    data = ModelCardData(base_model=base_model, license=license_name, library_name="transformers", tags=tags)
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}", ignore_metadata_errors=True).save(folder / "README.md")


def _link(base_model: str, is_published: bool) -> str:
    return f"[{base_model}](https://huggingface.co/{base_model})" if is_published else base_model


def _as_alt(text: str) -> str:
    """Text as it may stand in an image's brackets."""
    return re.sub(r"([\\\[\]<>`])", r"\\\1", " ".join(text.split()))


def _table(rows: Sequence[tuple[str, str, str]]) -> str:
    lines = ["| | before | after |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def _find_license(original: Path | None) -> str | None:
    card = original / "README.md" if original else None
    if card is None or not card.is_file():
        return None
    try:
        content = ModelCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=True)
    except (ValueError, yaml.YAMLError):
        return None
    found = content.data.get("license")
    return found if isinstance(found, str) else None
