"""Convert frames of any library to polars, column by column.

pandas, polars, pyarrow tables, DuckDB relations, anything with Arrow's `__arrow_c_stream__`, datasets with `to_polars`,
and mappings of column name to values are frames. A missing value (None, NaN, NaT, pandas' NA, a masked one) becomes
null in every dtype, never the word "nan". Values of several types become text.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from importlib import import_module
from itertools import chain
from typing import Any

import numpy as np
import polars as pl

from hyperfocal.data.half_characters import half_character
from hyperfocal.errors import DataError

EXACT = 2**53  # floats from here on may stand for two neighboring integers
MISSING = ("NoneType", "NAType", "NaTType")  # types whose values are missing; a float may be
NARROW = {np.float16, np.float32}  # types of floats that hold fewer integers than Python's
READY = (str, bytes, int, list, dt.date, dt.time, dt.timedelta)  # values that are never missing, and that polars reads


def is_frame(data: Any) -> bool:
    """Return whether `as_frame` takes a value."""
    if isinstance(data, pl.DataFrame | pl.LazyFrame | Mapping) or _is_pandas(data):
        return True
    named = any(hasattr(data, name) for name in ("column_names", "columns", "schema"))  # a single column has none
    return named and (hasattr(data, "__arrow_c_stream__") or hasattr(data, "to_polars"))


def as_frame(data: Any) -> pl.DataFrame:
    """Return a frame as a polars frame; a name that repeats gets polars' ending "_duplicated_0".

    Raises:
        DataError: columns have different lengths; a text or a number in place of a column.
    """
    if isinstance(data, pl.DataFrame | pl.LazyFrame):
        return _without_nan(data.lazy().collect())
    if isinstance(data, Mapping):
        return _joined([as_series(name, values) for name, values in _named(data.keys(), data.values())])
    if _is_pandas(data):
        index = [(name, level) for level, name in enumerate(data.index.names) if name not in (None, *data.columns)]
        levels = [data.index.get_level_values(level).to_series() for _, level in index]  # columns, as in Parquet
        columns = [*levels, *(data.iloc[:, place] for place in range(data.shape[1]))]
        names = [*(name for name, _ in index), *data.columns]
        return _joined([as_series(name, column) for name, column in _named(names, columns)])
    return _by_arrow(data)


def _named(names: Iterable[Any], columns: Iterable[Any]) -> Iterable[tuple[str, Any]]:
    texts = [str(name) for name in names]
    earlier = [texts[:place].count(name) for place, name in enumerate(texts)]
    named = [f"{name}_duplicated_{count - 1}" if count else name for name, count in zip(texts, earlier, strict=True)]
    return zip(named, columns, strict=True)


def to_library(frame: pl.DataFrame, like: Any) -> Any:
    """Return a frame in the library of another one: pandas, pyarrow, DuckDB, or datasets; else as it is, in polars.

    >>> to_library(pl.DataFrame({"item": [1]}), {"user": ["a"]}).columns
    ['item']
    """
    library = type(like).__module__.partition(".")[0]
    if _is_pandas(like):
        return type(like)({column.name: _to_pandas(column) for column in frame.get_columns()})
    if library in ("pyarrow", "duckdb", "_duckdb"):
        table = frame.to_arrow()
        return table if library == "pyarrow" else _to_duckdb(table)
    return type(like).from_polars(frame) if library == "datasets" else frame


def holds_objects(data: Any) -> bool:
    """Return whether the library of a frame has columns of Python objects: polars and pandas do, Arrow does not."""
    return not is_frame(data) or _is_pandas(data) or isinstance(data, pl.DataFrame | pl.LazyFrame | Mapping)


def _to_pandas(column: pl.Series) -> Any:
    """Return a column as pandas takes it: numbers and bools as an array, other values as a list."""
    if not column.null_count() and (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        return column.to_numpy()
    return column.to_list() or np.empty(0, dtype=object)  # an empty list would become a column of floats


def _to_duckdb(table: Any) -> Any:
    return import_module("duckdb").from_arrow(table)


def as_series(name: str, values: Any) -> pl.Series:
    """Return a column of values of any library: a Series, an array, or a list.

    Values of one type keep it. Values of several types become text, whole numbers without a ".0": ids 10 and 10.0 are
    the same id. Lists, tuples, sets (sorted) and arrays inside become lists. Values that polars cannot hold become
    objects, which every reader refuses, so that they do no harm in a column that nobody reads.

    Raises:
        DataError: a text or a number in place of values; a text with half a character.

    >>> as_series("item", [10, 10.0, "ten", float("nan")]).to_list()
    ['10', '10', 'ten', None]
    """
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__len__") or getattr(values, "ndim", 1) == 0:
        raise DataError(f"frame: column '{name}' is {values!r:.80}. Give one value per row, as a list or an array")
    try:
        return _series(name, values)
    except UnicodeEncodeError as error:
        raise half_character(error, name) from None
    except MemoryError:
        raise
    except (
        Exception,
        pl.exceptions.PanicException,
    ):  # values of any library may raise anything; a column of objects is refused where it is used
        return pl.Series(name, [None] * len(values), dtype=pl.Object)


def _series(name: str, values: Any) -> pl.Series:
    if isinstance(values, pl.Series):
        column = values.alias(name)
    elif hasattr(values, "dtype") and hasattr(values, "iloc"):
        column = _from_pandas(values, name)
    elif hasattr(values, "__arrow_c_stream__") or hasattr(values, "__arrow_c_array__"):
        column = pl.Series(name, values)
    elif isinstance(values, np.ma.MaskedArray):
        return _from_objects(values.tolist(), name)  # a masked value is None there
    elif isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "biufM":
        column = _from_numpy(values, name)
    else:
        quick = isinstance(values, np.ndarray) and values.dtype.kind in "USOm"
        return _from_objects(values.tolist() if quick else [*values], name)
    return column.fill_nan(None) if column.dtype.is_float() else column


def is_missing(value: Any) -> bool:
    """Return whether a value is None, NaN, NaT, or pandas' NA.

    >>> [is_missing(value) for value in (None, float("nan"), np.datetime64("NaT"), "nan", 0)]
    [True, True, True, False, False]
    """
    if value is None:
        return True
    if isinstance(value, str | bytes | list | tuple | dict | AbstractSet | np.ndarray):
        return False
    if type(value).__name__ in ("NAType", "NaTType"):
        return True
    try:
        return bool(value != value)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several values
        return False


def plain_text(value: Any) -> str:
    """Return a value as text: a whole float without its ".0", a time in ISO 8601, anything else as `str` writes it.

    >>> plain_text(10.0), plain_text(np.int64(7)), plain_text(True), plain_text(0.5)
    ('10', '7', 'true', '0.5')
    """
    if isinstance(value, np.generic) and type(value) not in NARROW:
        value = value.item()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | np.float32 | np.float16):
        exact = value.is_integer() and abs(float(value)) < EXACT
        text = pl.Series(np.array([value])).cast(pl.String)  # a float32 has fewer digits than a float64
        return str(int(value)) if exact else str(text.item()).removesuffix(".0")
    isoformat: Callable[[], str] | None = getattr(value, "isoformat", None)
    return str(value) if isoformat is None else isoformat()


def _is_pandas(data: Any) -> bool:
    return hasattr(data, "iloc") and hasattr(data, "columns")


def _by_arrow(data: Any) -> pl.DataFrame:
    names = getattr(data, "column_names", None)  # of pyarrow, where a name may repeat, and of datasets
    if isinstance(names, list) and hasattr(data, "column") and len(set(names)) < len(names):
        columns = (data.column(place) for place in range(len(names)))
        return _joined([as_series(name, column) for name, column in _named(names, columns)])
    try:
        frame = pl.DataFrame(data) if hasattr(data, "__arrow_c_stream__") else data.to_polars()
    except pl.exceptions.PolarsError as error:
        raise DataError(f"frame of {type(data).__name__}: not readable: {error}") from None
    return _without_nan(frame)


def _without_nan(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.selectors.float().fill_nan(None))


def _joined(columns: Iterable[pl.Series]) -> pl.DataFrame:
    columns = list(columns)
    lengths = {column.name: len(column) for column in columns}
    if len(set(lengths.values())) > 1:
        raise DataError(f"frame: columns have different lengths: {lengths}. Give one value per row in each")
    return pl.DataFrame(columns)


def _from_pandas(column: Any, name: str) -> pl.Series:
    dtype = column.dtype
    if hasattr(dtype, "pyarrow_dtype") or getattr(dtype, "storage", "") == "pyarrow":
        return pl.Series(name, column.array.__arrow_array__())
    if isinstance(dtype, np.dtype) and dtype.kind in "biufM":
        return _from_numpy(column.to_numpy(), name)
    if isinstance(dtype, np.dtype) and dtype.kind == "m":
        return _from_objects(column.to_numpy().astype("timedelta64[us]").tolist(), name)
    if str(dtype).startswith("datetime64[") and column.dt.tz is not None:
        zone = str(column.dt.tz)
        utc = _from_numpy(column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy(), name)
        return utc.dt.replace_time_zone("UTC") if zone == "UTC" else _in_zone(utc.dt.replace_time_zone("UTC"), zone)
    if hasattr(dtype, "categories") and hasattr(column, "cat"):
        return _from_category(column.cat, name)
    if hasattr(dtype, "numpy_dtype") and dtype.numpy_dtype != np.uint64:
        return _from_masked(column, name)
    return _from_objects(column.astype(object).tolist(), name)


def _from_category(column: Any, name: str) -> pl.Series:
    """Return the column of pandas' categories, each of which is converted once, if a row has it."""
    codes = column.codes.to_numpy()
    present = np.bincount(codes + 1, minlength=1 + len(column.categories))[1:] > 0
    categories = column.categories[present]
    narrow = categories.dtype.type in NARROW
    known = [*categories.to_numpy()] if narrow else categories.astype(object).tolist()
    values = _from_objects([*known, None], name)
    places = np.append(np.cumsum(present) - 1, len(values) - 1)  # the last is that of code -1, a missing value
    return values.gather(places[codes])


