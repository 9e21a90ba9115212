"""The command line. Heavy imports are inside the commands, so that --help answers at once."""

from __future__ import annotations

from typing import Any

import click

from hyperfocal.cli.classify import classify
from hyperfocal.cli.demo import demo
from hyperfocal.cli.export import export
from hyperfocal.cli.recommend import recommend
from hyperfocal.cli.report import report
from hyperfocal.cli.serve import serve
from hyperfocal.cli.several import refuse_other_commands
from hyperfocal.cli.verify import verify
from hyperfocal.errors import HyperfocalError


class Commands(click.Group):
    """A group whose commands end with a plain message and exit code 2 on the errors we raise."""

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
    """Learn from extremely unbalanced labels: hundreds to millions of them, a handful right for each example.

    Start with `hyperfocal demo`.
    """
    refuse_other_commands(context)


main.add_command(recommend)
main.add_command(classify)
main.add_command(verify)
main.add_command(report)
main.add_command(demo)
main.add_command(export)
main.add_command(serve)
