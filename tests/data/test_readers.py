"""Files as programs of many kinds write them: compressed, in UTF-16, joined, cut, or of another format altogether."""

import codecs
import csv
import io
import json
import logging
import zipfile

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hyperfocal.data import readers
from hyperfocal.data.blocks import read_blocks
from hyperfocal.data.files import File, write_frame
from hyperfocal.data.readers import read_frame
from hyperfocal.errors import DataError
from packing import PACK

ENCODINGS = {
    "utf-8": b"",
    "utf-8-sig": b"",  # the codec writes its mark
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}
words = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r\ufeff"), min_size=1, max_size=5)
tables = st.lists(st.tuples(words, words), min_size=1, max_size=8).filter(lambda rows: ("user", "item") not in rows)


def content(kind, rows):
    """Return a table as text."""
    if kind == "jsonl":
        return "".join(json.dumps({"user": user, "item": item}) + "\n" for user, item in rows)
    file = io.StringIO()
    csv.writer(file, delimiter="\t" if kind == "tsv" else ",", lineterminator="\n").writerows([("user", "item"), *rows])
    return file.getvalue()


def blocks_of(path, rows, **options):
    return pl.concat([block.frame for block in read_blocks(path, rows, **options)], how="diagonal_relaxed")


def error(path, rows=None):
    """Return the message without the path: of the whole file, or of blocks."""
    with pytest.raises(DataError) as caught:
        read_frame(File(path)) if rows is None else list(read_blocks(path, rows))
    assert str(caught.value).startswith(f"{path}")
    return str(caught.value)[len(str(path)) :].lstrip(": ")


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tables,
    st.sampled_from(["csv", "tsv", "jsonl"]),
    st.sampled_from([*ENCODINGS]),
    st.sampled_from(["", *PACK]),
    st.booleans(),
    st.integers(1, 4),
)
@example([("naïve ☃ 😀", "two\nlines")], "csv", "utf-16-le", ".zst", True, 1)
def test_any_compression_and_encoding_give_the_same_rows(tmp_path_factory, rows, kind, encoding, ending, named, size):
    """Each file is read at once and by blocks; its name may hide its compression."""
    path = tmp_path_factory.mktemp("any") / f"log.{kind}{ending if named else ''}"
    raw = ENCODINGS[encoding] + content(kind, rows).encode(encoding)
    path.write_bytes(PACK.get(ending, bytes)(raw))
    assert read_frame(File(path)).rows() == rows
    assert blocks_of(path, size).rows() == rows


@pytest.mark.parametrize("ending", ["", *PACK])
@pytest.mark.parametrize("encoding", [*ENCODINGS])
def test_lines_in_any_compression_and_encoding(tmp_path, encoding, ending):
    path = tmp_path / f"log.txt{ending}"
    path.write_bytes(PACK.get(ending, bytes)(ENCODINGS[encoding] + "é a b\n\nu2 ☃\n".encode(encoding)))
    assert read_frame(File(path)).rows() == [("é", "a"), ("é", "b"), ("u2", "☃")]
    assert blocks_of(path, 1).rows() == [("é", "a"), ("é", "b"), ("u2", "☃")]


@pytest.mark.parametrize("ending", [*PACK])
@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
def test_what_we_write_compressed_is_compressed_and_always_the_same(tmp_path, name, ending):
    frame = pl.DataFrame({"user": ["a", "b"], "item": ["é", "x,y"]})
    (tmp_path / "again").mkdir()
    paths = [tmp_path / f"{name}{ending}", tmp_path / "again" / f"other-{name}{ending}"]
    for path in paths:
        write_frame(frame, path)
        assert read_frame(File(path)).equals(frame)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    head = {".gz": b"\x1f\x8b", ".bz2": b"BZh", ".zst": b"\x28\xb5\x2f\xfd"}[ending]
    assert paths[0].read_bytes().startswith(head)


@pytest.mark.parametrize("name", ["log.inter", "log.dat", "log.txt.bz2", "log.user.zst"])
def test_formats_that_are_only_read(tmp_path, name):
    with pytest.raises(DataError, match=r"rows cannot be written as \.\w+\. Allowed: \.csv"):
        File(tmp_path / name).check_writable()


