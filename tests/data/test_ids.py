from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hyperfocal.config.recommend import DataSettings
from hyperfocal.data import mapped_logs
from hyperfocal.data.files import MEMORY
from hyperfocal.data.ids import id_text, is_whole, read_ids, typed
from hyperfocal.data.logs import Log, as_log
from hyperfocal.data.mapped_logs import stream_log
from hyperfocal.errors import DataError


def read(values, kind=None, dtype=None):
    ids, own = read_ids(pl.Series("id", values, dtype=dtype), MEMORY, "Complete it", kind)
    return ids.to_list(), own


@pytest.mark.parametrize(
    ("values", "texts", "kind"),
    [
        ([10, 7], ["10", "7"], "integer"),
        ([10.0, 7.0], ["10", "7"], "integer"),
        ([10.5, 7.0], ["10.5", "7"], "text"),
        (["10", "7"], ["10", "7"], "whole"),
        (["10.0", "7"], ["10", "7"], "whole"),
        (["10.00", "-7.0"], ["10", "-7"], "whole"),
        (["1.0", "1.1"], ["1.0", "1.1"], "text"),
        (["10.0", "a"], ["10.0", "a"], "text"),
        (["007", "8"], ["007", "8"], "text"),
        ([2**63 + 1, 2**63], [str(2**63 + 1), str(2**63)], "integer"),
        (["9" * 25], ["9" * 25], "text"),
        ([True, False], ["true", "false"], "text"),
        ([Decimal("10.00"), Decimal("7.00")], ["10", "7"], "whole"),
        ([Decimal("10.50"), Decimal("7.00")], ["10.50", "7.00"], "text"),
    ],
)
def test_a_column_shows_the_kind_of_its_ids(values, texts, kind):
    assert read(values) == (texts, kind)


@pytest.mark.parametrize(
    ("values", "kind", "texts"),
    [
        (["10.0", "x"], "integer", ["10", "x"]),
        (["10.0", "x"], "whole", ["10", "x"]),
        (["10.0", "7.0"], "text", ["10.0", "7.0"]),
        ([10.0, 7.0], "text", ["10", "7"]),
    ],
)
def test_ids_of_another_file_are_compared_with_those_of_training(values, kind, texts):
    assert read(values, kind)[0] == texts


@pytest.mark.parametrize("value", [2.0**53, -(2.0**60), float("inf")])
def test_floats_that_may_stand_for_two_integers_are_no_ids(value):
    with pytest.raises(
        DataError, match=r"frame row 1: column 'id' holds .*, a float too large to be an exact id\. Read"
    ):
        read([1.0, value])
    with pytest.raises(DataError, match="a float too large to be exact"):
        id_text(value, "text")


@pytest.mark.parametrize(("dtype", "bound"), [(np.float16, 2**11), (np.float32, 2**24), (np.float64, 2**53)])
def test_the_bound_of_exact_floats_is_that_of_their_type(dtype, bound):
    """Below it, every integer has a float of its own; above it, two share one."""
    assert dtype(bound) == dtype(bound + 1)
    assert dtype(bound - 1) != dtype(bound - 2)
    exact, merged = np.array([1, bound - 2, bound - 1], dtype), np.array([1, bound + 1], dtype)
    texts = ["1", str(bound - 2), str(bound - 1)]
    log = {"user": ["a"] * 3, "time": [1, 2, 3]}
    nullable = pd.Series(exact, dtype="Float32") if dtype == np.float32 else exact
    for column in (exact, [*exact], [exact[0], *exact[1:].tolist()], pl.Series(exact), pd.Series(exact), nullable):
        assert as_log({**log, "item": column}).items.to_list() == texts
    assert [id_text(value, "text") for value in exact] == texts
    assert Log.from_lists([exact]).items.to_list() == texts
    columns = [merged, [*merged], pl.Series(merged), pd.Series(merged), pd.Series([*merged], dtype=object)]
    if dtype == np.float32:  # pandas has neither for float16
        columns += [pd.Series(merged, dtype="Float32"), pd.Series(merged).astype("category")]
    for column in columns:
        with pytest.raises(
            DataError, match=r"frame row 1: column 'item' holds .*, a (float|Float16|Float32) too large to be an exact"
        ):
            as_log({"user": ["a"] * 2, "time": [1, 2], "item": column})
    for refused in (lambda: id_text(merged[1], "text"), lambda: Log.from_lists([merged])):
        with pytest.raises(DataError, match="too large to be"):
            refused()


@given(st.one_of(st.floats(-(2.0**52), 2.0**52), st.integers(-(2**63), 2**63 - 1)))
def test_one_id_has_the_text_of_a_column(value):
    assert id_text(value, "text") == read([value])[0][0]
    assert id_text(np.array([value])[0], "text") == id_text(value, "text")


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_integers_come_back(values):
    ids, kind = read(values)
    assert typed(pl.Series(ids), kind).to_list() == values
    assert is_whole(pl.Series(ids))


def test_ids_that_are_missing():
    with pytest.raises(DataError, match=r"frame row 1: no value in column 'id'. Complete it"):
        read(["a", ""])
    assert Log.from_lists([["a", "", float("nan")], [None]]).lengths.tolist() == [1, 0]


mixed = st.sampled_from(["10", "10.0", "7", "a", "007", "1.5", ""])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(mixed, mixed), min_size=1, max_size=9))
def test_streamed_ids_are_those_in_memory(tmp_path_factory, rows):
    """Also if a later block shows that the ids of an earlier one are no whole numbers."""
    folder = tmp_path_factory.mktemp("ids")
    path = folder / "log.csv"
    path.write_text("user,item,n\n" + "".join(f"{user},{item},1700000000\n" for user, item in rows))
    assume(any(user and item for user, item in rows))
    log = as_log(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped_logs, "BLOCK_ROWS", 2)
        (folder / "work").mkdir()
        streamed = stream_log(path, DataSettings(), folder / "work")
    assert streamed.users.to_list() == log.users.to_list()
    assert streamed.select(np.arange(len(streamed))).items.to_list() == log.items.to_list()
    assert streamed.plan == log.plan
