import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.data.files import File, csv_rows, find_delimiter, find_fault

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
