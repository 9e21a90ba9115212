import csv
import gzip
import io
import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.data.csv_text import csv_rows, find_delimiter
from hyperfocal.data.faults import find_fault
from hyperfocal.data.files import MEMORY, File, write_frame
from hyperfocal.data.logs import Log
from hyperfocal.data.readers import read_frame, read_source
from hyperfocal.errors import DataError
from packing import pack

IDS = [
    "007", "a b", " leads", "trails ", "a,b", "a;b|c", "a\tb", 'quo"te', '"all"', "it's", "Ж中é🎉", "x" * 300,
    "NA", "null", "NaN", "true", "1.0", "1e5", "-", "#", "line\nbreak", "a\u00a0b", "\\n", "{}",
]  # fmt: skip
TABLES = ("a.csv", "a.tsv", "a.csv.gz", "a.tsv.bz2", "a.csv.zst", "a.parquet", "a.jsonl", "a.ndjson.zst", "a.jsonl.gz")
PACKED = ("a.csv.gz", "a.jsonl.gz", "a.txt.gz", "a.csv.bz2", "a.jsonl.zst")
ids = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=5)


def packed(name: str, frame: pl.DataFrame) -> bytes:
    """Return the bytes of a table as other programs would write it."""
    raw = io.BytesIO()
    if ".parquet" in name:
        frame.write_parquet(raw)
        return raw.getvalue()
    if "json" in name:
        text = "".join(json.dumps(row) + "\n" for row in frame.to_dicts())
    else:
        file = io.StringIO()
        csv.writer(file, delimiter="\t" if "tsv" in name else ",").writerows([frame.columns, *frame.rows()])
        text = file.getvalue()
    return pack(name, text.encode())


def error(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_frame(File(path))
    assert str(caught.value).startswith(f"{path}")
    return str(caught.value)[len(str(path)) :].lstrip(": ")


# Kinds


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.csv", "csv"),
        ("a.TSV", "csv"),
        ("a.b.csv.gz", "csv"),
        ("a.parquet", "parquet"),
        ("a.jsonl", "jsonl"),
        ("a.ndjson.gz", "jsonl"),
        ("a.txt.gz", "lines"),
    ],
)
def test_the_name_tells_the_kind(name, kind):
    assert File(Path(name)).kind == kind


@pytest.mark.parametrize("name", ["a.xlsx", "a", "a.gz", "a.parquet.gz", ".csv"])
def test_a_name_that_tells_no_kind(name):
    with pytest.raises(DataError, match=r"cannot tell its format from its name\. Allowed: \.csv, .*\.txt"):
        read_frame(File(Path(name)))


# Values survive


@pytest.mark.parametrize("name", TABLES)
def test_ids_survive_in_every_table(tmp_path, name):
    frame = pl.DataFrame({"user": IDS, "item": IDS[::-1]})
    (tmp_path / name).write_bytes(packed(name, frame))
    assert read_frame(File(tmp_path / name)).equals(frame)


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_ids_survive_in_lines(put, name):
    items = [item for item in IDS if not re.search(r"[ \t\n]", item)]  # these separate words
    frame = read_frame(File(put(name, f"u,1 {' '.join(items)}\n")))
    assert frame.equals(pl.DataFrame({"user": ["u,1"] * len(items), "item": items}))


@pytest.mark.parametrize("name", TABLES)
def test_ids_survive_when_we_write(tmp_path, name):
    frame = pl.DataFrame({"user": IDS, "rank": range(len(IDS))})
    write_frame(frame, tmp_path / name)
    written = read_frame(File(tmp_path / name))
    assert written["user"].to_list() == IDS
    assert written["rank"].cast(pl.Int64).to_list() == list(range(len(IDS)))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(ids, ids), min_size=1, max_size=6), st.sampled_from(TABLES))
def test_any_text_survives_in_every_table(tmp_path_factory, rows, name):
    path = tmp_path_factory.mktemp("any") / name
    frame = pl.DataFrame(rows, schema={"user": pl.String, "item": pl.String}, orient="row")
    path.write_bytes(packed(name, frame))
    assert read_frame(File(path)).rows() == rows
    write_frame(frame, path)
    assert read_frame(File(path)).rows() == rows


def test_what_we_write_other_programs_read(tmp_path):
    write_frame(pl.DataFrame({"user": ['a"b', "c,d"], "rank": [1, 2]}), tmp_path / "a.tsv.gz")
    with gzip.open(tmp_path / "a.tsv.gz", "rt", newline="") as file:
        assert list(csv.reader(file, delimiter="\t")) == [["user", "rank"], ['a"b', "1"], ["c,d", "2"]]
    write_frame(pl.DataFrame({"user": ["é"], "rank": [1]}), tmp_path / "a.jsonl")
    assert json.loads((tmp_path / "a.jsonl").read_text(encoding="utf-8")) == {"user": "é", "rank": 1}


