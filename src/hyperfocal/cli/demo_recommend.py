"""The demo of the job `recommend`: a generated log, a model next to baselines, its predictions for three users."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from hyperfocal.cli.report import write_run_report
from hyperfocal.cli.steps import claim_demo, program_name
from hyperfocal.cli.wording import print_lines, print_report
from hyperfocal.data.files import write_frame
from hyperfocal.data.synthetic_logs import ChallengeData, make_challenges, write_challenges
from hyperfocal.recommend.recommender import Recommender
from hyperfocal.recommend.terminal import data_lines, examples_table, holdout_lines, scores_report
from hyperfocal.report.console import SafeConsole
from hyperfocal.report.format import print_commands
from hyperfocal.report.page import line_of
from hyperfocal.report.progress import FitProgress
from hyperfocal.storage.whole import whole_file

EXAMPLE_USERS = 3
LEARNING_RATE = 0.003  # higher than the default, because few users mean few steps


def run_demo(out: Path, *, users: int, challenges: int, epochs: int, seed: int) -> None:
    """Write data, run and predictions to the folder `out`, and print the scores and some predictions."""
    console = SafeConsole()
    recommender = Recommender(seed=seed, settings={"train.epochs": epochs, "train.learning_rate": LEARNING_RATE})
    recommender.resolve()  # a wrong one is an error before anything is written
    claim_demo(out)
    print_lines(console, [f"Generating {users:,} users who solve 13 of {challenges:,} challenges each ..."])
    data = make_challenges(users, challenges, seed=seed)
    folder, run = out / "data", out / "run"
    write_challenges(data, folder)

    with FitProgress() as progress:
        recommender.fit(folder / "train.csv", out=run, overwrite=True, watch=progress)
    print_lines(console, [*data_lines(recommender.metrics_["data"]), ""])

    metrics = recommender.evaluate(folder / "test.csv", folder / "test_truth.csv")
    print_report(console, scores_report(metrics, title="Test"))
    print_lines(console, [*holdout_lines(metrics["data"], "test"), ""])

    predictions = recommender.predict(folder / "test.csv").frame
    with whole_file(out / "predictions.csv") as aside:
        write_frame(predictions, aside)
    console.print("Three users: what they solved (last 5), what came next, and what was predicted:")
    console.print(examples_table(_examples(data, predictions)))
    print_commands(console, _closing_lines(out, program_name()))


def _examples(data: ChallengeData, predictions: pl.DataFrame) -> list[tuple[str, list[str], list[str], list[str]]]:
    """Return user, history, truth and prediction of the first users with a hit."""
    predicted, true = _by_user(predictions), _by_user(data.test_truth)
    solved = _by_user(data.test.select("user_sequence", "challenge"))
    hit = [user for user in true if set(true[user]) & set(predicted[user])]
    return [(user, solved[user][-5:], true[user], predicted[user]) for user in (hit or list(true))[:EXAMPLE_USERS]]


def _by_user(frame: pl.DataFrame) -> dict[str, list[str]]:
    rows: dict[str, list[str]] = {}
    for key, challenge in frame.iter_rows():
        rows.setdefault(key.rpartition("_")[0], []).append(challenge)
    return rows


def _closing_lines(out: Path, program: str) -> list[str]:
    return [
        "",
        f"Data:        {out / 'data'}",
        f"Run folder:  {out / 'run'}",
        line_of(lambda: write_run_report(out / "run"), f"{program} report {out / 'run'}"),
        f"Predictions: {out / 'predictions.csv'}",
        f"Try it in a browser: {program} serve {out / 'run'}",
        "",
        "The same with commands, on these files or on yours:",
        f"  {program} recommend fit {out / 'data' / 'train.csv'} --out run --set train.epochs=5",
        f"  {program} recommend predict run {out / 'data' / 'test.csv'} --out predictions.csv",
        f"  {program} recommend evaluate run {out / 'data' / 'test.csv'} --truth {out / 'data' / 'test_truth.csv'}",
    ]
