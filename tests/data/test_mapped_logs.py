"""A streamed log has the users, items, order, ties and errors of a log that is read at once."""

from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.config.recommend import DataSettings
from hyperfocal.data import mapped_logs, partitions
from hyperfocal.data.logs import as_log
from hyperfocal.data.mapped_logs import MappedLog, as_sequences, count_items, keep_users, stream_log
from hyperfocal.errors import DataError
from hyperfocal.sequences import user_blocks

SMALL = {"BLOCK_ROWS": 3, "BLOCK_EVENTS": 4}
NAMES = st.sampled_from(["a", "b", "ü", "0", "00", 'q"', "x y"])
EVENTS = st.lists(st.tuples(NAMES, NAMES, st.integers(0, 5)), min_size=1, max_size=20)


def streamed(path, work, columns=None):
    with patch.multiple(mapped_logs, **SMALL), patch.object(partitions, "PARTITIONS", 2):
        return stream_log(path, columns or DataSettings(), work)


def assert_same(found, expected):
    """Compare a mapped log with a log in memory."""
    log = found.select(np.arange(len(found)))
    assert log.users.to_list() == expected.users.to_list() == found.users.to_list()
    assert log.items.to_list() == expected.items.to_list()
    assert log.offsets.tolist() == expected.offsets.tolist() == found.offsets.tolist()
    assert found.ids.to_list() == sorted(set(expected.items))
    facts = ("plan", "ties", "repeats", "incomplete")
    assert [getattr(found, name) for name in facts] == [getattr(expected, name) for name in facts]


@settings(max_examples=15, deadline=None)
@given(EVENTS, st.sampled_from([".csv", ".parquet", ".jsonl", ".tsv"]), st.booleans())
def test_any_log_is_read_as_at_once(events, suffix, ordered):
    columns = ["user", "item", "time"] if ordered else ["user", "item"]
    frame = pl.DataFrame(events, schema=["user", "item", "time"], orient="row").select(columns)
    with TemporaryDirectory() as folder, TemporaryDirectory() as work:
        path = f"{folder}/log{suffix}"
        if suffix == ".parquet":
            frame.write_parquet(path)
        elif suffix == ".jsonl":
            frame.write_ndjson(path)
        else:
            frame.write_csv(path, separator="\t" if suffix == ".tsv" else ",")
        options = DataSettings(order_kind="time")
        assert_same(streamed(path, Path(work), options), as_log(path, options))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("log.txt", "u a b c\nv c\n\nw a a\nx b\n"),
        ("log.csv.gz", "user,item,time\nu,a,3\nv,b,2\nu,c,1\nw,a,7\nu,a,0\n"),
        ("challenge.csv", "user_sequence,challenge\n7_2,A\n8_1,B\n7_1,C\n8_2,A\n7_3,B\n"),
        ("dates.csv", "user,item,time\nu,a,2024-05-03\nu,b,2024-05-01\nv,a,2024-05-02\nu,c,2024-05-02\n"),
        ("mixed.csv", "user,item,time\nu,a,3\nu,b,1\nv,a,2\nu,c,1.5\nu,d,2\n"),
        (
            "fine.csv",
            "user,item,time\n" + "".join(f"u,{n},2024-05-01T00:00:00.{9 - n:0{6 + n % 2}}\n" for n in range(8)),
        ),
    ],
)
def test_forms_and_orders(put, tmp_path, name, text):
    path, work = put(name, text), tmp_path / "work"
    work.mkdir()
    assert_same(streamed(path, work), as_log(path))
    assert sorted(each.name for each in work.iterdir()) == ["items.bin", "sorted.bin"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user,item,time\n,a,1\nu,,2\nu,c,\n", r"none of 3 rows has a user, an item and an order"),
        ("user,item,time\nu,a,1\nu,b,2\nu,c,3\nv,a,x\n", r"line 5: order column 'time': 'x' is neither"),
        (
            "user,item,time\nu,a,1\nu,b,2\nu,c,3\nv,a,2024-05-01\n",
            r"line 5: order column 'time': '2024-05-01' does not have the type of",
        ),
        ("user,item,position\nu,a,1\nv,b,2\nv,c,3\nu,d,1\n", r"user 'u' has position 1 twice"),
        ("user,item,time\n", r"log\.csv: has no rows"),
        ("", r"log\.csv: the file is empty"),
        ("user,item,time\nu,a,1\nu,b,2\nu,c,3\nv,a,1,9\n", r"line 5 has 4 fields"),
    ],
)
def test_errors_name_the_line(put, tmp_path, text, message):
    path, work = put("log.csv", text), tmp_path / "work"
    work.mkdir()
    with pytest.raises(DataError, match=message):
        streamed(path, work)


def test_users_are_kept_and_items_renumbered(put, tmp_path):
    log = streamed(put("log.txt", "u a b c\nv c d\nw a a\nx e\n"), tmp_path)
    kept = np.array([True, False, True, False])
    with patch.object(mapped_logs, "BLOCK_EVENTS", 2):
        assert count_items(log, kept).tolist() == [3, 1, 1, 0, 0]
        arrays = keep_users(log, kept, np.array([9, 8, 7, -1, -1], dtype=np.int32), tmp_path / "kept.bin")
    sequences = as_sequences({name: np.array(part) for name, part in arrays.items()}, 10)
    assert sequences.items.tolist() == [9, 8, 7, 9, 9]
    assert sequences.offsets.tolist() == [0, 3, 5]


def test_arrays_give_the_log_back(put, tmp_path):
    log = streamed(put("log.txt", "u a b c\nv c d\n"), tmp_path)
    again = MappedLog.from_arrays(log.to_arrays())
    assert_same(again, as_log(tmp_path / "log.txt"))


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 12))
def test_blocks_hold_every_user_once(lengths, events):
    offsets = np.cumsum([0, *lengths])
    blocks = list(user_blocks(offsets, events))
    assert [user for block in blocks for user in range(block.start, block.stop)] == list(range(len(lengths)))
    sizes = [offsets[block.stop] - offsets[block.start] for block in blocks]
    assert all(size <= 2 * events + max(lengths) for size in sizes)
