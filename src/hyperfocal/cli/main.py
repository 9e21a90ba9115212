"""The command line. Heavy imports are inside the commands, so that --help answers at once."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import click

from hyperfocal.cli.classify import classify
from hyperfocal.cli.demo import demo
from hyperfocal.cli.recommend import recommend
from hyperfocal.cli.report import report
from hyperfocal.cli.steps import refuse_several_processes
from hyperfocal.errors import ConfigError, HyperfocalError


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
def verify(run: Path) -> None:
    """Check the files of RUN against the checksums that `fit` recorded, and its checkpoints.

    The exit code is 0 if every file is unchanged, else 2, with a line for each file that is not.
    """
    from hyperfocal.errors import RunError
    from hyperfocal.storage.run_folder import MANIFEST, RunFolder

    folder = RunFolder.open(run)
    wrong = folder.verify()
    count = len(folder.read_json(MANIFEST)["files"])
    if wrong:
        lines = "".join(f"\n  {name}: {what}" for name, what in wrong.items())
        raise RunError(
            f"run {run}: {len(wrong)} files are not as they were written:{lines}\n"
            "Restore them from a copy, or fit again with --overwrite"
        )
    click.echo(f"{run}: {count} files are as they were written.")


FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("run", type=FOLDER)
@click.option("--onnx", type=FOLDER, help="Folder to write: model.onnx, and a predict.py without torch.")
@click.option("--safetensors", type=FOLDER, help="Folder to write: plain weights, and their formulas in a README.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier export there.")
def export(run: Path, onnx: Path | None, safetensors: Path | None, overwrite: bool) -> None:
    """Write the model of RUN, of either job, as files that need neither hyperfocal nor torch.

    \b
    hyperfocal export run --onnx model
    echo '["C12", "C7"]' | python model/predict.py 3
    """
    if onnx is None and safetensors is None:
        raise ConfigError("nothing to export. Give --onnx DIR, --safetensors DIR, or both")
    if onnx is not None and safetensors is not None and onnx.resolve() == safetensors.resolve():
        raise ConfigError(f"--onnx and --safetensors are both {onnx}. Give each a folder of its own")
    from hyperfocal.export.export import export_onnx, export_plain, refuse_taken

    for folder in (onnx, safetensors):
        if folder is not None:
            refuse_taken(folder, overwrite)
    if onnx is not None:
        for note in export_onnx(run, onnx, overwrite=overwrite):
            click.echo(note)
        click.echo(f"ONNX: {onnx}. Read {onnx / 'README.md'}, or run python {onnx / 'predict.py'}")
    if safetensors is not None:
        export_plain(run, safetensors, overwrite=overwrite)
        click.echo(f"Weights: {safetensors}. The formulas are in {safetensors / 'README.md'}")


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
    from hyperfocal.serve.app import Limits
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


class Commands(click.Group):
    """A group whose commands end with a plain message and exit code 2 on the project's own errors."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (HyperfocalError, OSError) as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(2)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="hyperfocal")
@click.pass_context
def main(context: click.Context) -> None:
    """Learn from extremely unbalanced labels: hundreds to millions of labels, a handful right for each example.

    Start with `hyperfocal demo`.
    """
    refuse_several_processes(context)


main.add_command(recommend)
main.add_command(classify)
main.add_command(verify)
main.add_command(report)
main.add_command(demo)
main.add_command(export)
main.add_command(serve)
