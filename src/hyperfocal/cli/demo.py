"""The command `demo`, which generates its own data. Heavy imports are inside functions."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from hyperfocal.cli.wording import Commands
from hyperfocal.errors import ConfigError

FOLDER = click.Path(path_type=Path)


@click.group(cls=Commands, invoke_without_command=True)
@click.option("--out", type=FOLDER, default=Path("demo"), show_default=True, help="Folder to write.")
@click.option(
    "--users", type=int, default=12_000, show_default=True, help="Users to generate; 69532 is the real scale."
)
@click.option(
    "--challenges", type=int, default=1_000, show_default=True, help="Challenges to generate; 5606 is the real scale."
)
@click.option("--epochs", type=int, default=5, show_default=True, help="Epochs to train.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the data and the training.")
@click.pass_context
def demo(ctx: click.Context, out: Path, users: int, challenges: int, epochs: int, seed: int) -> None:
    """Generate a log, train on it, compare with baselines, and show three users. Under two minutes.

    `hyperfocal demo classify` does the same for texts: a corpus, a grid of losses, its table and verdict.
    """
    if ctx.invoked_subcommand is None:
        from hyperfocal.cli.demo_recommend import run_demo

        run_demo(out, users=users, challenges=challenges, epochs=epochs, seed=seed)
    else:
        _refuse_own_options(ctx, ctx.invoked_subcommand)


def _refuse_own_options(ctx: click.Context, command: str) -> None:
    """Raise ConfigError if an option is given before the subcommand: it would apply to the other demo."""
    for name in ctx.params:
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise ConfigError(
                f"demo: --{name} is given before `{command}`, which ignores it there. Give options after the command: "
                f"hyperfocal demo {command} --out FOLDER"
            )


@demo.command()
@click.option("--out", type=FOLDER, default=Path("demo_classify"), show_default=True, help="Folder to write.")
@click.option("--documents", type=int, default=6_000, show_default=True, help="Documents to generate.")
@click.option("--workers", type=int, help="Processes of the grid.  [default: one per core]")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the data and the training.")
def classify(out: Path, documents: int, workers: int | None, seed: int) -> None:
    """Generate texts with 698 long-tailed labels, run a grid of losses, and show its table. Under three minutes."""
    from hyperfocal.cli.demo_classify import run_demo

    run_demo(out, documents=documents, workers=workers, seed=seed)
