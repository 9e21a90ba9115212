"""The quick paths of `as_series` give what looking at every value gives, which is the oracle here."""

import datetime as dt
import enum
import time
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hyperfocal.data import frames
from hyperfocal.data.frames import as_frame, as_series, is_missing, plain_text
from hyperfocal.errors import DataError


class Level(enum.IntEnum):
    LOW = 1


def one_by_one(values):
    """Return the column of Python values, each looked at."""
    known = [None if is_missing(value) else python(value) for value in values]
    kinds = {type(value) for value in known if value is not None}
    if list in kinds:
        rows = [None if value is None else as_list(value) for value in known]
        inner = one_by_one([value for row in rows if row is not None for value in row])
        ends = np.cumsum([0, *(0 if row is None else len(row) for row in rows)]).tolist()
        lists = [None if row is None else inner[ends[i] : ends[i + 1]] for i, row in enumerate(rows)]
        return pl.Series(lists, dtype=pl.List(inner.dtype))
    if kinds == {int, float}:  # whole floats among integers are integers
        floats = [value for value in known if type(value) is float]
        if all(value.is_integer() and abs(value) < 2**53 for value in floats):
            known, kinds = [None if value is None else int(value) for value in known], {int}
    if kinds and all(hasattr(kind, "to_datetime64") for kind in kinds) and not any(v.tzinfo for v in known if v):
        times = [np.datetime64("NaT") if value is None else value.to_datetime64() for value in known]
        return pl.Series(np.array(times, dtype="datetime64[ns]"))
    if len(kinds) == 1:
        try:
            column = pl.Series(known, strict=True)
        except UnicodeEncodeError:
            raise
        except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
            pass
        else:
            if column.dtype not in (pl.Object, pl.Null):
                return column
    return pl.Series([None if value is None else plain_text(value) for value in known], dtype=pl.String)


def python(value):
    if isinstance(value, np.ndarray | tuple | list | set | frozenset):
        return as_list(value)
    return value.item() if isinstance(value, np.generic) and not isinstance(value, np.datetime64) else value


def as_list(value):
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return (
        value.tolist() if isinstance(value, np.ndarray) else list(value) if isinstance(value, tuple | list) else [value]
    )


def same(column, values):
    """Check a column against the oracle of its values."""
    try:
        expected = one_by_one(values)
    except Exception:
        expected = pl.Series([None] * len(values), dtype=pl.Object)
    assert column.dtype == expected.dtype
    if column.dtype != pl.Object:
        assert column.alias("").equals(expected.alias("")), (column, expected)


moments = st.datetimes(min_value=dt.datetime(1970, 1, 1), max_value=dt.datetime(2200, 1, 1))
SCALARS = {
    "text": st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
    "words": st.sampled_from(["a", "b", "nan", "", "10.0", "None"]),
    "small": st.integers(-100, 100),
    "integer": st.integers(-(2**63), 2**63 - 1),
    "unsigned": st.integers(0, 2**64 - 1),
    "float": st.floats(),
    "whole": st.integers(-100, 100).map(float),
    "bool": st.booleans(),
    "moment": moments,
    "timestamp": moments.map(pd.Timestamp),
    "berlin": moments.map(lambda value: pd.Timestamp(value, tz="Europe/Berlin")),
    "date": st.dates(min_value=dt.date(1970, 1, 1), max_value=dt.date(2200, 1, 1)),
    "time": st.times(),
    "delta": st.timedeltas(min_value=dt.timedelta(-100), max_value=dt.timedelta(100)),
    "uuid": st.uuids(),
    "decimal": st.just(Decimal("NaN"))
    | st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-99, max_value=99),
    "bytes": st.binary(max_size=3),
    "numpy int": st.integers(-100, 100).map(np.int32),
    "numpy unsigned": st.integers(0, 2**64 - 1).map(np.uint64),
    "numpy float": st.floats().map(np.float64),
    "numpy bool": st.booleans().map(np.bool_),
    "numpy text": st.text("ab\0", max_size=3).map(np.str_),
    "numpy time": moments.map(lambda value: np.datetime64(value, "us")),
    "numpy delta": st.integers(-9, 9).map(lambda value: np.timedelta64(value, "s")),
    "enum": st.just(Level.LOW),
    "complex": st.complex_numbers(max_magnitude=9),
    "period": st.sampled_from(["2024-01", "2024-02"]).map(lambda value: pd.Period(value, "M")),
}
MISSING = st.sampled_from([None, float("nan"), pd.NA, pd.NaT, np.datetime64("NaT"), np.float64("nan")])
scalar = st.one_of(*SCALARS.values())
of_one_kind = st.sampled_from(sorted(SCALARS)).flatmap(lambda name: st.lists(SCALARS[name] | MISSING, max_size=6))
of_some_kinds = st.lists(scalar | MISSING, max_size=5)
short = st.lists(SCALARS["words"] | SCALARS["small"] | MISSING, max_size=3)
of_lists = st.lists(
    short | short.map(tuple) | MISSING | SCALARS["words"].map(lambda word: {word}) | short.map(lambda row: [row]),
    max_size=5,
)


