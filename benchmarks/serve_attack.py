"""Measure the service under attack: latency of good clients, memory after hostile headers, and cost of the checks.

    python benchmarks/serve_attack.py                                # small run, trained on made-up data
    python benchmarks/serve_attack.py --run RUN --seconds 20         # yours
    python benchmarks/serve_attack.py --gigabytes 1                  # of hostile heads
    python benchmarks/serve_attack.py --against OTHER/src --rounds 15    # compare with another checkout, in turns

Slow clients: a third is silent, a third sends a header byte by byte, a third a body byte by byte. Each opens a new
connection when the service closes one. 16 good clients send a paced load meanwhile, whose times count from when each
request was due. Heads: 4 MB each, in turn a header, a URL, many headers, and trailers. Client and service share cores.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import cycle, product
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import urlsplit

from serve import load, recommend_payloads, resident, served, small_runs

GOOD, SLOW = 16, 200  # clients
HEAD = b"POST /v1/recommend HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
SLOW_KINDS = (b"", HEAD + b"X: ", HEAD + b"Content-Length: 1000000\r\n\r\n")
SIZE = 4_000_000  # bytes of a hostile head
HEADS = (
    HEAD + b"X: " + b"a" * SIZE,
    b"GET /" + b"a" * SIZE,
    HEAD + b"X: a\r\n" * (SIZE // 6),
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: " + b"a" * SIZE,
)


async def attack(host: str, port: int, beginning: bytes, until: float) -> int:
    """Send a beginning, then a byte a second, over connection after connection; return how many were closed."""
    closed = 0
    while time.perf_counter() < until:
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(0.5)
            continue
        with suppress(OSError):
            writer.write(beginning)
            while time.perf_counter() < until and not reader.at_eof():
                if beginning:
                    writer.write(b"a")
                with suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(2**16), 1.0)
        closed += reader.at_eof()
        writer.close()
    return closed


def attack_all(host: str, port: int, clients: int, seconds: float) -> int:
    """Attack with many slow clients at once; return how many connections were closed."""

    async def everyone() -> int:
        until = time.perf_counter() + seconds
        kinds = cycle(SLOW_KINDS)
        return sum(await asyncio.gather(*(attack(host, port, next(kinds), until) for _ in range(clients))))

    return asyncio.run(everyone())


def slow_clients(process: int, address, payloads: Sequence[bytes], options: argparse.Namespace) -> None:
    """Print p50 and p99 of good clients without and with slow ones, in turns, and the memory."""
    load(address, payloads, GOOD, most=2_000)
    before = resident(process)
    with ProcessPoolExecutor(1, get_context("spawn")) as attackers:  # not in the process of the good load
        for turn, slow in product(range(options.turns), (0, SLOW)):
            attacks = attackers.submit(attack_all, address.hostname, address.port, slow, options.seconds + 4)
            time.sleep(2)
            good = load(address, payloads, GOOD, seconds=options.seconds, rate=options.rate)
            closed = attacks.result()
            cuts = statistics.quantiles(good.seconds, n=100)
            print(
                f"turn {turn}: {slow:3} slow clients, {closed:4} closed; {GOOD} good ones: p50 {cuts[49] * 1e3:.2f} "
                f"ms, p99 {cuts[98] * 1e3:.2f} ms, {good.failed} of {len(good.seconds):,} failed; "
                f"{resident(process):.1f} MiB",
                flush=True,
            )
    time.sleep(3)
    print(f"memory: {before:.1f} MiB before, {resident(process):.1f} MiB afterwards\n")


def hostile_heads(process: int, address, gigabytes: float) -> None:
    """Print the memory before and after hostile heads."""
    statuses: dict[bytes, int] = {}
    for sent in HEADS * 2:
        send(address, sent)
    before, sent_bytes, highest = resident(process), 0, 0.0
    for head in cycle(HEADS):
        if sent_bytes >= gigabytes * 1e9:
            break
        status, taken = send(address, head)
        statuses[status] = statuses.get(status, 0) + 1
        sent_bytes += taken
        highest = max(highest, resident(process))
    answered = ", ".join(f"{number:,} x {status.decode() or 'reset'}" for status, number in statuses.items())
    print(
        f"{sent_bytes / 1e9:.2f} GB of hostile heads ({answered}): {before:.1f} MiB before, at most {highest:.1f}, "
        f"{resident(process):.1f} MiB afterwards\n"
    )


def send(address, sent: bytes) -> tuple[bytes, int]:
    """Send bytes; return the status of the answer, and how many bytes went out."""
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        done = 0
        try:
            while done < len(sent):
                done += connection.send(sent[done : done + 2**18])
            return connection.recv(2**16)[9:12], done
        except OSError:
            return b"", done


@contextmanager
def served_from(source: Path, run: Path):
    """Serve by the package in a folder `src`; give the process id and the address."""
    environment = os.environ | {"PYTHONPATH": str(source)}
    command = [sys.executable, "-m", "hyperfocal", "serve", str(run), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield process.pid, urlsplit(process.stdout.readline().split(" at ")[1].split()[0])
    finally:
        process.terminate()
        process.wait()


def cpu_seconds(process: int) -> float:
    """Return the CPU time of a process, to the nanosecond."""
    threads = Path(f"/proc/{process}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def compare(run: Path, payloads: Sequence[bytes], options: argparse.Namespace) -> None:
    """Print the CPU time of a request over short closed loads of two checkouts, in turns.

    CPU time of the service alone, because other jobs on the machine change it less than the time that passes.
    """
    sources = {"this": Path(__file__).parents[1] / "src", "other": options.against}
    with ExitStack() as services:
        served_by = {name: services.enter_context(served_from(source, run)) for name, source in sources.items()}
        for _, address in served_by.values():
            load(address, payloads, 8, most=1_000)
        for connections in (1, GOOD):
            times: dict[str, list[float]] = {name: [] for name in served_by}
            for _ in range(options.rounds):
                for name, (process, address) in served_by.items():
                    began = cpu_seconds(process)
                    done = load(address, payloads, connections, most=options.requests)
                    times[name].append((cpu_seconds(process) - began) / len(done.seconds))
            ratios = [this / other for this, other in zip(*times.values(), strict=True)]
            middle = {name: statistics.median(taken) * 1e6 for name, taken in times.items()}
            low, _, high = statistics.quantiles(ratios, n=4)
            print(
                f"{connections:3} connections: {middle['this']:.0f} us of CPU per request here, "
                f"{middle['other']:.0f} there: {middle['this'] / middle['other']:.3f}; "
                f"median ratio of a turn {statistics.median(ratios):.3f} (quartiles {low:.3f} to {high:.3f})",
                flush=True,
            )


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="a run of the job recommend; without, a small one is trained")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each turn of slow clients")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--rate", type=float, default=200.0, help="requests per second of the good clients together")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of hostile heads")
    parser.add_argument("--against", type=Path, help="folder src of another checkout; only compares")
    parser.add_argument("--rounds", type=int, default=15, help="of each checkout")
    parser.add_argument("--requests", type=int, default=1_000, help="per round")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        run = options.run or small_runs(Path(folder))["recommend"][0]
        payloads = recommend_payloads(run)
        if options.against:
            compare(run, payloads, options)
            return
        with served(run) as (process, address):
            slow_clients(process.pid, address, payloads, options)
            hostile_heads(process.pid, address, options.gigabytes)


if __name__ == "__main__":
    main()