class TestDamage:
    @pytest.mark.parametrize("ending", [*PACK])
    @pytest.mark.parametrize("rows", [None, 5])
    def test_an_empty_compressed_file(self, tmp_path, ending, rows):
        path = tmp_path / f"log.csv{ending}"
        path.write_bytes(PACK[ending](b""))
        assert error(path, rows) == "the file is empty. Give a file with one row per event"

    @pytest.mark.parametrize("ending", [*PACK])
    @pytest.mark.parametrize("rows", [None, 50])
    def test_a_truncated_one(self, tmp_path, ending, rows):
        path = tmp_path / f"log.csv{ending}"
        text = "user,item\n" + "".join(f"u{row * 7919 % 1000},{row * 104729 % 9973}\n" for row in range(30_000))
        path.write_bytes(PACK[ending](text.encode())[:-30])
        assert "the file is truncated or damaged" in error(path, rows)

    @pytest.mark.parametrize(("ending", "number"), [(".gz", 300_000), (".bz2", 300_000), (".zst", 300_000)])
    def test_one_that_grows_beyond_measure(self, tmp_path, monkeypatch, ending, number):
        monkeypatch.setattr("hyperfocal.data.files.UNPACKED_LIMIT", 100_000)
        path = tmp_path / "log.csv"  # whatever the name
        path.write_bytes(PACK[ending](b"user,item\n" + b"a,b\n" * number))
        assert "unpack to more than" in error(path)
        assert sum(block.frame.height for block in read_blocks(path, 50_000)) == number  # a block is in memory at once

    @pytest.mark.parametrize("ending", [*PACK])
    @pytest.mark.parametrize("rows", [None, 2])
    def test_a_line_that_grows_beyond_measure(self, tmp_path, monkeypatch, ending, rows):
        monkeypatch.setattr("hyperfocal.data.text_bytes.LONGEST_LINE", 2**20)
        path = tmp_path / f"log.csv{ending}"
        path.write_bytes(PACK[ending](b"user,item\n" + b"a,b\n" * 300_000))
        assert (read_frame(File(path)) if rows is None else blocks_of(path, 100_000)).height == 300_000
        path.write_bytes(PACK[ending](b"user,item\n" + b"0" * 2**22))
        problem = "not readable as csv: a line unpacks to more than 1 MiB. Unpack the file if you trust it"
        assert error(path, rows) == problem

    def test_an_open_quote_does_not_read_the_rest_into_memory(self, put, monkeypatch):
        monkeypatch.setattr("hyperfocal.data.blocks.BLOCK_BYTES", 1_000)
        path = put("log.csv", 'user,item\na,"b\n' + "c,d\n" * 10_000)
        assert "line 2 has a quote that is not closed" in error(path, 1)

    def test_one_compressed_twice(self, tmp_path):
        (tmp_path / "log.csv.gz").write_bytes(PACK[".gz"](PACK[".zst"](b"user,item\na,b\n")))
        assert error(tmp_path / "log.csv.gz") == "is compressed twice. Unpack it once"

    @pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
    @pytest.mark.parametrize("rows", [None, 1])
    def test_utf_16_with_half_a_pair_names_the_line(self, put, encoding, rows):
        raw = "user,item\na,😀\nb,\ud83d\nc,d\n".encode(encoding, "surrogatepass")
        message = error(put("log.csv", ENCODINGS[encoding] + raw), rows)
        assert message == "not readable as csv: line 3 is not UTF-16 text. Save the file as UTF-8"

    def test_utf_16_cut_inside_a_character(self, put):
        raw = codecs.BOM_UTF16_LE + "user,item\na,b\nc,d".encode("utf-16-le")
        assert "line 3 is not UTF-16 text" in error(put("log.csv", raw[:-1]))

    def test_utf_16_without_a_mark(self, put):
        for name, text in (("log.csv", "user,item\na,b\n"), ("log.jsonl", '{"user": "a"}\n'), ("log.txt", "a b\n")):
            for encoding in ("utf-16-le", "utf-16-be"):
                message = "is a binary file, or UTF-16 text without a byte order mark. Save it as UTF-8"
                assert error(put(name, text.encode(encoding))) == message

    @pytest.mark.parametrize("ending", ["", ".bz2"])
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
    def test_places_are_lines_of_the_text(self, put, ending, encoding):
        raw = ENCODINGS[encoding] + 'user,item\n\n"a\nb",é\nd,e,f\n'.encode(encoding)
        path = put(f"log.csv{ending}", raw)
        for rows in (None, 1):
            assert "line 5 has 3 fields, the header 2" in error(path, rows)
        path = put(f"log.jsonl{ending}", ENCODINGS[encoding] + '{"user": "é"}\n\n{"user": \n'.encode(encoding))
        for rows in (None, 1):
            assert "line 3 is not JSON" in error(path, rows)


