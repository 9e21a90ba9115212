"""Files of a label tree: TSV or CSV with the columns id, parent and name."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import polars as pl

from hyperfocal.data.faults import csv_rows
from hyperfocal.data.files import File, read_frame
from hyperfocal.errors import DataError

ROOT = -1
HEADERS = {
    "id": ("id", "unique id", "unique_id"),
    "parent": ("parent", "parent id", "parent_id"),
    "name": ("name",),
    "tier": ("tier 1",),  # the IAB's
}
HEADER_LINES = 2  # the IAB's header is the second; a line above it names groups of columns

Row = dict[str, str]


def read_tree(path: Path) -> tuple[list[str], list[str], list[int]]:
    """Return ids, names and parents (numbers, or ROOT) of the categories; rules and errors as in `read_taxonomy`."""
    file = File(path)
    if file.kind != "csv":
        raise DataError(f"{file}: a taxonomy is a table in text. Allowed: .tsv, .csv, also .gz")
    rows = read_frame(file, readers={"csv": _read_rows}, row="a category").to_dicts()
    ids = _number(rows, file)
    parents = [_parent(row, ids, file) for row in rows]
    refuse_cycle(list(ids), parents, file)
    return _topical(rows, parents)


def _read_rows(file: File) -> pl.DataFrame:
    """Read the columns line, id, parent, name and tier, as text; columns that are not there are empty."""
    with file.open() as text:
        try:
            lines = [(line, [field.strip() for field in fields]) for line, fields in csv_rows(text)]
        except UnicodeDecodeError:  # read_frame words it
            raise
        except ValueError as error:
            raise DataError(f"{file}: not readable as csv: {error}") from None
    if not lines:
        raise pl.exceptions.NoDataError
    start, places = _header([fields for _, fields in islice(lines, HEADER_LINES)], file)
    rows = [
        {"line": str(line), **{role: dict(enumerate(fields)).get(place, "") for role, place in places.items()}}
        for line, fields in lines[start:]
    ]
    if not rows:
        raise DataError(f"{file}: holds no categories. Give a file with one row a category")
    return pl.DataFrame(rows)


def _header(lines: list[list[str]], file: File) -> tuple[int, dict[str, int]]:
    """Return the number of header lines, and the place of each column (-1 for a tier that is not there)."""
    for number, fields in enumerate(lines, 1):
        lower = [field.lower() for field in fields]
        places = {role: next((lower.index(n) for n in names if n in lower), -1) for role, names in HEADERS.items()}
        if min(places["id"], places["parent"], places["name"]) >= 0:
            return number, places
    raise DataError(
        f"{file}: no header with the columns id, parent and name. Columns found: {', '.join(filter(None, lines[0]))}. "
        "Name them so in the first line"
    )


def _number(rows: list[Row], file: File) -> dict[str, int]:
    ids: dict[str, int] = {}
    for number, row in enumerate(rows):
        if not row["id"]:
            raise DataError(f"{file} line {row['line']}: a category without an id. Complete or remove the line")
        first = ids.setdefault(row["id"], number)
        if first != number:
            raise DataError(
                f"{file} line {row['line']}: id {row['id']!r} stands in line {rows[first]['line']} already. "
                "Give each category an id of its own"
            )
    return ids


def _parent(row: Row, ids: dict[str, int], file: File) -> int:
    if row["parent"] and row["parent"] not in ids:
        raise DataError(
            f"{file} line {row['line']}: parent {row['parent']!r} of {row['id']!r} is no category. "
            "Write the id of a category, or nothing for a root"
        )
    return ids[row["parent"]] if row["parent"] else ROOT


def refuse_cycle(ids: list[str], parents: list[int], where: File | str) -> None:
    """Raise DataError if a category is its own ancestor; `where` names the file."""
    checked = {ROOT}
    for start in range(len(ids)):
        trail: dict[int, None] = {}  # ordered
        number = start
        while number not in checked and number not in trail:
            trail[number] = None
            number = parents[number]
        if number in trail:
            cycle = [*list(trail)[list(trail).index(number) :], number]
            raise DataError(
                f"{where}: a category is its own ancestor: {' -> '.join(ids[above] for above in cycle)}. "
                "Correct the parent of one of them"
            )
        checked.update(trail)


def _topical(rows: list[Row], parents: list[int]) -> tuple[list[str], list[str], list[int]]:
    """Return ids, names and parents without the trees of the IAB that are not about topics."""
    tiered = any(row["tier"] for row in rows)
    kept = [number for number in range(len(rows)) if not tiered or _is_topic(rows[_root(number, parents)])]
    places = {ROOT: ROOT, **{number: place for place, number in enumerate(kept)}}
    names = [rows[number]["name"] or rows[number]["id"] for number in kept]
    return [rows[number]["id"] for number in kept], names, [places[parents[number]] for number in kept]


def _is_topic(root: Row) -> bool:
    return bool(root["tier"]) and not root["name"].startswith("Content ")


def _root(number: int, parents: list[int]) -> int:
    while parents[number] != ROOT:
        number = parents[number]
    return number
