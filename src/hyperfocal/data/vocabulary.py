"""The vocabulary: map raw item ids, or labels, to numbers and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from typing import Any, get_args

import numpy as np
import polars as pl
import torch
from torch import Tensor

from hyperfocal.data.frames import is_frame, is_missing
from hyperfocal.data.ids import IdKind, id_text, is_whole, typed
from hyperfocal.data.logs import Log
from hyperfocal.errors import DataError
from hyperfocal.labels import row_pointers
from hyperfocal.sequences import Sequences

UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The ids of L items; item number n is `ids[n]`."""

    ids: pl.Series  # (L,) text, distinct
    kind: IdKind = "text"  # the type in which they came

    @classmethod
    def of(cls, items: pl.Series, kind: IdKind = "text") -> Vocabulary:
        """Build from the items of a log, sorted by id so that the order of rows does not matter."""
        return cls(items.unique().cast(pl.String).sort().alias("item"), kind)

    def __len__(self) -> int:
        """Return L."""
        return len(self.ids)

    @cached_property
    def names(self) -> list[str]:
        """Return the ids as a list: number -> id."""
        names: list[str] = self.ids.to_list()
        return names

    @cached_property
    def values(self) -> list[str | int]:
        """Return the ids in the type in which they came: number -> id."""
        values: list[str | int] = typed(self.ids, self.kind).to_list()
        return values

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Return id -> number; for a few items it is faster than `encode`."""
        return {item: number for number, item in enumerate(self.names)}

    def encode_lists(self, histories: Iterable[Iterable[Any]]) -> Sequences:
        """Return the numbers of each user's items, without unknown ones; ids are compared as in `ids.id_text`.

        Raises:
            DataError: a text in place of a list, which would be read letter by letter.
        """
        if isinstance(histories, str):
            raise DataError(f"histories: {histories!r} is a text, not lists of item ids. Write [[{histories!r}]]")
        if not isinstance(histories, Iterable) or getattr(histories, "ndim", 1) == 0:
            raise DataError(f"histories: {histories!r:.60} is no list. Give one list of item ids per user")
        if is_frame(histories):
            raise DataError(
                "histories: a frame was given. Give one list of item ids per user, or call `predict` with it"
            )
        numbers, kind = self.numbers, self.kind
        named = ([id_text(item, kind) for item in _ids(row) if not is_missing(item)] for row in histories)
        rows = [[numbers[item] for item in row if item in numbers] for row in named]
        offsets = torch.tensor([0, *accumulate(map(len, rows))])
        return Sequences(torch.tensor(list(chain.from_iterable(rows)), dtype=torch.int64), offsets, len(self))

    def encode(self, items: pl.Series) -> Tensor:
        """Return (N,) int64 item numbers, UNKNOWN (-1) for unknown ids."""
        numbers = items.cast(pl.Enum(self.ids), strict=False).to_physical().cast(pl.Int64).fill_null(UNKNOWN)
        return torch.from_numpy(numbers.to_numpy().copy())

    def decode(self, numbers: Tensor) -> pl.Series:
        """Return the ids of (N,) item numbers."""
        return self.ids.gather(pl.Series(numbers.numpy(), dtype=pl.UInt32))

    def extended(self, items: pl.Series) -> Vocabulary:
        """Return a vocabulary that has the unknown items too, numbered from L on."""
        unique = items.unique(maintain_order=True)
        new = unique.filter(~unique.is_in(self.ids.implode())).alias("item")
        same = self.kind == "text" or is_whole(new)
        return Vocabulary(pl.concat([self.ids, new]), self.kind if same else "text")

    def to_json(self) -> str:
        """Return the JSON that `from_json` reads."""
        kind = {} if self.kind == "text" else {"kind": self.kind}
        return json.dumps({"items": self.ids.to_list()} | kind, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Vocabulary:
        """Build from the JSON of `to_json`.

        Raises:
            DataError: other text.
        """
        try:
            facts = json.loads(text)
            items, kind = facts["items"], facts.get("kind", "text")
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"not a vocabulary: {type(error).__name__}: {error}") from None
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise DataError("not a vocabulary: 'items' is not a list of texts")
        if len(set(items)) < len(items):
            raise DataError(f"not a vocabulary: of {len(items):,} items only {len(set(items)):,} differ")
        if kind not in get_args(IdKind):
            raise DataError(f"not a vocabulary: its ids are {kind!r}. Allowed: {', '.join(get_args(IdKind))}")
        return cls(pl.Series("item", items, dtype=pl.String), kind)


def _ids(history: Iterable[Any]) -> Iterable[Any]:
    if isinstance(history, str | bytes) or not isinstance(history, Iterable):
        raise DataError(f"histories: {history!r} is not a list of item ids. Give one list per user, as [[{history!r}]]")
    if isinstance(history, AbstractSet | Mapping):
        raise DataError(f"histories: a {type(history).__name__} has no order. Give a list of item ids, oldest first")
    return history


def frequent_first(vocabulary: Vocabulary, counts: Tensor) -> list[str]:
    """Return the ids, sorted by their (L,) counts, the largest first."""
    ids: list[str] = vocabulary.decode(counts.argsort(descending=True, stable=True)).to_list()
    return ids


def encode_log(log: Log, vocabulary: Vocabulary) -> tuple[Sequences, int]:
    """Return the log as item numbers, and how many of its events have unknown items and are left out."""
    numbers = vocabulary.encode(log.items)
    known = numbers != UNKNOWN
    offsets = row_pointers(known)[torch.from_numpy(np.ascontiguousarray(log.offsets))]
    return Sequences(numbers[known], offsets, len(vocabulary)), int((~known).sum())