def _from_masked(column: Any, name: str) -> pl.Series:
    """Return the column of pandas' numbers and booleans with a mask; integers as Int64."""
    values = _from_numpy(column.to_numpy(dtype=column.dtype.numpy_dtype, na_value=0), name)
    values = values.cast(pl.Int64) if values.dtype.is_integer() else values
    missing = column.isna().to_numpy()
    return _text_if_empty(values.set(pl.Series(missing), None) if missing.any() else values)


def _text_if_empty(column: pl.Series) -> pl.Series:
    return pl.Series(column.name, [None] * len(column), pl.String) if column.null_count() == len(column) else column


def _in_zone(utc: pl.Series, zone: str) -> pl.Series:
    try:
        return utc.dt.convert_time_zone(zone)
    except pl.exceptions.PolarsError:  # a fixed offset such as UTC+02:00, which has no name: the moments are the same
        return utc


def _from_numpy(array: np.ndarray[Any, Any], name: str) -> pl.Series:
    if array.dtype.kind == "M" and np.datetime_data(array.dtype)[0] not in ("D", "ms", "us", "ns"):
        array = array.astype("datetime64[us]")
    return pl.Series(name, np.ascontiguousarray(array))


def _from_objects(values: list[Any], name: str) -> pl.Series:
    """Return the column of Python values, some of which may be missing."""
    known = _without_missing(values)
    kinds = set(map(type, known)) - {type(None)}
    if list in kinds:
        return _from_lists([None if value is None else _as_list(value) for value in known], name)
    if len(kinds) == 1 and kinds <= NARROW:
        numbers = [np.nan if value is None else value for value in known]
        return _text_if_empty(_from_numpy(np.array(numbers, dtype=kinds.pop()), name).fill_nan(None))
    if kinds & NARROW and kinds <= {float, *NARROW}:
        known, kinds = [value if value is None else float(value) for value in known], {float}
    if kinds == {int, float} and all(abs(v) < EXACT and v == int(v) for v in known if type(v) is float):
        known, kinds = [value if value is None else int(value) for value in known], {int}
    if kinds and all(hasattr(kind, "to_datetime64") for kind in kinds) and not any(v.tzinfo for v in known if v):
        times = [np.datetime64("NaT") if value is None else value.to_datetime64() for value in known]
        return _from_numpy(np.array(times, dtype="datetime64[ns]"), name)  # a datetime would lose the nanoseconds
    column = _of_one_type(known, name) if len(kinds) == 1 else None
    if column is not None:
        return column
    texts = [value if value is None or type(value) is str else plain_text(value) for value in known]
    return pl.Series(name, texts, dtype=pl.String)


