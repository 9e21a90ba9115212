"""Which column is the user, which the item, which the order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperfocal.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from hyperfocal.config import DataSettings
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
        DataError: a named column that is not there, or no telling which column is which.
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
        for role in named:
            named[role] = named[role] or (rest.pop(0) if rest else "")
    missing = [role for role in named if not named[role] and (role != "order" or len(found) > 2)]
    if missing:
        raise DataError(
            f"{file}: cannot tell which column is the {missing[0]}. Name it with --{missing[0]} COLUMN. "
            f"Columns found: {', '.join(found)}"
        )
    return Columns(named["user"], named["item"], named["order"] or None)
