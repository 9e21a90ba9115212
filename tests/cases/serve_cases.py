"""Small runs of both jobs, with names that a page must not trust, and the service as a separate process."""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import polars as pl

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.recommend.recommender import Recommender

SCRIPT = "<script>document.title='taken'</script>"
RIGHT_TO_LEFT = "\u05e9\u05dc\u05d5\u05dd"
COURSES = [
    "Arithmetic", "Algebra", "Geometry", "Calculus", "Linear algebra", "Probability", "Statistics", "Regression",
    "Programming", "Data structures", "Algorithms", "Databases", "Networks", "Operating systems", "Compilers",
    "Drawing", "Colour", "Painting", "Sculpture", "Photography", "Film", "Harmony", "Counterpoint", "Composition",
]  # fmt: skip
ITEMS = [*COURSES, SCRIPT, RIGHT_TO_LEFT, "bell\x07"]
TREE = "id\tparent\tname\n1\t\tFood and drink\n2\t1\tWine\n3\t2\tRed wine\n4\t2\tWhite wine\n5\t1\tBeer\n"
TREE += f"6\t5\tDark beer\n7\t1\tCheese\n8\t1\tBread\n9\t1\t{SCRIPT}\n"
DOCUMENTS = {
    "a red wine from the south, dry and of a great year": ["2", "3"],
    "old red wine with a long finish of cherries": ["2", "3"],
    "white wine, young and fresh, from the north": ["2", "4"],
    "a dry white wine that goes well with fish": ["2", "4"],
    "dark beer, brewed with roasted malt": ["5", "6"],
    "a beer from Belgium, strong and sweet": ["5"],
    "a dark beer for the winter, strong": ["5", "6"],
    "goat cheese, ripened for a month": ["7"],
    "hard cheese and a glass of red wine": ["2", "3", "7"],
    "fresh bread with a crust": ["8"],
    "dark bread with butter and cheese": ["7", "8"],
    "something odd that no other label is for": ["9"],
}
QUICK = {"train.epochs": 2, "train.threads": 1}


def recommend_run(path, *, seed=0, epochs=2):
    """Fit a small transformer on users who walk through the items in order, with a table of the items; return path."""
    users = [f"u{user}" for user in range(60) for _ in range(8)]
    items = [ITEMS[(user + step) % len(ITEMS)] for user in range(60) for step in range(8)]
    table = pl.DataFrame({"item": ITEMS, "topic": ["art" if place % 2 else "law" for place in range(len(ITEMS))]})
    recommender = Recommender(
        seed=seed,
        history=6,
        settings=QUICK | {"train.epochs": epochs, "train.learning_rate": 0.01, "model.embedding_width": 16},
    )
    recommender.fit(pl.DataFrame({"user": users, "item": items}), items=table, out=path)
    return path


def classify_run(path):
    """Fit n-grams on texts about wine and beer, with a tree of labels; return path."""
    tree = path.with_name("tree.tsv")
    tree.write_text(TREE, encoding="utf-8")
    settings = QUICK | {"data.taxonomy": str(tree), "train.epochs": 3}
    texts, labels = list(DOCUMENTS) * 15, list(DOCUMENTS.values()) * 15
    MultiLabelClassifier(features="ngrams", settings=settings).fit(texts, labels, out=path)
    return path


def benchmark():
    """Return benchmarks/serve.py as a module, whose load the tests use."""
    path = Path(__file__).parents[2] / "benchmarks" / "serve.py"
    spec = spec_from_file_location("serve_benchmark", path)
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Running:
    """A running service.

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
        """End it by a signal; return the exit code and its stderr."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=40)
        return self.process.returncode, said


def command(run, *options):
    return [sys.executable, "-m", "hyperfocal", "serve", str(run), "--port", "0", *options]


@contextmanager
def service(run, *options, key=""):
    """Start `hyperfocal serve` on a free port and wait until it prints its address; end it on leaving."""
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
