"""A tiny grid on a log: users walk around a circle of items, some of them only for a few steps."""

from dataclasses import replace

import polars as pl

from grid_cases import Seen
from hyperfocal.config.recipes import resolve
from hyperfocal.config.recommend import RecommendSettings
from hyperfocal.grid.axes import expand
from hyperfocal.grid.local import LocalPool
from hyperfocal.grid.search import GridJob
from hyperfocal.recommend.grid import LogSource

ITEMS = 12
TINY = {
    "data.history": 4,
    "data.next": 2,
    "data.valid_fraction": 0.3,
    "model.embedding_width": 8,
    "model.layers": 1,
    "model.hidden_widths": [8],
    "train.metric": "map@2",
    "train.epochs": 2,
    "train.patience": 0,
}


def settings(**changes) -> RecommendSettings:
    """Return the tiny base settings; `loss__name="bce"` is loss.name."""
    return resolve(RecommendSettings, overrides=TINY | {key.replace("__", "."): v for key, v in changes.items()})


def log(users=40, *, name="user", short=True) -> pl.DataFrame:
    """Return a frame of users with 6 to 9 items, every fourth of them with 3 where `short`."""
    rows = []
    for user in range(users):
        length = 3 if short and user % 4 == 0 else 6 + user % 4
        rows += [(f"{name}{user}", f"i{(user * 5 + step + (user * step) % 3) % ITEMS}") for step in range(length)]
    return pl.DataFrame(rows, schema=["user", "item"], orient="row")


class RankingSeen(Seen):
    """A watch that records events."""

    def point_finished(self, name, seed, settings, values, seconds):
        assert values["map@2"] >= 0
        self.events.append(f"finished {name} {seed}")


class Written(RankingSeen):
    """A watch in another process, which writes the started points to a file."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def point_started(self, name, seed):
        with self.path.open("a") as file:
            file.write(f"{name} {seed}\n")


def train_beside(job, points, path):
    """Run a grid in another process, and write the started points to a file."""
    prepared, store = job.prepare(points)
    replace(job, watch=Written(path)).run(prepared, points, store)


def points(*encoders, losses=("bce",), seeds=1, base=None, **axes):
    """Return points called `gru bce`; `loss__gamma=[1, 2]` is an axis."""
    more = {key.replace("__", "."): values for key, values in axes.items()}
    return expand(base or settings(), {"model.name": list(encoders), "loss.name": list(losses)} | more, seeds)


def job(folder, **changes) -> GridJob:
    """Return a job over the log, with one worker."""
    names = ("train", "valid", "valid_truth", "test", "test_truth", "items")
    source = LogSource(**{"train": log(), **{name: changes.pop(name) for name in names if name in changes}})
    given = {"source": source, "base": settings(), "watch": RankingSeen(), "pool": LocalPool(1, 1), "by": "map@2"}
    return GridJob(**{**given, "out": folder / "grid", **changes})
