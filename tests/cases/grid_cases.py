"""A tiny grid, a watch that records its events, and stores that observe or disturb the process that trains.

`python -m grid_cases OUT EPOCHS` trains p0, p1 and two points of EPOCHS epochs with two workers, and prints events.

FORKS starts processes from one that has imported everything already, so that they start at once.
"""

import multiprocessing
import os
import random
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.classify.grid import TextSource
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recipes import resolve
from hyperfocal.data.documents import Documents
from hyperfocal.errors import RunError
from hyperfocal.grid.axes import expand
from hyperfocal.grid.local import LocalPool
from hyperfocal.grid.points import Point
from hyperfocal.grid.search import GridJob, run_grid
from hyperfocal.grid.store import Store
from hyperfocal.grid.winner import keep_winner
from hyperfocal.training.watch import Watch

TINY = {
    "features.kind": "ngrams",
    "features.word_ngrams": 1,
    "head.name": "linear",
    "train.epochs": 2,
    "train.batch_size": 16,
}
LABELS = ("sport", "music", "food", "chess")
LONG = 100  # epochs: most of a second, so that a worker is in the middle of it
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["pytest", "torch._dynamo", "hyperfocal.grid.search"]
)  # torch's first step imports the second
FAILS = {"train.learning_rate": 1e30}


def settings(**changes) -> ClassifySettings:
    """Return the tiny base settings; `head__width=3` is head.width."""
    return resolve(ClassifySettings, overrides=TINY | {key.replace("__", "."): v for key, v in changes.items()})


def documents(number=60, *, seed=0) -> Documents:
    """Return texts with the names of their labels, and sometimes of another label."""
    rng = random.Random(seed)
    labels = [rng.sample(LABELS, k=rng.choice((1, 1, 2))) for _ in range(number)]
    texts = [" ".join([*row, rng.choice(LABELS), f"word{rng.randrange(9)}"]) for row in labels]
    return Documents.from_lists(texts, labels, ids=[f"{seed}-{place}" for place in range(number)])


def gammas(*values, seeds=1, base=None) -> list[Point]:
    """Return points called no_cap_no_focal (None), no_cap_focal_g2, ..."""
    return expand(base or settings(), {"caps": [None], "gammas": list(values)}, seeds)


def points(number) -> list[Point]:
    """Return that many points p0, p1, ... that all train differently and fast."""
    return [Point(f"p{n}", 0, settings(loss__name="focal", loss__gamma=1 + n / 10)) for n in range(number)]


def failing(name="fails") -> Point:
    """Return a point whose loss becomes infinite at once."""
    return Point(name, 0, settings(**{key.replace(".", "__"): value for key, value in FAILS.items()}))


def long(name="long", epochs=LONG) -> Point:
    """Return a point that trains for a while."""
    return Point(name, 0, settings(train__epochs=epochs))


@dataclass
class Seen(Watch):
    """A watch that records events, such as "started p0", and the errors of failed points."""

    events: list[str] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    kept: int = 0
    on_start: dict = field(default_factory=dict)  # name -> called when it starts
    on_wait: object = field(default=lambda: None)

    def points_skipped(self, count):
        self.kept = count

    def points_awaited(self, count):
        self.events.append(f"waiting {count}")
        self.on_wait()

    def point_started(self, name, seed):
        self.events.append(f"started {name} {seed}")
        self.on_start.get(name, lambda: None)()

    def point_finished(self, name, seed, settings, values, seconds):
        assert values["macro_ap"] >= 0
        assert seconds > 0
        self.events.append(f"finished {name} {seed}")

    def point_failed(self, name, seed, error):
        self.events.append(f"failed {name} {seed}")
        self.errors[name] = error

    def of(self, kind):
        return sorted(event.removeprefix(f"{kind} ") for event in self.events if event.startswith(kind))


class Printed(Seen):
    """A watch that prints events, for another process."""

    def point_started(self, name, seed):
        print(f"started {name}", flush=True)

    def point_finished(self, name, seed, settings, values, seconds):
        print(f"finished {name}", flush=True)


