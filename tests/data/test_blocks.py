"""Files read block by block: the same rows as at once, and messages that name the same lines."""

import gzip
import json

import numpy as np
import polars as pl
import pytest

from hyperfocal.data import blocks, memory
from hyperfocal.data.blocks import Seen, read_blocks, whole_users
from hyperfocal.data.files import File
from hyperfocal.data.logs import row_users
from hyperfocal.data.readers import read_frame
from hyperfocal.data.text_lines import TEXT_READERS
from hyperfocal.errors import DataError

NAMES = ["log.csv", "log.tsv", "log.jsonl", "log.parquet", "log.csv.gz", "log.jsonl.gz"]
ODD = ["007", "a,b", 'say "hi"', "two\nlines", "naïve ☃", "x" * 300, "tab\there"]


def table(users=8):
    rows = [
        (f"u{user}", ODD[(user + step) % len(ODD)], str(step)) for user in range(users) for step in range(user % 4 + 1)
    ]
    return pl.DataFrame(rows, schema=["user", "item", "order"], orient="row")


def written(path, frame):
    if path.suffix == ".parquet":
        frame.write_parquet(path, row_group_size=3)
        return path
    if "json" in path.name:
        text = "".join(json.dumps(row) + "\n" for row in frame.to_dicts())
    else:
        text = frame.write_csv(separator="\t" if ".tsv" in path.name else ",")
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def message(path, rows, **options):
    with pytest.raises(DataError) as caught:
        list(read_blocks(path, rows, **options))
    return str(caught.value)


@pytest.mark.parametrize("rows", [1, 3, 7, 1000])
@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_the_rows_of_the_file_in_their_order(name, rows, tmp_path):
    path = written(tmp_path / name, table())
    blocks = list(read_blocks(path, rows))
    assert pl.concat([block.frame for block in blocks]).equals(read_frame(File(path)))
    assert len(blocks) > 1 or rows >= len(table())
    places = [block.file.first for block in blocks]
    assert places == [sum(len(block.frame) for block in blocks[:at]) for at in range(len(blocks))]
    assert blocks[-1].share == 1.0


@pytest.mark.parametrize("rows", [1, 2, 5, 100])
@pytest.mark.parametrize("name", NAMES)
def test_users_stay_whole(name, rows, tmp_path):
    path = written(tmp_path / name, table())
    blocks = list(whole_users(read_blocks(path, rows), lambda frame, file: row_users(frame, None, file)))
    assert pl.concat([block.frame for block in blocks]).equals(read_frame(File(path)))
    owners = [set(block.frame["user"]) for block in blocks]
    assert sum(map(len, owners)) == 8


def grouped(path, rows):
    return whole_users(read_blocks(path, rows), lambda frame, file: row_users(frame, None, file))


