"""Same seed, same machine: same bytes, in processes that hash texts and place memory differently.

`python test_determinism.py FOLDER` fits each case and predicts; a test does so twice and compares all files.
"""

import os
import random
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.recommend.recommender import Recommender

TIMED = {
    "history.jsonl",
    "evidence.json",
    "report.html",
    "manifest.json",
    "checkpoints/last.safetensors",
}  # hold seconds
QUICK = {"train.epochs": 2, "train.batch_size": 16, "train.threads": 1}
SMALL = QUICK | {"model.embedding_width": 8, "data.history": 4}
ITEMS = [f"item{number}" for number in range(20)]
LABELS = ["sport", "music", "food", "chess"]


def recommend(folder: Path, *, items: bool = False, **options) -> None:
    """Fit on made-up events, perhaps with what is known of the items, and predict."""
    rng = random.Random(0)
    rows = [(f"u{user}", rng.choice(ITEMS), step) for user in range(60) for step in range(8)]
    log = pl.DataFrame(rows, schema=["user", "item", "order"], orient="row")
    table = pl.DataFrame({"item": ITEMS, "kind": ["a", "b c"] * 10, "price": [float(n) for n in range(20)]})
    recommender = Recommender(**options).fit(log, items=table if items else None, out=folder)
    recommender.predict(log, 5).frame.write_csv(folder / "predictions.csv")


def classify(folder: Path, **settings) -> None:
    """Fit on made-up texts with n-grams, decide on scores out of fold, and predict."""
    rng = random.Random(0)
    labels = [rng.sample(LABELS, k=rng.choice((1, 2))) for _ in range(80)]
    texts = [" ".join([*row, rng.choice(LABELS), f"word{rng.randrange(9)}"]) for row in labels]
    classifier = MultiLabelClassifier(features="ngrams", settings=QUICK | {"head.width": 8} | settings)
    classifier.fit(texts, labels, out=folder)
    (folder / "predictions.txt").write_text(str([classifier.predict(texts), classifier.predict_proba(texts).tolist()]))


CASES = {
    "transformer": lambda folder: recommend(folder, items=True, settings=SMALL | {"model.blend": True}),
    "concat_mlp": lambda folder: recommend(folder, model="concat_mlp", settings=SMALL | {"loss.name": "focal"}),
    "another_seed": lambda folder: recommend(
        folder, model="concat_mlp", settings=SMALL | {"loss.name": "focal", "seed": 1}
    ),
    "ngrams": classify,
    "folds": lambda folder: classify(folder, **{"train.folds": 2}),
}


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    """Return two folders, each with a run a case, from two processes of their own."""
    folders = [tmp_path_factory.mktemp(f"hashseed{seed}") for seed in (1, 2)]
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, folder], env=os.environ | {"PYTHONHASHSEED": str(seed), "OMP_NUM_THREADS": "1"}
        )
        for seed, folder in enumerate(folders, 1)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    return folders


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_write_the_same_bytes(twice, case):
    first, second = (contents(folder / case) for folder in twice)
    assert first.keys() == second.keys()
    assert {name for name in first if first[name] != second[name]} <= TIMED
    assert {"config.toml", "model.safetensors", "metrics.json"} < first.keys() - TIMED


def test_another_seed_writes_other_bytes(twice):
    one, other = contents(twice[0] / "concat_mlp"), contents(twice[0] / "another_seed")
    for name in ("model.safetensors", "metrics.json", "predictions.csv"):
        assert one[name] != other[name], name


if __name__ == "__main__":
    for name, make in CASES.items():
        make(Path(sys.argv[1]) / name)