def command_points(epochs) -> list[Point]:
    """Return the points of `python -m grid_cases`."""
    return [*points(2), long("long_a", epochs), long("long_b", epochs + 1)]


def job(folder, **changes) -> GridJob:
    """Return a job over the documents in `folder`, with one worker."""
    source = TextSource(
        changes.pop("train", None) or documents(),
        changes.pop("valid", None),
        folder / "cache",
        changes.pop("test", None),
    )
    given = {"source": source, "base": settings(), "watch": Seen(), "pool": LocalPool(1, 1)}
    return GridJob(**{**given, "out": folder / "grid", **changes})


def filled(folder, scores, *, metric="tuned.macro_f1"):
    """Store given results, name -> one value per seed, None: failed; return their points."""
    grid = []
    _, store = job(folder).prepare(points(1))
    for number, (name, values) in enumerate(scores.items()):
        for seed, value in enumerate(values):
            point = Point(name, seed, settings(seed=seed, loss__name="focal", loss__gamma=1 + number / 10))
            grid.append(point)
            if value is None:
                store.fail(point, "out of luck")
            else:
                store.put(point, {metric: value}, {metric: torch.full((10,), value)}, seconds=1)
    return grid


class ThreadCount(Store):
    """A store that adds to each result how many threads the process that trained it used."""

    def put(self, point, values, resamples, *, seconds):
        found = {"threads": torch.get_num_threads(), "omp": int(os.environ.get("OMP_NUM_THREADS", -1))}
        started = dict(line.split("=", 1) for line in Path("/proc/self/environ").read_text().split("\0") if line)
        found["omp_at_start"] = int(started.get("OMP_NUM_THREADS", -1))  # before torch was imported
        super().put(point, values | found, resamples, seconds=seconds)


class FullDisk(Store):
    """A store that cannot write its first result, as on a full disk."""

    def put(self, point, values, resamples, *, seconds):
        if not self.path.with_name("space").exists():
            self.path.with_name("space").touch()
            raise RunError("no space left")
        super().put(point, values, resamples, seconds=seconds)


def wait_until(condition, seconds=30.0):
    """Wait for a condition; fail after a while."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def children(pid: int) -> set[int]:
    """Return the running processes that a process started."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := parts(int(entry.name))) and int(stat[1]) == pid and stat[0] != "Z":
            found.add(int(entry.name))
    return found


def parts(pid: int) -> list[str]:
    """Return state, parent, ... of a process; [] if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def alive(pid: int) -> bool:
    """Return whether a process still runs."""
    return bool(parts(pid)) and parts(pid)[0] != "Z"


def command(folder: Path, epochs: int) -> None:
    """Run `python -m grid_cases`."""
    run_grid(job(folder, pool=LocalPool(2, 1), watch=Printed()), command_points(epochs), "p0")


def forked_command(folder: Path, epochs: int) -> None:
    """Run that command with output in the files `out` and `err`, and fork its workers too."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
    plain = multiprocessing.get_context("fork")  # with one thread there is no pool of them that could hang
    multiprocessing.get_context = lambda _: plain
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # it was held back when a test started the first
    command(folder, epochs)


def keep(folder: Path, together, kept: str) -> None:
    """End the finished grid of p0 and p1 at the same time as another process, and write each training to a file."""
    fit = MultiLabelClassifier.fit_prepared

    def noted(self, *given, **options):
        with (folder / "fits").open("a") as file:
            file.write(f"{self.settings['loss.gamma']}\n")
        time.sleep(0.5)  # so that the other comes meanwhile
        return fit(self, *given, **options)

    MultiLabelClassifier.fit_prepared = noted
    result = run_grid(job(folder), points(2), "p0")
    together.wait(60)
    found = keep_winner(result, folder / "grid")
    (folder / kept).write_text(" ".join(str(found[role].settings_.loss.gamma) for role in ("winner", "baseline")))


if __name__ == "__main__":
    command(Path(sys.argv[1]), int(sys.argv[2]))
