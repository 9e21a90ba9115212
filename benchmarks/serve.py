"""Measure the service under load: requests per second, p50 and p99, errors, for both jobs.

    python benchmarks/serve.py                            # small runs, trained on made-up data
    python benchmarks/serve.py --run RUN --seconds 10     # yours
    python benchmarks/serve.py --rate 200 400 800         # requests per second of the paced loads
    python benchmarks/serve.py --soak 100000              # also the memory over that many requests
    python benchmarks/serve.py --engine torch onnx        # compare engines: short closed loads by turns

Closed loads: 1, 16 and 128 connections, each of which sends its next request when the last is answered; "asked" is "-".
Paced loads: 16 connections that together send a given rate, whether or not the service keeps up. Their times count from
when a request was due, so they include the wait for a free connection.

This process loads a server process over loopback, both on the same cores. It then also counts requests that fail while
the model is swapped repeatedly, and requests lost at SIGTERM. A request is lost if it was sent and its connection ended
without an answer. Run it with nothing else running. A comparison of engines prints medians over short rounds by turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import selectors
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from urllib.parse import urlsplit

CONNECTIONS = (1, 16, 128)
PACED = 16  # connections of a paced load
ROUNDS = 7  # of each engine, when engines are compared
WARM = 500  # requests before any that counts
QUARTERS = 4  # of a soak, between two looks at the memory
FLAT = 0.02  # growth after the first quarter that is none, as a share
WIDTHS = (14, 11, 7, 10, 8, 8, 6)
HEADS = ("job", "connections", "asked/s", "answered/s", "p50 ms", "p99 ms", "failed")


@dataclass
class Load:
    """Requests over some connections, each of which takes the next one when its last is answered.

    Attributes:
        host, port: of the service.
        payloads: whole requests, sent in turn.
        until: `time.perf_counter()` at which no more is sent.
        most: requests at most; 0 is no bound.
        again: whether a connection that the server closed is opened again.
        rate: requests a second that are due, 0 is each as soon as a connection is free.
        seconds: of each request that was answered, since it was due.
        statuses: of those.
        lost: requests without an answer.
        refused: connections that could not be opened.
    """

    host: str
    port: int
    payloads: Sequence[bytes]
    until: float
    most: int = 0
    again: bool = False
    rate: float = 0
    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    lost: int = 0
    refused: int = 0
    sent: int = 0

    def __post_init__(self) -> None:
        """Begin with the first payload."""
        self._turns, self._start = cycle(self.payloads), time.perf_counter()

    def next(self) -> tuple[bytes, float] | None:
        """Return the next request and when it is due, None when it is over."""
        due = self._start + self.sent / self.rate if self.rate else time.perf_counter()
        if due >= self.until or (self.most and self.sent >= self.most):
            return None
        self.sent += 1
        return next(self._turns), due

    @property
    def failed(self) -> int:
        """Return the requests that were lost or not answered with 200."""
        return self.lost + sum(count for status, count in self.statuses.items() if status != 200)

    async def run(self, connections: int) -> Load:
        """Send until it is over."""
        await asyncio.gather(*(self._keep_connected() for _ in range(connections)))
        return self

    async def _keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                _, connection = await loop.create_connection(lambda: Connection(self), self.host, self.port)
            except OSError:
                self.refused += 1
                return
            await connection.ended
            if not (self.again and connection.told_to_close):
                return


class Connection(asyncio.Protocol):
    """A connection of HTTP/1.1 that stays open: as little Python a request as it takes."""

    def __init__(self, load: Load) -> None:
        self.load, self.told_to_close = load, False
        self.ended = asyncio.get_running_loop().create_future()
        self._buffer, self._outstanding = b"", False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = transport
        self._send()

    def _send(self) -> None:
        request = self.load.next()
        if request is None:
            self._transport.close()
            return
        payload, self._due = request
        self._outstanding, early = True, self._due - time.perf_counter()
        if early > 0:
            asyncio.get_running_loop().call_later(early, self._transport.write, payload)
        else:
            self._transport.write(payload)

    def data_received(self, data: bytes) -> None:
        """Gather an answer; when it is whole, send the next request."""
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lower = head.lower()
        start = lower.index(b"content-length:") + 15
        length = int(lower[start:].split(b"\r\n", 1)[0])
        if len(rest) < length:
            return
        status = int(head[9:12])
        self.load.seconds.append(time.perf_counter() - self._due)
        self.load.statuses[status] = self.load.statuses.get(status, 0) + 1
        self._buffer, self._outstanding = b"", False
        if b"connection: close" in lower:
            self.told_to_close = True
            self._transport.close()
        else:
            self._send()

    def connection_lost(self, error: Exception | None) -> None:
        """Count a request that got no answer."""
        self.load.lost += self._outstanding
        if not self.ended.done():
            self.ended.set_result(None)


def payload(path: str, body: object, host: str = "127.0.0.1") -> bytes:
    """Return a whole request."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    return head.encode() + b"\r\n\r\n" + content


