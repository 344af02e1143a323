"""The commands: flags in, one call, exit code out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from secateurs.cli.listings import LISTINGS
from secateurs.cli.options import Debug, Json, with_recipe, with_settings
from secateurs.cli.output import print_json, print_table, progress_on_stderr, say, warn
from secateurs.errors import InputError
from secateurs.recipe import Recipe

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Make transformers smaller: cut feed-forward neurons whose information others already carry.",
)
Model = Annotated[str, typer.Argument(help="A folder, a .gguf file, a hub id, or a demo model (smollm2, minilm).")]
BERT_TINY = "google/bert_uncased_L-2_H-128_A-2"
FREEZE_HELP = "Leave the word embeddings as they are; helps where there are few rows."
TASK_HELP = "sst2, stsb, mrpc, qqp or qnli for a classifier; stsb-embeddings: Spearman of sentence-embedding cosines."
CALIBRATION_HELP = "Text to measure on (default: the training rows of a labelled task, or text that comes with Python)."
Report = Annotated[
    bool, typer.Option(help="Write report.html beside the weights, which shows a few of your texts too.")
]


@app.command("prune")
@with_recipe
def prune_command(
    model: Model,
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not exist yet.")],
    *,
    recipe: Recipe,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and say what would be done.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if Secateurs wrote it.")] = False,
    report: Report = True,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what a stopped run had finished.")] = False,
    keep_state: Annotated[bool, typer.Option("--keep-state", help="Leave finished work beside OUT.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Prune MODEL and write an ordinary, smaller checkpoint to OUT, with a report."""
    from secateurs.models.source import find_source

    source = find_source(model, recipe.revision)  # before the heavy imports: a mistyped name is told at once

    from secateurs import pipeline
    from secateurs.checkpoint.staging import check_target
    from secateurs.checkpoint.state import open_state
    from secateurs.cli.reports import describe_prune, prune_rows
    from secateurs.methods import check_recipe

    check_recipe(recipe)
    check_target(out, source=source.original_folder, overwrite=overwrite)
    if dry_run:
        _print_dry_run(model, recipe, as_json=as_json)
        return
    given: dict[str, Any] = {"recipe": recipe, "with_report": report and _can_report()}
    owned = open_state(out, source=source.original_folder, overwrite=overwrite, resume=resume, keep=keep_state)
    with owned as state, progress_on_stderr() as progress:
        result = pipeline.prune(model, **given, state=state, progress=progress)
        result.save(out, overwrite=overwrite, progress=progress)
        reuse = state.describe_reuse()
    for warning in result.warnings:
        warn(warning)
    if as_json:
        print_json({**describe_prune(result, out), "resumed": reuse})
        return
    if resume:
        say(f"resumed: {reuse or 'there was nothing to go on with'}")
    print_table(f"{result.loaded.name}, method {recipe.method}", ("", "before", "after"), prune_rows(result, out))
    read = result.calibration
    say(f"read {read.tokens:,} tokens in {read.rows:,} rows from {read.source}; left unread: {read.unread}")
    say(f"wrote {out} (read back and verified)")
    _point_to_report(out)