class TestLineEnds:
    @pytest.mark.parametrize("ending", ["", ".gz"])
    @pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.txt"])
    def test_carriage_returns_alone(self, put, name, ending):
        text = {"log.csv": "user,item\ra,x\r\rb,y\r", "log.jsonl": '{"user":"a","item":"x"}\r{"user":"b","item":"y"}\r'}
        path = put(f"{name}{ending}", text.get(name, "a x\rb y"))
        assert read_frame(File(path)).rows() == [("a", "x"), ("b", "y")]
        assert blocks_of(path, 1).rows() == [("a", "x"), ("b", "y")]

    def test_their_lines_are_named(self, put):
        path = put("log.csv", "user,item\ra,x\rb,y,z\r")
        assert "line 3 has 3 fields, the header 2" in error(path)

    def test_a_carriage_return_inside_a_field_stays(self, put):
        assert read_frame(File(put("log.csv", 'user,item\n"a\rb",x\n'))).rows() == [("a\rb", "x")]

    @pytest.mark.parametrize("rows", [None, 1])
    def test_marks_inside_joined_files(self, put, rows):
        lines = put("log.txt", "\ufeffa x\n\ufeffa y\n")
        objects = put("log.jsonl", '\ufeff{"user":"a","item":"x"}\n\ufeff{"user":"a","item":"y"}\n')
        for path in (lines, objects):
            frame = read_frame(File(path)) if rows is None else blocks_of(path, rows)
            assert frame.rows() == [("a", "x"), ("a", "y")]


class TestForeignFormats:
    @pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.txt", "log.parquet"])
    def test_a_workbook_and_an_archive(self, tmp_path, name):
        for inside, kind in (("[Content_Types].xml", "an Excel workbook. Save the sheet as CSV"), ("a.csv", "a zip ")):
            with zipfile.ZipFile(tmp_path / name, "w") as archive:
                archive.writestr(inside, "user,item\na,b\n")
            assert error(tmp_path / name).startswith(f"is {kind}")

    @pytest.mark.parametrize("text", ["<!DOCTYPE html><html>", "\ufeff\n<HTML lang=en>", '<?xml version="1.0"?>'])
    @pytest.mark.parametrize("name", ["log.csv", "log.jsonl.gz"])
    def test_a_page(self, put, name, text):
        assert error(put(name, text + "\n<body>404, not found</body>\n")).startswith("is a web page or XML")

    def test_a_text_may_begin_with_a_tag(self, put):
        assert read_frame(File(put("log.txt", "<html> a\n"))).rows() == [("<html>", "a")]

    def test_a_table_under_the_name_of_another(self, tmp_path):
        frame = pl.DataFrame({"user": ["a"], "item": ["b"]})
        frame.write_parquet(tmp_path / "log.csv")
        assert error(tmp_path / "log.csv") == "is a Parquet file. Rename it to .parquet"
        frame.write_ipc(tmp_path / "log.jsonl")
        assert error(tmp_path / "log.jsonl").startswith("is an Arrow file")
        (tmp_path / "log.parquet").write_bytes(PACK[".gz"]((tmp_path / "log.csv").read_bytes()))
        assert error(tmp_path / "log.parquet") == "is a compressed file. Unpack it"
        (tmp_path / "log.tsv").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
        assert error(tmp_path / "log.tsv") == "is a Git LFS pointer, not the file itself. Run `git lfs pull`"

    @pytest.mark.parametrize("head", ["PK,item", "PAR1,item", "BZh,item", "7z,item", "ARROW1,item", "version,item"])
    def test_a_header_that_looks_a_little_like_one(self, put, head):
        assert read_frame(File(put("log.csv", f"{head}\na,b\n"))).rows() == [("a", "b")]


class TestJoinedTables:
    @pytest.mark.parametrize("mark", ["", "\ufeff"])
    @pytest.mark.parametrize("rows", [None, 1, 2])
    @pytest.mark.parametrize("name", ["log.csv", "log.tsv.gz"])
    def test_a_second_header(self, put, name, rows, mark):
        text = f'user,item\na,b\n\n"c\nd",e\n{mark}user,item\nf,g\n'.replace(",", "\t" if "tsv" in name else ",")
        assert error(put(name, text), rows).startswith("line 6: the header again, user, item, as happens when files")

    def test_a_second_header_with_a_name_twice(self, put):
        assert error(put("log.csv", "a,a\n1,2\na,a\n")).startswith("line 3: the header again")

    def test_one_column_may_hold_its_name(self, put):
        assert read_frame(File(put("docs.csv", "text\nred\ntext\n")))["text"].to_list() == ["red", "text"]

    def test_a_row_may_hold_one_name_of_the_header(self, put):
        assert read_frame(File(put("log.csv", "user,item\nuser,b\n,item\n"))).height == 2


