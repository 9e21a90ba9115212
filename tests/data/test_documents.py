import csv
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hyperfocal.config.classify import TextDataSettings
from hyperfocal.data.documents import Documents, as_documents, documents_from_frame
from hyperfocal.errors import DataError

DATA = Path(__file__).parents[2].parent / "shared" / "data"
TABLES = ("a.jsonl", "a.ndjson.gz", "a.csv", "a.tsv", "a.csv.gz", "a.parquet")
words = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Z")), min_size=1, max_size=4)
ROWS = [("d1", "Red wine", ["drinks", "wine"]), ("d2", "", ["a b", "c,d"]), ("d3", "Line\nbreak é", [])]


def packed(name: str, rows: list[tuple[str, str, list[str]]]) -> bytes:
    """Return the bytes of documents as other programs would write them; labels in CSV as JSON."""
    if "parquet" in name:
        raw = io.BytesIO()
        types = {"id": pl.String, "text": pl.String, "labels": pl.List(pl.String)}
        pl.DataFrame(rows, types, orient="row").write_parquet(raw)
        return raw.getvalue()
    if "json" in name:
        text = "".join(json.dumps(dict(zip(("id", "text", "labels"), row, strict=True))) + "\n" for row in rows)
    else:
        file = io.StringIO()
        writer = csv.writer(file, delimiter="\t" if "tsv" in name else ",")
        writer.writerows([("id", "text", "labels"), *((i, text, json.dumps(names)) for i, text, names in rows)])
        text = file.getvalue()
    return gzip.compress(text.encode()) if name.endswith(".gz") else text.encode()


def rows_of(documents: Documents) -> list[tuple[str, str, list[str]]]:
    return list(zip(documents.ids, documents.texts, documents.labels.to_list(), strict=True))


def error(path: Path, columns: TextDataSettings | None = None, **options: bool) -> str:
    with pytest.raises(DataError) as caught:
        as_documents(path, columns, **options)
    return str(caught.value).replace(str(path), "FILE")


# Formats


@pytest.mark.parametrize("name", TABLES)
def test_every_table_reads_alike(put, tmp_path, name):
    (tmp_path / name).write_bytes(packed(name, ROWS))
    documents = as_documents(tmp_path / name)
    assert rows_of(documents) == ROWS
    assert documents.counts() == {"documents": 3, "empty_texts": 1, "without_labels": 1, "duplicate_texts": 0}
    assert documents.groups is None
    assert not documents.numbered


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(words, st.lists(words, max_size=3, unique=True)), min_size=1, max_size=5),
    st.sampled_from(TABLES),
)
def test_any_text_and_label_survive(tmp_path_factory, rows, name):
    assume(any(names for _, names in rows))
    rows = [(f"d{number}", text, names) for number, (text, names) in enumerate(rows)]
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(packed(name, rows))
    assert rows_of(as_documents(path)) == rows


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_fasttext_lines(put, name, end):
    lines = [
        "__label__a __label__b  How to  __label__c cook",
        "",
        " no label",
        "__label__ x",
        "\t__label__d __label__d",
    ]
    assert rows_of(as_documents(put(name, end.join(lines)))) == [
        ("0", "How to  cook", ["a", "b", "c"]),  # a label left in the text would be a leak
        ("1", "no label", []),
        ("2", "x", []),
        ("3", "", ["d"]),
    ]


def test_lines_without_labels_are_texts(put):
    path = put("a.txt", "one\ntwo x__label__a\n")
    assert as_documents(path, need="texts").texts.to_list() == ["one", "two x__label__a"]
    assert error(path) == "FILE: no word begins with __label__. Write labels like this: __label__a __label__b text"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": "a", "labels": [0, 1, 0]}\n{"text": "b", "labels": [1, 1, 0]}\n'),
        ("a.jsonl", '{"text": "a", "labels": [false, true]}\n{"text": "b", "labels": [true, false]}\n'),
        ("a.csv", 'text,labels\na,"[0, 1, 0]"\nb,"[1, 0, 0]"\n'),
    ],
)
def test_multi_hot_rows_are_refused(put, name, content):
    assert "holds multi-hot rows such as" in error(put(name, content))


