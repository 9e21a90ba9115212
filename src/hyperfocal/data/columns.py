"""Which column is the user, which the item, which the order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperfocal.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from hyperfocal.config.recommend import DataSettings
    from hyperfocal.data.files import File

KNOWN_NAMES = {
    "user": ("user", "user_id", "userid", "student", "customer", "customer_id", "visitor", "session", "session_id"),
    "item": (
        "item",
        "item_id",
        "itemid",
        "course",
        "challenge",
        "product",
        "product_id",
        "article",
        "movie",
        "movie_id",
    ),
    "order": ("order", "position", "timestamp", "time", "datetime", "date", "ts", "sequence"),
}


@dataclass(frozen=True)
class Columns:
    """The names of the columns; without an order, rows are in the order of the file."""

    user: str
    item: str
    order: str | None


def find_columns(found: list[str], settings: DataSettings, file: File) -> Columns:
    """Return the columns that the settings name, else those of known names, else the first three.

    Raises:
        DataError: a named column that is not there, or that is named twice; no telling which column is which.
    """
    named = {"user": settings.user, "item": settings.item, "order": settings.order}
    for name in filter(None, named.values()):
        if name not in found:
            raise DataError(f"{file}: no column '{name}'.{did_you_mean(name, found)} Columns found: {', '.join(found)}")
    lower = {column.lower(): column for column in reversed(found)}
    for role, names in KNOWN_NAMES.items():
        if not named[role]:
            named[role] = next((lower[n] for n in names if n in lower and lower[n] not in named.values()), "")
    if len(found) <= 3:
        rest = [column for column in found if column not in named.values()]
        _refuse_headless(rest, found, file)
        for role in named:
            named[role] = named[role] or (rest.pop(0) if rest else "")
    missing = [role for role in named if not named[role] and (role != "order" or len(found) > 2)]
    if missing:
        raise DataError(
            f"{file}: cannot tell which column is the {missing[0]}. Name it with --{missing[0]} COLUMN. "
            f"Columns found: {', '.join(found)}"
        )
    columns = Columns(named["user"], named["item"], named["order"] or None)
    refuse_twice(columns, found, file)
    return columns


def refuse_twice(columns: Columns, found: list[str], file: File) -> None:
    """Raise DataError if one column has two roles, or the header has the name of a column twice."""
    names = [columns.user, columns.item, columns.order]
    for name in filter(None, names):
        if names.count(name) > 1:
            raise DataError(f"{file}: column '{name}' cannot be two of user, item and order. Name one column for each")
        if f"{name}_duplicated_0" in found:  # so polars renames the second
            raise DataError(f"{file}: the header has column '{name}' twice. Rename one of them")


def _refuse_headless(names: list[str], found: list[str], file: File) -> None:
    """Raise DataError if the header of a CSV file, of which the given names mean nothing, looks like a row."""
    if file.path is not None and file.kind == "csv" and any(re.fullmatch(r"-?\d+(\.\d+)?", name) for name in names):
        raise DataError(
            f"{file}: the first line looks like a row, not a header: {', '.join(found)}. Add a header, as "
            "user,item,position, or name the columns with --user, --item and --order"
        )
