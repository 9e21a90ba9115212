"""The command `serve`. Heavy imports are inside, so that --help answers at once."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import click

from hyperfocal.errors import ConfigError

KEY = "HYPERFOCAL_API_KEY"
PARTS = ("fastapi", "uvicorn", "prometheus_client")
INSTALL = "the service needs {}, which is not installed. Install it with `pip install 'hyperfocal[serve]'`"


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind to; 0.0.0.0 is every one.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8_000, show_default=True, help="0 takes a free one.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes that share the port, one core each.",
)
@click.option("--engine", default="torch", show_default=True, help="What computes: torch or onnx.")
@click.option("--batch", type=click.IntRange(1), default=64, show_default=True, help="Histories or texts at once.")
@click.option(
    "--queue", type=click.IntRange(1), default=2_000, show_default=True, help="Those that may wait; more get 429."
)
@click.option(
    "--seconds", type=click.FloatRange(0.001), default=10.0, show_default=True, help="Until one that waits gets 503."
)
def serve(run: Path, host: str, port: int, workers: int, engine: str, batch: int, queue: int, seconds: float) -> None:
    """Serve RUN, of either job, over HTTP, with a page at / to try it by hand.

    \b
    hyperfocal serve run                    # then open http://127.0.0.1:8000
    curl --json '{"histories": [["a", "b"]], "k": 5}' http://127.0.0.1:8000/v1/recommend
    curl --json '{"texts": ["a glass of wine"], "explain": true}' http://127.0.0.1:8000/v1/classify
    curl http://127.0.0.1:8000/v1/model     # the card; also /health /ready /metrics /docs
    curl --json '{"run": "new_run"}' http://127.0.0.1:8000/v1/reload    # or kill -HUP: the same folder anew

    With a key in the variable HYPERFOCAL_API_KEY, clients send it as `Authorization: Bearer KEY`. SIGTERM and Ctrl-C
    finish what is in flight. What each request and answer holds is in docs/serve.md and at /docs.
    """
    missing = [part for part in PARTS if importlib.util.find_spec(part) is None]
    if missing:
        raise ConfigError(INSTALL.format(", ".join(missing)))
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch starts its pool: a worker is a core
    from hyperfocal.machine import count_cores
    from hyperfocal.serve.http import Limits
    from hyperfocal.serve.server import Service, bind
    from hyperfocal.serve.server import serve as serve_alone
    from hyperfocal.serve.workers import serve_with_workers

    if workers > count_cores():
        raise ConfigError(f"--workers {workers}: there are {count_cores()} cores, and a worker takes one. Give fewer")
    key = os.environ.get(KEY, "")
    service = Service(run, host, engine, key, Limits(batch=batch, queue=queue, seconds=seconds))
    with bind(host, port) as listening:
        address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        if not service.local and not key:
            click.echo(f"warning: {host} is reached from other machines, and there is no key: set {KEY}", err=True)

        def announce() -> None:
            click.echo(f"Serving {run} at {address} (Ctrl-C ends it)")
            sys.stdout.flush()

        if workers == 1:
            serve_alone(service, listening, announce)
            return
        sys.exit(serve_with_workers(service, listening, workers, announce))
