"""Messages in the words of the command line: options in place of Python's parameters.

Outside `cli/`, a message names a parameter in backticks with an equals sign:

    `labels=`                                --labels
    `model='ease'`                           --model ease
    `overwrite=True`                         --overwrite
    `settings={'data.order_kind': 'time'}`   --set data.order_kind=time
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import click

from hyperfocal.errors import HyperfocalError, is_of_memory, memory_message, printable

if TYPE_CHECKING:
    from rich.console import Console, Group

PARAMETER = re.compile(r"`([a-z_]+)=([^`\s{}]*)`")
SETTING = re.compile(r"`settings=\{'([a-z_.]+)': ([^`\s{}]+)\}`")
OPTIONS = {
    "next_items": "--next",
    "boost": "--new-boost",
    "fields": "--field",
    "filters": "--filter",
    "vectors": "--vector",
    "settings": "--set",
}  # parameter -> option; the others differ only in hyphens
QUOTES = "'\""


def in_options(message: str, options: Collection[str]) -> str:
    """Return a message that names options in place of parameters.

    An option that the command lacks is one of `fit`, and the message says so: `predict` cannot name columns.

    Args:
        message: written for Python.
        options: of the command that ends with it, such as "--labels".

    >>> print(in_options("no column 'tag' (`labels=`). Start again with `overwrite=True`", ["--labels"]))
    no column 'tag' (--labels). Start again with `fit --overwrite`
    """

    def written(option: str, value: str) -> str:
        words = f"{option} {value.strip(QUOTES)}".strip()
        return words if option in options else f"`fit {words}`"

    message = SETTING.sub(lambda match: written("--set", f"{match[1]}={match[2].strip(QUOTES)}"), message)
    return PARAMETER.sub(lambda match: written(option_of(match[1]), match[2].removeprefix("True")), message)


def option_of(parameter: str) -> str:
    """Return the option of a parameter: --valid-truth for valid_truth."""
    return OPTIONS.get(parameter, f"--{parameter.replace('_', '-')}")


def options_of(command: click.Command) -> list[str]:
    """Return the options of a command, such as "--labels"."""
    return [name for parameter in command.params for name in parameter.opts]


class Commands(click.Group):
    """A group whose commands end with a plain message and exit code 2 on errors of the project and of memory."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (HyperfocalError, OSError) as error:
            command = self.get_command(ctx, ctx.invoked_subcommand or "") or self
            echo(f"error: {in_options(str(error), options_of(command))}", err=True)
            ctx.exit(2)
        except (MemoryError, RuntimeError) as error:
            if not is_of_memory(error):
                raise
            echo(f"error: {memory_message(error)}", err=True)
            ctx.exit(2)


def echo(text: str, *, err: bool = False) -> None:
    """Print a text to stdout or stderr, its control characters escaped."""
    click.echo(printable(text), err=err)


def print_lines(console: Console, lines: Sequence[str]) -> None:
    """Print plain sentences of the project in the words of the command that runs."""
    from hyperfocal.report import format

    format.print_lines(console, [_in_own_options(line) for line in lines])


def print_report(console: Console, report: Group) -> None:
    """Print a report, its texts in the words of the command that runs."""
    from rich.text import Text

    for part in report.renderables:
        console.print(Text(_in_own_options(part.plain), part.style) if isinstance(part, Text) else part)


def log_in_options() -> None:
    """Rewrite what is logged while a command runs; may be called again."""
    logging.getLogger("hyperfocal").addFilter(_rewrite)


def _rewrite(record: logging.LogRecord) -> bool:
    if click.get_current_context(silent=True) is not None:
        record.msg, record.args = printable(_in_own_options(record.getMessage())), ()
    return True


def _in_own_options(message: str) -> str:
    context = click.get_current_context(silent=True)
    return message if context is None else in_options(message, options_of(context.command))
