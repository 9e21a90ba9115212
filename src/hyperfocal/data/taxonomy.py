"""A tree of labels: ids, names and parents, as the IAB's Content Taxonomy.

Files of a label tree: TSV or CSV with the columns id, parent and name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from hyperfocal.data.files import File, csv_rows, read_frame
from hyperfocal.errors import DataError, did_you_mean


@dataclass(frozen=True, eq=False)
class Taxonomy:
    """K categories.

    Attributes:
        ids: K distinct texts.
        names: K texts; two categories may have the same.
        parents: K numbers of a category, or ROOT (-1).
    """

    ids: list[str]
    names: list[str]
    parents: list[int]

    def __len__(self) -> int:
        """Return K."""
        return len(self.ids)

    @cached_property
    def tiers(self) -> list[int]:
        """Return the tier of each category: 1 for a root, else one more than its parent's."""
        return [len(list(self._upwards(number))) for number in range(len(self))]

    def to_json(self) -> dict[str, list[Any]]:
        """Return what `from_json` reads."""
        return {"ids": self.ids, "names": self.names, "parents": self.parents}

    @classmethod
    def from_json(cls, value: Any) -> Taxonomy:
        """Build from `to_json`'s value.

        Raises:
            DataError: not such a value.
        """
        ids, names = (msgspec.convert(value[part], list[str]) for part in ("ids", "names"))
        parents = msgspec.convert(value["parents"], list[int])
        whole = len(ids) == len(names) == len(parents) == len(set(ids))
        if not whole or not all(ROOT <= parent < len(ids) for parent in parents):
            raise DataError("not a tree of labels: ids, names and parents do not belong together")
        refuse_cycle(ids, parents, "not a tree of labels")
        return cls(ids, names, parents)

    def resolve(self, label: str) -> str | None:
        """Return the id of the category that has this id, or else this name; None where there is none.

        Raises:
            DataError: a name that several categories have.
        """
        label = label.strip()
        found = [self._numbers[label]] if label in self._numbers else self._named.get(label, [])
        if len(found) > 1:
            several = "; ".join(f"{self.ids[number]} ({self._path(number)})" for number in found)
            raise DataError(f"label {label!r} is the name of {len(found)} categories: {several}. Write the id instead")
        return self.ids[found[0]] if found else None

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
        """Return the labels as ids, each followed by its ancestors; labels not in the tree stay as they are.

        Args:
            labels: (N,) List(String), ids or names.

        Returns:
            (N,) List(String), distinct within a document.

        Raises:
            DataError: a name that several categories have.
        """
        known = {label: self.resolve(label) for label in labels.explode().drop_nulls().unique()}
        above = {label: [label] if id is None else [id, *self.ancestors(id)] for label, id in known.items()}
        rows = [list(dict.fromkeys(name for label in row or [] for name in above[label])) for row in labels.to_list()]
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
    """Return the tree in a .tsv or .csv file (also .gz) with the columns id, parent and name.

    The IAB's files are read as they are. Of those, trees that are about the medium and not the topic are left
    out: roots to which the file gives no tier (Sensitive Topics, Brand Suitability and Risk in 2.2) and roots called
    "Content ..." (Channel, Type, Source, Media Format, Language, Source Geo).

    Raises:
        DataError: no such file, an empty or unreadable file, a missing column, a category without an id, an id
            twice, a parent that is no category, a category that is its own ancestor.
    """
    return Taxonomy(*read_tree(Path(path)))


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