@contextmanager
def served(run: Path, *options: str):
    """Start the service on a free port and give its process and address; end it with SIGTERM."""
    command = [sys.executable, "-m", "hyperfocal", "serve", str(run), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        if " at http://" not in line:
            raise SystemExit(f"the service did not start: {line}")
        yield process, urlsplit(line.split(" at ")[1].split()[0])
    finally:
        process.terminate()
        process.wait()


def load(
    address, payloads: Sequence[bytes], connections: int, *, seconds: float = 3600, most: int = 0, rate: float = 0
):
    """Return what came of a load."""
    found = Load(address.hostname, address.port, payloads, time.perf_counter() + seconds, most, rate=rate)
    with asyncio.Runner(loop_factory=fine_loop) as runner:
        return runner.run(found.run(connections))


def fine_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop whose timers are finer than a millisecond, as those of epoll and of uvloop are not."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def resident(process: int) -> float:
    """Return MiB of memory of a process and of those that it has started."""
    folder = Path(f"/proc/{process}")
    text = (folder / "status").read_text()
    children = (folder / "task" / str(process) / "children").read_text().split()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024 + sum(resident(int(child)) for child in children)


def row(*cells: object) -> str:
    """Return a row of the table."""
    return "| " + " | ".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True)) + " |"


def measure(job: str, run: Path, payloads: Sequence[bytes], options: argparse.Namespace) -> None:
    """Print everything for one run."""
    loads = [(connections, 0.0) for connections in CONNECTIONS] + [(PACED, rate) for rate in options.rate]
    started = ("--workers", str(options.workers), "--engine", options.engine[0])
    with served(run, *started) as (process, address):
        load(address, payloads, 8, most=WARM)
        for connections, rate in loads:
            began = time.perf_counter()
            found = load(address, payloads, connections, seconds=options.seconds, rate=rate)
            answered = len(found.seconds) / (time.perf_counter() - began)
            cuts = statistics.quantiles(found.seconds, n=100)
            times = f"{cuts[49] * 1e3:.2f}", f"{cuts[98] * 1e3:.2f}"
            asked = f"{rate:,.0f}" if rate else "-"
            print(row(job, connections, asked, f"{answered:,.0f}", *times, found.failed), flush=True)
        if options.soak:
            soak(job, process.pid, address, payloads, options.soak)
    print(f"\n{job}: {asyncio.run(swapping(run, payloads, options.seconds, started))}")
    print(f"{job}: {asyncio.run(ending(run, payloads, started))}\n", flush=True)


def compare(job: str, run: Path, payloads: Sequence[bytes], options: argparse.Namespace) -> None:
    """Print medians over short closed loads of each engine, by turns: a busy machine slows both alike."""
    with ExitStack() as services:
        addresses = {
            engine: services.enter_context(served(run, "--workers", str(options.workers), "--engine", engine))[1]
            for engine in options.engine
        }
        for address in addresses.values():
            load(address, payloads, 8, most=WARM)
        for connections in CONNECTIONS:
            rounds: dict[str, list[tuple[float, float, float, int]]] = {engine: [] for engine in addresses}
            for _ in range(ROUNDS):
                for engine, address in addresses.items():
                    rounds[engine].append(one_round(address, payloads, connections, options.seconds / ROUNDS))
            for engine, taken in rounds.items():
                rate, p50, p99, failed = (statistics.median(column) for column in zip(*taken, strict=True))
                cells = f"{rate:,.0f}", f"{p50 * 1e3:.2f}", f"{p99 * 1e3:.2f}", failed
                print(row(f"{job} {engine}", connections, "-", *cells), flush=True)


def one_round(address, payloads: Sequence[bytes], connections: int, seconds: float) -> tuple[float, float, float, int]:
    """Return requests per second, p50 and p99 in seconds, and failures of one closed load."""
    began = time.perf_counter()
    found = load(address, payloads, connections, seconds=seconds)
    cuts = statistics.quantiles(found.seconds, n=100)
    return len(found.seconds) / (time.perf_counter() - began), cuts[49], cuts[98], found.failed


