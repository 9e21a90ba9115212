"""Convert frames of any library to polars, column by column.

pandas, polars, pyarrow tables, DuckDB relations, anything with Arrow's `__arrow_c_stream__`, datasets with `to_polars`,
and mappings of column name to values are frames. A missing value (None, NaN, NaT, pandas' NA, a masked one) becomes
null in every dtype, never the word "nan". Values of several types become text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from importlib import import_module
from typing import Any

import numpy as np
import polars as pl

from hyperfocal.data.half_characters import half_character
from hyperfocal.errors import DataError

EXACT = 2**53  # floats from here on may stand for two neighboring integers


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
    """Return a column as pandas takes it: numbers as an array, other values as a list."""
    return column.to_numpy() if column.dtype.is_numeric() and not column.null_count() else column.to_list()


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
    except Exception:  # values of any library may raise anything; a column of objects is refused where it is used
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
        return _from_objects([*values], name)
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
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        exact = value.is_integer() and abs(value) < EXACT
        return str(int(value)) if exact else str(pl.Series([value]).cast(pl.String).item()).removesuffix(".0")
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
    dtype = str(column.dtype)
    if hasattr(column.dtype, "pyarrow_dtype"):
        return pl.Series(name, column.array.__arrow_array__())
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biufM":
        return _from_numpy(column.to_numpy(), name)
    if dtype.startswith("datetime64[") and column.dt.tz is not None:
        zone = str(column.dt.tz)
        utc = _from_numpy(column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy(), name)
        return utc.dt.replace_time_zone("UTC") if zone == "UTC" else _in_zone(utc.dt.replace_time_zone("UTC"), zone)
    return _from_objects(column.astype(object).tolist(), name)


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
    known = [None if is_missing(value) else _plain(value) for value in values]
    kinds = {type(value) for value in known if value is not None}
    if list in kinds:
        return _from_lists([None if value is None else _as_list(value) for value in known], name)
    if kinds and all(hasattr(kind, "to_datetime64") for kind in kinds) and not any(v.tzinfo for v in known if v):
        times = [np.datetime64("NaT") if value is None else value.to_datetime64() for value in known]
        return _from_numpy(np.array(times, dtype="datetime64[ns]"), name)  # a datetime would lose the nanoseconds
    if len(kinds) <= 1:
        try:
            column = pl.Series(name, known, strict=True)
        except UnicodeEncodeError:
            raise
        except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
            pass
        else:
            if column.dtype not in (pl.Object, pl.Null):
                return column
    texts = [None if value is None else plain_text(value) for value in known]
    return pl.Series(name, texts, dtype=pl.String)


def _from_lists(rows: list[list[Any] | None], name: str) -> pl.Series:
    inner = _from_objects([value for row in rows if row is not None for value in row], name)
    lengths = pl.Series([0 if row is None else len(row) for row in rows], dtype=pl.Int64)
    ends = lengths.cum_sum().to_list()
    starts = [end - length for end, length in zip(ends, lengths.to_list(), strict=True)]
    lists = [None if row is None else inner[start:end] for row, start, end in zip(rows, starts, ends, strict=True)]
    return pl.Series(name, lists, dtype=pl.List(inner.dtype))


def _plain(value: Any) -> Any:
    """Return a value that polars reads: numpy's scalars as Python's, and tuples, sets and arrays as lists."""
    if isinstance(value, np.ndarray | tuple | list | AbstractSet):
        return _as_list(value)
    return value.item() if isinstance(value, np.generic) and not isinstance(value, np.datetime64) else value


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, AbstractSet):
        return sorted(value, key=str)
    if isinstance(value, np.ndarray):
        return list(value.tolist())
    return list(value) if isinstance(value, tuple | list) else [value]