def test_numbers_that_are_no_multi_hot_rows_are_labels(put):
    lines = '{"text": "a", "labels": [0, 1]}\n{"text": "b", "labels": [1]}\n'
    assert as_documents(put("a.jsonl", lines)).labels.to_list() == [["0", "1"], ["1"]]
    named = '{"text": "a", "labels": ["0", "1"]}\n{"text": "b", "labels": ["1", "0"]}\n'
    assert as_documents(put("b.jsonl", named)).labels.to_list() == [["0", "1"], ["1", "0"]]


def test_a_prediction_needs_only_the_texts(put):
    path = put("a.csv", "body,other\nred,1\n")
    named = TextDataSettings(text=("body",), labels="tags", id="number", group="source")
    documents = as_documents(path, named, need="texts")
    assert (documents.texts.to_list(), documents.ids.to_list(), documents.groups) == (["red"], ["0"], None)
    assert "no column 'tags' (`labels=`)" in error(path, named)


def test_missing_labels_in_lists_are_no_labels():
    rows = [["a", None, 1.0], [float("nan")], [pd.NA, "b"]]
    assert Documents.from_lists(["x", "y", "z"], rows).labels.to_list() == [["a", "1"], [], ["b"]]


def test_json_rows_may_differ_in_how_they_write_labels(put):
    lines = [{"labels": ["a", 'q"é']}, {"labels": "b|c"}, {"labels": 7}, {"labels": None}, {}, {"labels": [1.0, 2]}]
    path = put("a.jsonl", "".join(json.dumps({"text": "t", **line}) + "\n" for line in lines))
    assert as_documents(path).labels.to_list() == [["a", 'q"é'], ["b", "c"], ["7"], [], [], ["1", "2"]]


def test_json_with_another_column_that_polars_cannot_type(put):
    rows = '{"text": "x", "labels": ["a"], "m": {"k": [1]}, "id": 1}\n{"text": "y", "labels": "b|c", "m": {"k": {}}}\n'
    path = put("a.jsonl", rows.replace('"y",', '"y", "id": "é",'))
    assert rows_of(as_documents(path)) == [("1", "x", ["a"]), ("é", "y", ["b", "c"])]


# Labels


@pytest.mark.parametrize(
    ("values", "separator", "labels"),
    [
        (["a, b|c", " d |"], "", [["a, b", "c"], ["d"]]),
        (["a, b;c", "d"], "", [["a, b", "c"], ["d"]]),
        (["a, b,a", ""], "", [["a", "b"], []]),
        (["a b", "c\t d"], "", [["a", "b"], ["c", "d"]]),
        (["a|b c", "d"], " ", [["a|b", "c"], ["d"]]),
        (["a::b c", "d"], "::", [["a", "b c"], ["d"]]),
        (['["a|b", 1, 2.5, null, ""]', "c;d"], "", [["a|b", "1", "2.5"], ["c", "d"]]),
        (["[q] x", "[r]"], "", [["[q]", "x"], ["[r]"]]),
        ([3, 4], "", [["3"], ["4"]]),
        ([3.0, None], "", [["3"], []]),
        ([[7, 7, None], None], "", [["7"], []]),
        ([[" a ", "", "a"], []], "", [["a"], []]),
    ],
)
def test_labels_in_every_form(values, separator, labels):
    frame = pl.DataFrame({"text": ["x", "y"], "labels": values})
    assert documents_from_frame(frame, TextDataSettings(separator=separator)).labels.to_list() == labels


@pytest.mark.parametrize("inner", [pl.Categorical, pl.Enum(["a", "b"])])
def test_labels_of_other_types(inner):
    frame = pl.DataFrame({"text": ["x"], "labels": pl.Series([["b", "a"]], dtype=pl.List(inner))})
    assert documents_from_frame(frame).labels.to_list() == [["b", "a"]]
    array = frame.with_columns(pl.Series("labels", [[2.0, 1.5]], dtype=pl.Array(pl.Float64, 2)))
    assert documents_from_frame(array).labels.to_list() == [["2", "1.5"]]


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        (["a"], '{"n": 1}'),
        (["a"], '["b", {"n": 1}]'),
        (["a"], '["b", ["c"]]'),
        ("a b", '[["c"]]'),
        ("a b", '{"n": 1}'),
    ],
)
def test_nested_labels_name_the_line(put, labels, line):
    rows = json.dumps({"text": "x", "labels": labels}) + '\n\n{"text": "y", "labels": ' + line + "}\n"
    message = error(put("a.jsonl", rows))
    assert message.startswith("FILE line 3: column 'labels' holds ")
    assert message.endswith(
        'but an object or a list is not a label. Allowed: texts and numbers, such as ["sport", "travel"]'
    )