def _without_missing(values: list[Any]) -> list[Any]:
    """Return values as polars reads them, None in place of a missing one.

    The types of the values tell whether single values must be looked at: it takes a hundred times as long.
    """
    kinds = set(map(type, values))
    missing = {kind for kind in kinds if kind.__name__ in MISSING}
    ready = {kind for kind in kinds - missing if issubclass(kind, READY) and not issubclass(kind, np.generic)}
    if kinds - missing - ready <= {float}:
        if float not in kinds and missing <= {type(None)}:
            return values
        return [None if type(value) in missing or value != value else value for value in values]
    if len(kinds) == 1:
        (kind,) = kinds
        if kind in NARROW:
            return values  # also NaN
        if kind is np.str_:
            return [*map(str, values)]
        if issubclass(kind, np.bool_ | np.integer | np.float64) and not issubclass(kind, np.timedelta64):
            return _without_missing(np.array(values).tolist())
    return [value if type(value) in ready else None if is_missing(value) else _plain(value) for value in values]


def _of_one_type(values: list[Any], name: str) -> pl.Series | None:
    """Return the column of values of one type, or None if polars has no type for them."""
    try:
        column = pl.Series(name, values, strict=True)
    except UnicodeEncodeError:
        raise
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        return None
    return None if column.dtype in (pl.Object, pl.Null) else column


