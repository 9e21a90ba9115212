"""The commands of the job `classify`. Heavy imports are inside functions, so that --help answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyperfocal.cli.options import (
    BLOCKS,
    DOCUMENTS,
    GRID,
    NEW_LABELS,
    PATH,
    RUN,
    SAFE_CSV,
    TRACK,
    document_settings,
    with_options,
)
from hyperfocal.cli.steps import (
    NO_ENCODER,
    follow_fit,
    print_evaluation,
    print_run,
    refuse_output,
    refuse_resume_and_overwrite,
    refuse_several_processes,
    write_update,
)
from hyperfocal.cli.wording import Commands, echo
from hyperfocal.errors import ConfigError

if TYPE_CHECKING:
    from hyperfocal.classify.classifier import MultiLabelClassifier


@click.group(cls=Commands)
@click.pass_context
def classify(context: click.Context) -> None:
    """Classify texts into many labels, most of them rare, and find the loss that helps.

    \b
    hyperfocal classify fit train.jsonl --out run --text title --text body
    hyperfocal classify fit photos.parquet --out run --vector embedding --field camera --field price:number
    hyperfocal classify predict run new.jsonl --out predictions.jsonl
    hyperfocal classify evaluate run test.jsonl
    hyperfocal classify update run more.jsonl --out updated
    hyperfocal classify grid train.jsonl --caps none,6,7,8 --gammas none,2,3 --seeds 3 --out grid --workers 2
    """
    refuse_several_processes(context)


@classify.command()
@click.argument("train", type=PATH)
@click.option("--valid", type=PATH, help="Validation documents.  [default: a stratified split that respects groups]")
@click.option("--out", type=PATH, required=True, help="Run folder to write: settings, model, thresholds, scores.")
@with_options(*DOCUMENTS)
@click.option(
    "--features", help="auto, ngrams, encoder or both.  [default: auto, which is both if an encoder is installed]"
)
@click.option(
    "--loss",
    help="bce, focal, asymmetric, ntr_focal, balanced, softmax or softmax_focal.  "
    "[default: bce; with --single softmax]",
)
@click.option("--gamma", type=float, help="Focusing parameter of the focal losses, 0 to 5.  [default: 2]")
@click.option(
    "--cap",
    help="Largest class weight, 1 or more; off: no class weights, none: weights without a cap.  [default: off]",
)
@click.option(
    "--decide",
    help="Decision rule: half, global, per_label or top_k; with --single argmax, or balanced: an offset per class, "
    "tuned for --set decide.objective=both, macro, micro or recall.  [default: per_label; with --single argmax]",
)
@click.option("--finetune", is_flag=True, help="Train the encoder too, end to end. Needs a GPU to be practical.")
@click.option("--seed", type=int, help="Seed of the split, the weights and the order of documents.  [default: 0]")
@with_options(*RUN, TRACK)
def fit(
    train: Path,
    valid: Path | None,
    out: Path,
    cap: str | None,
    finetune: bool,
    resume: bool,
    overwrite: bool,
    track: tuple[str, ...],
    **options: Any,
) -> None:
    """Fit on the documents TRAIN, tune a threshold per label, and score on validation documents.

    With --single each document has one class: predictions are one label with probabilities that sum to 1, calibrated
    on validation documents. Rare classes gain from --decide balanced, or from logit adjustment: --set loss.adjust=1.

    TRAIN is JSON lines, CSV, TSV or Parquet with one document per row, or text (.txt) in fastText format,
    __label__a __label__b the text, or in LibMultiLabel format, id<TAB>a b<TAB>the text. All formats except
    Parquet may be compressed (gzip, bzip2, zstd). A folder or a pattern of Parquet parts is one table.
    A .txt file whose first line is three numbers, examples features labels, is a feature matrix in the Extreme
    Classification format. A .npz file holds a feature matrix X and labels Y, as numpy.savez writes them.

    Several processes can train together: torchrun --nproc-per-node 2 -m hyperfocal classify fit TRAIN --out RUN
    """
    from hyperfocal.classify.classifier import MultiLabelClassifier
    from hyperfocal.distributed import is_first, processes
    from hyperfocal.machine import default_cache

    refuse_resume_and_overwrite(resume, overwrite)
    tuned = {"features.finetune": True, "features.kind": options["features"] or "encoder"} if finetune else {}
    classifier = MultiLabelClassifier(
        cap=None if cap is None else _number_or_word(cap),
        settings=tuned | document_settings(options),  # --set features.kind wins; an unsuitable kind is refused
        **{name: options[name] for name in ("recipe", "features", "loss", "gamma", "decide", "seed")},
    )
    files = {"valid": valid, "out": out, "cache": default_cache()}
    with processes():
        _fit(classifier, train, track, files | {"resume": resume, "overwrite": overwrite})
        if is_first():
            _print_fit(classifier)
            print_run(out, f"classify predict {out} DOCS --out PRED.jsonl")


def _fit(classifier: MultiLabelClassifier, train: Path, track: tuple[str, ...], options: dict[str, Any]) -> None:
    from hyperfocal.config.classify import trainings

    out, resume = options["out"], options["resume"]
    with follow_fit("classify", classifier, out, track, resume=resume, trainings=trainings) as watch:
        classifier.fit(train, watch=watch, **options)


def _number_or_word(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _print_fit(classifier: MultiLabelClassifier) -> None:
    from hyperfocal.classify.scaling import scaling_words
    from hyperfocal.classify.terminal import data_lines, how_decided, opinions_report, scores_report
    from hyperfocal.cli.wording import print_lines, print_report
    from hyperfocal.config.classify import ONE_RULES
    from hyperfocal.report.console import SafeConsole

    console, metrics = SafeConsole(), classifier.metrics_
    print_lines(console, [*data_lines(metrics["data"]), ""])
    if line := scaling_words(metrics.get("scaling", {})):
        print_lines(console, [line, ""])
    if classifier.features_.encoder is None and classifier.settings_.features.kind == "auto":
        print_lines(console, [NO_ENCODER, ""])
    out_of_fold = metrics["data"]["out_of_fold"]
    print_report(console, scores_report(metrics, title="Out of fold" if out_of_fold else "Validation"))
    if classifier.settings_.decide.rule in ("global", "per_label", *ONE_RULES):
        print_lines(console, [how_decided(out_of_fold, metrics["data"].get("update")), ""])
    if opinions := opinions_report(metrics["opinions"]):
        print_report(console, opinions)


@classify.command()
@click.argument("run", type=PATH)
@click.argument("docs", type=PATH)
@click.option(
    "--out", type=PATH, required=True, help="File to write: .jsonl, .csv, .tsv (also .gz, .bz2, .zst) or .parquet."
)
@with_options(*NEW_LABELS, *BLOCKS, SAFE_CSV)
def predict(
    run: Path,
    docs: Path,
    out: Path,
    new_labels: Path | None,
    new_boost: float | None,
    block: int | None,
    resume: bool,
    safe_csv: bool,
) -> None:
    """Predict the labels of each document in DOCS.

    The output has one row per document: id, labels (those decided), scores (the 10 best labels with their
    probabilities) and known (whether RUN knows any part of the text, such as an n-gram). In .csv and .tsv, labels and
    scores are JSON in a field; in .parquet they are lists. A RUN of fit --single writes label, one text, in place of
    labels.
    A large DOCS is read block by block.
    """
    refuse_output(out, docs, "DOCS", safe_csv=safe_csv)
    from hyperfocal.cli.predict import DocumentPredictor, predict_file
    from hyperfocal.report.format import quantity

    classifier = _load(run, new_labels, new_boost)
    predictor = DocumentPredictor(classifier, new_labels=new_labels, new_boost=new_boost, safe_csv=safe_csv)
    counts = predict_file(predictor, run, docs, out, block=block, resume=resume)
    each = counts["labels"] / max(counts["documents"], 1)
    labels = "one label each" if predictor.single else f"{each:.2f} labels each"
    echo(f"{counts['documents']:,} documents, {labels}, written to {out}")
    if counts["unknown_texts"]:
        columns = classifier.features_.columns
        rows = columns is not None and columns.matrix is not None
        texts = quantity(counts["unknown_texts"], "row" if rows else "text")
        what = "any value but 0" if rows else "an n-gram or word that RUN knows"
        echo(f"{texts} without {what}; the labels are unreliable.")


@classify.command()
@click.argument("run", type=PATH)
@click.argument("docs", type=PATH)
@with_options(*NEW_LABELS)
@click.option("--json", "as_json", is_flag=True, help="Print all metrics, also those of each label, as JSON.")
def evaluate(run: Path, docs: Path, new_labels: Path | None, new_boost: float | None, as_json: bool) -> None:
    """Score RUN on the documents DOCS; with --new-labels, labels of training and new labels are also scored apart."""
    from hyperfocal.classify.terminal import holdout_lines, scores_report, title_of

    metrics = _load(run, new_labels, new_boost).evaluate(docs)
    print_evaluation(metrics, scores_report, holdout_lines, title_of, as_json=as_json)


def _load(run: Path, new_labels: Path | None, boost: float | None) -> MultiLabelClassifier:
    """Return the classifier of a run, which also knows the labels of --new-labels."""
    from hyperfocal.classify.classifier import MultiLabelClassifier

    if new_labels is None and boost is not None:
        raise ConfigError("--new-boost is for the labels of --new-labels. Give --new-labels too")
    classifier = MultiLabelClassifier.load(run)
    return classifier if new_labels is None else classifier.with_new_labels(new_labels, boost=boost or 0.0)


@classify.command()
@click.argument("run", type=PATH)
@click.argument("docs", type=PATH)
@click.option("--out", type=PATH, help="Run folder to write.  [default: RUN itself is replaced]")
@click.option(
    "--label-texts",
    type=PATH,
    metavar="FILE",
    help="Texts of the new labels: a table with label, and name, description or both.  [default: as in fit]",
)
@click.option("--epochs", type=click.IntRange(min=1), default=3, show_default=True, help="Epochs; the best one counts.")
@click.option("--again", is_flag=True, help="Allow documents that RUN has already; they count twice.")
def update(run: Path, docs: Path, out: Path | None, label_texts: Path | None, epochs: int, again: bool) -> None:
    """Continue RUN with the documents of DOCS, which may have new labels, without training from scratch.

    The weights of RUN are the start, and new labels are added to its labels. Its features stay: a word that no document
    of fit had is not learnt, so a new label needs known words, hashed n-grams, or an encoder. RUN does not store its
    documents. Give new documents with all their labels, the earlier ones too: a label that is left out counts as wrong.

    Of 20 documents or more, 15% (data.valid_fraction) are held out. They choose the epoch, tune the thresholds together
    with those of RUN, and show whether earlier labels are worse than before. RUN stays unchanged until the new run is
    complete.

    DOCS that RUN has already, from its `fit` or an earlier update, are refused. So are documents nearly all of whose
    texts are training texts of RUN, and a file that has nearly all of these.
    """
    from hyperfocal.classify.classifier import MultiLabelClassifier
    from hyperfocal.config.classify import trainings
    from hyperfocal.report.progress import EncodingProgress, FitProgress
    from hyperfocal.training.watch import watch_with

    def continued() -> MultiLabelClassifier:
        classifier = MultiLabelClassifier.load(run)
        with FitProgress(trainings) as progress, EncodingProgress() as encoding:
            watch = watch_with(progress, encoding)
            return classifier.update(docs, epochs=epochs, again=again, label_texts=label_texts, watch=watch)

    _print_fit(write_update(run, out, continued))
    print_run(out or run)


@classify.command()
@click.argument("train", type=PATH)
@click.option("--valid", type=PATH, help="Validation documents, on which points are compared.  [default: a split]")
@click.option("--test", type=PATH, help="Test documents, scored once, for the winner and the baseline.")
@click.option("--out", type=PATH, required=True, help="Folder of the grid: results, table, winner.")
@with_options(*DOCUMENTS)
@click.option(
    "--caps",
    help="Largest class weights, such as none,6,7,8; none or off: no class weights, --cap off of fit.",
)
@click.option("--gammas", help="Focal gammas, such as none,2,3; none: binary cross-entropy.")
@click.option("--baseline", help="Point to compare the others with.  [default: no_cap_no_focal, or the first]")
@click.option("--by", default="tuned.macro_f1", show_default=True, help="Metric that chooses the winner.")
@with_options(*GRID)
def grid(**options: Any) -> None:
    """Train a grid of settings on TRAIN, and report which differ significantly from the baseline.

    Each result is stored as soon as its point ends; the same command again trains only what is missing. The winner
    is chosen on validation documents. --recipe FILE may define the grid in a section [grid].
    """
    from hyperfocal.cli.grid import CLASSIFY, run_grid_command

    run_grid_command(CLASSIFY, options)