@pytest.mark.parametrize("separator", [",", ";", "|", "\t"])
def test_separators_of_csv(put, separator):
    path = put("a.csv", separator.join(("user", "item")) + "\n" + separator.join(("a", "b")) + "\n")
    assert read_frame(File(path)).to_dicts() == [{"user": "a", "item": "b"}]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_blank_lines_line_ends_and_byte_order_mark(put, name, end, mark):
    text = mark + end.join(["", "user,item", "", "a,b", "", "", ",", "c,d", ""]) + end
    assert read_frame(File(put(name, text))).to_dicts() == [{"user": "a", "item": "b"}, {"user": "c", "item": "d"}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_blank_lines_line_ends_and_byte_order_mark_in_json(put, name, end, mark):
    text = mark + end.join(['{"user": "a"}', "", " ", '{"user": "b"}']) + end
    assert read_frame(File(put(name, text)))["user"].to_list() == ["a", "b"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_blank_lines_line_ends_and_byte_order_mark_in_lines(put, end, mark):
    text = mark + end.join(["a x  y", "", " ", " b\tz ", ""])
    rows = read_frame(File(put("a.txt", text))).rows()
    assert rows == [("a", "x"), ("a", "y"), ("b", "z")]


def test_json_may_leave_keys_out_and_mix_numbers_with_text(put):
    frame = read_frame(File(put("a.jsonl", '{"user": 1, "item": 7}\n{"user": "b"}\n{"item": 9, "extra": 1}\n')))
    assert frame.select("user", "item").rows() == [("1", 7), ("b", None), (None, 9)]


@pytest.mark.parametrize("name", ["a[1].csv", "a*.jsonl", "a?.parquet", "a b (1).csv"])
def test_a_name_is_no_pattern(tmp_path, name):
    other = name.replace("*", "x").replace("?", "y")
    for value, file in (("other", other), ("mine", name)):
        (tmp_path / file).write_bytes(packed(name, pl.DataFrame({"user": [value]})))
    assert read_frame(File(tmp_path / name))["user"].to_list() == ["mine"]


# Unreadable files


def test_no_such_file(tmp_path):
    assert error(tmp_path / "a.csv") == f"no such file. Check the path (looked in {Path.cwd()})"


def test_a_folder(tmp_path):
    (tmp_path / "a.csv").mkdir()
    assert error(tmp_path / "a.csv").startswith("is a folder, not a file")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv.gz", "a.jsonl", "a.jsonl.gz", "a.txt", "a.parquet", "a.csv.gz"])
def test_an_empty_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    assert error(tmp_path / name) == "the file is empty. Give a file with one row per event"


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize("content", ["\n\n", ""])
def test_a_file_of_blank_lines(put, name, content):
    assert error(put(name, content)) == "the file is empty. Give a file with one row per event"


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.jsonl.gz", "a.txt", "a.txt.gz"])
def test_latin_1_names_the_line(put, name):
    line = '{"user": "a", "item": "b"}\n' if "json" in name else "a b c\n" if "txt" in name else "user,item\n"
    content = (line * 2000 + line.replace("b", "é").replace("item,", "é,")).encode("latin-1")
    if "csv" in name:
        content = b"user,item\n" + b"a,b\n" * 1999 + b"a,caf\xe9\n"
    message = error(put(name, content))
    assert f"line {2001} is not UTF-8 text (byte 0xe9). Save the file as UTF-8" in message


@pytest.mark.parametrize("name", PACKED)
def test_a_gz_that_is_cut_short(put, name):
    line = '{"user": "a", "item": "b"}\n' if "json" in name else "a,b c\n"
    path = put(name, line * 100)
    path.write_bytes(path.read_bytes()[:-9])
    assert "the file is truncated or damaged (Compressed file ended before" in error(path)


@pytest.mark.parametrize("name", PACKED)
def test_a_gz_that_is_damaged(put, name):
    path = put(name, "".join(f'{{"user": "{n}"}}\n' for n in range(1000)))
    raw = path.read_bytes()
    for place in (12, len(raw) // 2, -6):  # in the table of codes, in the text, in the checksum
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 0xFF]) + raw[place + 1 :])
        assert "the file is truncated or damaged" in error(path)


