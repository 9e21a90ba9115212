"""Start processes from one that has imported the libraries, so that each starts in a tenth of the time.

Each is a real process with its own working folder and streams: only Python's start and the imports of other
libraries are shared, and nothing of hyperfocal is.
"""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

LIBRARIES = ("pandas", "polars", "scipy.stats", "sklearn.model_selection", "sklearn.svm", "torch", "torch._dynamo")


class Ended(NamedTuple):
    """A process that has ended."""

    returncode: int
    stdout: str
    stderr: str


@contextmanager
def warm_python():
    """Yield a function that runs code as `python -c CODE` does, in a folder, and returns its `Ended`."""
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},  # a process with threads cannot be forked safely
        ) as server,
    ):
        streams = [Path(folder) / name for name in ("stdout", "stderr")]

        def run(code, cwd, timeout=60):
            server.stdin.write(json.dumps([code, str(cwd), *map(str, streams), timeout]) + "\n")
            server.stdin.flush()
            return Ended(int(server.stdout.readline()), *(stream.read_text(encoding="utf-8") for stream in streams))

        yield run
        server.stdin.close()


def serve():
    """Fork a process for each line of stdin, and print the exit code with which it ended."""
    for name in LIBRARIES:
        __import__(name)
    for line in sys.stdin:
        code, cwd, stdout, stderr, timeout = json.loads(line)
        sys.stdout.flush()
        if (child := os.fork()) == 0:
            return become(code, cwd, stdout, stderr, timeout)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return None


def become(code, cwd, stdout, stderr, timeout):
    """Give the process its folder, its streams and its deadline; return the code that it is to run."""
    import signal

    signal.alarm(timeout)  # ends it
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, stdout, WRITE), (2, stderr, WRITE)):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(cwd)
    sys.argv, sys.path[0] = ["-c"], ""
    return code


WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC

if __name__ == "__main__":
    if (block := serve()) is not None:
        exec(compile(block, "<string>", "exec"), {"__name__": "__main__"})
