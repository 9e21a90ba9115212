"""The reading plan: how a source was read, stored so that later files are read the same way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import polars as pl
from msgspec import Struct, to_builtins
from msgspec.structs import replace

from hyperfocal.data.ids import IdKind
from hyperfocal.errors import DataError, columns_of, did_you_mean

Use = Literal[
    "user", "item", "order", "text", "field", "vector", "matrix", "labels", "unknown", "weight", "id", "group"
]  # fmt: skip
LISTS = "lists"  # the form of data that came without columns
LONGEST_EXAMPLE = 40  # characters
Settings = TypeVar("Settings")


class PlannedColumn(Struct, frozen=True):
    """A column that is read.

    Attributes:
        name: of the column.
        use: what its values are.
        type: of an id, its `IdKind`; of an order, "position" or "time"; of a field, its kind; of a vector, its length;
            else "text", "list" or "number".
        missing: rows without a value.
        example: the first value.
    """

    name: str
    use: Use
    type: str = "text"
    missing: int = 0
    example: str = ""


class ReadingPlan(Struct, frozen=True):
    """How a source was read.

    Attributes:
        form: of the source: "long", "challenge" or "lines" for a log, "documents" or "lines" for texts, or LISTS.
        rows: number of rows.
        columns: that are read.
        ignored: names of the other columns.
        separator: between the labels in a text; "": the labels are lists.
    """

    form: str
    rows: int
    columns: tuple[PlannedColumn, ...]
    ignored: tuple[str, ...] = ()
    separator: str = ""

    def names(self, use: Use) -> tuple[str, ...]:
        """Return the names of the columns of a use."""
        return tuple(column.name for column in self.columns if column.use == use)

    def name(self, use: Use) -> str:
        """Return the name of the column of a use; "": no such column."""
        return next(iter(self.names(use)), "")

    def kind(self, use: Use) -> IdKind:
        """Return the kind of the ids of a use."""
        kinds: dict[str, IdKind] = {"integer": "integer", "whole": "whole"}
        return next((kinds.get(column.type, "text") for column in self.columns if column.use == use), "text")


def reading_of(plan: ReadingPlan | None, settings: Settings) -> ReadingPlan | Settings:
    """Return the plan of a run, or the settings if the run has no plan or was fitted on lists."""
    return settings if plan is None or plan.form == LISTS else plan


def joined(plans: Sequence[ReadingPlan]) -> ReadingPlan:
    """Return the plan of a source that was read in blocks, from the plans of its blocks."""
    first = plans[0]
    columns = [
        replace(
            column,
            missing=sum(plan.columns[place].missing for plan in plans),
            example=next(filter(None, (plan.columns[place].example for plan in plans)), ""),
            type=next((plan.columns[place].type for plan in plans if plan.columns[place].type != "list"), column.type),
        )
        for place, column in enumerate(first.columns)
    ]
    return replace(
        first,
        rows=sum(plan.rows for plan in plans),
        columns=tuple(columns),
        ignored=tuple(dict.fromkeys(name for plan in plans for name in plan.ignored)),
        separator=next(filter(None, (plan.separator for plan in plans)), ""),
    )


def with_type(plan: ReadingPlan, use: Use, type: str) -> ReadingPlan:
    """Return the plan with another type of the columns of a use."""
    columns = [replace(column, type=type) if column.use == use else column for column in plan.columns]
    return replace(plan, columns=tuple(columns))


def plan_words(plan: ReadingPlan) -> str:
    """Return the plan in one sentence.

    >>> user, item = PlannedColumn("visitor", "user"), PlannedColumn("sku", "item", "integer")
    >>> plan_words(ReadingPlan("long", 9, (user, item), ignored=("price",)))
    "9 rows: user from 'visitor' (text), item from 'sku' (integer); ignored: price"
    """
    used = ", ".join(f"{column.use} from {column.name!r} ({column.type})" for column in plan.columns)
    separator = f"; labels split at {plan.separator!r}" if plan.separator else ""
    ignored = f"; ignored: {', '.join(plan.ignored)}" if plan.ignored else ""
    return f"{plan.rows:,} rows: {used}{separator}{ignored}"


def public_facts(plan: ReadingPlan | None) -> dict[str, Any] | None:
    """Return a plan as JSON-able values without the examples, which are training data; None: no plan."""
    if plan is None:
        return None
    facts: dict[str, Any] = to_builtins(plan)
    return facts | {"columns": [{**column, "example": ""} for column in facts["columns"]]}


def example_of(column: pl.Series) -> str:
    """Return the first value that is not missing or empty, as a short text; "": there is none."""
    values = column.drop_nulls()
    if isinstance(column.dtype, pl.List):
        values = values.filter(values.list.len() > 0)
    if values.is_empty():
        return ""
    first = values[0]
    text = ", ".join(map(str, first)) if isinstance(first, pl.Series) else str(first)
    return text if len(text) <= LONGEST_EXAMPLE else text[: LONGEST_EXAMPLE - 3] + "..."


def same_column(name: str, header: Sequence[str]) -> str:
    """Return the column with a name, or the only one with this name in other letter case; else ""."""
    if name in header:
        return name
    alike = [column for column in header if column.lower() == name.lower()]
    return alike[0] if len(alike) == 1 else ""


def planned_column(plan: ReadingPlan, use: Use, name: str, header: Sequence[str], file: object) -> str:
    """Return the column of a file that a plan names; raise DataError if the file has none."""
    column = same_column(name, header)
    if not column:
        words = {"text": "the texts", "order": "the order", "id": "the ids", "field": "a field", "vector": "vectors"}
        others = [each for each in header if each not in {column.name for column in plan.columns}]
        raise DataError(
            f"{file}: no column '{name}', from which this run reads {words.get(use, f'the {use}')}."
            f"{did_you_mean(name, others)} {columns_of(header)}. Rename the column, or fit again "
            "with files whose columns have the same names"
        )
    return column
