"""Give one column of several tables, or of several blocks of a table, one type that holds all its values exactly.

A column without such a type, as an object whose keys change over time, becomes an object that names its types. It is
harmless where nobody reads it, and every reader refuses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import polars as pl
from polars.datatypes import DataTypeClass

from hyperfocal.data.frames import EXACT

Schema = Mapping[str, pl.DataType]
LATER = ", but "  # between the types of a column without a common one


def unified(frames: Sequence[pl.LazyFrame], names: Sequence[str]) -> list[pl.LazyFrame]:
    """Return tables with the same columns and types; a column that a table lacks is null there.

    Integers and floats become integers if all floats are whole numbers, floats if a float may be rounded, else text.
    An id must not be a rounded float, and its reader refuses it.

    Args:
        frames: the tables.
        names: of the tables, for the type of a column without a common type.
    """
    schemas = [frame.collect_schema() for frame in frames]
    types: dict[str, pl.DataType] = {}
    for schema, part in zip(schemas, names, strict=True):
        _add_types(types, schema, part)
    mixed = [name for name, dtype in types.items() if dtype == pl.String and _is_mixed(name, schemas)]
    types |= {name: _number_type(name, frames, schemas) for name in mixed}
    return [
        frame.with_columns(_column(name, schema.get(name), dtype) for name, dtype in types.items()).select(*types)
        for frame, schema in zip(frames, schemas, strict=True)
    ]


def _add_types(types: dict[str, pl.DataType], schema: Schema, part: str) -> None:
    for name, dtype in schema.items():
        known = types.get(name, dtype)
        types[name] = known if _is_refused(known) else common_type(known, dtype) or _refused(known, dtype, part)


def _refused(known: pl.DataType, dtype: pl.DataType, part: str) -> pl.DataType:
    """Return the type of a column without a common type."""
    return dtype if _is_refused(dtype) else pl.Struct({f"{known}{LATER}{dtype} in {part}": pl.Null()})


def _is_refused(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.Struct) and len(dtype.fields) == 1 and LATER in dtype.fields[0].name


def _column(name: str, dtype: pl.DataType | None, wanted: pl.DataType) -> pl.Expr:
    """Return a column of a table that has it with the type `dtype`, or lacks it, with the wanted type."""
    if _is_refused(wanted):
        assert isinstance(wanted, pl.Struct)
        return pl.struct(pl.lit(None).alias(wanted.fields[0].name)).alias(name)
    return pl.lit(None, wanted).alias(name) if dtype is None else _as_type(pl.col(name), dtype, wanted)


def _is_mixed(name: str, schemas: Iterable[Schema]) -> bool:
    """Return whether a column holds signed integers and floats only."""
    known = {schema[name] for schema in schemas if name in schema} - {pl.Null()}
    return all(dtype.is_float() or dtype.is_signed_integer() for dtype in known)


def _number_type(name: str, frames: Sequence[pl.LazyFrame], schemas: Sequence[Schema]) -> pl.DataType:
    """Return the type of a column of integers and floats, by the values of the floats."""
    pairs = zip(frames, schemas, strict=True)
    values = pl.col(name).fill_nan(None)
    facts = [
        frame.select(large=(values.abs() >= EXACT).any(), whole=(values == values.floor()).all())
        for frame, schema in pairs
        if _is_float(schema.get(name))
    ]
    large, whole = (
        pl.concat(facts).select(pl.col("large").any(), pl.col("whole").all()).collect(engine="streaming").row(0)
    )
    if large:
        return pl.Float64()
    return pl.Int64() if whole else pl.String()


def _is_float(dtype: pl.DataType | None) -> bool:
    return dtype is not None and dtype.is_float()


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


def _as_type(values: pl.Expr, dtype: pl.DataType, wanted: pl.DataType) -> pl.Expr:
    """Return values of one type as `wanted`, see `common_type`: a whole float as text without its ".0"."""
    if isinstance(dtype, pl.List) and isinstance(wanted, pl.List) and dtype != wanted:
        return values.list.eval(_as_type(pl.element(), _plain(dtype.inner), _plain(wanted.inner)))
    if dtype.is_float():
        values = values.fill_nan(None)
    if dtype.is_float() and wanted == pl.String:
        return values.cast(pl.String).str.strip_suffix(".0")
    return values if dtype == wanted else values.cast(wanted)