def soak(job: str, process: int, address, payloads: Sequence[bytes], requests: int) -> None:
    """Print the server's memory before so many requests and after each quarter of them, and whether it is flat.

    The first quarter fills caches and pools, and does not count.
    """
    memory, failed = [resident(process)], 0
    for _ in range(QUARTERS):
        failed += load(address, payloads, 32, most=requests // QUARTERS).failed
        memory.append(resident(process))
    looks = ", ".join(f"{found:.1f}" for found in memory)
    growth = max(memory[2:]) - memory[1]
    verdict = "flat" if growth <= FLAT * memory[1] else "NOT flat"
    print(f"\n{job}: {requests:,} requests, {failed} failed; MiB at 0, 25, 50, 75, 100%:")
    print(f"{job}: {looks}; {growth:+.1f} MiB after the first quarter: {verdict}")


async def swapping(run: Path, payloads: Sequence[bytes], seconds: float, started: Sequence[str]) -> str:
    """Swap the model by SIGHUP again and again under load; say how many requests failed."""
    with served(run, *started) as (process, address):
        found = Load(address.hostname, address.port, payloads, time.perf_counter() + max(seconds, 4))
        running = asyncio.create_task(found.run(16))
        swaps = 0
        while not running.done():
            await asyncio.sleep(1)
            if not running.done():
                process.send_signal(signal.SIGHUP)
                swaps += 1
        await running
    return f"{len(found.seconds):,} requests while the model was swapped {swaps} times, {found.failed} failed"


async def ending(run: Path, payloads: Sequence[bytes], started: Sequence[str], connections: int = 64) -> str:
    """End the service by SIGTERM under load; say how many requests were lost."""
    with served(run, *started) as (process, address):
        found = Load(address.hostname, address.port, payloads, time.perf_counter() + 30, again=True)
        running = asyncio.create_task(found.run(connections))
        await asyncio.sleep(1)
        process.terminate()
        await running
        code = await asyncio.to_thread(process.wait)
    return f"{len(found.seconds):,} requests until SIGTERM, {found.lost} lost; exit code {code}"


def recommend_payloads(run: Path) -> list[bytes]:
    """Return requests of one user each, of 10 items, over the run's own."""
    items = json.loads((run / "vocabulary.json").read_text())["items"]
    rows = ([items[(7 * user + 13 * place) % len(items)] for place in range(10)] for user in range(200))
    return [payload("/v1/recommend", {"histories": [row], "k": 10}) for row in rows]


def classify_payloads(texts: Sequence[str]) -> list[bytes]:
    """Return requests of one text each."""
    return [payload("/v1/classify", {"texts": [text]}) for text in texts]


def small_runs(folder: Path) -> dict[str, tuple[Path, list[bytes]]]:
    """Train both jobs on made-up data; return their runs and requests for them."""
    from hyperfocal.classify.classifier import MultiLabelClassifier
    from hyperfocal.data.synthetic_documents import make_corpus, write_corpus
    from hyperfocal.data.synthetic_logs import make_challenges
    from hyperfocal.recommend.recommender import Recommender

    settings = {"train.epochs": 1, "train.threads": 1}
    log = make_challenges(users=4_000, challenges=5_500, seed=0).train
    Recommender(settings=settings | {"model.embedding_width": 64}).fit(log, out=folder / "recommend")
    write_corpus(make_corpus(4_000, seed=0), folder / "texts")
    files = folder / "texts" / "train.jsonl", folder / "texts" / "valid.jsonl"
    MultiLabelClassifier(features="ngrams", settings=settings).fit(files[0], valid=files[1], out=folder / "classify")
    return {
        "recommend": (folder / "recommend", recommend_payloads(folder / "recommend")),
        "classify": (folder / "classify", classify_payloads(texts_of(files[1]))),
    }


def texts_of(path: Path, most: int = 200) -> list[str]:
    """Return texts of a file of documents as `demo classify` makes them."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:most]]
    return [" ".join(str(value) for key, value in row.items() if key in ("title", "body", "text")) for row in rows]


def main() -> None:
    """Print a table and, a job, what happened to memory, at swaps and at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="a run of yours; without, small ones are trained")
    parser.add_argument("--texts", type=Path, help="JSON lines with texts for a run of classify")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    parser.add_argument("--rate", type=float, nargs="*", default=[200.0, 400.0, 800.0], help="of each paced load")
    parser.add_argument("--soak", type=int, default=0, help="requests over which the memory is watched")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--engine", nargs="+", default=["torch"], help="torch, onnx, or both, which compares them")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        runs = given(options) if options.run else small_runs(Path(folder))
        for job, (run, payloads) in runs.items():
            print(row(*HEADS))
            print("|" + "|".join("-" * (width + 1) + ":" for width in WIDTHS) + "|")
            (compare if len(options.engine) > 1 else measure)(job, run, payloads, options)


def given(options: argparse.Namespace) -> dict[str, tuple[Path, list[bytes]]]:
    """Return the run that was named, and requests for it."""
    job = json.loads((options.run / "data.json").read_text()).get("job", "recommend")
    texts = texts_of(options.texts) if options.texts else ["a text of some words to classify"]
    payloads = classify_payloads(texts) if job == "classify" else recommend_payloads(options.run)
    return {job: (options.run, payloads)}


if __name__ == "__main__":
    main()
