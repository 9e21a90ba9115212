"""The options of `recommend predict` that say which items may be recommended, and to whom."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyperfocal.cli.options import PATH
from hyperfocal.errors import ConfigError

if TYPE_CHECKING:
    from hyperfocal.cli.predict import LogPredictor
    from hyperfocal.data.logs import Log
    from hyperfocal.recommend.ranker import Ranker
    from hyperfocal.recommend.recommender import Recommender
    from hyperfocal.rules import Rules

RULES = (
    click.option("--only", type=PATH, help="File of the only items to recommend, one id per line, or a table."),
    click.option("--exclude", type=PATH, help="File of items never to recommend."),
    click.option("--candidates", type=PATH, help="Table of the only items that each user may get: user, item."),
    click.option(
        "--filter",
        "filters",
        multiple=True,
        metavar="CONDITION",
        help="Condition on a column of the item table, such as 'price < 20', 'in_stock = true' or 'category in "
        "[shoes, bags]'. Repeatable: all must hold.",
    ),
    click.option(
        "--max-per",
        multiple=True,
        metavar="COLUMN=N",
        help="At most N items of a list share a value of a column of the item table, such as brand=2. Repeatable.",
    ),
    click.option(
        "--diversity",
        type=float,
        default=0.0,
        help="0 to 1: how much a list avoids similar items.  [default: 0]",
    ),
    click.option(
        "--repeat-after",
        type=float,
        metavar="DAYS",
        help="Allow items of the history that are at least so many days older than the user's newest event.",
    ),
    click.option("--items", type=PATH, help="Item table that --filter and --max-per read.  [default: that of the run]"),
)
FILES = ("only", "exclude", "candidates", "items")  # options that name files
NAMES = (*FILES, "filters", "max_per", "diversity", "repeat_after")


def rules_of(options: dict[str, Any], ranker: Ranker) -> Rules:
    """Return the rules of the RULES options; errors as in `read_id_list` and `most_per`."""
    from hyperfocal.data.id_lists import read_id_list
    from hyperfocal.rules import Rules

    names, kind = (ranker.item_column, "item"), ranker.vocabulary.kind
    only, exclude = (
        None if options[name] is None else read_id_list(options[name], names, kind) for name in ("only", "exclude")
    )
    return Rules(
        repeats=options["repeats"],
        repeat_after=options["repeat_after"],
        only=None if only is None else [*only],
        exclude=[*(exclude or ())],
        filters=[*options["filters"]],
        max_per=dict(map(most_per, options["max_per"])),
        diversity=options["diversity"],
    )


def most_per(text: str) -> tuple[str, int]:
    """Return the column and the number of "brand=2"; raise ConfigError for another text.

    >>> most_per("brand=2")
    ('brand', 2)
    """
    column, _, most = text.rpartition("=")
    if not column or not most.strip().isdecimal() or int(most) < 1:
        raise ConfigError(f"--max-per {text}: expected a column and a number, such as brand=2")
    return column.strip(), int(most)


def files_of_rules(options: dict[str, Any]) -> dict[str, Path | None]:
    """Return option -> file of the RULES options and of --new-items."""
    return {f"--{name.replace('_', '-')}": options[name] for name in (*FILES, "new_items")}


def choices_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return the RULES options that are given, JSON-able, for the parts of an interrupted prediction."""
    from hyperfocal.cli.part_files import stamp

    given = {name: value for name, value in options.items() if name in NAMES and value not in (None, (), 0.0)}
    return {
        f"--{name.replace('_', '-')}": stamp(value) if isinstance(value, Path) else value
        for name, value in given.items()
    }


def log_predictor(recommender: Recommender, options: dict[str, Any], *, safe_csv: bool) -> LogPredictor:
    """Return the predictor of the RANKING and RULES options."""
    from hyperfocal.cli.predict import LogPredictor

    if options["items"] is not None:
        recommender = recommender.with_item_table(options["items"])
    return LogPredictor(
        recommender,
        k=options["k"],
        rules=rules_of(options, recommender.ranker_),
        candidates=options["candidates"],
        chosen=choices_of(options),
        new_items=options["new_items"],
        new_boost=options["new_boost"],
        safe_csv=safe_csv,
    )


def known_users(recommender: Recommender, users: Path | None, block: int | None, resume: bool) -> Log:
    """Return the histories of the users in a file, which are all in memory."""
    assert users is not None
    if block or resume:
        raise ConfigError("--block and --resume are for a file of histories. Leave them out with --users")
    return recommender.log_of(user_ids(recommender, users))


def user_ids(recommender: Recommender, file: Path) -> list[str]:
    """Return the ids of users in a file, in the kind of those of the run."""
    from hyperfocal.data.id_lists import read_id_list

    plan = recommender.ranker_.plan
    names = ("user",) if plan is None else (plan.name("user"), "user")
    return read_id_list(file, names, None if plan is None else plan.kind("user"))
