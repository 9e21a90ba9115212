"""Rules: which items may be recommended, and how a list of them is put together. Every surface takes this value."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

MOST_ITEMS = 100_000  # allowed or excluded items per request
Name = Annotated[str, Meta(max_length=1_000)]
Id = Name | int | float  # 10, 10.0 and "10" are one id


class Rules(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rules for lists of recommendations.

    Attributes:
        repeats: whether items of the user's history may be recommended.
        repeat_after: days after which an item of the history may be recommended again. It needs events with times.
            None: never, unless `repeats` is true.
        only: the only items that may be recommended. None: all.
        exclude: items that are never recommended.
        filters: conditions on columns of the item table, as "in_stock = true", "price < 20" or
            "category in [shoes, bags]". An item has to satisfy all of them; a missing value satisfies none.
        max_per: column of the item table -> how many items of a list may share a value of that column.
        diversity: 0 to 1, how much a list avoids similar items. 0: only the score counts. 1: after the best item,
            only dissimilarity counts.
    """

    repeats: bool = False
    repeat_after: Annotated[float, Meta(ge=0)] | None = None
    only: Annotated[list[Id], Meta(max_length=MOST_ITEMS)] | None = None
    exclude: Annotated[list[Id], Meta(max_length=MOST_ITEMS)] = []
    filters: Annotated[list[Name], Meta(max_length=100, examples=[["price < 20"]])] = []
    max_per: Annotated[dict[Name, Annotated[int, Meta(ge=1)]], Meta(max_length=10, examples=[{"brand": 2}])] = {}
    diversity: Annotated[float, Meta(ge=0, le=1)] = 0.0
