"""The commands of the job `recommend`. Heavy imports are inside, so that --help answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyperfocal.cli.options import block_options, refuse_other_commands, track_option, where_options
from hyperfocal.cli.report import report_line
from hyperfocal.errors import ConfigError, DataError

if TYPE_CHECKING:
    from hyperfocal.recommend.recommender import Recommender

FILE = RUN = click.Path(path_type=Path)


@click.group()
@click.pass_context
def recommend(context: click.Context) -> None:
    """Recommend the next items of users, from a log of who did what in which order.

    \b
    hyperfocal recommend fit log.csv --out run --user student --item course --order position
    hyperfocal recommend predict run histories.csv --k 10 --out predictions.csv
    hyperfocal recommend evaluate run histories.csv --truth truth.csv
    hyperfocal recommend update run new_events.csv
    hyperfocal recommend grid log.csv --encoders transformer,gru --losses softmax,focal --seeds 3 --out grid
    """
    refuse_other_commands(context)


@recommend.command()
@click.argument("train", type=FILE)
@click.option("--out", type=RUN, required=True, help="Run folder to write: settings, model, scores.")
@click.option("--recipe", type=FILE, help="TOML file of settings, as those in recipes/.")
@click.option(
    "--valid", type=FILE, help="Log of other users, to choose the best epoch. Without: a seeded split by user."
)
@click.option("--valid-truth", type=FILE, help="What follows the histories in --valid. Without: their last items.")
@click.option("--items", type=FILE, help="Table with a row an item, whose columns the network learns from.")
@click.option(
    "--item-features",
    multiple=True,
    metavar="COLUMN[:KIND]",
    help="Column of --items to use. KIND: category, list, text, number, date; without, told from the values. "
    "Repeatable.  [default: all]",
)
@click.option("--user", help="Column of the user id.")
@click.option("--item", help="Column of the item id.")
@click.option("--order", help="Column of the position or time. Without: the order of the rows.")
@click.option(
    "--history", type=int, help="Items that the network reads at most; concat_mlp reads so many.  [default: 50]"
)
@click.option("--next", "next_items", type=int, help="Items to predict.  [default: 3]")
@click.option(
    "--model",
    help="transformer, gru, mean, concat_mlp; popularity, cooccurrence, markov, decayed_markov, item_knn, ease.  "
    "[default: transformer]",
)
@click.option(
    "--protocol",
    type=click.Choice(["users", "leave-one-out"]),
    help="users: validate on users held out.  leave-one-out: on each user's second-last item; the last is for "
    "`evaluate`.  [default: users]",
)
@click.option("--minutes", type=float, help="Begin no epoch after that; the best so far is kept.  [default: no limit]")
@click.option("--seed", type=int, help="Of the split, the weights and the order of examples.  [default: 0]")
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting, as train.epochs=5. Repeatable."
)
@click.option("--resume", is_flag=True, help="Continue the run in --out where it stopped.")
@click.option("--overwrite", is_flag=True, help="Replace the run in --out.")
@track_option
def fit(
    train: Path,
    out: Path,
    recipe: Path | None,
    valid: Path | None,
    valid_truth: Path | None,
    items: Path | None,
    item_features: tuple[str, ...],
    user: str | None,
    item: str | None,
    order: str | None,
    history: int | None,
    next_items: int | None,
    model: str | None,
    protocol: str | None,
    minutes: float | None,
    seed: int | None,
    assignments: tuple[str, ...],
    resume: bool,
    overwrite: bool,
    track: tuple[str, ...],
) -> None:
    """Fit on the log TRAIN and score the result beside the baselines.

    TRAIN is CSV, TSV, Parquet or JSON lines with a row an event; or text (.txt) with `user item item ...`
    a line; or a programming-challenge log, known by its header. All but Parquet may end in .gz.

    Several processes train together: torchrun --nproc-per-node 2 -m hyperfocal recommend fit TRAIN --out RUN
    """
    from rich.console import Console

    from hyperfocal.config.recipes import parse_override
    from hyperfocal.distributed import is_first, processes
    from hyperfocal.recommend.recommender import Recommender

    if resume and overwrite:
        raise ConfigError("--resume continues the run in --out and --overwrite replaces it: give one of them")
    flags: dict[str, Any] = {"data.user": user, "data.item": item, "data.order": order}
    flags |= {"data.protocol": protocol, "train.minutes": minutes, "items.features": item_features or None}
    settings = flags | dict(parse_override(text) for text in assignments)
    recommender = Recommender(recipe, model=model, history=history, next_items=next_items, seed=seed, settings=settings)
    if item_features and items is None:
        raise ConfigError("--item-features names columns of --items: give --items too")
    places: dict[str, Any] = {"valid": valid, "valid_truth": valid_truth, "items": items}
    with processes():
        _fit(recommender, train, places | {"out": out, "resume": resume, "overwrite": overwrite}, track)
        if is_first():
            _print_fit(Console(), recommender, out)


def _fit(recommender: Recommender, train: Path, options: dict[str, Any], track: tuple[str, ...]) -> None:
    """Fit under a progress line; Ctrl-C ends the program with 130 and says how to go on."""
    from hyperfocal.distributed import is_first
    from hyperfocal.report.progress import FitProgress
    from hyperfocal.report.tracking import Tracking

    out, resume = options["out"], options["resume"]
    tracking = Tracking(track if is_first() else (), out, "recommend", lambda: recommender.settings_, resume=resume)
    try:
        with tracking, FitProgress(lambda: recommender.settings_.train) as progress:
            recommender.fit(train, watch=tracking.wrap(progress.watch), **options)
            tracking.end(recommender.metrics_)
    except KeyboardInterrupt:
        if is_first():
            click.echo(f"stopped. The same command with --resume continues what is in {options['out']}.", err=True)
        sys.exit(130)


def _print_fit(console: Any, recommender: Recommender, out: Path) -> None:
    from hyperfocal.recommend.terminal import data_lines, scores_report
    from hyperfocal.report.format import print_commands, print_lines

    metrics = recommender.metrics_
    print_lines(console, [*data_lines(metrics["data"]), ""])
    console.print(scores_report(metrics, title="Validation"))
    metric = metrics["metric"]
    ours = metrics["scores"][metrics["model"]][metric]["mean"]
    lines = [f"On training users {metric} is {metrics['train'][metric]['mean']:.4f}, on validation users {ours:.4f}."]
    if recommender.history_:
        best = max(recommender.history_, key=lambda row: row[recommender.settings_.train.metric])
        lines.append(
            f"Best epoch {best['epoch']:.0f} of {len(recommender.history_)}, by {recommender.settings_.train.metric}."
        )
    print_lines(console, [*lines, ""])
    following = f"Next: hyperfocal recommend predict {out} HISTORY --out PRED.csv"
    print_commands(console, [f"Run folder: {out}", report_line(out), following])


@recommend.command()
@click.argument("run", type=RUN)
@click.argument("history", type=FILE)
@click.option("--out", type=FILE, required=True, help="File to write: .csv, .tsv, .jsonl (also .gz) or .parquet.")
@click.option("--k", type=int, help="Items a user.  [default: what the run was trained for]")
@click.option("--repeats", is_flag=True, help="Recommend items of the history too.")
@click.option(
    "--new-items", type=FILE, help="Table of items, also of such that training never saw: scored by features."
)
@click.option("--new-boost", type=float, help="Added to the scores of new items.  [default: items.boost of the run]")
@block_options
def predict(
    run: Path,
    history: Path,
    out: Path,
    k: int | None,
    repeats: bool,
    new_items: Path | None,
    new_boost: float | None,
    block: int | None,
    resume: bool,
) -> None:
    """Write the best K items of every user in HISTORY, who may be new and have any number of items.

    The file has the user and item columns of HISTORY, rank (1 is best) and score. For a log in the
    challenge format it is a submission: user_sequence, challenge.

    A large HISTORY is read block by block; then the rows of a user have to stand together.
    """
    from hyperfocal.cli.predict_recommend import predict_log
    from hyperfocal.data.files import File
    from hyperfocal.recommend.recommender import Recommender

    File(out).check_writable()
    if out.resolve() == history.resolve():
        raise DataError(f"--out {out} is the history itself, which would be lost. Choose another name")
    recommender = _with_new_items(Recommender.load(run), new_items, new_boost)
    options = {
        "run": run,
        "k": k,
        "repeats": repeats,
        "new_items": new_items,
        "new_boost": new_boost,
        "block": block,
        "resume": resume,
    }
    counts = predict_log(recommender, history, out, options)
    click.echo(f"{counts['rows']:,} rows for {counts['users']:,} users written to {out}")
    if counts["unknown_events"]:
        click.echo(f"{counts['unknown_events']:,} events are on items that training never saw; they were left out.")


@recommend.command()
@click.argument("run", type=RUN)
@click.argument("new_log", type=FILE)
@click.option("--out", type=RUN, help="Run folder to write.  [default: RUN itself is replaced]")
@click.option("--items", type=FILE, help="Table of the new items, for a run that was fitted with --items.")
@click.option("--epochs", type=click.IntRange(min=1), default=3, show_default=True, help="The best one counts.")
def update(run: Path, new_log: Path, out: Path | None, items: Path | None, epochs: int) -> None:
    """Go on from RUN with the events of NEW_LOG, also of new users and on new items, without starting over.

    Events of users that RUN knows follow those it has of them. A tenth of the users in NEW_LOG validates: what RUN
    achieved on them before is printed beside what it achieves now. RUN stays as it is until the new one is whole.
    """
    from rich.console import Console

    from hyperfocal.recommend.recommender import Recommender
    from hyperfocal.recommend.update import gentler
    from hyperfocal.report.progress import FitProgress
    from hyperfocal.storage.run_folder import RunFolder

    recommender = Recommender.load(run)
    if out is not None and out.resolve() != run.resolve():
        RunFolder(out).refuse_taken()
    with FitProgress(lambda: gentler(recommender.settings_, epochs).train) as progress:
        recommender.update(new_log, items=items, epochs=epochs, watch=progress.watch)
    if out is None or out.resolve() == run.resolve():
        RunFolder(run).replace_by(recommender.save)
    else:
        recommender.save(out)
    _print_update(Console(), recommender, out or run)


def _print_update(console: Any, recommender: Recommender, out: Path) -> None:
    from hyperfocal.recommend.terminal import data_lines, scores_report
    from hyperfocal.report.format import print_commands, print_lines

    metrics = recommender.metrics_
    counts, metric = metrics["data"], metrics["metric"]
    new = f"{counts['new_events']:,} new events, {counts['new_users']:,} new users, {counts['new_items']:,} new items."
    print_lines(console, [new, *data_lines(counts), ""])
    console.print(scores_report(metrics, title="Validation, users of the new log"))
    before, after = metrics["before"][metric]["mean"], metrics["scores"][metrics["model"]][metric]["mean"]
    print_lines(console, [f"{metric} on them was {before:.4f} before the update and is {after:.4f} now.", ""])
    print_commands(console, [f"Run folder: {out}", report_line(out)])


def _with_new_items(recommender: Recommender, items: Path | None, boost: float | None) -> Recommender:
    if items is None and boost is not None:
        raise ConfigError("--new-boost is for the items of --new-items: give that too")
    return recommender if items is None else recommender.with_new_items(items, boost=boost)


@recommend.command()
@click.argument("run", type=RUN)
@click.argument("history", type=FILE)
@click.option("--truth", type=FILE, help="What follows. Without: the last items of each history.")
@click.option("--k", type=int, help="Length of the ranking.  [default: what the run was trained for]")
@click.option("--repeats", is_flag=True, help="Recommend items of the history too.")
@click.option("--new-items", type=FILE, help="Table of items, also of such that training never saw: scored apart.")
@click.option("--new-boost", type=float, help="Added to the scores of new items.  [default: items.boost of the run]")
@click.option("--json", "as_json", is_flag=True, help="Print all metrics as JSON instead of a table.")
def evaluate(
    run: Path,
    history: Path,
    truth: Path | None,
    k: int | None,
    repeats: bool,
    new_items: Path | None,
    new_boost: float | None,
    as_json: bool,
) -> None:
    """Score the run, beside the baselines, on the users of HISTORY."""
    import json

    from rich.console import Console

    from hyperfocal.recommend.recommender import Recommender
    from hyperfocal.recommend.terminal import holdout_lines, scores_report
    from hyperfocal.report.format import print_lines

    recommender = _with_new_items(Recommender.load(run), new_items, new_boost)
    metrics = recommender.evaluate(history, truth, k=k, repeats=repeats)
    if as_json:
        click.echo(json.dumps(metrics, indent=2))
        return
    console = Console()
    console.print(scores_report(metrics, title="Test"))
    print_lines(console, holdout_lines(metrics["data"], "test"))


@recommend.command()
@click.argument("train", type=FILE, metavar="LOG")
@click.option("--valid", type=FILE, help="Log of other users, on which points are compared. Without: a split by user.")
@click.option("--valid-truth", type=FILE, help="What follows the histories in --valid. Without: their last items.")
@click.option("--test", type=FILE, help="Log of other users, scored once, for the winner and the baseline.")
@click.option("--test-truth", type=FILE, help="What follows the histories in --test. Without: their last items.")
@click.option("--out", type=RUN, required=True, help="Folder of the grid: results, table, winner.")
@click.option("--encoders", help="Values of model.name, as transformer,gru,mean; baselines such as markov too.")
@click.option("--losses", help="Values of loss.name, as softmax,focal,bce.")
@click.option(
    "--axis", "axes", multiple=True, metavar="KEY=V1,V2", help="Any other setting, as loss.gamma=0,2,3. Repeatable."
)
@click.option("--seeds", type=int, help="Trainings a point.  [default: the recipe's, or 1]")
@where_options
@click.option("--baseline", help="Point to compare with, as 'gru bce'.  [default: the first]")
@click.option("--by", help="Metric that chooses the winner, as map@3 or tail.map@3.  [default: map@ of --next]")
@click.option("--search", type=click.Choice(["full", "optuna"]), default="full", show_default=True)
@click.option("--trials", type=int, default=30, show_default=True, help="optuna: points to try.")
@click.option("--retry", is_flag=True, help="Try points again that failed before.")
@click.option("--items", type=FILE, help="Table of the items; networks learn from its columns.")
@click.option("--recipe", type=FILE, help="TOML file of settings; its section [grid] may hold the grid.")
@click.option("--user", help="Column of the user id.")
@click.option("--item", help="Column of the item id.")
@click.option("--order", help="Column of the position or time. Without: the order of the rows.")
@click.option("--history", type=int, help="Items that a network reads at most.  [default: 50]")
@click.option("--next", type=int, help="Items to predict.  [default: 3]")
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A setting of all points, as train.epochs=5."
)
@track_option
def grid(**options: Any) -> None:
    """Train a grid of settings on LOG, and say which differ from the baseline beyond chance, and how.

    Every combination is one point, named by its values: `gru focal loss.gamma=2`. Settings that a point does not
    read, as a gamma beside softmax, are left out of it. Each result is stored the moment it is there; the same
    command again does only what is missing. The winner is chosen on validation users.

    \b
    hyperfocal recommend grid log.csv --encoders transformer,gru,markov --losses softmax,focal \\
        --axis loss.gamma=0,2 --seeds 3 --workers 2 --baseline "transformer softmax" --out grid
    hyperfocal recommend predict grid/winner histories.csv --out predictions.csv
    """
    from hyperfocal.cli.recommend_grid import run_grid_command

    run_grid_command(options)
