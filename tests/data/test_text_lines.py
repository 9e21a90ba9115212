"""Documents in text lines: LibMultiLabel's three fields, next to fastText and plain lines."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.config.classify import TextDataSettings
from hyperfocal.data.blocks import read_blocks
from hyperfocal.data.documents import as_documents
from hyperfocal.data.files import File
from hyperfocal.data.readers import read_frame
from hyperfocal.data.stored_documents import stored_documents, stream_documents
from hyperfocal.data.text_lines import TEXT_READERS
from hyperfocal.errors import DataError

LINES = "7\tsport travel\tred  wine, dry\n\n8\t\tblue\n9\tsport\t \n"


def read(path):
    return read_frame(File(path), readers=TEXT_READERS, row="document")


def blocks(path, rows):
    return [block.frame for block in read_blocks(path, rows, readers=TEXT_READERS, row="document")]


@pytest.mark.parametrize("name", ["docs.txt", "docs.txt.zst"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_three_fields(put, name, end):
    path = put(name, LINES.replace("\n", end))
    expected = [("7", ["sport", "travel"], "red  wine, dry"), ("8", [], "blue"), ("9", ["sport"], "")]
    assert read(path).rows() == expected
    assert [row for frame in blocks(path, 1) for row in frame.rows()] == expected
    documents = as_documents(path)
    assert documents.ids.to_list() == ["7", "8", "9"]
    assert not documents.numbered
    assert documents.labels.to_list() == [["sport", "travel"], [], ["sport"]]
    assert documents.counts()["empty_texts"] == 1


def test_streamed_documents_are_the_same(put, tmp_path, monkeypatch):
    monkeypatch.setattr("hyperfocal.data.stored_documents.BLOCK_ROWS", 1)
    path = put("docs.txt", LINES)
    (tmp_path / "work").mkdir()
    stored = stored_documents(stream_documents(path, TextDataSettings(), tmp_path / "work"))
    whole = as_documents(path)
    assert stored.ids.equals(whole.ids)
    assert stored.all_texts().to_list() == whole.all_texts().to_list()
    assert stored.labels.to_list() == whole.labels.to_list()


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("7\ta\tred\n8\tblue\n", ["text"]),  # a line with one tab
        ("7\ta\tred\tdry\n", ["text"]),
        ("7\ta\t__label__b red\n", ["text", "labels"]),
        ("__label__a\tred\twine\n", ["text", "labels"]),
        ("red wine\n", ["text"]),
        ("7\ta\ta __label in the text\n", ["id", "labels", "text"]),
    ],
)
def test_every_line_decides(put, text, columns):
    path = put("docs.txt", text)
    assert read(path).columns == columns
    assert blocks(path, 1)[0].columns in (columns, ["text"])  # a block may have no labels
    assert (blocks(path, 1)[0].columns == ["id", "labels", "text"]) == (columns == ["id", "labels", "text"])


@pytest.mark.parametrize("line", ["9\tred", "9\ta\tred\tdry", "__label__a\tred\tdry"])
@pytest.mark.parametrize("rows", [None, 1, 7, 2000])
def test_a_later_line_that_does_not_fit_is_named(put, line, rows):
    path = put("docs.txt", "7\ta\tred\n\n" + "8\ta\tblue\n" * 999 + f"{line}\n")
    with pytest.raises(DataError) as caught:
        read(path) if rows is None else blocks(path, rows)
    message = f"{path} line 1002: {line!r} is not id<TAB>labels<TAB>text, unlike the other lines. "
    assert str(caught.value) == message + "Write exactly two tabs in each line"


@pytest.mark.parametrize("rows", [None, 1, 7, 2000])
def test_the_first_thousand_lines_decide(put, rows):
    path = put("docs.txt", "\ufeff7\ta\tred\n\n" + "8\ta\tblue\n" * 800 + "red wine\n" * 199 + "9\ta\tb\n" * 9_000)
    frame = read(path) if rows is None else pl.concat(blocks(path, rows))
    assert frame.columns == ["text"]
    assert len(frame) == 10_000


@pytest.mark.parametrize("rows", [1, 2])
def test_the_extreme_classification_format_by_blocks(put, rows):
    with pytest.raises(DataError, match="numbered features in the Extreme Classification format"):
        blocks(put("train.txt", "2 4 3\n0,2 1:1.0 3:0.5\n"), rows)


@pytest.mark.parametrize("rows", [None, 4, 30])
def test_one_line_of_many_that_does_not_fit_is_named(put, rows):
    lines = [f"{number}\ta b\tred wine\n" for number in range(20)]
    lines[14] = "14\ta b\n"
    path = put("docs.txt", "".join(lines))
    with pytest.raises(DataError, match=r"line 15: '14\\ta b' is not id<TAB>labels<TAB>text, unlike the other lines"):
        read(path) if rows is None else blocks(path, rows)
    few = put("docs.txt", "".join(lines[10:19]))
    assert read(few).columns == ["text"]


def test_later_lines_that_fit_by_chance_keep_the_form_of_the_first(put):
    path = put("docs.txt", "red wine\n7\ta\tblue\n")
    assert pl.concat(blocks(path, 1))["text"].to_list() == ["red wine", "7\ta\tblue"]
    path = put("docs.txt", "__label__a red\n7\ta\tblue\n")
    assert [frame.columns for frame in blocks(path, 1)] == [["text", "labels"]] * 2


def test_the_extreme_classification_format_is_no_text(put):
    for line in ("0,2 1:1.0 3:0.5", " 0:2", "1 0:1"):
        with pytest.raises(DataError, match="numbered features in the Extreme Classification format"):
            read(put("train.txt", f"2 4 3\n{line}\n"))
    assert read(put("docs.txt", "2 4 3\nat 10:30 we met\n"))["text"].to_list() == ["2 4 3", "at 10:30 we met"]


fields = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=4)
documents = st.lists(st.tuples(fields, st.lists(fields, max_size=3), fields), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(documents, st.integers(1, 3), st.sampled_from(["", ".gz"]))
def test_any_documents(tmp_path_factory, rows, size, ending):
    from packing import pack

    path = tmp_path_factory.mktemp("any") / f"docs.txt{ending}"
    text = "".join(f"{name}\t{' '.join(labels)}\t{text}\n" for name, labels, text in rows)
    path.write_bytes(pack(path.name, text.encode()))
    assert read(path).rows() == rows
    assert pl.concat(blocks(path, size)).rows() == rows
