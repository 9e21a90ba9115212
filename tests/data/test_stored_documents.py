"""Streamed documents have the ids, texts, labels, groups, counts and errors of documents that are read at once."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.config.classify import TextDataSettings
from hyperfocal.data import stored_documents as stream_documents
from hyperfocal.data import stored_texts
from hyperfocal.data.documents import as_documents
from hyperfocal.data.stored_documents import stored_documents
from hyperfocal.errors import DataError

WORDS = st.sampled_from(["", "a", "b c", "ü", "x,y", "[1", "l\nn"])
ROWS = st.lists(st.tuples(WORDS, st.lists(st.sampled_from(["a", "ü", "b c"]), max_size=2, unique=True)), min_size=1)


def streamed(path, columns=None, work=None):
    with TemporaryDirectory() as folder, patch.object(stream_documents, "BLOCK_ROWS", 3):
        place = Path(work or folder)
        found = stored_documents(stream_documents.stream_documents(path, columns or TextDataSettings(), place))
        with patch.object(stored_texts, "BLOCK_TEXTS", 2):
            texts = pl.concat(list(found.texts.blocks()))
        assert [found.texts[row] for row in range(len(found))] == texts.to_list()
        return found, texts


def assert_same(path, columns=None):
    found, texts = streamed(path, columns)
    expected = as_documents(path, columns)
    assert texts.to_list() == expected.texts.to_list()
    assert found.labels.to_list() == expected.labels.to_list()
    assert found.ids.to_list() == expected.ids.to_list()
    assert (found.id_column, found.numbered) == (expected.id_column, expected.numbered)
    assert found.counts() == expected.counts()
    if expected.groups is None:
        assert found.groups is None
    else:
        assert found.group_numbers().tolist() == expected.group_numbers().tolist()
    return found


@settings(max_examples=25, deadline=None)
@given(ROWS, st.sampled_from([".jsonl", ".csv", ".tsv", ".parquet"]), st.booleans())
def test_any_documents_are_read_as_at_once(rows, suffix, identified):
    rows = [*rows, ("last", ["a"])]
    frame = pl.DataFrame({"text": [row[0] for row in rows], "tags": [row[1] for row in rows]})
    if identified:
        frame = frame.with_columns(id=pl.Series([f"d{number}" for number in range(len(rows))]))
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"texts{suffix}"
        if suffix == ".parquet":
            frame.write_parquet(path)
        elif suffix == ".jsonl":
            frame.write_ndjson(path)
        else:
            lists = [json.dumps(row[1]) for row in rows]
            frame.with_columns(tags=pl.Series(lists)).write_csv(path, separator="\t" if suffix == ".tsv" else ",")
        assert_same(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "text,labels\n" + "x,Food and drink\n" * 5 + "y,Travel|Food and drink\n"),
        ("a.csv.gz", "text,labels\n" + "x,a;b\n" * 4 + "y,a|b\n"),
        ("a.csv", "text,labels\n" + "x,a b\n" * 5),
        ("a.csv", 'title,body,labels,copy_of\nt,b,a,\n,"q\nr",b,1\nt,,a,1\nt,b,c,2\n'),
        ("a.txt", "one\ntwo\nthree\nfour\n__label__a five\n\n__label__b __label__a six\n"),
        ("a.jsonl", '{"title": "t"}\n' * 4 + '{"body": "b", "labels": "a"}\n'),
        ("a.jsonl", '{"text": "t", "labels": ["a"]}\n' * 4 + '{"text": "b", "labels": "a|b"}\n'),
        ("a.txt", "\ufeff__label__a one\ntwo\nthree\n\ufeff four\n\n__label__b five\n"),
        ("a.jsonl", '{"text": "t", "labels": 1.0, "m": [1]}\n' * 4 + '{"text": "t", "labels": 1.0, "m": [{"a": 1}]}\n'),
        ("a.csv", "text,labels,tags\n" + "x,a|b,\"['q']\"\n" * 5),
        ("a.jsonl", '{"text": "t", "labels": 1}\n' * 4 + '{"text": null, "labels": null}\n'),
    ],
    ids=[
        "bar",
        "two marks",
        "space",
        "quotes",
        "late words",
        "late columns",
        "lists and text",
        "byte order marks",
        "1.0",
        "tags",
        "numbers",
    ],
)
def test_what_only_the_whole_file_tells(put, name, text):
    columns = TextDataSettings(group="copy_of") if "copy_of" in text else None
    assert_same(put(name, text), columns)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "id,text,labels\n" + "".join(f"{number},x,a\n" for number in (1, 2, 3, 4, 2))),
        ("a.csv", "id,text,labels\n1,x,a\n2,x,a\n3,x,a\n,x,a\n"),
        ("a.csv", "text,labels\n" + "x,\n" * 5),
        ("a.csv", "text,labels\n"),
        ("a.csv", ""),
        ("a.csv", "body,kind\nx,a\n"),
        ("a.txt", "one\ntwo\n" * 4),
        ("a.csv", "text,labels\n" + "x,a\n" * 4 + "y,\"['a', 'b']\"\n"),
        ("a.jsonl", '{"text": "t", "labels": "a"}\n' * 4 + '{"text": "t", "labels": [["a"]]}\n'),
        ("a.jsonl", '{"text": "t", "labels": "a"}\n' * 4 + '{"text": \n'),
    ],
    ids=["id twice", "no id", "no label", "no row", "empty", "columns", "no words", "python", "nested", "no json"],
)
def test_errors_are_the_same(put, tmp_path, name, text):
    path, messages = put(name, text), []
    for read in (streamed, as_documents):
        with pytest.raises(DataError) as caught:
            read(path)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_some_of_the_texts(put, tmp_path):
    found, _ = streamed(put("a.csv", "text,labels\n" + "".join(f"ü{number},a\n" for number in range(7))), work=tmp_path)
    some = found.select(pl.Series([5, 1, 1]).to_numpy())
    assert [some.texts[row] for row in range(3)] == ["ü5", "ü1", "ü1"]
    assert some.counts() == {"documents": 3, "empty_texts": 0, "without_labels": 0, "duplicate_texts": 1}
