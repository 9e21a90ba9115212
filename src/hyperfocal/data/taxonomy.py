"""A tree of labels, such as the IAB's Content Taxonomy: ids, names and parents, from a TSV or CSV file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from hyperfocal.data.csv_text import csv_rows
from hyperfocal.data.files import File
from hyperfocal.data.readers import read_frame
from hyperfocal.errors import DataError, columns_of, did_you_mean

ROOT = -1
HEADERS = {
    "id": ("id", "unique id", "unique_id"),
    "parent": ("parent", "parent id", "parent_id"),
    "name": ("name",),
    "tier": ("tier 1",),  # of the IAB
}
HEADER_LINES = 2  # the IAB's header is the second line; the first names groups of columns

Row = dict[str, str]


@dataclass(frozen=True, eq=False)
class Taxonomy:
    """K categories."""

    ids: list[str]  # K distinct texts
    names: list[str]  # K texts, not necessarily distinct
    parents: list[int]  # K category numbers, or ROOT (-1)

    def __len__(self) -> int:
        """Return K."""
        return len(self.ids)

    @cached_property
    def tiers(self) -> list[int]:
        """Return the tier of each category: 1 for a root, else one more than its parent's."""
        return [len(list(self._upwards(number))) for number in range(len(self))]

    def to_json(self) -> dict[str, list[Any]]:
        """Return the value that `from_json` reads."""
        return {"ids": self.ids, "names": self.names, "parents": self.parents}

    @classmethod
    def from_json(cls, value: Any) -> Taxonomy:
        """Build from the value of `to_json`.

        Raises:
            DataError: ids, names and parents that do not form a tree.
        """
        ids, names = (msgspec.convert(value[key], list[str]) for key in ("ids", "names"))
        parents = msgspec.convert(value["parents"], list[int])
        complete = len(ids) == len(names) == len(parents) == len(set(ids))
        if not complete or not all(ROOT <= parent < len(ids) for parent in parents):
            raise DataError("not a tree of labels: ids, names and parents do not match")
        _check_cycle(ids, parents, "not a tree of labels")
        return cls(ids, names, parents)

    def resolve(self, label: str) -> str | None:
        """Return the id of the category with this id, or else this name; None if there is none.

        Raises:
            DataError: a name that several categories have.
        """
        label = label.strip()
        numbers = [self._numbers[label]] if label in self._numbers else self._named.get(label, [])
        if len(numbers) > 1:
            several = "; ".join(f"{self.ids[number]} ({self._path(number)})" for number in numbers)
            raise DataError(f"label {label!r} is the name of {len(numbers)} categories: {several}. Use the id instead")
        return self.ids[numbers[0]] if numbers else None

    def ancestors(self, category: str) -> list[str]:
        """Return the ids above a category, from its parent to its root.

        Raises:
            DataError: no such id.
        """
        return [self.ids[number] for number in self._upwards(self._number(category))][1:]

    def path_name(self, category: str) -> str:
        """Return the names from the root to a category: "Automotive > Auto Body Styles > Sedan".

        Raises:
            DataError: no such id.
        """
        return self._path(self._number(category))

    def add_parents(self, labels: pl.Series) -> pl.Series:
        """Return the labels as ids, each followed by its ancestors; labels that are not in the tree do not change.

        Args:
            labels: (N,) List(String), ids or names.

        Returns:
            (N,) List(String), distinct within a document.

        Raises:
            DataError: a name that several categories have.
        """
        ids = {label: self.resolve(label) for label in labels.explode().drop_nulls().unique()}
        lines = {label: [label] if id is None else [id, *self.ancestors(id)] for label, id in ids.items()}
        rows = [list(dict.fromkeys(name for label in row or [] for name in lines[label])) for row in labels.to_list()]
        return pl.Series(labels.name, rows, dtype=pl.List(pl.String))

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {category: number for number, category in enumerate(self.ids)}

    @cached_property
    def _named(self) -> dict[str, list[int]]:
        named: dict[str, list[int]] = {}
        for number, name in enumerate(self.names):
            named.setdefault(name, []).append(number)
        return named

    def _number(self, category: str) -> int:
        if category not in self._numbers:
            raise DataError(f"taxonomy: no category has the id {category!r}.{did_you_mean(category, self.ids)}")
        return self._numbers[category]

    def _upwards(self, number: int) -> Iterator[int]:
        """Yield a category, its parent, and so on to the root."""
        while number != ROOT:
            yield number
            number = self.parents[number]

    def _path(self, number: int) -> str:
        return " > ".join(reversed([self.names[above] for above in self._upwards(number)]))