@settings(deadline=None, max_examples=500)
@given(of_one_kind | of_some_kinds | of_lists)
@example([])
@example([None])
@example([["a"], [], None, ["b", "c"]])
def test_objects(values):
    same(as_series("x", values), values)
    column = pd.Series(values, dtype=object)
    same(as_frame(pd.DataFrame({"x": column}))["x"], column.tolist())
    same(as_series("x", column.to_numpy()), column.tolist())


TEXTS = ["str", pd.StringDtype("python", na_value=np.nan), pd.StringDtype("python"), "string[pyarrow]", "object"]
ARRAYS = {"integer": "Int64", "small": "Int8", "unsigned": "UInt64", "bool": "boolean", "float": "Float64"}
CATEGORIES = ["words", "small", "whole", "bool", "timestamp", "berlin", "date", "uuid", "decimal", "bytes", "period"]


@settings(deadline=None, max_examples=300)
@given(st.lists(SCALARS["text"] | SCALARS["words"] | st.none(), max_size=6), st.sampled_from(TEXTS))
def test_texts_of_every_dtype(values, dtype):
    same(as_frame(pd.DataFrame({"x": pd.Series(values, dtype=dtype)}))["x"], values)


@settings(deadline=None, max_examples=300)
@given(st.data(), st.sampled_from(sorted(ARRAYS)))
def test_masked_numbers(data, name):
    values = data.draw(st.lists(SCALARS[name] | st.none(), max_size=6))
    same(as_frame(pd.DataFrame({"x": pd.Series(values, dtype=ARRAYS[name])}))["x"], values)


@settings(deadline=None, max_examples=300)
@given(st.data(), st.sampled_from([*CATEGORIES, "mixed"]), st.booleans())
def test_categories(data, name, ordered):
    """Also ordered ones, ones of several types, and ones that no row has."""
    one = SCALARS["words"] | SCALARS["small"] if name == "mixed" else SCALARS[name].filter(lambda v: not is_missing(v))
    categories = data.draw(st.lists(one, min_size=1, max_size=5, unique=True))
    rows = data.draw(st.lists(st.integers(-1, len(categories) - 1), max_size=6))
    column = pd.Series(pd.Categorical.from_codes(rows, pd.Index(categories), ordered=ordered))
    same(as_frame(pd.DataFrame({"x": column}))["x"], column.astype(object).tolist())


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(-(10**9), 10**9) | st.none(), max_size=6), st.sampled_from(["s", "us", "ns"]))
def test_spans_of_time(values, unit):
    spans = pd.Series(pd.to_timedelta(values, unit="s")).astype(f"timedelta64[{unit}]")
    same(as_frame(pd.DataFrame({"x": spans}))["x"], spans.astype(object).tolist())
    same(as_series("x", spans.to_numpy()), [*spans.to_numpy()])


