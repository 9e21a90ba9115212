"""The commands of the job `recommend`. Heavy imports are inside functions, so that --help answers at once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyperfocal.cli.options import (
    BLOCKS,
    GRID,
    LOG,
    PATH,
    RANKING,
    RECIPE,
    RUN,
    SAFE_CSV,
    SET,
    TRACK,
    log_settings,
    with_options,
)
from hyperfocal.cli.rules import RULES, files_of_rules, known_users, log_predictor, user_ids
from hyperfocal.cli.steps import (
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
    from hyperfocal.recommend.recommender import Recommender


@click.group(cls=Commands)
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
    refuse_several_processes(context)


@recommend.command()
@click.argument("train", type=PATH)
@click.option("--out", type=PATH, required=True, help="Run folder to write: settings, model, scores.")
@with_options(RECIPE)
@click.option("--valid", type=PATH, help="Log of validation users.  [default: a seeded split by user]")
@click.option("--valid-truth", type=PATH, help="Events that follow those in --valid.  [default: its last items]")
@click.option("--items", type=PATH, help="Item table, one row per item, whose columns the network learns from.")
@click.option(
    "--item-features",
    multiple=True,
    metavar="COLUMN[:KIND]",
    help="Column of --items to use. KIND is category, list, text, number or date; without it, the kind is inferred "
    "from the values. Repeatable.  [default: all]",
)
@with_options(*LOG)
@click.option(
    "--model",
    help="transformer, gru, mean, concat_mlp; popularity, cooccurrence, markov, decayed_markov, item_knn, ease, "
    "user_knn.  [default: transformer]",
)
@click.option(
    "--protocol",
    type=click.Choice(["users", "leave-one-out", "time"]),
    help="users: validate on held-out users.  leave-one-out: validate on each user's second-last item; the last one "
    "is for `evaluate`.  time: train before --until, and validate on what users do from then on.  [default: users]",
)
@click.option("--until", metavar="TIME", help="With --protocol time: the moment, such as 2024-05-01.")
@click.option("--horizon", type=float, metavar="DAYS", help="With --protocol time: days that count.  [default: all]")
@click.option("--minutes", type=float, help="Start no epoch after this time; the best one counts.  [default: no limit]")
@click.option("--seed", type=int, help="Seed of the split, the weights and the order of examples.  [default: 0]")
@with_options(SET, *RUN, TRACK)
def fit(
    train: Path,
    out: Path,
    recipe: Path | None,
    valid: Path | None,
    valid_truth: Path | None,
    items: Path | None,
    item_features: tuple[str, ...],
    model: str | None,
    protocol: str | None,
    until: str | None,
    horizon: float | None,
    minutes: float | None,
    seed: int | None,
    resume: bool,
    overwrite: bool,
    track: tuple[str, ...],
    **columns: Any,
) -> None:
    """Fit on the log TRAIN, and score the model next to the baselines.

    TRAIN is CSV, TSV, Parquet or JSON lines with one event per row; or text (.txt) with `user item item ...`
    per line; or a log of RecBole (.inter), MovieLens (.dat) or solved challenges. All formats except Parquet may
    be compressed (gzip, bzip2, zstd). A folder or a pattern of Parquet parts is one table.

    Several processes can train together: torchrun --nproc-per-node 2 -m hyperfocal recommend fit TRAIN --out RUN
    """
    from hyperfocal.distributed import is_first, processes
    from hyperfocal.recommend.recommender import Recommender

    refuse_resume_and_overwrite(resume, overwrite)
    chosen = {
        "data.protocol": protocol,
        "data.until": until,
        "data.horizon": horizon,
        "train.minutes": minutes,
        "items.features": item_features or None,
    }
    recommender = Recommender(recipe, model=model, seed=seed, settings=chosen | log_settings(columns))
    if item_features and items is None:
        raise ConfigError("--item-features names columns of --items. Give --items too")
    files: dict[str, Any] = {"valid": valid, "valid_truth": valid_truth, "items": items, "out": out}
    with processes():
        with follow_fit("recommend", recommender, out, track, resume=resume) as watch:
            recommender.fit(train, **files, resume=resume, overwrite=overwrite, watch=watch)
        if is_first():
            _print_fit(recommender)
            print_run(out, f"recommend predict {out} HISTORY --out PRED.csv")


def _print_fit(recommender: Recommender) -> None:
    from hyperfocal.cli.wording import print_lines, print_report
    from hyperfocal.recommend.terminal import data_lines, hint_lines, scores_report
    from hyperfocal.report.console import SafeConsole

    console, metrics = SafeConsole(), recommender.metrics_
    print_lines(console, [*data_lines(metrics["data"]), ""])
    print_report(console, scores_report(metrics, title="Validation"))
    metric = metrics["metric"]
    ours = metrics["scores"][metrics["model"]][metric]["mean"]
    lines = [f"On training users {metric} is {metrics['train'][metric]['mean']:.4f}, on validation users {ours:.4f}."]
    if recommender.history_:
        by = recommender.settings_.train.metric
        best = max(recommender.history_, key=lambda row: row[by])
        lines.append(f"Best epoch {best['epoch']:.0f} of {len(recommender.history_)}, by {by}.")
        lines += hint_lines(metrics, int(best["epoch"]), len(recommender.history_))
    print_lines(console, [*lines, ""])


@recommend.command()
@click.argument("run", type=PATH)
@click.argument("history", type=PATH, required=False)
@click.option(
    "--out", type=PATH, required=True, help="File to write: .csv, .tsv, .jsonl (also .gz, .bz2, .zst) or .parquet."
)
@click.option("--users", type=PATH, help="In place of HISTORY: file of ids of users of the training log.")
@with_options(*RANKING, *RULES, *BLOCKS, SAFE_CSV)
def predict(
    run: Path,
    history: Path | None,
    out: Path,
    users: Path | None,
    block: int | None,
    resume: bool,
    safe_csv: bool,
    **ranking: Any,
) -> None:
    """Predict the best K items of each user in HISTORY. Users may be new and have any number of items.

    The output has the user and item columns of HISTORY, rank (1 is best), score and known: whether the user's history
    has an item that RUN knows. For a log of solved challenges it is a submission: user_sequence, challenge.

    A large HISTORY is read block by block; the rows of each user must then be consecutive.

    \b
    hyperfocal recommend predict RUN --users ids.txt --k 10 --out lists.csv
    hyperfocal recommend predict RUN histories.csv --items stock.csv --filter 'in_stock = true' \\
        --max-per brand=2 --diversity 0.3 --out lists.csv
    """
    if (history is None) == (users is None):
        raise ConfigError("predict needs HISTORY, or --users with a file of user ids, and not both. Give one of them")
    for name, path in {"HISTORY": history, "--users": users, **files_of_rules(ranking)}.items():
        if path is not None:
            refuse_output(out, path, name, safe_csv=safe_csv)
    from hyperfocal.cli.predict import predict_file, predict_log

    predictor = log_predictor(_load(run, ranking), ranking, safe_csv=safe_csv)
    if history is not None:
        counts = predict_file(predictor, run, history, out, block=block, resume=resume)
    else:
        counts = predict_log(predictor, known_users(predictor.recommender, users, block, resume), out)
    _print_counts(counts, out)


def _print_counts(counts: Counter[str], out: Path) -> None:
    from hyperfocal.report.format import quantity

    echo(f"{counts['rows']:,} rows for {counts['users']:,} users written to {out}")
    if counts["unknown_events"]:
        echo(f"{counts['unknown_events']:,} events are on items that training never saw; they were left out.")
    if counts["unknown_users"]:
        users = quantity(counts["unknown_users"], "user")
        echo(f"{users} without an item that RUN knows: the same items as for an empty history.")
    if counts["short_users"]:
        echo(f"{quantity(counts['short_users'], 'user')} with fewer than k items: no more items may be recommended.")


def _load(run: Path, ranking: dict[str, Any]) -> Recommender:
    """Return the recommender of a run, which also knows the items of --new-items."""
    from hyperfocal.recommend.recommender import Recommender

    new_items, new_boost = ranking["new_items"], ranking["new_boost"]
    if new_items is None and new_boost is not None:
        raise ConfigError("--new-boost is for the items of --new-items. Give --new-items too")
    recommender = Recommender.load(run)
    return recommender if new_items is None else recommender.with_new_items(new_items, boost=new_boost)


@recommend.command()
@click.argument("run", type=PATH)
@click.option("--item", "items", multiple=True, metavar="ID", help="Item of the run. Repeatable.  [default: all items]")
@click.option("--k", type=int, default=10, show_default=True, help="Similar items per item.")
@click.option("--out", type=PATH, help="File to write: .csv, .tsv, .jsonl or .parquet.  [default: print a table]")
def similar(run: Path, items: tuple[str, ...], k: int, out: Path | None) -> None:
    """List the K items most like each --item, the most alike first.

    The similarity is the cosine of the item vectors that a network of RUN has learnt; for a baseline, that of item_knn.

    \b
    hyperfocal recommend similar RUN --item C12 --item C7
    hyperfocal recommend similar RUN --out similar.parquet
    """
    from hyperfocal.cli.vectors import print_similar, similar_frame, write_similar
    from hyperfocal.recommend.recommender import Recommender

    if out is None and not items:
        raise ConfigError("--out is needed for all items. Give it, or name items with --item")
    if out is not None:
        refuse_output(out, run, "RUN")
    frame = similar_frame(Recommender.load(run), items, k)
    if out is None:
        print_similar(frame)
    else:
        write_similar(frame, out)


@recommend.command()
@click.argument("run", type=PATH)
@click.option("--out", type=PATH, required=True, help="File to write: .parquet; or .npy, with the ids in .ids.json.")
@click.option("--users", type=PATH, help="File of ids of users of the training log, whose vectors are written instead.")
def vectors(run: Path, out: Path, users: Path | None) -> None:
    """Write the item vectors of RUN, or those of users, for an index of nearest neighbors.

    The inner product of a user's vector and an item's is the network's score: the last number of an item's vector is
    its bias, and that of a user's is 1.

    \b
    hyperfocal recommend vectors RUN --out items.npy
    hyperfocal recommend vectors RUN --users ids.txt --out users.parquet
    """
    from hyperfocal.cli.vectors import check_vectors, user_frame, write_vectors
    from hyperfocal.recommend.recommender import Recommender

    check_vectors(out, users)
    recommender = Recommender.load(run)
    frame = recommender.item_vectors() if users is None else user_frame(recommender, user_ids(recommender, users))
    echo(f"{frame.height:,} vectors of {write_vectors(frame, out):,} numbers written to {out}")


@recommend.command()
@click.argument("run", type=PATH)
@click.argument("history", type=PATH)
@click.option("--truth", type=PATH, help="Events that follow HISTORY.  [default: the last items of each history]")
@with_options(*RANKING)
@click.option("--json", "as_json", is_flag=True, help="Print all metrics as JSON instead of a table.")
def evaluate(run: Path, history: Path, truth: Path | None, as_json: bool, **ranking: Any) -> None:
    """Score RUN next to the baselines on the users of HISTORY. New items are scored separately."""
    from hyperfocal.recommend.terminal import evaluation_report, holdout_lines, title_of

    metrics = _load(run, ranking).evaluate(history, truth, k=ranking["k"], repeats=ranking["repeats"])
    print_evaluation(metrics, evaluation_report, holdout_lines, title_of, as_json=as_json)


@recommend.command()
@click.argument("run", type=PATH)
@click.argument("new_log", type=PATH)
@click.option("--out", type=PATH, help="Run folder to write.  [default: RUN itself is replaced]")
@click.option("--items", type=PATH, help="Item table with the new items, for a run that was fitted with --items.")
@click.option("--epochs", type=click.IntRange(min=1), default=3, show_default=True, help="Epochs; the best one counts.")
@click.option("--again", is_flag=True, help="Allow events that RUN has already; they count twice.")
def update(run: Path, new_log: Path, out: Path | None, items: Path | None, epochs: int, again: bool) -> None:
    """Continue RUN with the events of NEW_LOG, which may have new users and new items, without training from scratch.

    The events of users that RUN knows are appended to their histories. A tenth of the users in NEW_LOG is for
    validation: the scores of RUN on them are printed next to those of the updated model. RUN stays unchanged until
    the new run is complete.

    Give only new events. A log that RUN has already, from its `fit` or an earlier update, is refused. So is a log that
    begins with the events that RUN has of the same users.
    """
    from hyperfocal.recommend.recommender import Recommender
    from hyperfocal.report.progress import FitProgress

    def continued() -> Recommender:
        recommender = Recommender.load(run)
        with FitProgress() as progress:
            return recommender.update(new_log, items=items, epochs=epochs, again=again, watch=progress)

    _print_update(write_update(run, out, continued))
    print_run(out or run)


def _print_update(recommender: Recommender) -> None:
    from hyperfocal.cli.wording import print_lines, print_report
    from hyperfocal.recommend.terminal import data_lines, scores_report
    from hyperfocal.report.console import SafeConsole

    console, metrics = SafeConsole(), recommender.metrics_
    counts, metric = metrics["data"], metrics["metric"]
    new = f"{counts['new_events']:,} new events, {counts['new_users']:,} new users, {counts['new_items']:,} new items."
    print_lines(console, [new, *data_lines(counts), ""])
    print_report(console, scores_report(metrics, title="Validation, users of the new log"))
    before, after = metrics["before"][metric]["mean"], metrics["scores"][metrics["model"]][metric]["mean"]
    print_lines(console, [f"{metric} on them was {before:.4f} before the update and is {after:.4f} now.", ""])


@recommend.command()
@click.argument("train", type=PATH, metavar="LOG")
@click.option("--valid", type=PATH, help="Log of validation users, on which points are compared.  [default: a split]")
@click.option("--valid-truth", type=PATH, help="Events that follow those in --valid.  [default: its last items]")
@click.option("--test", type=PATH, help="Log of test users, scored once, for the winner and the baseline.")
@click.option("--test-truth", type=PATH, help="Events that follow those in --test.  [default: its last items]")
@click.option("--out", type=PATH, required=True, help="Folder of the grid: results, table, winner.")
@click.option("--encoders", help="Values of model.name, such as transformer,gru,mean or the baseline markov.")
@click.option("--losses", help="Values of loss.name, such as softmax,focal,bce.")
@click.option(
    "--axis",
    "axes",
    multiple=True,
    metavar="KEY=V1,V2",
    help="Values of any other setting, such as loss.gamma=0,2,3. Repeatable.",
)
@click.option("--baseline", help="Point to compare the others with, such as 'gru bce'.  [default: the first]")
@click.option("--by", help="Metric that chooses the winner, such as map@3 or tail.map@3.  [default: map@ of --next]")
@click.option("--items", type=PATH, help="Item table, one row per item, whose columns networks learn from.")
@with_options(RECIPE, *LOG, SET, *GRID)
def grid(**options: Any) -> None:
    """Train a grid of settings on LOG, and report which differ significantly from the baseline.

    Each combination of values is one point, named by them: `gru focal loss.gamma=2`. Settings that a point does not
    read, such as a gamma with softmax, are left out of it. Each result is stored as soon as its point ends; the same
    command again trains only what is missing. The winner is chosen on validation users. --recipe FILE may define the
    grid in a section [grid].

    \b
    hyperfocal recommend grid log.csv --encoders transformer,gru,markov --losses softmax,focal \\
        --axis loss.gamma=0,2 --seeds 3 --workers 2 --baseline "transformer softmax" --out grid
    hyperfocal recommend predict grid/winner histories.csv --out predictions.csv
    """
    from hyperfocal.cli.grid import RECOMMEND, run_grid_command

    run_grid_command(RECOMMEND, options)