def test_objects_in_every_row(put):
    rows = '{"text": "x"}\n{"text": "y", "labels": {"n": 1}}\n'
    assert error(put("a.jsonl", rows)).startswith("FILE line 2: column 'labels' holds {\"n\": 1}, but an object")


def test_a_list_of_python(put):
    message = error(put("a.csv", "text,labels\nx,a\n\ny,\"['a', 'b']\"\n"))
    wrong = "FILE line 4: labels ['a', 'b'] are a list, a tuple or a set in Python syntax. Write JSON, such as ["
    assert message.startswith(wrong)


def test_not_one_label(put):
    path = put("a.csv", "text,tags\nx,\ny,\n")
    assert error(path) == "FILE: column 'tags' has no label in any of 2 rows. Name another column with `labels=`"
    assert as_documents(path, need="texts").labels.to_list() == [[], []]


# Columns


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"Text": "x", "title": "t"}, "x"),
        ({"body": "b", "title": "t"}, "t\nb"),
        ({"body": "b", "content": "c"}, "b"),
        ({"description": "d", "content": "c"}, "c"),
        ({"description": "d"}, "d"),
        ({"title": None, "body": "b"}, "b"),
        ({"title": " ", "body": None}, ""),
    ],
)
@pytest.mark.parametrize("labels", ["labels", "label", "tags", "Categories"])
def test_known_columns(columns, text, labels):
    documents = documents_from_frame(
        pl.DataFrame({**columns, labels: ["a"]}, {**dict.fromkeys(columns, pl.String), labels: pl.String})
    )
    assert rows_of(documents) == [("0", text, ["a"])]
    assert documents.numbered


def test_named_columns(put):
    path = put("a.csv", "key,a,b,c,text,labels,src\n007,1,,3,no,no,s\n7,,,,no,l,\n")
    columns = TextDataSettings(text=("c", "a", "b"), id="key", group="src")
    documents = as_documents(path, columns)
    assert rows_of(documents) == [("007", "3\n1", ["no"]), ("7", "", ["l"])]
    assert documents.groups.to_list() == ["s", None]
    assert documents.id_column == "key"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ("txt",)}, "no column 'txt' (`text=`). Did you mean 'text'? Columns found: id, text, labels, source"),
        ({"labels": "lables"}, "no column 'lables' (`labels=`). Did you mean 'labels'? Columns"),
        ({"id": "key"}, "no column 'key' (`id=`). Columns found: id, text"),
        ({"group": "sorce"}, "no column 'sorce' (`group=`). Did you mean 'source'?"),
        ({"text": ("text", "labels")}, "column 'labels' cannot be both `text=` and `labels=`"),
    ],
)
def test_a_missing_column_names_its_flag(put, columns, message):
    assert message in error(put("a.csv", "id,text,labels,source\n1,x,a,s\n"), TextDataSettings(**columns))


def test_columns_that_cannot_be_told(put):
    assert error(put("a.csv", "id,words,labels\n1,x,a\n")).endswith(
        "Name it with `text=`. Columns found: id, words, labels"
    )
    path = put("a.csv", "id,text,topic\n1,x,a\n")
    assert "cannot tell which column is the labels; none is called labels, label, tags, categories." in error(path)
    assert len(as_documents(path, need="texts")) == 1
    assert "the header has column 'text' twice" in error(put("a.csv", "text,text,labels\nx,y,a\n"))


# Ids and groups


def test_ids_of_any_type_become_text(put):
    frame = pl.DataFrame({"text": ["x", "y"], "labels": ["a", "b"]})
    for values, ids in (([1, 2], ["1", "2"]), ([1.0, 2.5], ["1", "2.5"]), ([True, False], ["true", "false"])):
        assert documents_from_frame(frame.with_columns(pl.Series("id", values))).ids.to_list() == ids


def test_an_id_twice_names_both_lines(put):
    message = error(put("a.csv", "id,text,labels\n1,x,a\n\n2,y,a\n2,z,a\n1,z,a\n"))
    assert message.startswith("FILE line 5: id '2' is already at FILE line 4, but an id belongs to one document")


def test_a_missing_id(put):
    assert error(put("a.csv", "id,text,labels\n1,x,a\n,y,a\n")).startswith(
        "FILE line 3: no value in column 'id'. Every"
    )