@pytest.mark.parametrize("values", [["ab", "c\0", ""], [b"ab", b"c"]])
def test_numpy_texts(values):
    same(as_series("x", np.array(values)), [*np.array(values)])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_short_floats_keep_their_width_whatever_holds_them(dtype):
    """As float64, they would look exact where their own type has already merged two ids."""
    array = np.array([0.1, np.nan, 3], dtype)
    columns = [as_series("x", array), as_series("x", [*array]), as_series("x", [array[0], None, array[2]])]
    if dtype == np.float32:
        columns.append(as_frame(pd.DataFrame({"x": pd.Series([0.1, None, 3], dtype="Float32")}))["x"])
        columns.append(as_frame(pd.DataFrame({"x": pd.Series(array).astype(pd.ArrowDtype(pa.float32()))}))["x"])
    for column in columns:
        assert column.dtype == pl.Series(array).dtype
        assert column.cast(pl.String).to_list() == [column.cast(pl.String)[0], None, "3.0"]
    assert plain_text(array[0]) == columns[0].cast(pl.String)[0]
    assert as_series("x", [array[0], "a"]).to_list() == [plain_text(array[0]), "a"]


HALF = "a\ud83d"


@pytest.mark.parametrize("column", [[HALF], [[HALF]], [HALF, 1], [HALF, float("nan")]], ids=str)
def test_half_a_character_is_named(column):
    for data in ({"x": column}, pd.DataFrame({"x": pd.Series(column, dtype=object)})):
        with pytest.raises(DataError, match=r"column 'x': .* has half a character"):
            as_frame(data)


def test_half_a_character_in_a_category_matters_if_a_row_has_it():
    names = pd.Index([HALF, "b"], dtype=object)
    assert as_frame(pd.DataFrame({"x": pd.Categorical.from_codes([1], names)}))["x"].to_list() == ["b"]
    with pytest.raises(DataError, match=r"column 'x': .* has half a character"):
        as_frame(pd.DataFrame({"x": pd.Categorical.from_codes([0], names)}))


class Full:
    """Values of a library that runs out of memory."""

    def __len__(self):
        return 1

    def __iter__(self):
        raise MemoryError


def test_memory_that_runs_out_is_no_column_of_objects():
    with pytest.raises(MemoryError):
        as_series("x", Full())


WORDS = ["a", None, "b"]
QUICK = {
    **{f"text {dtype!r}": pd.Series(WORDS, dtype=dtype) for dtype in [*TEXTS, "category"]},
    "text with NaN": pd.Series(["a", np.nan, pd.NA], dtype=object),
    "list": WORDS,
    "array": np.array(WORDS, dtype=object),
    "array of texts": np.array(["a", "b", "c"]),
    "scalars of numpy": [*np.array(["a", "b", "c"])],
    "integers": pd.Series([1, None, 2], dtype=object),
    "integers with a mask": pd.Series([1, None, 2], dtype="Int64"),
    "integers of numpy": [*np.arange(3)],
    "floats": [1.5, None, float("nan")],
    "lists": [["a", None], None, []],
    "dates": [dt.date(2024, 1, 1), None, dt.date(2024, 1, 2)],
    "spans": pd.Series(pd.to_timedelta([1, None, 2], unit="s")),
}


@pytest.mark.parametrize("name", QUICK)
def test_values_of_a_common_type_are_not_looked_at_one_by_one(name, monkeypatch):
    for function in ("is_missing", "_plain", "plain_text"):
        monkeypatch.setattr(frames, function, None)  # not callable: the column would become one of objects
    assert as_series("x", QUICK[name]).dtype != pl.Object


def test_millions_of_lists_are_read_in_seconds():
    """One slice of the values for each list took 80 seconds."""
    start = time.perf_counter()
    assert as_series("x", [["a", "b"], [], None, ["c"]] * 500_000).head(4).to_list() == [["a", "b"], [], None, ["c"]]
    assert time.perf_counter() - start < 60
