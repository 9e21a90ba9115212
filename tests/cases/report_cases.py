"""Runs and a grid for tests of pages, with the worst names that a file can contain."""

from pathlib import Path

import numpy as np
import polars as pl

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.classify.grid import TextSource
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recipes import resolve
from hyperfocal.data.documents import Documents
from hyperfocal.grid.axes import expand
from hyperfocal.grid.local import LocalPool
from hyperfocal.grid.points import Point
from hyperfocal.grid.search import GridJob, run_grid
from hyperfocal.recommend.recommender import Recommender
from hyperfocal.training.watch import Watch

SCRIPT = "</script><script>window.hacked = 1</script>"
IMAGE = "<img src=x onerror='window.hacked = 2'>"
HEBREW, OVERRIDE, BELL, QUOTES = "עברית", "abc\u202edcba", "bell\x07ring", "a \"quoted\" & 'b' {{ 7 * 7 }}"
NASTY = (SCRIPT, IMAGE, HEBREW, OVERRIDE, BELL, QUOTES)
LABELS = (*NASTY, *(f"label {number}" for number in range(24)))
FAST = {
    "features.kind": "ngrams",
    "features.word_ngrams": 1,
    "head.name": "linear",
    "train.epochs": 3,
    "train.threads": 1,
}


def documents(number: int = 240, *, seed: int = 0) -> Documents:
    """Return texts with two labels each, the first labels most often; every label has a word."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, len(LABELS) + 1)
    drawn = [rng.choice(len(LABELS), 2, replace=False, p=weights / weights.sum()) for _ in range(number)]
    noise = [rng.choice(len(LABELS)) for _ in range(number)]
    texts = [f"word{a} word{b} word{c} {SCRIPT} {IMAGE}" for (a, b), c in zip(drawn, noise, strict=True)]
    return Documents.from_lists(
        texts, [[LABELS[a], LABELS[b]] for a, b in drawn], ids=[f"<b>{seed}-{place}</b>" for place in range(number)]
    )


def classify_run(folder: Path) -> Path:
    """Fit a classifier of the nasty labels, and return its folder."""
    MultiLabelClassifier(settings=FAST).fit(documents(), out=folder)
    return folder


def log(users: int = 60) -> pl.DataFrame:
    """Return a log of users who go around a circle of items, some with nasty names."""
    rows = [
        (f"<i>{user}</i>", LABELS[(user * 5 + step + (user * step) % 3) % 20])
        for user in range(users)
        for step in range(6 + user % 4)
    ]
    return pl.DataFrame(rows, schema=["user", "item"], orient="row")


def recommend_run(folder: Path) -> Path:
    """Fit a recommender of the nasty items, and return its folder."""
    settings = {"model.embedding_width": 8, "train.epochs": 2, "train.threads": 1, "data.valid_fraction": 0.4}
    Recommender(history=4, next_items=3, settings=settings).fit(log(), out=folder)
    return folder


def grid_job(folder: Path) -> tuple[GridJob, list[Point]]:
    """Return a grid of two caps and two gammas on the nasty labels, and its points."""
    base = resolve(ClassifySettings, overrides=FAST)
    source = TextSource(documents(), None, folder / "cache")
    return GridJob(source, base, folder / "grid", Watch(), LocalPool(1, 1)), expand(
        base, {"caps": [None, 7.0], "gammas": [None, 2.0]}, 2
    )


def grid(folder: Path) -> Path:
    """Run that grid, and return its folder."""
    job, points = grid_job(folder)
    run_grid(job, points, "no_cap_no_focal")
    return job.out