def test_a_document_without_a_group_is_a_group_of_its_own():
    documents = Documents.from_lists(["a", "b", "c", "d"], groups=["g", None, "", "g"])
    numbers = documents.group_numbers().tolist()
    assert numbers[0] == numbers[3]
    assert len(set(numbers)) == 3
    assert Documents.from_lists(["a"]).group_numbers() is None


# Files that are wrong


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt", "a.parquet", "a.jsonl.gz"])
def test_an_empty_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    assert error(tmp_path / name) == "FILE: the file is empty. Give a file with one row per document"


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt"])
def test_blank_lines_only(put, name):
    assert error(put(name, "\n \n" if name != "a.csv" else "\n\n")).endswith(
        "the file is empty. Give a file with one row per document"
    )


def test_a_header_only(put):
    assert error(put("a.csv", "text,labels\n")) == "FILE: has no rows. Give a file with one row per document"


def test_invalid_json_names_the_line(put):
    message = error(put("a.jsonl", '{"text": "x", "labels": []}\n\n{"text": "y", "labels": [}\n'))
    assert "line 3 is not JSON: Expecting value at character 26" in message


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt", "a.txt.gz"])
def test_another_encoding_names_the_line(put, name):
    content = "text,labels\né,a\n" if "csv" in name else '{"text": "x"}\n{"text": "é"}\n'
    assert "line 2 is not UTF-8 text" in error(put(name, content.encode("latin-1")))


def test_columns_of_other_types():
    frame = pl.DataFrame({"text": [["x"]], "labels": ["a"]})
    with pytest.raises(DataError, match=r"column 'text' holds List\(String\)\. Allowed: text and numbers"):
        documents_from_frame(frame)


# Lists


def test_from_lists():
    documents = Documents.from_lists(["x", None, "x"], [[" a", "a"], [], ["b"]], ids=["p", "q", "r"])
    assert rows_of(documents) == [("p", "x", ["a"]), ("q", "", []), ("r", "x", ["b"])]
    assert documents.counts() == {"documents": 3, "empty_texts": 1, "without_labels": 1, "duplicate_texts": 1}
    assert rows_of(documents.select(np.array([2, 0]))) == [("r", "x", ["b"]), ("p", "x", ["a"])]
    assert len(Documents.from_lists([])) == 0
    assert len(documents.select(np.array([], dtype=np.int64))) == 0


def test_lists_that_do_not_fit():
    with pytest.raises(DataError, match=r"different lengths: \{'texts': 1, 'labels': 2\}"):
        Documents.from_lists(["x"], [["a"], []])
    with pytest.raises(DataError, match=r"'ab' is a text, not a list of labels\. Write \['ab'\]"):
        Documents.from_lists(["x"], ["ab"])
    with pytest.raises(DataError, match="frame row 1: id 'p' is already at frame row 0"):
        Documents.from_lists(["x", "y"], ids=["p", "p"])


# Real data


@pytest.mark.parametrize(
    ("name", "documents", "labels", "mean", "empty"),
    [
        ("debtags/train", 21_220, 593, 3.7, 0),
        ("debtags/valid", 4_635, 476, 3.6, 0),
        ("debtags/test", 4_445, 498, 3.6, 0),
        ("cooking/train", 12_404, 735, 2.3, 0),
        ("cooking/test", 3_000, 629, 2.3, 0),
        ("reuters/train", 7_770, 90, 1.2, 47),
        ("reuters/test", 3_019, 90, 1.2, 14),
    ],
)
def test_real_data_counts_as_its_readme_says(name, documents, labels, mean, empty):
    path = DATA / f"{name}.jsonl.gz"
    if not path.exists():
        pytest.skip(f"no {path}")
    read = as_documents(path, TextDataSettings(group="group" if "debtags" in name else ""))
    assert (len(read), read.labels.explode().n_unique()) == (documents, labels)
    assert round(read.labels.list.len().mean(), 1) == mean
    assert read.counts()["empty_texts"] == empty
    last = json.loads(gzip.decompress(path.read_bytes()).splitlines()[-1])
    assert (read.ids[-1], read.labels.to_list()[-1]) == (str(last["id"]), last["labels"])
    assert read.texts[-1] == (last["text"] if "text" in last else f"{last['title']}\n{last['body']}")
