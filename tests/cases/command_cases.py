"""Helpers that run commands, in this process or in another one, and small files for them to read."""

import json
import os
import subprocess
import sys

import numpy as np
from click.testing import CliRunner

from hyperfocal.cli import main

NAMES = ["sport", "travel", "music", "food", "art", "chess"]  # the first in half of the documents, the last in few
TINY = ("--set", "train.epochs=2", "--set", "train.threads=1", "--set", "head.name=linear")


def invoke(*arguments):
    """Run a command in this process; return click's result, with stdout and stderr apart."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def done(*arguments):
    """Run a command that must succeed; return what it printed on stdout."""
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments):
    """Run a command that must end with exit code 2 and an error; return that on one line.

    Before the error there may be the plan of the data, if these could be read.
    """
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    before, mark, message = result.stderr.partition("error: ")
    assert mark
    assert before == "" or before.startswith("Read ")
    return " ".join((mark + message).split())


def process(*arguments, code=0, **options):
    """Run a command in a separate process, as a user does; return the finished process."""
    command = [sys.executable, "-m", "hyperfocal", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ.copy(), **options)
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended


def rows(number=120, *, seed=0):
    """Return documents with id, title, body and labels; title words give away the first labels, body words others."""
    rng = np.random.default_rng(seed)
    chosen = rng.random((number, len(NAMES))) < 0.5 / np.arange(1, len(NAMES) + 1)
    found = []
    for place, row in enumerate(chosen):
        labels = [name for name, used in zip(NAMES, row, strict=True) if used]
        words = [f"{name}{rng.integers(2)}" for name in labels]
        title = " ".join(["the", *(word for word in words if word[:3] in ("spo", "tra"))])
        body = " ".join(["old", *(word for word in words if word[:3] not in ("spo", "tra"))])
        found.append({"id": f"{seed}-{place}", "title": title, "body": body, "labels": labels})
    return found


def write(path, documents):
    """Write documents as JSON lines; return the path."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in documents))
    return path


def names_below(folder):
    """Return the relative paths of everything in a folder, including hidden files."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
