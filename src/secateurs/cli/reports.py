"""Results as table rows for people and as plain mappings for machines."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateurs.calibration import prepare_calibration
from secateurs.checkpoint.staging import find_target
from secateurs.models.families import find_feedforwards
from secateurs.models.loading import LoadedModel, hash_weights, number_format
from secateurs.models.safety import bytes_on_disk, weight_bytes
from secateurs.models.sizes import count_ffn_parameters, measure_size, predict_size
from secateurs.pipeline import find_width
from secateurs.pruned import PruneResult
from secateurs.recipe import Recipe, parse_layers
from secateurs.results import ModelSize
from secateurs.scoring import Profile, TextScore

if TYPE_CHECKING:
    from secateurs.demo import DemoResult, Measured
    from secateurs.finetuning import FinetuneResult

Row = tuple[str, str, str]


def size_rows(keep: float, before: ModelSize, after: ModelSize) -> list[Row]:
    """Width asked and obtained, parameters and FLOPs in both scopes."""
    return [
        ("FFN width asked", before.width_text, f"{keep * max(before.widths):.1f} ({keep:g})"),
        (
            "FFN width obtained",
            before.width_text,
            f"{after.width_text} ({_fraction(after, before, 'widths'):.4f})",
        ),
        (
            "parameters",
            f"{before.parameters:,}",
            f"{after.parameters:,} ({after.parameters / before.parameters:.4f})",
        ),
        ("relative FLOPs, scope ffn", "1", f"{_fraction(after, before, 'ffn_multiply_adds'):.4f}"),
        (
            f"relative FLOPs, scope model, {before.sequence_length} tokens",
            "1",
            f"{_fraction(after, before, 'model_multiply_adds'):.4f}",
        ),
    ]


def prune_rows(result: PruneResult, out: Path) -> list[Row]:
    """The table that `secateurs prune` prints."""
    rows = size_rows(result.recipe.keep, result.before, result.after)
    if result.loaded.source is not None:
        rows.append(("weights on disk", _source_bytes(result.loaded), _megabytes(weight_bytes(find_target(out)))))
    errors = [layer.figures.get("relative_error_refit") for layer in result.plan.layers]
    known = [error for error in errors if error is not None]
    if known:
        cut = [layer.figures["relative_error_cut"] for layer in result.plan.layers]
        rows.append(("output error of a cut, mean over networks", "0", f"{sum(cut) / len(cut):.4f}"))
        rows.append(("the same after the refit", "0", f"{sum(known) / len(known):.4f}"))
    rows += [(name, "", f"{value:.1f}") for name, value in result.rates.items()]
    rows.append(("seconds", "", " + ".join(f"{value:.0f} {name}" for name, value in result.seconds.items())))
    return rows


def describe_prune(result: PruneResult, out: Path) -> dict[str, Any]:
    """What `secateurs prune --json` prints."""
    return {
        "out": str(out),
        "base_model": result.loaded.name,
        "method": result.plan.method,
        "keep": result.plan.keep,
        "kept_fraction": result.plan.kept_fraction,
        "before": asdict(result.before),
        "after": asdict(result.after),
        "relative_ffn_flops": result.relative_ffn_flops,
        "relative_model_flops": result.relative_model_flops,
        "weight_bytes": weight_bytes(find_target(out)),
        "calibration": asdict(result.calibration),
        "rates": dict(result.rates),
        "seconds": dict(result.seconds),
        "warnings": list(result.warnings),
        "layers": [{"path": layer.path, "width": layer.width, **layer.figures} for layer in result.plan.layers],
    }


def finetune_rows(result: FinetuneResult) -> list[tuple[str, str]]:
    """The table that `secateurs finetune` prints."""
    training = result.training
    rows = [
        ("rows trained on", f"{result.rows:,}"),
        ("epochs, batch size, learning rate", f"{training.epochs}, {training.batch_size}, {training.learning_rate:g}"),
    ]
    rows += [(f"{metric}, {result.validation_rows:,} rows", f"{value:.4f}") for metric, value in result.scores.items()]
    rows.append(("training rows a second", f"{result.rows_per_second:.0f}"))
    return rows


def describe_finetune(result: FinetuneResult, out: Path) -> dict[str, Any]:
    """What `secateurs finetune --json` prints."""
    return {
        "out": str(out),
        "base_model": result.loaded.name,
        "task": result.task.name,
        "training": asdict(result.training),
        "rows": result.rows,
        "scores": dict(result.scores),
        "validation_rows": result.validation_rows,
        "rows_per_second": round(result.rows_per_second, 1),
    }


def profile_rows(loaded: LoadedModel, measured: Profile) -> list[tuple[str, str]]:
    """Size and speed, as `secateurs evaluate` prints them."""
    size, latency = measured.size, measured.latency
    rows = [
        ("class", type(loaded.model).__name__),
        ("FFN width", size.width_text),
        ("parameters", f"{size.parameters:,}"),
        (f"multiply-adds, scope ffn, {size.sequence_length} tokens", f"{size.ffn_multiply_adds:,}"),
        (f"multiply-adds, scope model, {size.sequence_length} tokens", f"{size.model_multiply_adds:,}"),
    ]
    if measured.weight_bytes is not None:
        rows.append(("weights on disk", _megabytes(measured.weight_bytes)))
    rows.append(
        (
            "latency of one sequence, median",
            f"{latency.median_ms:.1f} ms (quartiles {latency.spread_ms:.1f} apart)",
        )
    )
    return rows


def describe_profile(loaded: LoadedModel, measured: Profile) -> dict[str, Any]:
    """The same for machines."""
    return {
        "model": loaded.name,
        "class": type(loaded.model).__name__,
        "dtype": number_format(loaded.model),
        "size": asdict(measured.size),
        "weight_bytes": measured.weight_bytes,
        "latency": asdict(measured.latency),
    }


def describe_text_score(score: TextScore) -> dict[str, Any]:
    """A perplexity, and the gap where there is one."""
    content: dict[str, Any] = {
        "perplexity": round(score.perplexity.perplexity, 4),
        "log_loss_nats": round(score.perplexity.log_loss_nats, 6),
        "text": score.text,
        "tokens_predicted": score.perplexity.tokens,
        "window": score.window,
        "stride": score.stride,
        "unread": score.unread,
        "tokens_per_second": round(score.perplexity.tokens / score.seconds, 1),
    }
    if score.other is not None and score.gap is not None:
        content["perplexity_against"] = round(score.other.perplexity, 4)
        content["perplexity_ratio"] = round(score.perplexity.perplexity / score.other.perplexity, 4)
        content["gap_nats"] = round(score.gap.nats, 6)
        error = score.gap.standard_error_nats
        content["gap_standard_error_nats"] = None if error is None else round(error, 6)
    return content


def model_rows(loaded: LoadedModel) -> list[tuple[str, str]]:
    """What `secateurs inspect` prints."""
    content = describe_model(loaded)
    ffns = content["feedforwards"]
    return [
        ("family", f"{content['family']} ({loaded.family.kind})"),
        ("class", content["class"]),
        ("number format", content["dtype"]),
        ("FFN networks", f"{len(ffns)}: {ffns[0]['path']} ... {ffns[-1]['path']}"),
        ("width", f"{ffns[0]['width']} (config key {loaded.family.width_key})"),
        ("gated", "yes" if ffns[0]["gated"] else "no"),
        ("output bias", "yes" if ffns[0]["output_bias"] else "no"),
        ("passes through each network", str(ffns[0]["passes"])),
        ("parameters", f"{content['parameters']:,}"),
        ("share of parameters that can be pruned", f"{content['prunable_parameter_share']:.4f}"),
        ("share of FLOPs that can be pruned, scope model", f"{content['prunable_flops_share']:.4f}"),
        ("hash of the weights", content["weights_sha256"]),
    ]


def describe_model(loaded: LoadedModel) -> dict[str, Any]:
    """The same for machines."""
    size = measure_size(loaded.model, loaded.family)
    ffns = find_feedforwards(loaded.model, loaded.family)
    return {
        "model": loaded.name,
        "family": loaded.family.name,
        "class": type(loaded.model).__name__,
        "dtype": number_format(loaded.model),
        "parameters": size.parameters,
        "prunable_parameter_share": sum(map(count_ffn_parameters, ffns)) / size.parameters,
        "prunable_flops_share": size.ffn_multiply_adds / size.model_multiply_adds,
        "weights_sha256": hash_weights(loaded.model),
        "feedforwards": [
            {
                "path": ffn.path,
                "width": ffn.width,
                "gated": ffn.is_gated,
                "output_bias": ffn.has_output_bias,
                "passes": ffn.passes,
            }
            for ffn in ffns
        ],
    }


def dry_run_facts(loaded: LoadedModel, recipe: Recipe) -> dict[str, Any]:
    """What `secateurs prune --dry-run` says: sizes by formula, and the calibration text as it would be read."""
    ffns = find_feedforwards(loaded.model, loaded.family)
    layers = parse_layers(recipe.layers, len(ffns))
    width = find_width(loaded, recipe)
    before = measure_size(loaded.model, loaded.family)
    after = predict_size(loaded.model, loaded.family, width if len(layers) == len(ffns) else ffns[0].width)
    calibration = prepare_calibration(None, loaded, recipe).summary
    least = "at least " if recipe.allocation == "global" else ""  # the widest network, known later, decides
    return {
        "method": recipe.method,
        "networks": f"{len(layers)} of {len(ffns)}",
        "width": f"{ffns[0].width} -> {width}" + (", mean of all networks" if least else ""),
        "parameters": f"{before.parameters:,} -> {least}{after.parameters:,}",
        "relative FLOPs, scope ffn": round(after.ffn_multiply_adds / before.ffn_multiply_adds, 4),
        "relative FLOPs, scope model": round(after.model_multiply_adds / before.model_multiply_adds, 4),
        "calibration": f"{calibration.tokens:,} tokens in {calibration.rows:,} rows from {calibration.source}",
        "left unread": calibration.unread,
    }


def demo_rows(result: DemoResult) -> list[Row]:
    """The demo's table."""
    before, after = result.before, result.after

    def row(name: str, figure: str) -> Row:
        return name, _format(before, figure), _format(after, figure)

    return [
        *size_rows(result.keep, before.size, after.size),
        (f"weights on disk, {result.number_format}", _megabytes(before.weight_bytes), _megabytes(after.weight_bytes)),
        ("the GGUF file it came from", _megabytes(result.gguf_bytes), ""),
        row(f"perplexity, {result.test_tokens:,} tokens", "perplexity"),
        (
            "perplexity by plain importance (--no-information)",
            "",
            f"{result.plain_importance_perplexity:.2f}",
        ),
        row("tokens read per second", "tokens_per_second"),
    ]


def _format(measured: Measured, figure: str) -> str:
    value: float = getattr(measured, figure)
    return f"{value:.2f}" if figure == "perplexity" else f"{value:.0f}"


def _fraction(after: ModelSize, before: ModelSize, figure: str) -> float:
    if figure == "widths":
        return sum(after.widths) / sum(before.widths)
    ratio: float = getattr(after, figure) / getattr(before, figure)
    return ratio


def _source_bytes(loaded: LoadedModel) -> str:
    source = loaded.source
    assert source is not None
    return _megabytes(bytes_on_disk(source)) + (" (GGUF)" if source.gguf_file else "")


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
