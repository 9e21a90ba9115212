"""A tree of labels: ids, names and parents, as the IAB's Content Taxonomy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from hyperfocal.data.taxonomy_files import ROOT, read_tree, refuse_cycle
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