@pytest.mark.parametrize("keys", ["", "a", "ab"])  # of each line in turn, so that the columns of the blocks differ
def test_the_rows_of_a_long_user_are_copied_once(keys, put, monkeypatch):
    lines = [{"user": "u", "item": "x", "order": n} | ({keys[n % len(keys)]: n} if keys else {}) for n in range(500)]
    path = put("log.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    copied, looked, concat = [], [], pl.concat
    monkeypatch.setattr(pl, "concat", lambda frames, **options: copied.append(frames) or concat(frames, **options))

    def users_of(frame, file):
        looked.append(frame.height)
        return row_users(frame, None, file)

    (block,) = whole_users(read_blocks(path, 1), users_of)
    assert block.frame["order"].to_list() == [*range(500)]
    assert sum(looked) <= 2 * 500  # with the row before each block
    heights = [len(part.collect() if isinstance(part, pl.LazyFrame) else part) for parts in copied for part in parts]
    assert sum(heights) <= 6 * 500  # each block with the row before, then all: as they are, and with equal columns


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
def test_a_row_without_a_user_stays_with_the_row_before(name, rows, tmp_path):
    users = [None, None, "a", None, None, None, "b", "b", None, "c"]
    frame = pl.DataFrame({"user": users, "item": ["x"] * 10, "order": [str(row) for row in range(10)]})
    blocks = list(grouped(written(tmp_path / name, frame), rows))
    assert [int(order) for block in blocks for order in block.frame["order"]] == [*range(10)]
    starts = {int(block.frame["order"][0]) for block in blocks}
    assert starts <= {0, 6, 9}  # the first rows of a, b and c
    assert rows == 100 or len(starts) > 1


@pytest.mark.parametrize("place", [0, 2, 4])
def test_blocks_of_blank_rows(place, put):
    rows = ["a,x", "a,y", "b,x", "b,y"]
    path = put("log.csv", "\n".join(["user,item", *rows[:place], *[","] * 7, *rows[place:]]) + "\n")
    assert [row for block in grouped(path, 2) for row in block.frame.rows()] == [tuple(row.split(",")) for row in rows]


def test_a_user_with_more_rows_than_the_memory_takes(put, monkeypatch):
    path = put("log.csv", "user,item\n" + "a,x\n" * 300 + "b,x\n" * 400 + "c,x\n")
    monkeypatch.setattr(memory, "free_memory", lambda: (30 * 2**10, "this test"))
    with pytest.raises(DataError) as caught:
        list(grouped(path, 1))
    assert str(caught.value) == (
        f"{path}: user 'b' has 321 rows or more, which need about 30.1 KiB of memory, but this test "
        "leaves 30.0 KiB. Leave out the oldest rows of this user"
    )


@pytest.mark.parametrize(
    ("read", "rows", "message"),
    [(grouped, 100, "user 'a' has 800 rows or more"), (read_blocks, 400, "with 1,203 columns")],
)
def test_more_columns_than_the_memory_takes(tmp_path, monkeypatch, read, rows, message):
    """The blocks of 100 rows fit, but not together. Nor does one of 400 with the columns of those before it."""
    path = tmp_path / "log.jsonl"
    path.write_text("".join(f'{{"user": "a", "item": "b", "order": 1, "k{n}": 1}}\n' for n in range(2_000)))
    monkeypatch.setattr(memory, "free_memory", lambda: (6 * 2**20, "this test"))
    with pytest.raises(DataError, match=rf"{message}.* of memory, but this test leaves 6\.0 MiB"):
        list(read(path, rows))


def test_lines_of_text_and_of_labels(tmp_path):
    (tmp_path / "log.txt").write_text("u1 a b\n\nu2 c\nu3 a\n")
    blocks = list(read_blocks(tmp_path / "log.txt", 2))
    assert [block.frame.rows() for block in blocks] == [[("u1", "a"), ("u1", "b")], [("u2", "c"), ("u3", "a")]]
    (tmp_path / "docs.txt").write_text("__label__x red\nblue\n")
    texts = [block.frame["text"].to_list() for block in read_blocks(tmp_path / "docs.txt", 1, readers=TEXT_READERS)]
    assert texts == [["red"], ["blue"]]


def test_a_column_that_a_block_lacks_is_null(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"user": "a", "item": "b"}\n{"user": "c"}\n')
    assert [block.frame.rows() for block in read_blocks(path, 1)] == [[("a", "b")], [("c", None)]]


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
def test_an_object_that_nobody_reads_may_change(rows, put):
    """The rows of a user move to blocks with other keys."""
    extra = [{"a": 1}, {"b": {"c": 2}}, [1], "text", None, {"d": 1}]
    lines = [{"user": "u1" if n < 5 else "u2", "item": "x", "extra": value} for n, value in enumerate(extra)]
    path = put("log.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    blocks = list(whole_users(read_blocks(path, rows), lambda frame, file: row_users(frame, None, file)))
    assert [user for block in blocks for user in block.frame["user"].to_list()] == ["u1"] * 5 + ["u2"]


def test_a_byte_order_mark_and_blank_lines(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(b"\xef\xbb\xbfuser,item\na,b\n\nc,d\n\n\n\n")
    blocks = list(read_blocks(path, 2))
    assert [block.frame.rows() for block in blocks] == [[("a", "b")], [("c", "d")]]
    assert blocks[1].file.place(0) == f"{path} line 4"


class TestRefusals:
    def test_a_bad_line_is_named_by_its_place_in_the_file(self, tmp_path):
        path = tmp_path / "log.csv"
        path.write_text("user,item\na,b\nc,d\ne,f,g\n")
        assert "line 4 has 3 fields, the header 2" in message(path, 1)
        path = tmp_path / "log.jsonl"
        path.write_text('{"user": "a"}\n{"user": \n')
        assert "line 2 is not JSON" in message(path, 1)

    def test_a_packed_file_that_is_cut_short(self, tmp_path):
        path = tmp_path / "log.csv.gz"
        path.write_bytes(gzip.compress(table(2000).write_csv().encode())[:-20])
        assert "truncated or damaged" in message(path, 100)

    @pytest.mark.parametrize("name", ["log.csv", "log.parquet", "log.jsonl"])
    def test_an_empty_file_or_none(self, name, tmp_path):
        assert "no such file" in message(tmp_path / name, 5)
        (tmp_path / name).write_bytes(b"")
        assert "the file is empty" in message(tmp_path / name, 5)

    def test_no_table_at_all(self, tmp_path):
        (tmp_path / "log.parquet").write_bytes(b"user,item\n" * 9)
        assert "not readable as parquet" in message(tmp_path / "log.parquet", 5)
        (tmp_path / "log.jsonl").write_text("\n\n")
        assert "the file is empty" in message(tmp_path / "log.jsonl", 5)

    @pytest.mark.parametrize("rows", [1, 2])
    def test_a_user_who_comes_again(self, rows, tmp_path):
        path = tmp_path / "log.csv"
        path.write_text("user,item\na,x\nb,x\nb,y\na,y\nc,z\n")
        with pytest.raises(DataError, match=r"log.csv line 5: user 'a' has rows earlier in the file.*Sort it by user"):
            list(whole_users(read_blocks(path, rows), lambda frame, file: row_users(frame, None, file)))


def test_names_seen_are_known_again():
    seen = Seen()
    assert seen.again(pl.Series(["a", "b", "a"])) is None
    assert seen.again(pl.Series(["c"])) is None
    assert seen.again(pl.Series(["d", "c", "a"])) == 1


@pytest.mark.parametrize("at_once", [1, 7])
def test_a_name_is_copied_few_times(at_once, monkeypatch):
    sizes, concatenate = [], np.concatenate
    monkeypatch.setattr(np, "concatenate", lambda arrays: sizes.append(sum(map(len, arrays))) or concatenate(arrays))
    monkeypatch.setattr(np, "insert", None)  # copies all
    seen, names = Seen(), [f"u{number}" for number in range(2**10)]
    for start in range(0, 2**10, at_once):
        assert seen.again(pl.Series(names[start : start + at_once])) is None
    assert sum(sizes) <= 11 * 2**10  # about log2 N times; one array would be copied 2**19 / at_once times
    assert all(seen.again(pl.Series([name])) == 0 for name in names)


def test_a_block_of_long_lines_ends_before_it_has_all_its_rows(put, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 500)
    monkeypatch.setattr(blocks, "LINES_AT_ONCE", 2)
    path = put("log.csv", "user,item\n" + "".join(f"u{row:02},{'x' * 100}\n" for row in range(20)))
    found = [block.frame for block in read_blocks(path, 15)]
    assert [len(frame) for frame in found] == [5, 5, 5, 5]  # 1, 2 and 2 of 105 bytes
    assert pl.concat(found)["user"].to_list() == [f"u{row:02}" for row in range(20)]
