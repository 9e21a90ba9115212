"""Count the source files that a small `fit` from a file on disk enters, as a reader who follows it would.

    python benchmarks/rooms.py [--job recommend|classify]

`hyperfocal recommend fit log.csv --out run`, or `classify fit` on n-grams, runs in this process on made-up data. A file
is entered when one of its functions is called, in any thread; what runs while a module is imported does not count. The
files are printed in the order of their first entry, with the functions entered and the lines of these functions. The
page report.html, which every `fit` writes, is included. The counts depend on no time, and on the machine only where a C
compiler or a GPU selects another backend of the loss.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import json
import os
import random
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import hyperfocal
from hyperfocal.cli import main as command_line

PACKAGE = Path(hyperfocal.__file__).parent
SETTINGS = {"train.epochs": 2, "train.batch_size": 16, "train.threads": 1}


def main() -> None:
    """Print a row per file, and the totals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--job", choices=JOBS, default="recommend")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HYPERFOCAL_CACHE"] = str(Path(folder) / "cache")
        arguments = JOBS[options.job](Path(folder))
        with entered() as codes, contextlib.redirect_stdout(io.StringIO()):
            command_line(list(map(str, arguments)), standalone_mode=False)
    print_rooms(codes, options.job)


def recommend(folder: Path) -> list[Any]:
    """Write a log; return the arguments that fit on it."""
    rng = random.Random(0)
    rows = [(f"u{user}", f"item{rng.randrange(20)}", order) for user in range(60) for order in range(8)]
    log = folder / "log.csv"
    log.write_text("user,item,order\n" + "".join(f"{user},{item},{order}\n" for user, item, order in rows))
    return ["recommend", "fit", log, "--out", folder / "run", *assignments(SETTINGS | {"model.embedding_width": 8})]


def classify(folder: Path) -> list[Any]:
    """Write documents; return the arguments that fit on them."""
    rng, names = random.Random(0), ("sport", "music", "food", "chess")
    rows = [rng.sample(names, k=rng.choice((1, 2))) for _ in range(120)]
    texts = [{"text": " ".join([*labels, f"word{rng.randrange(9)}"]), "labels": labels} for labels in rows]
    documents = folder / "documents.jsonl"
    documents.write_text("".join(json.dumps(row) + "\n" for row in texts))
    options = assignments(SETTINGS | {"features.kind": "ngrams", "head.width": 8})
    return ["classify", "fit", documents, "--out", folder / "run", *options]


JOBS: dict[str, Callable[[Path], list[Any]]] = {"recommend": recommend, "classify": classify}


def assignments(settings: dict[str, Any]) -> list[str]:
    """Return the options that give these settings."""
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


@contextlib.contextmanager
def entered() -> Iterator[dict[CodeType, None]]:
    """Give the functions of the package that are called meanwhile, in the order of their first call."""
    codes: dict[CodeType, None] = {}
    others: set[CodeType] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or code in codes or code in others:
            return
        if not is_function_of_package(code):
            others.add(code)
        elif not during_import(frame):
            codes[code] = None

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield codes
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def is_function_of_package(code: CodeType) -> bool:
    """Return whether this is a function; the bodies of modules and classes are not."""
    return in_package(code) and bool(code.co_flags & inspect.CO_OPTIMIZED)


def in_package(code: CodeType) -> bool:
    return code.co_filename.startswith(f"{PACKAGE}{os.sep}")


def during_import(frame: FrameType | None) -> bool:
    """Return whether a call comes from the body of a module of the package, as a decorator does."""
    while frame is not None:
        if frame.f_code.co_name == "<module>" and in_package(frame.f_code):
            return True
        frame = frame.f_back
    return False


def print_rooms(codes: dict[CodeType, None], job: str) -> None:
    """Print the files in the order of their first entry, and the totals."""
    files: dict[str, list[CodeType]] = {}
    for code in codes:
        files.setdefault(Path(code.co_filename).relative_to(PACKAGE).as_posix(), []).append(code)
    print("| | file | functions entered | their lines |\n|---|---|---|---|")
    for number, (name, functions) in enumerate(files.items(), start=1):
        print(f"| {number} | {name} | {len(functions)} | {len(lines_of(functions))} |")
    lines = sum(len(lines_of(functions)) for functions in files.values())
    whole = len([*PACKAGE.rglob("*.py")])
    print(f"\n{job} fit enters {len(files)} of {whole} files: {len(codes)} functions with {lines:,} lines of code.")


def lines_of(functions: list[CodeType]) -> set[int]:
    """Return the numbers of the lines with code in functions of one file."""
    return {line for code in functions for _, _, line in code.co_lines() if line}


if __name__ == "__main__":
    main()