def test_a_gz_that_is_text_is_read_as_text(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(b"user,item\na,b\n")  # as a browser saves it
    assert read_frame(File(tmp_path / "a.csv.gz")).rows() == [("a", "b")]


def test_a_gz_that_is_neither_packed_nor_text(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(b"\xff" + gzip.compress(b"user,item\na,b\n"))
    assert error(tmp_path / "a.csv.gz").startswith("is not compressed, as its name says, but a binary file")
    (tmp_path / "a.csv.gz").write_bytes(b"user,item\na,\xff\n")
    assert "the file is not compressed, as its name says, nor text: it is damaged" in error(tmp_path / "a.csv.gz")


@pytest.mark.parametrize("keep", [3, 20, -1])
def test_a_damaged_parquet(tmp_path, keep):
    path = tmp_path / "a.parquet"
    pl.DataFrame({"user": ["a", "b"]}).write_parquet(path)
    path.write_bytes(path.read_bytes()[:keep])
    message = error(path)
    assert message.startswith("not readable as parquet: ")
    assert message.endswith("It may be damaged or have another format: export it again")


def test_a_panic_of_polars_is_an_error_like_any_other(tmp_path, monkeypatch):
    def panic(*_: object, **__: object) -> None:
        raise pl.exceptions.PanicException("called `Result::unwrap()`\non an `Err` value")

    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr(pl, "scan_parquet", panic)
    assert error(tmp_path / "a.parquet").startswith("not readable as parquet: called `Result::unwrap()`. It may")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user,item\na,b\nc,d,e\n", "line 3 has 3 fields, the header 2. Quote fields that contain the delimiter"),
        ('user,item\n\n"a\nb",c\nd,e,f\n', "line 5 has 3 fields, the header 2"),
        ('user,item\na,"b\nc,d\n', "line 2 has a quote that is not closed"),
        ('user,item\nx,y\na,5" pipe\n', "line 3 has a quote inside a field"),
    ],
)
def test_csv_that_cannot_be_parsed_names_the_line(put, content, message):
    assert message in error(put("a.csv", content))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"user": "a"', "line 4 is not JSON: Expecting ',' delimiter at character 13. Write one object per line"),
        ("[1, 2]", "line 4 is not a JSON object: [1, 2]. Write one object per line"),
        ("{'user': 'a'}", "line 4 is not JSON: Expecting property name"),
    ],
)
def test_invalid_json_names_the_line(put, name, line, message):
    content = '{"user": "a"}\n\n{"user": "b"}\n' + line + '\n{"user": "c"}\n'
    assert message in error(put(name, content))


def test_a_user_without_an_item_in_lines(put):
    assert error(put("a.txt", "a x\n\nb\n")) == "line 3: a user without an item. Expected 'user item item ...'"


# Places


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_place_counts_lines_not_rows(put, name):
    file = File(put(name, 'user,item\n\n"a\nb",c\n\n,\nd\n'))
    assert [file.place(row) for row in (0, 1)] == [f"{file} line 3", f"{file} line 7"]
    assert [file.fields(row) for row in (0, 1)] == ["", " (the row has 1 of 2 fields)"]


def test_place_under_a_header_of_two_lines(put):
    file = File(put("a.csv", '"us\ner",item\na,b\nc\n'))
    assert (file.place(1), file.fields(1)) == (f"{file} line 4", " (the row has 1 of 2 fields)")


def test_place_in_json(put):
    file = File(put("a.jsonl", '{"a": 1}\n\n{"a": 2}\n'))
    assert (file.place(1), file.fields(1)) == (f"{file} line 3", "")


def test_place_where_there_are_no_lines(tmp_path):
    assert MEMORY.place(3) == "frame row 3"
    assert File(tmp_path / "a.parquet").place(3) == f"{tmp_path / 'a.parquet'} row 3"
    assert MEMORY.fields(3) == ""


def test_place_that_plain_python_cannot_find(put):
    file = File(put("a.csv", 'user,item\na,"b"c\n'))
    assert file.place(0) == f"{file} row 0"  # polars reads it, Python's csv does not
    assert File(put("b.csv", "user,item\na,b\n")).place(5).endswith("b.csv row 5")


# Files that we cannot write


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_lines_are_not_written(tmp_path, name):
    with pytest.raises(DataError, match=r"rows cannot be written as \.txt\. Allowed: \.csv"):
        write_frame(pl.DataFrame({"user": ["a"]}), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_refused_before_the_work(tmp_path):
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        File(tmp_path / "a.csv").check_writable()
    with pytest.raises(DataError, match="cannot tell its format"):
        File(tmp_path / "a.xlsx").check_writable()
    File(tmp_path / "new" / "b.csv.gz").check_writable()


@pytest.mark.parametrize(("number", "refused"), [(10_000, False), (1_000_000, True)])
def test_a_gz_that_grows_beyond_measure_is_refused(tmp_path, monkeypatch, number, refused):
    monkeypatch.setattr("hyperfocal.data.files.UNPACKED_LIMIT", 100_000)
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress(b"user,item\n" + b"a,b\n" * number))  # 1:500 and more
    if refused:
        with pytest.raises(DataError, match=r"unpack to more than [\d,]+, .*If you trust it, unpack it"):
            read_frame(File(path))
    else:
        assert read_frame(File(path)).height == number


