"""Frames of other libraries become what a Parquet file of the same frame holds; a missing value is never a word."""

import datetime as dt
import uuid
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.data.frames import as_frame, as_series, is_frame, to_library
from hyperfocal.data.logs import as_log
from hyperfocal.errors import DataError

WORDS = ["a", None, "b", "nan"]
TEXT_DTYPES = ["object", "str", "string", "string[pyarrow]", pd.ArrowDtype(pa.string()), "category"]
TIMES = ["2024-01-01T10:00", None, "2024-06-02T11:30", "2024-01-03"]


def by_parquet(frame: pd.DataFrame, folder: Path) -> pl.DataFrame:
    frame.to_parquet(folder / "frame.parquet")
    return pl.read_parquet(folder / "frame.parquet")


@pytest.mark.parametrize("dtype", TEXT_DTYPES, ids=str)
def test_missing_texts_are_null_in_every_dtype(dtype):
    column = as_frame(pd.DataFrame({"text": pd.Series(WORDS, dtype=dtype)}))["text"]
    assert column.to_list() == WORDS
    assert column.dtype == pl.String


@pytest.mark.parametrize("missing", [None, float("nan"), np.nan, pd.NA, pd.NaT, np.datetime64("NaT")], ids=repr)
def test_every_missing_value_is_null(missing):
    values = ["a", missing]
    for data in (pd.DataFrame({"x": pd.Series(values, dtype=object)}), {"x": values}):
        assert as_frame(data)["x"].to_list() == ["a", None]
    assert as_series("x", [["a", missing], missing]).to_list() == [["a", None], None]