def read_taxonomy(path: str | Path) -> Taxonomy:
    """Return the tree in a .tsv or .csv file (also compressed) with the columns id, parent and name.

    The IAB's files are read as they are, without the trees that describe the medium and not the topic: roots without a
    tier in the file (Sensitive Topics, Brand Suitability and Risk in 2.2), and roots called "Content ..." (Channel,
    Type, Source, Media Format, Language, Source Geo).

    Raises:
        DataError: no such file, an empty or unreadable file, a missing column, a category without an id, a repeated
            id, a parent that is not a category, a category that is its own ancestor.
    """
    file = File(Path(path))
    if file.kind != "csv":
        raise DataError(f"{file}: a taxonomy is a text table. Allowed: .tsv, .csv, also compressed")
    rows = read_frame(file, readers={"csv": _read_table}, row="category").to_dicts()
    numbers = _number_ids(rows, file)
    parents = [_parent(row, numbers, file) for row in rows]
    _check_cycle(list(numbers), parents, file)
    return _topics(rows, parents)


def _read_table(file: File) -> pl.DataFrame:
    """Read the columns line, id, parent, name and tier as text; a missing tier is empty."""
    with StringIO(file.read().decode(), newline="\n") as text:
        try:
            lines = [(line, [field.strip() for field in fields]) for line, fields in csv_rows(text)]
        except UnicodeDecodeError:  # read_frame has the message
            raise
        except ValueError as error:
            raise DataError(f"{file}: not readable as csv: {error}") from None
    if not lines:
        raise pl.exceptions.NoDataError
    start, places = _find_header([fields for _, fields in islice(lines, HEADER_LINES)], file)
    rows = [
        {"line": str(line), **{role: dict(enumerate(fields)).get(place, "") for role, place in places.items()}}
        for line, fields in lines[start:]
    ]
    if not rows:
        raise DataError(f"{file}: has no categories. Give a file with one row per category")
    return pl.DataFrame(rows)


def _find_header(lines: list[list[str]], file: File) -> tuple[int, dict[str, int]]:
    """Return the number of header lines, and the place of each column, -1 for a missing tier."""
    for number, fields in enumerate(lines, 1):
        lower = [field.lower() for field in fields]
        places = {role: next((lower.index(n) for n in names if n in lower), -1) for role, names in HEADERS.items()}
        if min(places["id"], places["parent"], places["name"]) >= 0:
            return number, places
    raise DataError(
        f"{file}: no header with the columns id, parent and name. Use these names in the first line. "
        f"{columns_of([*filter(None, lines[0])])}"
    )


def _number_ids(rows: list[Row], file: File) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for number, row in enumerate(rows):
        if not row["id"]:
            raise DataError(f"{file} line {row['line']}: a category without an id. Complete or remove the line")
        first = numbers.setdefault(row["id"], number)
        if first != number:
            raise DataError(
                f"{file} line {row['line']}: id {row['id']!r} is already in line {rows[first]['line']}. "
                "Give each category its own id"
            )
    return numbers


def _parent(row: Row, numbers: dict[str, int], file: File) -> int:
    if row["parent"] and row["parent"] not in numbers:
        raise DataError(
            f"{file} line {row['line']}: parent {row['parent']!r} of {row['id']!r} is not a category. "
            "Write the id of a category, or nothing for a root"
        )
    return numbers[row["parent"]] if row["parent"] else ROOT


def _check_cycle(ids: list[str], parents: list[int], where: File | str) -> None:
    """Raise DataError, beginning with `where`, if a category is its own ancestor."""
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


def _topics(rows: list[Row], parents: list[int]) -> Taxonomy:
    """Return the taxonomy without the IAB's trees that are not about topics."""
    tiered = any(row["tier"] for row in rows)
    topics = [number for number in range(len(rows)) if not tiered or _is_topic(number, rows, parents)]
    places = {ROOT: ROOT, **{number: place for place, number in enumerate(topics)}}
    names = [rows[number]["name"] or rows[number]["id"] for number in topics]
    return Taxonomy([rows[number]["id"] for number in topics], names, [places[parents[number]] for number in topics])


def _is_topic(number: int, rows: list[Row], parents: list[int]) -> bool:
    while parents[number] != ROOT:
        number = parents[number]
    return bool(rows[number]["tier"]) and not rows[number]["name"].startswith("Content ")
