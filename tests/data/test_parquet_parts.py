"""A folder, or a pattern, of Parquet parts as one table."""

import os
from datetime import date, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.data.blocks import read_blocks, whole_users
from hyperfocal.data.files import File
from hyperfocal.data.logs import Log, as_log, row_users
from hyperfocal.data.readers import read_frame
from hyperfocal.errors import DataError
from hyperfocal.storage.cache import key_of


def write_parts(folder, frames):
    """Write frames to the paths that name them."""
    for name, frame in frames.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame(frame).write_parquet(folder / name)
    return folder


def blocks_of(path, rows):
    return pl.concat([block.frame for block in read_blocks(path, rows)])


@pytest.fixture
def parts(tmp_path):
    """A folder as Spark writes it, with files that are no parts."""
    frames = {
        "logs/part-00002.parquet": {"user": ["d"], "item": ["z"]},
        "logs/part-00000.parquet": {"user": ["a", "b"], "item": ["x", "y"]},
        "logs/part-00001.snappy.parquet": {"user": ["c"], "item": ["x"]},
        "logs/_temporary/part-00009.parquet": {"user": ["no"], "item": ["no"]},
        "logs/.part-00000.parquet": {"user": ["no"], "item": ["no"]},
    }
    folder = write_parts(tmp_path, frames) / "logs"
    (folder / "_SUCCESS").touch()
    (folder / ".part-00000.parquet.crc").write_bytes(b"crc")
    (folder / "README.md").write_text("parts of a log\n")
    return folder


BIG = 2**53 + 1
ROWS = [("a", "x"), ("b", "y"), ("c", "x"), ("d", "z")]


def test_a_folder_in_order_of_names(parts):
    assert read_frame(File(parts)).rows() == ROWS
    assert isinstance(as_log(parts), Log)
    assert as_log(str(parts)).items.to_list() == ["x", "y", "x", "z"]


@pytest.mark.parametrize(
    "pattern", ["logs/*.parquet", "logs/part-*", "log?", "**/part-*.parquet", "logs/part-0000[0-2]*"]
)
@pytest.mark.parametrize("relative", [True, False])
def test_a_pattern(parts, pattern, relative, monkeypatch):
    monkeypatch.chdir(parts.parent)
    path = (parts.parent / pattern) if not relative else type(parts)(pattern)
    rows = read_frame(File(path)).rows()
    assert [row for row in rows if row != ("no", "no")] == ROWS


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
def test_blocks(parts, rows):
    blocks = list(read_blocks(parts, rows))
    assert pl.concat([block.frame for block in blocks]).rows() == ROWS
    assert [block.frame.height for block in blocks] == {1: [1] * 4, 2: [2, 2], 3: [3, 1], 100: [4]}[rows]
    assert blocks[-1].share == 1.0
    users = whole_users(read_blocks(parts, rows), lambda frame, file: row_users(frame, None, file))
    assert pl.concat([block.frame for block in users]).rows() == ROWS