PLAIN = {
    "int": [1, 2, 3, 4],
    "Int64": pd.Series([1, None, 2**60 + 1, 3], dtype="Int64"),
    "int arrow": pd.Series([1, None, 2**60 + 1, 3], dtype=pd.ArrowDtype(pa.int64())),
    "float": [1.5, np.nan, 2.0, 3.0],
    "bool": [True, False, True, True],
    "boolean": pd.Series([True, None, False, True], dtype="boolean"),
    "time": pd.to_datetime(pd.Series(TIMES), format="ISO8601"),
    "time seconds": pd.to_datetime(pd.Series(TIMES), format="ISO8601").astype("datetime64[s]"),
    "time in a zone": pd.to_datetime(pd.Series(TIMES), format="ISO8601").dt.tz_localize("Europe/Berlin"),
    "time in UTC": pd.to_datetime(pd.Series(TIMES), format="ISO8601", utc=True),
    "objects of times": pd.Series([pd.Timestamp("2024-01-01"), pd.NaT, None, pd.Timestamp("2024-02-01")], dtype=object),
    "dates": pd.Series([dt.date(2024, 1, 1), None, dt.date(2024, 1, 2), dt.date(2024, 1, 3)], dtype=object),
    "decimals": pd.Series([Decimal("1.5"), None, Decimal("2.25"), Decimal(3)], dtype=object),
    "lists": pd.Series([["a", "b"], None, ["c", None], []], dtype=object),
    "arrays": pd.Series([np.array(["a", "b"]), None, np.array(["c"]), np.array([], dtype="U1")], dtype=object),
    "category of numbers": pd.Series([1, None, 2, 1], dtype="category"),
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_pandas_column_is_that_of_its_parquet_file(name, tmp_path):
    frame = pd.DataFrame({"x": PLAIN[name]})
    ours, file = as_frame(frame)["x"], by_parquet(frame, tmp_path)["x"]
    assert (
        ours.to_list() == file.fill_nan(None).to_list() if file.dtype.is_float() else ours.to_list() == file.to_list()
    )


def test_values_of_several_types_become_text_and_whole_numbers_have_no_point():
    mixed = pd.DataFrame({"id": pd.Series([10, 10.0, "10", np.int64(10), None, 0.5, True], dtype=object)})
    assert as_frame(mixed)["id"].to_list() == ["10", "10", "10", "10", None, "0.5", "true"]


def test_one_float_does_not_merge_two_large_ids():
    large = pd.DataFrame({"id": pd.Series([2**60 + 1, 2**60 + 2, 1.0], dtype=object)})
    assert as_frame(large)["id"].to_list() == [2**60 + 1, 2**60 + 2, 1]
    large.loc[2, "id"] = 1.5
    assert as_frame(large)["id"].to_list() == [str(2**60 + 1), str(2**60 + 2), "1.5"]


def test_predictions_without_a_row_keep_their_types():
    empty = to_library(pl.DataFrame(schema={"user": pl.String, "rank": pl.Int64, "known": pl.Boolean}), pd.DataFrame())
    assert empty.dtypes.astype(str).to_dict() == {"user": "object", "rank": "int64", "known": "bool"}


def test_a_uuid_is_its_text():
    ids = [uuid.UUID(int=number) for number in (5, 6)]
    assert as_series("id", ids).to_list() == [str(one) for one in ids]


def test_tuples_and_sets_are_lists():
    assert as_series("labels", [("b", "a"), {"d", "c"}, None]).to_list() == [["b", "a"], ["c", "d"], None]
    assert as_series("labels", [("a", 1), [2.0]]).to_list() == [["a", "1"], ["2"]]


@pytest.mark.parametrize(
    "odd",
    [
        torch.ones(2, 2).unbind(),
        [object(), object()],
        pd.Series(pd.interval_range(0, 2), dtype=object),
        [[[1]], {"a": {1: 2}}],
        np.array([1 + 2j, 3]),
    ],
    ids=["tensors", "objects", "intervals", "nested", "complex"],
)
def test_a_column_that_nobody_reads_does_no_harm(odd):
    for frame in (
        {"user": ["a", "b"], "item": ["x", "y"], "odd": odd},
        pd.DataFrame({"user": ["a", "b"], "item": ["x", "y"], "odd": odd}),
    ):
        assert as_frame(frame).select("user", "item").rows() == [("a", "x"), ("b", "y")]


def test_nanoseconds_stay():
    times = pd.to_datetime(pd.Series([2, 1])).astype("datetime64[ns]")
    for dtype in ("datetime64[ns]", object, "timestamp[ns][pyarrow]"):
        column = as_frame(pd.DataFrame({"time": times.astype(dtype)}))["time"]
        assert column.cast(pl.Int64).to_list() == [2, 1]


def test_masked_values_and_arrow_arrays():
    assert as_series("x", np.ma.array([1, 2], mask=[0, 1])).to_list() == [1, None]
    table = pa.table({"user": [1, None], "labels": [["a"], None], "score": [1.0, float("nan")]})
    assert as_frame({name: table[name] for name in table.column_names}).rows() == [(1, ["a"], 1.0), (None, None, None)]
    assert as_frame(table).rows() == as_frame(pl.from_arrow(table)).rows() == [(1, ["a"], 1.0), (None, None, None)]


def test_a_stream_of_arrow_that_can_be_read_once():
    reader = pa.RecordBatchReader.from_batches(pa.schema({"a": pa.int64()}), [pa.record_batch({"a": [1, 2]})])
    assert as_frame(reader)["a"].to_list() == [1, 2]


@pytest.mark.parametrize("column", ["abc", 5, None, np.array(3), {"a": 1}])
def test_a_value_in_place_of_a_column_is_refused(column):
    with pytest.raises(DataError, match="Give one value per row"):
        as_frame({"user": ["a"], "item": column})


@pytest.mark.parametrize(
    "data",
    [
        pd.DataFrame({"a": [1, 2], 7: ["x", None]}),
        pl.DataFrame({"a": [1, 2], "7": ["x", None]}),
        pl.LazyFrame({"a": [1, 2], "7": ["x", None]}),
        pa.table({"a": [1, 2], "7": ["x", None]}),
        pa.RecordBatch.from_pydict({"a": [1, 2], "7": ["x", None]}),
        {"a": np.array([1, 2]), 7: ["x", None]},
        {"a": pd.Series([1, 2]), "7": pl.Series(["x", None])},
    ],
    ids=lambda data: f"{type(data).__module__.split('.')[0]}.{type(data).__name__}",
)
def test_frames_of_every_library(data):
    assert is_frame(data)
    assert as_frame(data).to_dict(as_series=False) == {"a": [1, 2], "7": ["x", None]}
    assert as_frame(data).columns == ["a", "7"]


@pytest.mark.parametrize(
    "data",
    [pl.Series([1]), pd.Series([1]), pa.chunked_array([[1]]), np.array([[1]]), [[1]], "log.csv", Path("log.csv"), 3],
)
def test_what_is_no_frame(data):
    assert not is_frame(data)


def test_a_name_twice_matters_only_for_a_column_in_use():
    frame = pd.DataFrame([["a", "x", 0, 1, 2]], columns=["user", "item", "order", "price", "price"])
    assert as_frame(frame).columns == ["user", "item", "order", "price", "price_duplicated_0"]
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array([1]), pa.array([2])], names=["user", "price", "price"])
    assert as_frame(table).columns == ["user", "price", "price_duplicated_0"]
    assert as_log(frame).items.to_list() == ["x"]
    with pytest.raises(DataError, match="frame: the header has column 'user' twice"):
        as_log(pd.DataFrame([["a", "x", "b"]], columns=["user", "item", "user"]))


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(DataError, match="different lengths"):
        as_frame({"a": [1, 2], "b": [1]})


values = st.one_of(
    st.lists(st.none() | st.text(max_size=4)),
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)),
    st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False)),
    st.lists(st.none() | st.booleans()),
    st.lists(st.none() | st.datetimes(min_value=dt.datetime(1970, 1, 1), max_value=dt.datetime(2200, 1, 1))),
)


@settings(max_examples=200, deadline=None)
@given(values)
def test_objects_in_pandas_and_lists_read_alike(rows):
    ours = as_frame(pd.DataFrame({"x": pd.Series(rows, dtype=object)}))["x"].to_list()
    assert ours == as_series("x", rows).to_list() == rows


def test_a_named_index_is_a_column_as_in_parquet(tmp_path):
    frame = pd.DataFrame({"user": ["a", "b"], "item": [1, 2], "price": [2.5, None]})
    for index in (["user"], ["user", "item"]):
        indexed = frame.set_index(index)
        indexed.to_parquet(tmp_path / "indexed.parquet")
        expected = pl.read_parquet(tmp_path / "indexed.parquet")
        assert as_frame(indexed).select(sorted(expected.columns)).equals(expected.select(sorted(expected.columns)))
    assert as_frame(frame.set_index("user", drop=False)).columns == ["user", "item", "price"]
    assert as_frame(frame[::-1]).columns == ["user", "item", "price"]
