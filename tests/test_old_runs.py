"""Load, report, verify and continue the runs and grids of an earlier version, and predict as it did.

tests/reference/old was written by `python tests/test_old_runs.py FOLDER` with the source of commit 0b36f34, before the
files of the package moved. Do not write it again with a newer source: it stands for what users have on their disks.
Left out are report.html and checkpoints/, which neither `load` nor `verify` needs.
"""

import json
import os
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest

from hyperfocal import MultiLabelClassifier, Recommender
from reference_cases import (
    ITEMS,
    NEW_ITEMS,
    command,
    differences,
    documents,
    read_rows,
    write_documents,
    write_items,
    write_log,
)

OLD = Path(__file__).parent / "reference" / "old"
TRAINING = ("train.epochs=2", "train.batch_size=16", "train.threads=1", "data.valid_fraction=0.3")
NETWORK = (*TRAINING, "train.learning_rate=0.01", "train.warmup_steps=5", "model.embedding_width=8", "data.history=4")
TEXTS = (
    *TRAINING,
    "features.kind=ngrams",
    "features.max_features=300",
    "head.width=8",
    "train.sparse_learning_rate=20",
)
RECOMMENDERS = ("recommender", "recommend_grid/winner", "recommend_grid/baseline")
CLASSIFIERS = ("classifier", "classify_grid/winner", "classify_grid/baseline")


def settings(*assignments: str) -> list[str]:
    """Return the options that give these settings."""
    return [part for text in assignments for part in ("--set", text)]


def write_old(folder: Path) -> None:
    """Train two runs and two grids into a folder, predict with each run, and remove what is large."""
    with TemporaryDirectory() as temporary, patch.dict(os.environ, HYPERFOCAL_CACHE=temporary):
        log, items, texts = write_data(Path(temporary))
        options = ("--items", items, "--out", folder / "recommender", *settings(*NETWORK, "model.blend=true"))
        command("recommend", "fit", log, *options)
        loss = ("--loss", "focal", "--cap", 4)
        command("classify", "fit", texts, *loss, "--out", folder / "classifier", *settings(*TEXTS))
        points = ("--encoders", "gru,markov", "--losses", "softmax", "--seeds", "1")
        command("recommend", "grid", log, *points, "--out", folder / "recommend_grid", *settings(*NETWORK))
        points = ("--caps", "none", "--gammas", "none,2", "--seeds", "1")
        command("classify", "grid", texts, *points, "--out", folder / "classify_grid", *settings(*TEXTS))
        for run in (*RECOMMENDERS, *CLASSIFIERS):
            predict(folder / run, log if run in RECOMMENDERS else texts, predictions(folder, run))
    remove_large_files(folder)


def write_data(folder: Path) -> tuple[Path, Path, Path]:
    """Write a log, a table of its items, and documents; return their paths."""
    log, items = write_log(folder / "log.csv", 90), write_items(folder / "items.csv", ITEMS)
    return log, items, write_documents(folder / "documents.jsonl", documents(160))


def predict(run: Path, data: Path, out: Path) -> None:
    """Write the predictions of a run by the command line."""
    command("recommend" if out.suffix == ".csv" else "classify", "predict", run, data, "--out", out)


def predictions(folder: Path, run: str) -> Path:
    """Return the path of a run's predictions."""
    return folder / "predictions" / f"{run.replace('/', '_')}{'.csv' if run in RECOMMENDERS else '.jsonl'}"


def remove_large_files(folder: Path) -> None:
    for path in [*folder.rglob("report.html"), *folder.rglob("checkpoints")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in folder.rglob("grid.sqlite"):  # pages that are no longer used may hold the name of this machine
        with closing(sqlite3.connect(path)) as database:
            database.execute("VACUUM")


@pytest.fixture
def data(tmp_path):
    """Return a log, a table of its items, and documents: what the old runs learned from."""
    return write_data(tmp_path)


@pytest.fixture
def copy(tmp_path):
    """Return a function that copies an old run or grid, because commands write into it."""
    return lambda name: shutil.copytree(OLD / name, tmp_path / "copy")


@pytest.mark.parametrize("run", [*RECOMMENDERS, *CLASSIFIERS])
def test_the_predictions_are_those_of_then(run, data, tmp_path):
    stored = predictions(OLD, run)
    predict(OLD / run, data[0] if run in RECOMMENDERS else data[2], tmp_path / stored.name)
    rows = read_rows(tmp_path / stored.name)
    assert {row.pop("known") for row in rows} <= {True, "true"}  # a column that predictions of then did not have
    assert list(differences(read_rows(stored), rows, "row")) == []


@pytest.mark.parametrize("run", RECOMMENDERS)
def test_recommenders_load_in_python(run, data):
    history, stored = {}, {}
    for row in read_rows(data[0]):
        history.setdefault(row["user"], []).append(row["item"])
    for row in read_rows(predictions(OLD, run)):
        stored.setdefault(row["user"], []).append(row["item"])
    users = sorted(stored)
    ranked = Recommender.load(OLD / run).recommend([history[user] for user in users])
    assert ranked == [stored[user] for user in users]


@pytest.mark.parametrize("run", CLASSIFIERS)
def test_classifiers_load_in_python(run):
    decided = MultiLabelClassifier.load(OLD / run).predict([row["text"] for row in documents(160)])
    assert list(map(sorted, decided)) == [sorted(row["labels"]) for row in read_rows(predictions(OLD, run))]


@pytest.mark.parametrize("run", [*RECOMMENDERS, *CLASSIFIERS])
def test_verify_finds_every_file_as_it_was_written(run, capsys):
    command("verify", OLD / run)
    assert "files are as they were written" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("recommender", "decayed_markov"),
        ("classifier", "chess"),
        ("recommend_grid", "gru softmax"),
        ("classify_grid", "no_cap_focal_g2"),
    ],
)
def test_the_report_is_written_again(name, shown, copy):
    folder = copy(name)
    command("report", folder)
    assert shown in (folder / "report.html").read_text()


def test_a_recommender_continues_with_new_events(copy, tmp_path):
    run = copy("recommender")
    log = write_log(tmp_path / "new_log.csv", 40, items=ITEMS[::2] + NEW_ITEMS, seed=1)
    command("recommend", "update", run, log, "--items", write_items(tmp_path / "new_items.csv", NEW_ITEMS))
    assert set(NEW_ITEMS) <= set(json.loads((run / "vocabulary.json").read_text())["items"])


def test_a_classifier_continues_with_new_documents(copy, tmp_path):
    run = copy("classifier")
    texts = write_documents(
        tmp_path / "more.jsonl", [row | {"labels": [*row["labels"], "new"]} for row in documents(60, seed=9)]
    )
    command("classify", "update", run, texts)
    facts = json.loads((run / "vocabulary.json").read_text())
    assert facts["items"][-1] == "new"
    assert facts["training_documents"][-1] > 0


if __name__ == "__main__":
    write_old(Path(sys.argv[1]))