# Sources


def test_a_frame_of_pandas():
    """Missing values of pandas, NaN and NaT, are null in columns of objects; lists stay lists."""
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "user": pd.Series(["a", np.nan, None], dtype=object),
            "labels": pd.Series([["x"], ["y", "z"], []]),
            "time": pd.to_datetime(pd.Series(["2024-05-31T12:00:00Z", None, None])),
            "count": pd.Series([1, 2, 3], dtype="int32"),
        }
    )
    rows, file = read_source(frame, Log)
    assert file is MEMORY
    assert rows["user"].to_list() == ["a", None, None]
    assert rows["labels"].to_list() == [["x"], ["y", "z"], []]
    assert rows["time"].null_count() == 2
    assert rows["count"].dtype == pl.Int32


def test_a_path_and_a_frame_of_polars(put):
    frame = pl.DataFrame({"user": ["a"], "item": ["b"]})
    assert read_source(frame.lazy(), Log)[0].equals(frame)
    path = put("a.csv", "user,item\na,b\n")
    for source in (path, str(path)):
        rows, file = read_source(source, Log)
        assert rows.equals(frame)
        assert file == File(path)


def test_another_type_is_no_source():
    with pytest.raises(DataError, match=r"^int is not a source of rows\. Give a path, a frame .*, or Log$"):
        read_source(7, Log)


fields = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), max_size=6)
rows = st.lists(st.tuples(fields, fields, fields).filter(any), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("header", "separator"),
    [
        ("user,item,position\n", ","),
        ("user\titem\tposition\n", "\t"),
        ("user;item;position\r\n", ";"),
        ("user|item\n", "|"),
        ("user\n", ","),
        ("a,b,c,d\titem\n", "\t"),  # a tab is never part of a name
        ('"a;b;c;d",item\n', ","),  # the semicolons are inside quotes
        ("\n \nuser;item\n", ";"),  # the header is the first line that is not blank
    ],
)
def test_separator(header, separator):
    text = io.StringIO(header + "1,2\t3;4|5\n")
    assert find_delimiter(text) == separator
    assert text.tell() == 0


@settings(deadline=None, max_examples=60)
@given(rows, st.sampled_from(",\t;|"), st.sampled_from(["\n", "\r\n"]))
def test_rows_and_their_lines(table, separator, end):
    header, file, begins = ("user", "item", "position"), io.StringIO(newline=""), []
    writer = csv.writer(file, delimiter=separator, lineterminator=end)
    writer.writerow(header)
    for number, row in enumerate(table):
        file.write(end * (number % 3))  # blank lines
        begins.append(1 + file.getvalue().count("\n"))
        writer.writerow(row)
    found = list(csv_rows(io.StringIO(file.getvalue(), newline="\n")))
    assert found == [(1, list(header)), *((line, list(row)) for line, row in zip(begins, table, strict=True))]


def test_nothing():
    assert find_delimiter(io.StringIO("")) == ","
    assert list(csv_rows(io.StringIO(""))) == []


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (b"user,item\na,b\n", "a.csv", ""),
        (b"user,item\na,b\nc,caf\xe9\n", "a.csv", "line 3 is not UTF-8 text (byte 0xe9). Save the file as UTF-8"),
        (b"a b\nc \xff\n", "a.txt", "line 2 is not UTF-8 text (byte 0xff). Save the file as UTF-8"),
        (b"a b\n", "a.txt", ""),
        (b"user,item\na,b\n\nc,d,e\n", "a.csv", "line 4 has 3 fields, the header 2"),
        (b'user,item\n"a\nb",c\nd,e,f\n', "a.csv", "line 4 has 3 fields, the header 2"),
        (b'user,item\na,b\nc,"d\ne,f\n', "a.csv", "line 3 has a quote that is not closed"),
        (b'user,item\na,"b"c\n', "a.csv", "line 2 has a quote that is not closed, or one that is not doubled"),
        (b'user,item\na,5" pipe\n', "a.csv", "line 2 has a quote inside a field"),
        (b"", "a.csv", ""),
        (b'{"a": 1}\n\n{"a": \n', "a.jsonl", "line 3 is not JSON: Expecting value at character 6"),
        (b'\xef\xbb\xbf{"a": 1}\n[1]\n', "a.jsonl", "line 2 is not a JSON object: [1]"),
        (b'{"a": NaN}\n', "a.jsonl", "line 1 is not JSON: NaN is not allowed"),
        (b'{"a": 1}\n' + b"[" * 100_000, "a.jsonl", "line 2 has thousands of nested brackets"),
        (b'{"a": 1}\n', "a.jsonl", ""),
    ],
)
def test_fault(content, name, expected):
    found = find_fault(File(Path(name), content))
    assert found.startswith(expected)
    assert bool(found) == bool(expected)