def _from_lists(rows: list[list[Any] | None], name: str) -> pl.Series:
    inner = _from_objects([*chain.from_iterable(row for row in rows if row is not None)], name)
    lengths = np.array([0 if row is None else len(row) for row in rows])
    numbers = pl.Series("row", np.repeat(np.arange(len(rows)), lengths)).set_sorted()
    groups = pl.DataFrame([numbers, inner.alias("values")]).group_by("row", maintain_order=True).agg("values")["values"]
    lists = groups.extend(pl.Series("values", [[], None], dtype=groups.dtype))
    missing = np.array([row is None for row in rows])
    others = np.where(missing, len(lists) - 1, len(lists) - 2)  # the places of None and []
    return lists.gather(np.where(lengths > 0, np.cumsum(lengths > 0) - 1, others)).alias(name)


def _plain(value: Any) -> Any:
    """Return a value that polars reads: numpy's scalars as Python's, and tuples, sets and arrays as lists."""
    if isinstance(value, np.ndarray | tuple | list | AbstractSet):
        return _as_list(value)
    numpy_stays = (np.datetime64, *NARROW)
    return value.item() if isinstance(value, np.generic) and not isinstance(value, numpy_stays) else value


def _as_list(value: Any) -> list[Any]:
    if type(value) is list:
        return value
    if isinstance(value, AbstractSet):
        return sorted(value, key=str)
    if isinstance(value, np.ndarray):
        return list(value.tolist())
    return list(value) if isinstance(value, tuple | list) else [value]
