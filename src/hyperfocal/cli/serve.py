"""The command `serve`. Heavy imports are inside, so that --help answers at once."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hyperfocal.cli.wording import echo
from hyperfocal.errors import ConfigError

if TYPE_CHECKING:
    from hyperfocal.serve.live import Engine

KEY = "HYPERFOCAL_API_KEY"
WHOLE = click.IntRange(1)
POSITIVE = click.FloatRange(0.001)
PACKAGES = ("starlette", "uvicorn", "httptools", "prometheus_client")
INSTALL = "the service needs {}, which is not installed. Install it with `pip install 'hyperfocal[serve]'`"


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind to; 0.0.0.0 binds to all.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8_000, show_default=True, help="0 takes a free one.")
@click.option("--workers", type=WHOLE, default=1, show_default=True, help="Processes, each on a separate core.")
@click.option("--engine", default="torch", show_default=True, help="torch, or onnx: faster for single requests.")
@click.option("--batch", type=WHOLE, default=64, show_default=True, help="Histories or texts computed at once.")
@click.option("--queue", type=WHOLE, default=2_000, show_default=True, help="Histories or texts that may wait.")
@click.option(
    "--seconds",
    type=POSITIVE,
    default=10.0,
    show_default=True,
    help="Seconds that a request may wait, and that its body may take to arrive.",
)
@click.option(
    "--connections", type=WHOLE, default=1_000, show_default=True, help="Open connections per process; more get 503."
)
@click.option("--idle", type=POSITIVE, default=75.0, show_default=True, help="Seconds an unused connection stays open.")
@click.option(
    "--allow-host", multiple=True, metavar="NAME", help="Host name that clients may use, such as a proxy's. Repeatable."
)
def serve(
    run: Path,
    host: str,
    port: int,
    workers: int,
    engine: str,
    batch: int,
    queue: int,
    seconds: float,
    connections: int,
    idle: float,
    allow_host: tuple[str, ...],
) -> None:
    """Serve RUN, of either job, over HTTP, with a page at / to try it by hand.

    \b
    hyperfocal serve run                    # then open http://127.0.0.1:8000
    curl --json '{"histories": [["a", "b"]], "k": 5}' http://127.0.0.1:8000/v1/recommend
    curl --json '{"texts": ["a glass of wine"], "explain": true}' http://127.0.0.1:8000/v1/classify
    curl http://127.0.0.1:8000/v1/model     # the model card; also /health /ready /metrics /docs
    curl --json '{"run": "new_run"}' http://127.0.0.1:8000/v1/reload    # kill -HUP loads the same folder again

    If the variable HYPERFOCAL_API_KEY is set, clients must send `Authorization: Bearer KEY`. Without it, a service for
    this machine answers only if the header Host is a local name, an address, or given by --allow-host: a page of
    another site cannot read answers. With --host 0.0.0.0, any name is allowed unless --allow-host is given. /health
    and /ready answer to any.

    A request that does not fit into the queue gets 429, and one that waits too long 503. Headers may take 10 seconds
    and 32 KiB, a URL 8 KiB, a body --seconds and 2 MiB. SIGTERM and Ctrl-C finish the requests in flight.
    docs/serve.md and /docs describe every request and answer.
    """
    from hyperfocal.serve.descriptors import open_standard_ones

    _check_packages()
    open_standard_ones()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nothing is loaded yet that could be loaded again
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch starts its threads: a worker is one core
    from hyperfocal.machine import count_cores
    from hyperfocal.serve.limits import Limits
    from hyperfocal.serve.server import Service, bind
    from hyperfocal.serve.server import serve as serve_alone
    from hyperfocal.serve.workers import serve_with_workers

    if workers > count_cores():
        raise ConfigError(f"--workers {workers}: each takes a core, and there are {count_cores()}. Give fewer")
    key = os.environ.get(KEY, "")
    limits = Limits(batch, queue, seconds, connections=connections, idle=idle)
    service = Service(run, engine_by_name(engine), host, key, limits, allow_host)
    with bind(host, port) as listening:
        address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        if not service.local and not key:
            _say(f"warning: other machines can reach {host}, and there is no key. Set {KEY}", err=True)

        def announce() -> None:
            _say(f"Serving {run} at {address} (Ctrl-C ends it)")

        if workers == 1:
            serve_alone(service, listening, announce)
            return
        sys.exit(serve_with_workers(service, listening, workers, announce))


def _check_packages() -> None:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(INSTALL.format(", ".join(missing)))


def _say(line: str, *, err: bool = False) -> None:
    """Print a line at once, if possible: a full disk or a closed pipe must not end the service."""
    with suppress(OSError):
        echo(line, err=err)


def engine_by_name(name: str) -> Engine:
    """Return the engine that `--engine` names: how each job's runs are loaded.

    Raises:
        ConfigError: there is no such engine.
    """
    from hyperfocal.classify.service import load_classify
    from hyperfocal.export.engine import classify_by_onnx, recommend_by_onnx
    from hyperfocal.recommend.service import load_recommend
    from hyperfocal.serve.live import Engine

    engines = {
        "torch": Engine("torch", {"recommend": load_recommend, "classify": load_classify}),
        "onnx": Engine("onnx", {"recommend": recommend_by_onnx, "classify": classify_by_onnx}),
    }
    if name not in engines:
        raise ConfigError(f"--engine {name!r} is unknown. Allowed: {', '.join(engines)}")
    return engines[name]
