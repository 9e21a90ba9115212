"""Give one column of several tables, or of several blocks of a table, one type that holds all its values exactly."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
from polars.datatypes import DataTypeClass

from hyperfocal.errors import DataError


def add_types(types: dict[str, pl.DataType], schema: Mapping[str, pl.DataType], source: str, part: str) -> None:
    """Add the types of a part's columns to the types of earlier parts, see `common_type`.

    Raises:
        DataError: a column has no common type.
    """
    for name, dtype in schema.items():
        common = common_type(types.get(name, dtype), dtype)
        if common is None:
            raise DataError(
                f"{source}: column '{name}' holds {dtype} in {part} and {types[name]} before. Write it with one type"
            )
        types[name] = common


def conform(frame: pl.LazyFrame, schema: Mapping[str, pl.DataType], types: Mapping[str, pl.DataType]) -> pl.LazyFrame:
    """Return a table with the columns `types`: null for a column that it does not have."""
    return frame.select(
        as_type(pl.col(name), schema[name], dtype) if name in schema else pl.lit(None, dtype).alias(name)
        for name, dtype in types.items()
    )


def common_type(one: pl.DataType, other: pl.DataType) -> pl.DataType | None:
    """Return a type that holds the values of two types exactly, or None.

    >>> common_type(pl.Int32(), pl.Int64()), common_type(pl.Int64(), pl.Float64())
    (Int64, String)
    """
    types = (one, other)
    if one == other or other == pl.Null:
        return one
    if one == pl.Null:
        return other
    if all(dtype.is_integer() for dtype in types):
        return pl.String() if pl.UInt64 in types and any(t.is_signed_integer() for t in types) else _wider(one, other)
    if all(dtype.is_float() for dtype in types):
        return pl.Float64()
    if isinstance(one, pl.List) and isinstance(other, pl.List):
        inner = common_type(_plain(one.inner), _plain(other.inner))
        return None if inner is None else pl.List(inner)
    if any(dtype.is_nested() or dtype in (pl.Binary, pl.Object) for dtype in types):
        return None
    return _wider(one, other) if all(dtype.is_temporal() for dtype in types) else pl.String()


def _wider(one: pl.DataType, other: pl.DataType) -> pl.DataType:
    try:
        return pl.concat([pl.DataFrame(schema={"": dtype}) for dtype in (one, other)], how="vertical_relaxed")[""].dtype
    except pl.exceptions.PolarsError:
        return pl.String()


def _plain(dtype: pl.DataType | DataTypeClass) -> pl.DataType:
    return dtype() if isinstance(dtype, type) else dtype


def as_type(values: pl.Expr, dtype: pl.DataType, wanted: pl.DataType) -> pl.Expr:
    """Return values of one type as `wanted`, see `common_type`: a whole float as text without its ".0"."""
    if isinstance(dtype, pl.List) and isinstance(wanted, pl.List) and dtype != wanted:
        return values.list.eval(as_type(pl.element(), _plain(dtype.inner), _plain(wanted.inner)))
    if dtype.is_float() and wanted == pl.String:
        whole = values.cast(pl.Int64, strict=False)
        exact = whole.cast(pl.Float64) == values
        return pl.when(exact).then(whole.cast(pl.String)).otherwise(values.fill_nan(None).cast(pl.String))
    return values if dtype == wanted else values.cast(wanted)
