"""The command `inspect`. Heavy imports are inside, so that --help answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hyperfocal.cli.options import COLUMNS, with_options


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--job",
    type=click.Choice(["recommend", "classify"]),
    help="Job that will read FILE.  [default: classify if FILE has a text and labels, else recommend]",
)
@with_options(*COLUMNS)
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON, as data.json of a run holds it.")
def inspect(file: Path, as_json: bool, **options: Any) -> None:
    """Print how `fit` would read FILE, without training: the reading plan.

    The plan says which columns are read, as what and of which type, how many values are missing, where labels are
    split, and which columns are ignored. `fit` prints it too, stores it in the run, and the run reads other files by
    it.

    \b
    hyperfocal inspect log.csv
    hyperfocal inspect tickets.csv --text subject --text body --labels tags
    """
    from msgspec.json import encode, format

    from hyperfocal.data.inspection import inspect as read_plan
    from hyperfocal.report.console import SafeConsole
    from hyperfocal.report.reading import plan_report

    plan = read_plan(file, **options)
    if as_json:
        click.echo(format(encode(plan)))
    else:
        SafeConsole().print(plan_report(plan))
