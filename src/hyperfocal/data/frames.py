"""Convert frames of any library to polars, column by column.

pandas, polars, pyarrow tables, DuckDB relations, anything with Arrow's `__arrow_c_stream__`, datasets with `to_polars`,
and mappings of column name to values are frames. Only the columns in use are converted, so that an unused column of any
type does no harm. A missing value (None, NaN, NaT, pandas' NA) becomes null in every dtype, never the word "nan".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
import polars as pl

from hyperfocal.errors import DataError


def is_frame(data: Any) -> bool:
    """Return whether `frame_columns` and `as_frame` take a value."""
    if isinstance(data, pl.DataFrame | pl.LazyFrame | Mapping) or _is_pandas(data):
        return True
    named = any(hasattr(data, name) for name in ("column_names", "columns", "schema"))  # a single column has none
    return named and (hasattr(data, "__arrow_c_stream__") or hasattr(data, "to_polars"))


def frame_columns(data: Any) -> list[str]:
    """Return the names of a frame's columns, as text; a name that repeats gets polars' ending "_duplicated_0"."""
    if isinstance(data, pl.LazyFrame):
        names = data.collect_schema().names()
    elif isinstance(data, Mapping):
        names = [str(name) for name in data]
    elif _is_pandas(data) or isinstance(data, pl.DataFrame):
        names = [str(name) for name in data.columns]
    else:
        names = _names_by_arrow(data)
    earlier = [names[:place].count(name) for place, name in enumerate(names)]
    return [f"{name}_duplicated_{count - 1}" if count else name for name, count in zip(names, earlier, strict=True)]


def as_frame(data: Any, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Return a frame as a polars frame.

    Args:
        data: a frame, see `is_frame`.
        columns: names of the columns to convert, in this order; None: all of them.

    Raises:
        DataError: columns have different lengths.
    """
    names = frame_columns(data)
    chosen = names if columns is None else list(columns)
    if isinstance(data, pl.LazyFrame):
        return data.select(chosen).collect()
    if isinstance(data, pl.DataFrame):
        return data.select(chosen)
    if isinstance(data, Mapping):
        by_name = {str(name): values for name, values in data.items()}
        return _joined([as_series(name, by_name[name]) for name in chosen])
    if _is_pandas(data):
        return _joined([_from_pandas(data.iloc[:, names.index(name)], name) for name in chosen])
    return _by_arrow(data, chosen)


def as_series(name: str, values: Any) -> pl.Series:
    """Return a column of values of any library: a Series, an array, or a list.

    Values of one type keep it. Values of several types become text, whole numbers without a ".0": ids 10 and 10.0 are
    the same id. Lists, tuples, sets (sorted) and arrays inside become lists.

    >>> as_series("item", [10, 10.0, "ten", float("nan")]).to_list()
    ['10', '10', 'ten', None]
    """
    if isinstance(values, pl.Series):
        return values.alias(name)
    if hasattr(values, "dtype") and hasattr(values, "iloc"):
        return _from_pandas(values, name)
    array = values if isinstance(values, np.ndarray) else None
    if array is not None and array.ndim == 1 and array.dtype.kind in "biufM":
        return _from_numpy(array, name)
    return _from_objects([*values], name)


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
    except (TypeError, ValueError):
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
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    isoformat: Callable[[], str] | None = getattr(value, "isoformat", None)
    return str(value) if isoformat is None else isoformat()


def _is_pandas(data: Any) -> bool:
    return hasattr(data, "iloc") and hasattr(data, "columns")


def _names_by_arrow(data: Any) -> list[str]:
    for attribute in ("column_names", "columns"):  # of pyarrow and datasets; of DuckDB
        names = getattr(data, attribute, None)
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return list(names)
    return pl.DataFrame(data).columns


def _by_arrow(data: Any, columns: list[str]) -> pl.DataFrame:
    for method in ("select_columns", "select"):  # of datasets; of pyarrow, whose lists of names a relation lacks
        select = getattr(data, method, None)
        if select is not None and hasattr(data, "column_names"):
            data = select(columns)
            break
    frame = pl.DataFrame(data) if hasattr(data, "__arrow_c_stream__") else data.to_polars()
    return frame.select(columns)


def _joined(columns: Iterable[pl.Series]) -> pl.DataFrame:
    columns = list(columns)
    lengths = {column.name: len(column) for column in columns}
    if len(set(lengths.values())) > 1:
        raise DataError(f"frame: columns have different lengths: {lengths}. Give one value per row in each")
    return pl.DataFrame(columns)


def _from_pandas(column: Any, name: str) -> pl.Series:
    dtype = str(column.dtype)
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
    column = pl.Series(name, np.ascontiguousarray(array))
    return column.fill_nan(None) if column.dtype.is_float() else column


def _from_objects(values: list[Any], name: str) -> pl.Series:
    """Return the column of Python values, some of which may be missing."""
    known = [None if is_missing(value) else _plain(value) for value in values]
    kinds = {type(value) for value in known if value is not None}
    if list in kinds:
        return _from_lists([None if value is None else _as_list(value) for value in known], name)
    if len(kinds) <= 1:
        try:
            column = pl.Series(name, known, strict=True)
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