class TestSwallowedRows:
    @pytest.fixture(autouse=True)
    def forget(self):
        readers._warn_once.cache_clear()

    @pytest.mark.parametrize("rows", [None, 2])
    def test_a_quote_that_swallows_rows_is_warned_of_once(self, put, rows, caplog):
        path = put("log.csv", 'user,item,price\na,x,1\n\nb,"5 inch,2\nc,z,3\nd,x",4\n')
        with caplog.at_level(logging.WARNING, "hyperfocal"):
            for _ in range(2):
                read_frame(File(path)) if rows is None else list(read_blocks(path, rows))
        assert caplog.messages == [
            f"{path} line 4: a field of column 'item' holds lines that look like rows, such as 'c,z,3', so a quote may "
            "have swallowed them. Double the quote, or quote its field"
        ]

    @pytest.mark.parametrize(
        "text",
        [
            'text,labels\n"Dear all,\nhello, world\nbye",a\n',  # a comma in prose
            'text,labels\n"a\nb\nc",x\n',
            'text\n"a,b\nc,d\ne",x\n'.replace(",x", ""),
            'a,b,c\n"x\n1,2\ny",2,3\n',  # fewer delimiters than the header
        ],
    )
    def test_texts_of_several_lines_are_not(self, put, text, caplog):
        read_frame(File(put("docs.csv", text)))
        assert not caplog.messages

    def test_only_the_first_thousand_fields_of_several_lines_are_searched(self, put, caplog):
        for fields, messages in ((999, 1), (1_000, 0)):
            rows = 'a,"x\ny",1\n' * fields + 'b,"5 inch,2\nc,z,3\nd,x",4\n'
            with caplog.at_level(logging.WARNING, "hyperfocal"):
                read_frame(File(put(f"{fields}.csv", "user,item,price\n" + rows)))
            assert len(caplog.messages) == messages
            caplog.clear()


def test_a_pattern_of_tables_that_are_not_parquet(tmp_path):
    (tmp_path / "a.csv").write_text("user,item\na,b\n")
    for pattern in ("*.csv", "a**b.parquet", "[.parquet", "**"):
        message = error(tmp_path / pattern)
        assert "no such file; a pattern names Parquet parts only" in message or "cannot tell its format" in message


def test_a_folder_of_other_files(tmp_path):
    (tmp_path / "a.csv").write_text("user,item\na,b\n")
    for rows in (None, 5):
        message = "is a folder without Parquet parts. Name a file, or a folder of Parquet parts (*.parquet)"
        assert error(tmp_path, rows) == message


class TestManyChunks:
    """Files of more than one chunk: characters and frames lie across its end."""

    TEXT = "user,item\n" + "".join(f"u{row},😀é{'x' * (row % 7)}\n" for row in range(40_000))

    @pytest.mark.parametrize("ending", ["", *PACK])
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-32-be"])
    def test_characters(self, tmp_path, encoding, ending):
        path = tmp_path / "log.csv"
        path.write_bytes(PACK.get(ending, bytes)(ENCODINGS[encoding] + self.TEXT.encode(encoding)))
        expected = [f"😀é{'x' * (row % 7)}" for row in range(40_000)]
        assert read_frame(File(path))["item"].to_list() == expected
        assert blocks_of(path, 9_999)["item"].to_list() == expected

    def test_carriage_returns(self, tmp_path):
        path = tmp_path / "log.csv"
        path.write_bytes(self.TEXT.replace("\n", "\r").encode())
        assert read_frame(File(path)).height == 40_000
        assert blocks_of(path, 9_999).height == 40_000

    @pytest.mark.parametrize("ending", [*PACK])
    def test_several_frames_in_one_file(self, tmp_path, ending):
        path = tmp_path / "log.csv"
        lines = self.TEXT.encode().splitlines(keepends=True)
        content = b"".join(PACK[ending](b"".join(lines[start : start + 5_000])) for start in range(0, 40_001, 5_000))
        skipped = b"\x50\x2a\x4d\x18\x04\x00\x00\x00size" if ending == ".zst" else b""  # as pzstd writes first
        path.write_bytes(skipped + content)
        assert read_frame(File(path)).height == 40_000
        assert blocks_of(path, 9_999).height == 40_000

    def test_a_line_at_the_end_is_named(self, tmp_path):
        path = tmp_path / "log.csv"
        path.write_bytes(PACK[".zst"](ENCODINGS["utf-16-le"] + (self.TEXT + "a,b,c\n").encode("utf-16-le")))
        for rows in (None, 9_999):
            assert "line 40002 has 3 fields, the header 2" in error(path, rows)
