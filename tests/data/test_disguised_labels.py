"""Rows of an indicator matrix and lists in Python syntax are not labels, whichever way they come in."""

import csv
import json

import numpy as np
import pandas as pd
import pytest

from hyperfocal.classify.indicator import as_label_lists
from hyperfocal.config.classify import TextDataSettings
from hyperfocal.data.documents import as_documents
from hyperfocal.data.label_columns import is_python_list
from hyperfocal.data.stored_documents import stored_documents, stream_documents
from hyperfocal.errors import DataError

MATRICES = [
    [[0, 1, 0], [1, 1, 0]],
    [[True, False], [False, True]],
    [[True], [True, False]],
    [[0.0, 1.0], [1.0, 0.0]],
    [[0, 1, -1], [1, 0, -1]],
    [[0, 1, -100], [1, 0, 1]],
    [[0.3, 0.7, 0.0], [1.0, 0.0, 0.5]],
    [[0, 1, None], [1, 0, 0]],
    [[1, 1], [], None, [1, 1]],
]
NAMES = [
    ([[0, 1], [1]], [["0", "1"], ["1"]]),
    ([[0], [1]], [["0"], ["1"]]),
    ([[0, 1], [1, 7]], [["0", "1"], ["1", "7"]]),
    ([["0", "1"], ["1", "0"]], [["0", "1"], ["1", "0"]]),
    ([["true", "false"], ["a", "b"]], [["true", "false"], ["a", "b"]]),
]
AS_PRINTED = [  # by Python, numpy and pandas
    "[True, False, True]",
    "[0 1 0]",
    "[0. 1. 0.]",
    "[0 1 0\n 1 ... 0]",
    "[1.]",
    "(1, 2)",
    "(1,)",
    "()",
    "{1, 2}",
    "{1}",
    "set()",
    "frozenset({1})",
    "['a', 'b']",
    "['b', \"it's\"]",
    "['a' 'b']",
    "['a]', 'b']",
    "('a', 'b')",
    "{'a'}",
    "{'a': 1}",
    "array(['a'], dtype=object)",
    "[nan]",
    "[None]",
    "[a, b]",
]
LABELS = [  # labels, although some brackets are around them
    ("(foo)", ["(foo)"]),
    ("[foo]", ["[foo]"]),
    ("(2)", ["(2)"]),
    ("(foo) bar|x", ["(foo) bar", "x"]),
    ("[draft] x|y", ["[draft] x", "y"]),
    ("(a, b)|c", ["(a, b)", "c"]),
    ("(a)|(b)", ["(a)", "(b)"]),
    ('["(1, 2)"]', ["(1, 2)"]),
    ('["a", NaN]', ["a"]),
    ("0|1|1|7", ["0", "1", "7"]),
]


def write_csv(path, values):
    with path.open("w", newline="") as file:
        rows = [["t", value if value is None or isinstance(value, str) else json.dumps(value)] for value in values]
        csv.writer(file).writerows([["text", "labels"], *rows])
    return path


def write_jsonl(path, values):
    path.write_text("".join(json.dumps({"text": "t", "labels": value}) + "\n" for value in values))
    return path


def frame(values):
    return pd.DataFrame({"text": ["t"] * len(values), "labels": pd.Series(values, dtype=object)})


def write_parquet(path, values):
    frame(values).to_parquet(path)
    return path


def streamed(path, values):
    (path.parent / "work").mkdir()
    arrays = stream_documents(write_csv(path.with_suffix(".csv"), values), TextDataSettings(), path.parent / "work")
    return stored_documents(arrays)


FILES = {"a.csv": write_csv, "a.jsonl": write_jsonl, "a.parquet": write_parquet}
DOORS = {
    **{name: lambda path, values, name=name: as_documents(FILES[name](path.with_name(name), values)) for name in FILES},
    "pandas": lambda path, values: as_documents(frame(values)),
    "streamed": streamed,
}


def labels_of(door, path, values):
    if door == "lists":
        return [[*row] for row in as_label_lists(values)]
    return DOORS[door](path, values).labels.to_list()


@pytest.mark.parametrize("door", [*DOORS, "lists"])
@pytest.mark.parametrize("rows", MATRICES, ids=str)
def test_rows_of_a_matrix_are_refused(tmp_path, door, rows):
    with pytest.raises(DataError, match=r"holds multi-hot rows such as|may be labels or rows of an indicator matrix"):
        labels_of(door, tmp_path / "a", rows)


@pytest.mark.parametrize("door", [*DOORS, "lists"])
@pytest.mark.parametrize(("rows", "names"), NAMES, ids=str)
def test_other_numbers_and_texts_are_names(tmp_path, door, rows, names):
    assert labels_of(door, tmp_path / "a", rows) == names


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("text", AS_PRINTED)
def test_a_list_as_python_prints_it_is_refused(tmp_path, door, text):
    with pytest.raises(DataError, match="in Python syntax") as caught:
        labels_of(door, tmp_path / "a", ["a,b", text])
    assert 'Write JSON, such as ["a", "b"], or a|b' in str(caught.value)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("text", "names"), LABELS)
def test_a_label_may_have_brackets(tmp_path, door, text, names):
    assert labels_of(door, tmp_path / "a", ["u|v", text]) == [["u", "v"], names]


@pytest.mark.parametrize("text", ["0 1 0", "0|1|0", "0.0,1.0", "1;-1", "0,-100"])
def test_numbers_between_separators_may_be_a_matrix_too(tmp_path, text):
    for door in DOORS:
        (tmp_path / door).mkdir()
        with pytest.raises(DataError, match="holds multi-hot rows such as"):
            labels_of(door, tmp_path / door / "a", [text, None, text])


def test_what_pandas_writes_to_csv(tmp_path):
    for row in ([True, False], np.array([0, 1, 0]), np.array([0.0, 1.0]), ("a", "b"), {"a"}, [np.nan]):
        frame([row, row]).to_csv(tmp_path / "a.csv", index=False)
        with pytest.raises(DataError, match="in Python syntax"):
            as_documents(tmp_path / "a.csv")
    frame([[0.0, 1.0], [1.0, 0.0]]).to_csv(tmp_path / "a.csv", index=False)  # JSON, by chance
    with pytest.raises(DataError, match="multi-hot"):
        as_documents(tmp_path / "a.csv")


def test_a_long_text_in_brackets_is_checked_at_once():
    """In time that grows with the square of the length, this would take hours."""
    assert not is_python_list("[" + "1" * 500_000 + "x]", "|")
    assert is_python_list("[" + "1 " * 500_000 + "]", "|")
