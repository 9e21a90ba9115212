"""The memory that a parser needs at least: the bytes that are counted, and the time that counting takes."""

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from hyperfocal.data import memory
from hyperfocal.data.files import File
from hyperfocal.data.memory import check_csv, check_json, check_lines, check_table
from hyperfocal.errors import DataError

FILE = File(Path("log.csv"))
LONG = 2 * 2**20  # bytes of a long line: shorter ones count as 0


@pytest.fixture
def least(monkeypatch):
    """Return a function that returns the least bytes with which a check passes."""

    def passes(check, free):
        monkeypatch.setattr(memory, "free_memory", lambda: (free, "this test"))
        try:
            check()
        except DataError:
            return False
        return True

    def search(check):
        low, high = 0, 2**40
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if passes(check, middle) else (middle + 1, high)
        return low

    return search


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"a,b\n1,2\n", 4 * 8 + 2 * (11_264 + 16 * 2)),
        (b"a,b", 4 * 3 + 2 * 11_264),
        (b"a\n" + b"x" * LONG + b"\n", 4 * (LONG + 3) + 10 * LONG + 11_264 + 16 * 2),
    ],
)
def test_csv(least, tmp_path, text, expected):
    (tmp_path / "log.csv").write_bytes(text)
    assert least(lambda: check_csv(text, ",", FILE)) == expected
    assert least(lambda: check_csv(tmp_path / "log.csv", ",", FILE)) == expected


def test_an_empty_csv_needs_nothing(least, tmp_path):
    (tmp_path / "log.csv").touch()
    assert least(lambda: check_csv(tmp_path / "log.csv", ",", FILE)) == 0


def test_lines(least):
    assert least(lambda: check_lines(b"u i\nv j\n", FILE)) == 4 * 8 + 75 * 2
    assert least(lambda: check_lines(b"u" * LONG, FILE)) == (4 + 10) * LONG


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (b'{"a":1,"b":2}\n{"a":3}\n', 2),
        (b'{"a" : {"c": [{"d"\t:1}]}}\n', 3),
        (b'{"a":"b","c":"d:e"}\n', 2),
        (rb'{"a\"b":1,"a":"{\"c\":1,\"d\":\"e\"}","f\\":"\\"}' + b"\n", 3),
        (b'{"a":"cut off\n{"b":1}\n', 2),
        (b'{"a":"cut off \\\n{"b":1}\n', 2),
        (b'{"a":"cut off \\', 1),
        (b"", 0),
    ],
)
def test_json(least, text, keys):
    assert least(lambda: check_json(text, FILE)) == 4 * len(text) + 3_072 * keys


def test_json_of_many_keys(least):
    """From 501 keys in a sample of lines on, the keys of all lines count, and a cell for each key and line."""
    few, many = (b"{" + b",".join(b'"k%03d":1' % n for n in range(keys)) + b"}" for keys in (500, 501))
    assert least(lambda: check_json(few, FILE)) == 4 * 4_501 + 3_072 * 500
    assert least(lambda: check_json(many, FILE)) == 4 * 4_510 + 3_072 * 501 + 8 * 501


def test_a_table(least):
    table = pl.LazyFrame({"a": [1, 2, 3, 4] * 2, "b": list("wxyz") * 2, "c": [True] * 8})
    assert least(lambda: check_table(table, FILE)) == 8 * (8 + 16) + 1


def test_the_message(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: (2**14, "this test"))
    with pytest.raises(DataError) as caught:
        check_csv(b"a,b\n1,2\n", ",", FILE)
    assert str(caught.value) == (
        "log.csv: reading it needs about 22.1 KiB of memory, but this test leaves 16.0 KiB. Split the file, or leave "
        "out columns and long fields"
    )


def test_the_time_grows_with_the_size():
    """If each quote began a search of its own, these lines of 5 MB would take hours."""
    code = """
from hyperfocal.data.files import File
from hyperfocal.data.memory import check_json
for end in (b'"}', b'', b'"', b'\\\\'):
    for middle in (b'\\\\"' * 2_500_000, b'"' * 5_000_000, b'" ' * 2_500_000, b'"' + b' ' * 5_000_000):
        check_json(b'{"user":"' + middle + end + b'\\n', File("log.jsonl"))
print("done")
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100).stdout == "done\n"