@app.command("report")
def report_command(
    folder: Annotated[Path, typer.Argument(help="What secateurs prune or compare wrote.")],
    *,
    figures: Annotated[bool, typer.Option("--figures", help="Write each figure as PNG and SVG too.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make report.html again from what a run kept in FOLDER, without the model."""
    from secateurs.reporting import make_again

    with progress_on_stderr() as progress:
        page, *images = make_again(folder, with_figures=figures, progress=progress)
    if as_json:
        print_json({"page": str(page), "figures": [str(path) for path in images]})
        return
    say(f"wrote {page}" + (f" and {len(images)} images in {images[0].parent}" if images else ""))


@app.command("finetune")
def finetune_command(
    model: Model,
    task: Annotated[str, typer.Argument(help="sst2, stsb, mrpc, qqp or qnli.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not exist yet.")],
    *,
    data: Annotated[Path | None, typer.Option(help="Folder with TASK/train.tsv (default: GLUE from the hub).")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At the start (default: 5e-5; BERT-tiny more).")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows in a step (default: 32; BERT-tiny 8 or 16).")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training rows (default: 4).")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens in a row (default: 64 for sst2, else 128).")] = None,
    max_rows: Annotated[int | None, typer.Option(help="Train on a random sample of this many rows.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    freeze_embeddings: Annotated[bool, typer.Option("--freeze-embeddings", help=FREEZE_HELP)] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads (default: as torch decides).")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if Secateurs wrote it.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fine-tune the encoder MODEL on a labelled TASK; goes on where the same call was stopped."""
    from secateurs.models.source import find_source
    from secateurs.tasks import find_task

    source, chosen = find_source(model, revision), find_task(task)

    from secateurs.checkpoint.holding import held
    from secateurs.cli.reports import describe_finetune, finetune_rows
    from secateurs.finetuning import choose_training, finetune, training_folder
    from secateurs.information import use_threads
    from secateurs.models.loading import load_model

    settings: dict[str, Any] = {
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "epochs": epochs,
        "max_length": max_length,
        "max_rows": max_rows,
        "seed": seed,
        "freeze_embeddings": freeze_embeddings,
    }
    owned = held(out, source=source.original_folder, overwrite=overwrite)
    with owned, progress_on_stderr() as progress, use_threads(threads):
        loaded = load_model(model, dtype="float32", device=device, revision=revision)
        training, state = choose_training(loaded, chosen, **settings), training_folder(out)
        result = finetune(loaded, chosen, data, training, state=state, restart=overwrite, progress=progress)
        result.save(out, overwrite=overwrite)
    if as_json:
        print_json(describe_finetune(result, out))
        return
    print_table(f"{loaded.name}, fine-tuned on {chosen.name}", ("", "value"), finetune_rows(result))
    say(f"wrote {out} (read back and verified)")


@app.command("paper")
def paper_command(
    experiment: Annotated[str, typer.Argument(help="table1, table2, fig2 to fig7 or sensitivity.")],
    *,
    model: Annotated[str, typer.Option(help="The encoder to fine-tune: a folder or hub id.")] = BERT_TINY,
    data: Annotated[Path | None, typer.Option(help="Folder with TASK/train.tsv (default: GLUE from the hub).")] = None,
    tasks: Annotated[str, typer.Option(help="Tasks, separated by commas.")] = "sst2,stsb,mrpc,qnli",
    scope: Annotated[str, typer.Option(help="What relative FLOPs are counted in: ffn or model.")] = "ffn",
    quick: Annotated[bool, typer.Option("--quick", help="10 % steps, one fine-tuning seed, 50 random starts.")] = False,
    freeze_embeddings: Annotated[bool, typer.Option("--freeze-embeddings", help=FREEZE_HELP)] = False,
    out: Annotated[Path, typer.Option(help="Folder for results and finished cells.")] = Path("out/paper"),
    models: Annotated[Path | None, typer.Option(help="Folder for fine-tuned models (default: OUT/models).")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes of one thread (default: all cores).")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run an EXPERIMENT of the paper; goes on where it was stopped."""
    from secateurs.paper.experiments import run_experiment
    from secateurs.paper.study import make_study

    study = make_study(
        model=model,
        data=data,
        tasks=tasks,
        scope=scope,
        quick=quick,
        freeze_embeddings=freeze_embeddings,
        folder=out,
        models=models or out / "models",
        jobs=jobs,
    )
    with progress_on_stderr() as progress:
        document, files = run_experiment(experiment, study, progress)
    if as_json:
        print_json(document.content)
        return
    say(document.markdown)
    say("wrote " + ", ".join(str(path) for path in files))


@app.command("compare")
@with_settings(
    "text_column",
    "calibration_tokens",
    "max_length",
    "batch_size",
    "in_turn",
    "noise",
    "ridge",
    "token_noise",
    "drift",
    "mean_weight",
    "token_weights",
    "seed",
    "threads",
    "device",
    "dtype",
)
def compare_command(
    model: Model,
    *,
    methods: Annotated[str, typer.Option(help="Names separated by commas (secateurs methods), or all.")] = "all",
    keep: Annotated[str, typer.Option(help="Fractions of neurons to keep, separated by commas.")] = "0.8,0.6,0.4",
    refit: Annotated[str, typer.Option(help="on: with Secateurs' refit; off: as published; or both.")] = "both",
    allocation: Annotated[str, typer.Option(help="uniform, global or both (global where defined).")] = "uniform",
    calibration: Annotated[str | None, typer.Option(help=CALIBRATION_HELP)] = None,
    text: Annotated[str | None, typer.Option(help="Text to score on (default: text that comes with Python).")] = None,
    tokens: Annotated[int | None, typer.Option(min=2, help="Tokens of it to use (default 8192).")] = None,
    window: Annotated[
        int | None, typer.Option(min=2, help="Tokens in a window (default 512, or all that fit).")
    ] = None,
    task: Annotated[str | None, typer.Option(help=TASK_HELP)] = None,
    data: Annotated[Path | None, typer.Option(help="Folder with the task's data (default: GLUE from the hub).")] = None,
    trials: Annotated[int, typer.Option(help="Draws of calibration data, each with a seed of its own.")] = 1,
    seeds: Annotated[int | None, typer.Option(help="Random starts of clusters (default 1) and paper* (500).")] = None,
    settings: dict[str, Any],
    out: Annotated[Path, typer.Option(help="Folder for results and finished cells.")] = Path("out/compare"),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Prune MODEL by several methods, score what is left, rank them; goes on where it was stopped."""
    from secateurs.compare.comparison import compare
    from secateurs.compare.settings import make_settings

    asked: dict[str, Any] = {
        "methods": methods,
        "keep": keep,
        "refit": refit,
        "allocation": allocation,
        "trials": trials,
    }
    scored: dict[str, Any] = {"text": text, "tokens": tokens, "window": window, "task": task, "data": data}
    measured: dict[str, Any] = {"calibration": calibration, "seeds": seeds, **settings}
    with progress_on_stderr() as progress:
        result = compare(make_settings(model=model, folder=out, **asked, **scored, **measured), progress)
    for warning in result.warnings:
        warn(warning)
    if as_json:
        print_json(result.content)
        return
    print_table(result.title, result.columns, result.cells)
    for note in result.notes:
        say(note)
    say("wrote " + ", ".join(str(path) for path in result.files))


@app.command("evaluate")
def evaluate_command(
    model: Model,
    *,
    text: Annotated[str | None, typer.Option(help="Text to score on (default: text that comes with Python).")] = None,
    tokens: Annotated[int | None, typer.Option(min=2, help="Tokens of it to use (default 8192).")] = None,
    window: Annotated[
        int | None, typer.Option(min=2, help="Tokens in a window (default 512, or all that fit).")
    ] = None,
    stride: Annotated[int | None, typer.Option(min=1, help="Tokens between windows (default: the window).")] = None,
    against: Annotated[str | None, typer.Option(help="Another model to compare with.")] = None,
    task: Annotated[str | None, typer.Option(help=TASK_HELP)] = None,
    data: Annotated[Path | None, typer.Option(help="Folder with the task's data.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16 (default: the model's).")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score MODEL: perplexity, embeddings against another model or people, size, FLOPs, latency."""
    from secateurs import scoring
    from secateurs.cli.reports import describe_profile, profile_rows
    from secateurs.cli.scores import describe_embeddings, describe_task, describe_text
    from secateurs.models.loading import load_model
    from secateurs.recipe import make_recipe

    if task is not None and any(option is not None for option in (text, tokens, window, stride, against)):
        raise InputError("--task has its own data; leave out --text, --tokens, --window, --stride and --against")
    checked = make_recipe({"device": device, "dtype": dtype, "revision": revision})
    loaded = load_model(model, dtype=checked.dtype, device=checked.device, revision=revision)
    measured = scoring.profile(loaded)
    rows, content = profile_rows(loaded, measured), describe_profile(loaded, measured)
    wants_score = any(option is not None for option in (text, tokens, against, task))
    try:
        if wants_score or loaded.is_language_model:
            other = load_model(against, dtype=checked.dtype, device=checked.device) if against else None
            with progress_on_stderr() as progress:
                if task is not None:
                    more = describe_task(loaded, task, data, progress)
                elif other is not None and not loaded.is_language_model:
                    more = describe_embeddings(loaded, other, text, progress)
                else:
                    more = describe_text(loaded, text, tokens or 8192, window, stride, other=other, progress=progress)
            content["score"] = more
            rows += [(name.replace("_", " "), str(value)) for name, value in more.items()]
        else:
            rows.append(("score", f"none: {scoring.how_to_score(loaded)}"))
    finally:
        if as_json:
            print_json(content)
        else:
            print_table(loaded.name, ("", "value"), rows)


@app.command("inspect")
def inspect_command(
    model: Model,
    *,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show MODEL's family, its feed-forward networks and what can be pruned."""
    from secateurs.cli.reports import describe_model, model_rows
    from secateurs.models.loading import load_model

    loaded = load_model(model, device="cpu", revision=revision)
    if as_json:
        print_json(describe_model(loaded))
    else:
        print_table(loaded.name, ("", "value"), model_rows(loaded))


@app.command("demo")
def demo_command(
    out: Annotated[Path, typer.Argument(help="Folder to write.")] = Path("out/smollm2-135m-80"),
    *,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if Secateurs wrote it.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Prune a real language model (SmolLM2-135M-Instruct) to about 80 % width and show before and after."""
    from secateurs.cli.reports import demo_rows
    from secateurs.demo import run_demo

    with progress_on_stderr() as progress:
        result = run_demo(out, progress, overwrite=overwrite, with_report=_can_report())
    if as_json:
        print_json(result.as_json())
        return
    print_table(f"{result.name}, before and after", ("", "before", "after"), demo_rows(result))
    for label, sentence in (("before", result.before.sentence), ("after", result.after.sentence)):
        say(f"{label}: {sentence}")
    say(f"wrote {out} in {result.seconds:.0f} s; load it with AutoModelForCausalLM.from_pretrained('{out}')")
    _point_to_report(out)


for name, command in LISTINGS.items():
    app.command(name)(command)


def _can_report() -> bool:
    """Whether a report can be made; if not, how to get what it needs is told."""
    from secateurs.report.page import require_report

    try:
        require_report()
    except InputError as error:
        warn(f"{error}; going on without")
        return False
    return True


def _point_to_report(folder: Path) -> None:
    """Say where the page is, if one was made."""
    from secateurs.report.stored import PAGE_NAME

    if (folder / PAGE_NAME).is_file():
        say(f"open {folder / PAGE_NAME} in a browser to see what came of it")


def _print_dry_run(model: str, recipe: Recipe, *, as_json: bool) -> None:
    from secateurs.cli.reports import dry_run_facts
    from secateurs.models.loading import load_model

    loaded = load_model(model, dtype=recipe.dtype, device="cpu", revision=recipe.revision)
    facts = dry_run_facts(loaded, recipe)
    if as_json:
        print_json(facts)
        return
    print_table(f"{loaded.name}, dry run", ("", "value"), [(name, str(value)) for name, value in facts.items()])
    say("nothing was measured or written")
