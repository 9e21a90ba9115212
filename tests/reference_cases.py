"""Made-up data, commands and comparisons for `test_reference_runs.py` and `test_old_runs.py`.

Everything here is drawn from `random.Random.random` alone, whose numbers are the same in every version of Python, and
nothing is imported from inside the package: these two tests have to survive any change of its files.
"""

import csv
import json
import math
import random
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

ITEMS = [f"item{number:02}" for number in range(24)]
NEW_ITEMS = [f"new{number}" for number in range(4)]
LABELS = ["sport", "travel", "music", "food", "art", "chess"]  # the first in half of the documents, the last in few
TOLERANCE = 1e-5  # absolute, and relative to the stored number
STRIDES = (1, 1, 1, 2, 5)  # from an item to the next one


def command(*arguments: object) -> None:
    """Run `python -m hyperfocal ARGUMENTS` in this process; it has to end with exit code 0."""
    with patch.object(sys, "argv", ["hyperfocal", *map(str, arguments)]), pytest.raises(SystemExit) as ended:
        runpy.run_module("hyperfocal", run_name="__main__", alter_sys=True)
    assert not ended.value.code, f"hyperfocal {arguments[0]} ended with exit code {ended.value.code}"


def write_log(path: Path, users: int, *, first: str = "u", items: list[str] = ITEMS, seed: int = 0) -> Path:
    """Write a log of users who walk round the items with a few strides; return its path."""
    rng = random.Random(seed)
    lines = ["user,item,order"]
    for user in range(users):
        place = int(rng.random() * len(items))
        for order in range(8 + int(rng.random() * 5)):
            lines.append(f"{first}{user},{items[place]},{seed * 100 + order}")
            place = (place + STRIDES[int(rng.random() * len(STRIDES))]) % len(items)
    return write_lines(path, lines)


def write_items(path: Path, items: list[str]) -> Path:
    """Write a table of items with a category, two words and a price; return its path."""
    words = ("red", "green", "blue")
    rows = [
        f"{item},{'ab'[place % 2]},{words[place % 3]} {words[place % 2]},{place * 1.5}"
        for place, item in enumerate(items)
    ]
    return write_lines(path, ["item,kind,colors,price", *rows])


def documents(number: int, *, seed: int = 0) -> list[dict[str, object]]:
    """Return documents with id, text and labels; most words of a text come from its labels."""
    rng = random.Random(seed)
    rows: list[dict[str, object]] = []
    for place in range(number):
        labels = [label for rank, label in enumerate(LABELS, start=1) if rng.random() < 0.5 / rank]
        words = [f"{label}{int(rng.random() * 4)}" for label in labels if rng.random() < 0.8]
        words += [LABELS[int(rng.random() * len(LABELS))] + "0" for _ in range(2)]
        words += [f"word{int(rng.random() * 40)}" for _ in range(4)]
        rows.append({"id": f"{seed}-{place}", "text": " ".join(words), "labels": labels})
    return rows


def write_documents(path: Path, rows: list[dict[str, object]]) -> Path:
    """Write documents as JSON lines; return the path."""
    return write_lines(path, [json.dumps(row) for row in rows])


def write_lines(path: Path, lines: list[str]) -> Path:
    """Write lines to a file, and its folder where it is missing; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read_rows(path: Path) -> list[dict[str, object]]:
    """Return the rows of a CSV or JSON-lines file; a field that reads as a number is one."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open(newline="") as file:
        return [{key: as_number(field) for key, field in row.items()} for row in csv.DictReader(file)]


def as_number(field: str) -> float | str:
    try:
        return float(field)
    except ValueError:
        return field


def differences(stored: object, measured: object, place: str) -> Iterator[str]:
    """Yield a line for each value that differs by more than the tolerance, or is only on one side."""
    if isinstance(stored, dict) and isinstance(measured, dict):
        for key in sorted(stored.keys() | measured.keys()):
            yield from differences(stored.get(key, "missing"), measured.get(key, "missing"), f"{place} {key}")
    elif isinstance(stored, list) and isinstance(measured, list) and len(stored) == len(measured):
        for number, pair in enumerate(zip(stored, measured, strict=True)):
            yield from differences(*pair, f"{place} {number}")
    elif not is_close(stored, measured):
        yield f"{place}: {stored} -> {measured}"


def is_close(stored: object, measured: object) -> bool:
    if isinstance(stored, int | float) and isinstance(measured, int | float):
        return math.isclose(stored, measured, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return stored == measured
