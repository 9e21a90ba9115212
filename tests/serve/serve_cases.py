"""Small runs of both jobs, with names that a page must not trust, and the service as a process of its own."""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager

import polars as pl

from hyperfocal.tasks.classify import MultiLabelClassifier
from hyperfocal.tasks.recommend import Recommender

SCRIPT = "<script>document.title='taken'</script>"
RIGHT_TO_LEFT = "\u05e9\u05dc\u05d5\u05dd"
ITEMS = [SCRIPT, RIGHT_TO_LEFT, "bell\x07", *(f"course {number:02d}" for number in range(27))]
TREE = f"id\tparent\tname\n1\t\tDrinks\n2\t1\tWine\n3\t1\tBeer\n4\t2\t{SCRIPT}\n"
TEXTS = ["red wine from France", "white wine, dry", "dark beer", "beer from Belgium", "old red wine of a great year"]
LABELS = [["2", "4"], ["2"], ["3"], ["3"], ["2", "4"]]
QUICK = {"train.epochs": 2, "train.threads": 1}


def recommend_run(path, *, seed=0):
    """Fit a small transformer on users who walk through the items in order, with a table of the items; return path."""
    users = [f"u{user}" for user in range(60) for _ in range(8)]
    items = [ITEMS[(user + step) % len(ITEMS)] for user in range(60) for step in range(8)]
    table = pl.DataFrame({"item": ITEMS, "topic": ["art" if place % 2 else "law" for place in range(len(ITEMS))]})
    recommender = Recommender(seed=seed, history=6, settings=QUICK | {"model.embedding_width": 16})
    recommender.fit(pl.DataFrame({"user": users, "item": items}), items=table, out=path)
    return path


def classify_run(path):
    """Fit n-grams on texts about wine and beer, with a tree of labels; return path."""
    tree = path.with_name("tree.tsv")
    tree.write_text(TREE, encoding="utf-8")
    settings = QUICK | {"data.taxonomy": str(tree), "train.epochs": 30, "train.patience": 0}
    MultiLabelClassifier(features="ngrams", settings=settings).fit(TEXTS * 20, LABELS * 20, out=path)
    return path


class Running:
    """A service that runs.

    Attributes:
        process: its process, the one to signal.
        address: "http://127.0.0.1:PORT".
    """

    def __init__(self, process, address):
        self.process, self.address = process, address

    @property
    def port(self):
        return int(self.address.rpartition(":")[2])

    def end(self, number=signal.SIGTERM):
        """End it by a signal; return the exit code and what it said on stderr."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=40)
        return self.process.returncode, said


def command(run, *options):
    return [sys.executable, "-m", "hyperfocal", "serve", str(run), "--port", "0", *options]


@contextmanager
def service(run, *options, key=""):
    """Start `hyperfocal serve` on a free port and wait until it says where; end it on leaving."""
    surroundings = os.environ | {"OMP_NUM_THREADS": "1", "HYPERFOCAL_API_KEY": key}
    process = subprocess.Popen(
        command(run, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=surroundings
    )
    try:
        line = process.stdout.readline()
        found = re.search(r"at (http://\S+)", line)
        assert found, f"{line}{process.stderr.read()}"
        yield Running(process, found[1])
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=40)
        process.stdout.close()
        process.stderr.close()
