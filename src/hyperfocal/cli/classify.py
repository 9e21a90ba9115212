"""The commands of the job `classify`. Heavy imports are inside, so that --help answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyperfocal.cli.options import (
    NO_ENCODER,
    block_options,
    data_options,
    data_settings,
    refuse_other_commands,
    track_option,
    where_options,
)
from hyperfocal.cli.report import report_line
from hyperfocal.errors import ConfigError, DataError

if TYPE_CHECKING:
    from hyperfocal.classify.classifier import MultiLabelClassifier

FILE = RUN = click.Path(path_type=Path)


@click.group()
@click.pass_context
def classify(context: click.Context) -> None:
    """Classify texts into many labels, most of them rare, and find the loss that helps.

    \b
    hyperfocal classify fit train.jsonl --out run --text title --text body
    hyperfocal classify predict run new.jsonl --out predictions.jsonl
    hyperfocal classify evaluate run test.jsonl
    hyperfocal classify grid train.jsonl --caps none,6,7,8 --gammas none,2,3 --seeds 3 --out grid --workers 2
    """
    refuse_other_commands(context)


@classify.command()
@click.argument("train", type=FILE)
@click.option("--valid", type=FILE, help="Validation documents. Without: a stratified split that respects groups.")
@click.option("--out", type=RUN, required=True, help="Run folder to write: settings, model, thresholds, scores.")
@data_options
@click.option("--features", help="auto, ngrams, encoder or both.  [default: auto, both where an encoder is installed]")
@click.option("--loss", help="bce, focal, asymmetric, ntr_focal, balanced or softmax.  [default: bce]")
@click.option("--gamma", type=float, help="Focus of the focal losses, 0 to 5.  [default: 2]")
@click.option(
    "--cap", help="Largest class weight, from 1; off: no class weights, none: weights without a cap.  [default: off]"
)
@click.option("--decide", help="half, global, per_label or top_k.  [default: per_label]")
@click.option("--finetune", is_flag=True, help="Train the encoder too, end to end. For those with a GPU.")
@click.option("--seed", type=int, help="Of the split, the weights and the order of documents.  [default: 0]")
@click.option("--resume", is_flag=True, help="Continue the run in --out where it stopped.")
@click.option("--overwrite", is_flag=True, help="Replace the run in --out.")
@track_option
def fit(
    train: Path,
    valid: Path | None,
    out: Path,
    recipe: Path | None,
    features: str | None,
    loss: str | None,
    gamma: float | None,
    cap: str | None,
    decide: str | None,
    finetune: bool,
    seed: int | None,
    resume: bool,
    overwrite: bool,
    track: tuple[str, ...],
    **data: Any,
) -> None:
    """Fit on the documents TRAIN, tune a threshold for each label, and score both on validation documents.

    TRAIN is JSON lines, CSV, TSV or Parquet with a document a row, or text (.txt) of fastText lines:
    __label__a __label__b the text. All but Parquet may end in .gz.

    Several processes train together: torchrun --nproc-per-node 2 -m hyperfocal classify fit TRAIN --out RUN
    """
    from hyperfocal.classify.classifier import MultiLabelClassifier
    from hyperfocal.distributed import is_first, processes
    from hyperfocal.storage.cache import default_cache

    if resume and overwrite:
        raise ConfigError("--resume continues the run in --out and --overwrite replaces it: give one of them")
    tuned = {"features.finetune": True, "features.kind": features or "encoder"} if finetune else {}
    settings = tuned | data_settings(data)  # a kind that was asked for stands, and is refused where it cannot be tuned
    largest = None if cap is None else _number_or_word(cap)
    classifier = MultiLabelClassifier(
        recipe, features=features, loss=loss, gamma=gamma, cap=largest, decide=decide, seed=seed, settings=settings
    )
    options = {"valid": valid, "out": out, "resume": resume, "overwrite": overwrite, "cache": default_cache()}
    with processes():
        _fit(classifier, train, options, track)
        if is_first():
            _print_fit(classifier, out)


def _number_or_word(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _fit(classifier: MultiLabelClassifier, train: Path, options: dict[str, Any], track: tuple[str, ...]) -> None:
    """Fit under progress lines; Ctrl-C ends the program with 130 and says how to go on."""
    from hyperfocal.config.classify import trainings
    from hyperfocal.distributed import is_first
    from hyperfocal.report.progress import EncodingProgress, FitProgress
    from hyperfocal.report.tracking import Tracking

    out, resume = options["out"], options["resume"]
    tracking = Tracking(track if is_first() else (), out, "classify", lambda: classifier.settings_, resume=resume)
    try:
        with (
            tracking,
            EncodingProgress() as encoding,
            FitProgress(lambda: classifier.settings_.train, lambda: trainings(classifier.settings_.train)) as progress,
        ):
            watch = tracking.wrap(progress.watch)
            classifier.fit(train, watch=watch, watch_encoding=encoding.watch, **options)
            tracking.end(classifier.metrics_)
    except KeyboardInterrupt:
        if is_first():
            click.echo(f"stopped. The same command with --resume continues what is in {options['out']}.", err=True)
        sys.exit(130)


def _print_fit(classifier: MultiLabelClassifier, out: Path) -> None:
    from rich.console import Console

    from hyperfocal.classify.terminal import data_lines, how_decided, scores_report
    from hyperfocal.report.format import print_commands, print_lines

    console, metrics = Console(), classifier.metrics_
    print_lines(console, [*data_lines(metrics["data"]), ""])
    if classifier.features_.encoder is None and classifier.settings_.features.kind == "auto":
        print_lines(console, [NO_ENCODER, ""])
    out_of_fold = metrics["data"]["out_of_fold"]
    console.print(scores_report(metrics, title="Out of fold" if out_of_fold else "Validation"))
    if classifier.settings_.decide.rule in ("global", "per_label"):
        print_lines(console, [how_decided(out_of_fold), ""])
    lines = [f"Run folder: {out}", report_line(out), f"Next: hyperfocal classify predict {out} DOCS --out PRED.jsonl"]
    print_commands(console, lines)


@classify.command()
@click.argument("run", type=RUN)
@click.argument("docs", type=FILE)
@click.option("--out", type=FILE, required=True, help="File to write: .jsonl, .csv, .tsv (also .gz) or .parquet.")
@block_options
def predict(run: Path, docs: Path, out: Path, block: int | None, resume: bool) -> None:
    """Write a line a document of DOCS: id, labels (decided) and scores (the best 10 with their probability).

    In .csv and .tsv labels and scores are JSON in a field; in .parquet they are lists, of texts and of pairs. A large
    DOCS is read block by block.
    """
    from hyperfocal.classify.classifier import MultiLabelClassifier
    from hyperfocal.cli.predict_classify import predict_texts
    from hyperfocal.data.files import File

    File(out).check_writable()
    if out.resolve() == docs.resolve():
        raise DataError(f"--out {out} is DOCS itself, which would be lost. Choose another name")
    options = {"run": run, "block": block, "resume": resume}
    counts = predict_texts(MultiLabelClassifier.load(run), docs, out, options)
    each = counts["labels"] / max(counts["documents"], 1)
    click.echo(f"{counts['documents']:,} documents, {each:.2f} labels each, written to {out}")


@classify.command()
@click.argument("run", type=RUN)
@click.argument("docs", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print all metrics, and those of each label, as JSON.")
def evaluate(run: Path, docs: Path, as_json: bool) -> None:
    """Score the run on the documents DOCS."""
    import json

    from rich.console import Console

    from hyperfocal.classify.classifier import MultiLabelClassifier
    from hyperfocal.classify.terminal import holdout_lines, scores_report
    from hyperfocal.report.format import print_lines
    from hyperfocal.storage.run_folder import without_nan

    metrics = MultiLabelClassifier.load(run).evaluate(docs)
    if as_json:
        click.echo(json.dumps(without_nan(metrics), indent=2))
        return
    console = Console()
    console.print(scores_report(metrics, title="Test"))
    print_lines(console, holdout_lines(metrics["data"], "test"))


@classify.command()
@click.argument("train", type=FILE)
@click.option("--valid", type=FILE, help="Validation documents, on which points are compared. Without: a split.")
@click.option("--test", type=FILE, help="Test documents, scored once, for the winner and the baseline.")
@click.option("--out", type=RUN, required=True, help="Folder of the grid: results, table, winner.")
@data_options
@click.option("--caps", help="Largest class weights, as none,6,7,8; none or off: no class weights, --cap off of fit.")
@click.option("--gammas", help="Focal gammas, as none,2,3; none is binary cross-entropy.")
@click.option("--seeds", type=int, help="Trainings a point.  [default: the recipe's, or 1]")
@where_options
@click.option("--baseline", help="Point to compare with.  [default: no_cap_no_focal, or the first]")
@click.option("--by", default="tuned.macro_f1", show_default=True, help="Metric that chooses the winner.")
@click.option("--search", type=click.Choice(["full", "optuna"]), default="full", show_default=True)
@click.option("--trials", type=int, default=30, show_default=True, help="optuna: points to try.")
@click.option("--retry", is_flag=True, help="Try points again that failed before.")
@track_option
def grid(**options: Any) -> None:
    """Train a grid of settings on TRAIN, and say which differ from the baseline beyond chance, and how.

    Every result is stored the moment it is there; the same command again does only what is missing. The winner
    is chosen on validation documents. --recipe FILE may hold the grid in a section [grid].
    """
    from hyperfocal.cli.grid import run_grid_command

    run_grid_command(options)
