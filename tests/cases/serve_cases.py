"""Small runs of both jobs, with names that a page must not trust, and the service as a separate process."""

import json
import os
import re
import signal
import socket
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

    def files(self):
        """Return its open files, as links of /proc."""
        return list(Path(f"/proc/{self.process.pid}/fd").iterdir())

    def cpu_seconds(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self, number=signal.SIGTERM):
        """End it by a signal; return the exit code and its stderr."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=40)
        return self.process.returncode, said


def command(run, *options):
    return [sys.executable, "-m", "hyperfocal", "serve", str(run), "--port", "0", *options]


@contextmanager
def service(run, *options, key="", stderr=subprocess.PIPE, before=None):
    """Start `hyperfocal serve` on a free port and wait until it prints its address; end it on leaving."""
    with _running(command(run, *options), key, stderr, before) as running:
        yield running


@contextmanager
def service_with(run, **limits):
    """Start a service with limits that the command line has no options for."""
    code = (
        "import sys; from pathlib import Path; from hyperfocal.cli.serve import engine_by_name\n"
        "from hyperfocal.serve.limits import Limits; from hyperfocal.serve.server import Service, bind, serve\n"
        "with bind('127.0.0.1', 0) as door:\n"
        "    service = Service(Path(sys.argv[1]), engine_by_name('torch'), limits=Limits(**eval(sys.argv[2])))\n"
        "    address = f'at http://127.0.0.1:{door.getsockname()[1]}'\n"
        "    serve(service, door, lambda: print(address, flush=True))\n"
    )
    with _running([sys.executable, "-c", code, str(run), repr(limits)]) as running:
        yield running


@contextmanager
def _running(arguments, key="", stderr=subprocess.PIPE, before=None):
    surroundings = os.environ | {"OMP_NUM_THREADS": "1", "HYPERFOCAL_API_KEY": key}
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=stderr, text=True, env=surroundings, preexec_fn=before
    )
    try:
        line = process.stdout.readline()
        address = re.search(r"at (http://\S+)", line)
        assert address, f"{line}{process.stderr and process.stderr.read()}"
        yield Running(process, address[1])
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.communicate(timeout=60)
            finally:
                process.kill()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def connect(running):
    """Return a socket to a service."""
    connection = socket.create_connection(("127.0.0.1", running.port), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def converse(running, sent, *, half=False):
    """Send bytes, and no more if `half`; return (status, headers, body) of each answer until the service closes."""
    with connect(running) as connection:
        try:
            connection.sendall(sent)
            if half:
                connection.shutdown(socket.SHUT_WR)
        except OSError:  # refused while it was being sent
            pass
        return answers(connection, head=sent.startswith(b"HEAD"))


def answers(connection, *, head=False):
    """Return (status, headers, body) of each answer that arrives before the service closes a connection."""
    received = bytearray()
    while block := connection.recv(2**16):
        received += block
    parsed, rest = [], bytes(received)
    while rest:
        lines, _, rest = rest.partition(b"\r\n\r\n")
        first, *fields = lines.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        length = 0 if head else int(headers.get("content-length", 0))
        parsed.append((int(first.split()[1]), headers, rest[:length]))
        rest = rest[length:]
    return parsed


def reason(answer):
    """Return the status and the reason of an answer."""
    status, headers, body = answer
    assert headers["content-type"] == "application/json"
    return status, json.loads(body)["error"]["reason"]