def test_a_row_is_named_by_its_part(tmp_path):
    logs = write_parts(
        tmp_path,
        {
            "a.parquet": {"user": ["a"], "item": ["x"], "n": [1.0]},
            "b.parquet": {"user": ["b", "c"], "item": ["x", "y"], "n": [1.0, float("inf")]},
        },
    )
    with pytest.raises(DataError, match=r"b\.parquet row 1: order column 'n': inf is neither"):
        as_log(logs)
    for rows in (1, 2):
        place = next(block.file.place(0) for block in read_blocks(logs, rows) if block.file.first == 2 // rows * rows)
        assert place == f"{logs / 'b.parquet'} row 1"


def test_numbers_in_names_sort_as_numbers(tmp_path):
    frames = {f"part.{number}.parquet": {"user": [number]} for number in (10, 2, 1)}
    assert read_frame(File(write_parts(tmp_path, frames)))["user"].to_list() == [1, 2, 10]


def test_columns_of_folders(tmp_path):
    frames = {
        "day=2024-05-01/shop=a%2Fb/0.parquet": {"user": ["a"]},
        "day=2024-05-02/shop=__HIVE_DEFAULT_PARTITION__/0.parquet": {"user": ["b"]},
    }
    frame = read_frame(File(write_parts(tmp_path / "x=1", frames)))
    assert frame.rows(named=True) == [
        {"user": "a", "day": "2024-05-01", "shop": "a/b"},
        {"user": "b", "day": "2024-05-02", "shop": None},
    ]


class TestDifferentColumns:
    def test_missing_ones_are_null(self, tmp_path):
        logs = write_parts(tmp_path, {"a.parquet": {"user": ["a"]}, "b.parquet": {"item": [1], "user": ["b"]}})
        assert read_frame(File(logs)).rows() == [("a", None), ("b", 1)]
        assert blocks_of(logs, 1).rows() == [("a", None), ("b", 1)]

    @pytest.mark.parametrize(
        ("floats", "expected"),
        [
            ([7.0, None, float("nan")], [BIG, 7, 7, None, None]),  # as pandas writes integers with a missing one
            ([0.5, None], [str(BIG), "7", "0.5", None]),
        ],
    )
    def test_integers_and_floats_stay_exact(self, tmp_path, floats, expected):
        logs = write_parts(tmp_path, {"a.parquet": {"user": [BIG, 7]}, "b.parquet": {"user": floats}})
        assert read_frame(File(logs))["user"].to_list() == expected
        assert blocks_of(logs, 2)["user"].to_list() == expected

    def test_floats_that_may_be_rounded_are_times_but_no_ids(self, tmp_path):
        frames = {
            "a.parquet": {"user": [BIG], "item": ["x"], "order": [1_700_000_000_000_000_001]},
            "b.parquet": {"user": [7], "item": ["x"], "order": [1.7e18]},
        }
        assert len(as_log(write_parts(tmp_path, frames))) == 2
        frames["b.parquet"]["user"] = [float(BIG)]
        with pytest.raises(DataError, match="a float too large to be an exact id"):
            as_log(write_parts(tmp_path, frames))

    @pytest.mark.parametrize(
        ("one", "other", "expected"),
        [
            (pl.Series([1], dtype=pl.Int8), pl.Series([300], dtype=pl.Int32), [1, 300]),
            (pl.Series([2**64 - 1], dtype=pl.UInt64), pl.Series([-1], dtype=pl.Int64), [str(2**64 - 1), "-1"]),
            (pl.Series([1], dtype=pl.Int64), pl.Series(["a"]), ["1", "a"]),
            (pl.Series(["a"], dtype=pl.Categorical), pl.Series(["b"]), ["a", "b"]),
            (pl.Series([None], dtype=pl.Null), pl.Series(["b"]), [None, "b"]),
            (pl.Series([["a"]]), pl.Series([None], dtype=pl.Null), [["a"], None]),
            (pl.Series([[2**53 + 1]]), pl.Series([[3.0]]), [[str(2**53 + 1)], ["3"]]),
            (pl.Series([date(2024, 5, 1)]), pl.Series(["x"]), ["2024-05-01", "x"]),
            (
                pl.Series([datetime(2024, 5, 1)], dtype=pl.Datetime("ms")),
                pl.Series([datetime(2024, 5, 2)], dtype=pl.Datetime("us")),
                [datetime(2024, 5, 1), datetime(2024, 5, 2)],
            ),
        ],
    )
    def test_types_of_one_column(self, tmp_path, one, other, expected):
        logs = write_parts(tmp_path, {"a.parquet": {"v": one}, "b.parquet": {"v": other}})
        assert read_frame(File(logs))["v"].to_list() == expected
        assert blocks_of(logs, 1)["v"].to_list() == expected

    def test_types_without_a_common_one(self, tmp_path):
        logs = write_parts(tmp_path, {"a.parquet": {"labels": [["a"]]}, "b.parquet": {"labels": ["a"]}})
        with pytest.raises(
            DataError, match=r"column 'labels' holds String in b\.parquet, but List\(String\) in earlier parts"
        ):
            read_frame(File(logs))


class TestRefusals:
    def test_a_truncated_part_is_named(self, parts):
        part = parts / "part-00001.snappy.parquet"
        part.write_bytes(part.read_bytes()[:-5])
        for read in (lambda: read_frame(File(parts)), lambda: list(read_blocks(parts, 2))):
            with pytest.raises(DataError, match=r"part-00001\.snappy\.parquet: not readable as parquet: it is"):
                read()

    def test_nothing_there(self, tmp_path):
        with pytest.raises(DataError, match="is a folder without Parquet parts"):
            read_frame(File(tmp_path))
        with pytest.raises(DataError, match="no such file; a pattern names Parquet parts only"):
            read_frame(File(tmp_path / "*.parquet"))
        (tmp_path / "log.csv").mkdir()
        with pytest.raises(DataError, match="is a folder, not a file"):
            read_frame(File(tmp_path / "log.csv"))

    def test_parts_without_rows(self, tmp_path):
        logs = write_parts(tmp_path, {"a.parquet": {"user": pl.Series([], dtype=pl.String)}})
        with pytest.raises(DataError, match="has no rows"):
            as_log(write_parts(logs, {"b.parquet": {"user": [], "item": []}}))


class TestKey:
    def test_it_changes_with_a_part(self, parts):
        key = key_of(parts, ["user"])
        assert key == key_of(parts, ["user"])
        assert key != key_of(parts / "*.parquet", ["user"])
        stat = (parts / "part-00000.parquet").stat()
        os.utime(parts / "part-00000.parquet", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        assert key != key_of(parts, ["user"])

    def test_a_new_part_of_a_pattern_changes_it(self, parts):
        before = key_of(parts / "*.parquet", [])
        write_parts(parts, {"part-00003.parquet": {"user": ["e"]}})
        assert before != key_of(parts / "*.parquet", [])


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=5).filter(any), st.integers(1, 6))
def test_any_parts_are_their_rows(tmp_path_factory, heights, rows):
    folder, values = tmp_path_factory.mktemp("parts"), iter(range(100))
    frames = {
        f"part-{number}.parquet": {"user": pl.Series([next(values) for _ in range(height)], dtype=pl.Int64)}
        for number, height in enumerate(heights)
    }
    write_parts(folder, frames)
    assert read_frame(File(folder))["user"].to_list() == list(range(sum(heights)))
    assert blocks_of(folder, rows)["user"].to_list() == list(range(sum(heights)))
