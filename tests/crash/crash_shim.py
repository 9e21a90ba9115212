"""Run commands under the shim: a conductor sees each call that changes files, and orders to run it, fail it or kill.

`Lab` has the compiled shim and the fork server. `Lab.run` runs a command, watched by a `Plan` or not.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
SECONDS = 120  # of a command, before it counts as hung
GO = "go"
KILL = "kill"
HOLD = "hold"  # no answer yet: the process waits


@dataclass(frozen=True)
class Call:
    """A call that changes files: its number in the run of the command, from 0; name; and one or two paths."""

    number: int
    name: str
    paths: tuple[str, ...]

    def __str__(self) -> str:
        return f"call {self.number} {self.name} {' '.join(self.paths)}"


class Plan:
    """Decides about each call; this one lets all run, and counts them."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def before(self, call: Call) -> str:
        """Return GO, KILL, HOLD or "fail ERRNO"."""
        return GO

    def after(self, call: Call) -> None:
        """Called when the call has run."""

    def idle(self) -> None:
        """Called some times a second, and after each call; may end a HOLD by `self.conductor.release()`."""


class WithoutCalls(Plan):
    """Fails the calls that a file system does not know with EINVAL, and lets all others run."""

    def __init__(self, absent: tuple[str, ...]) -> None:
        super().__init__()
        self.absent = absent

    def before(self, call: Call) -> str:
        return f"fail {errno.EINVAL}" if call.name in self.absent else GO


@dataclass
class Ended:
    """A command that has ended; a negative code is a signal, `hung` one that was ended after SECONDS."""

    argv: list[str]
    code: int
    out: str
    err: str
    seconds: float
    hung: bool = False

    @property
    def said(self) -> str:
        return f"{' '.join(self.argv)} -> {self.code}\n{self.out}{self.err}"[-3000:]


def why_not() -> str:
    """Return why no shim can be used here; "": it can."""
    if sys.platform != "linux":
        return f"LD_PRELOAD, /proc and pidfd are needed: not on {sys.platform}"
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        return "no C compiler is installed (cc, gcc or clang)"
    return ""


@dataclass
class Lab:
    """The compiled shim, a fork server, and a folder for both."""

    folder: Path
    shim: Path = field(init=False)
    _server: subprocess.Popen[str] = field(init=False)
    _number: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.shim = self.folder / "shim.so"
        compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))))
        flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", self.shim, HERE / "shim.c", "-ldl", "-lpthread"]
        subprocess.run([compiler, *flags], check=True)
        self.base = Path(tempfile.mkdtemp(prefix="crash-"))  # short: the path of a socket has at most 107 bytes
        self._serve()

    def environment(self, box: Path) -> dict[str, str]:
        """Return the environment of a command whose home, cache and temporary folder are `home`, `cache`, `tmp`."""
        home, temporary = box / "home", self.folder / "tmp"
        for folder in (home, temporary):
            folder.mkdir(parents=True, exist_ok=True)
        passed = {
            name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG", "HF_HUB_OFFLINE") if name in os.environ
        }
        threads = dict.fromkeys(
            ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), "1"
        )
        folders = {"HOME": str(home), "HYPERFOCAL_CACHE": str(box / "cache"), "TMPDIR": str(temporary)}
        native = {"XDG_CACHE_HOME": str(self.folder / "native")}  # the compiled losses: once for all
        return passed | threads | folders | native | {"COLUMNS": "200", "PYTHONHASHSEED": "0", "HF_HUB_OFFLINE": "1"}

    def _serve(self) -> None:
        """Start the fork server."""
        path = os.pathsep.join([str(HERE), str(HERE.parents[1] / "src"), os.environ.get("PYTHONPATH", "")])
        env = self.environment(self.folder) | {"PYTHONPATH": path, "LD_PRELOAD": str(self.shim)}
        self.address = self.base / "server"
        command = [sys.executable, str(HERE / "crash_server.py"), str(self.address)]
        with (self.folder / "server.txt").open("w") as log:
            self._server = subprocess.Popen(
                command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self._server.stdout
        assert self._server.stdout.readline() == "ready\n", (self.folder / "server.txt").read_text()

    def close(self) -> None:
        """End the server."""
        self._server.communicate(timeout=60)
        shutil.rmtree(self.base, ignore_errors=True)

    def begin(self, argv: list[str], box: Path, plan: Plan | None = None, **env: str) -> Running:
        """Start a command; with a plan, the folder `box` is watched."""
        with self._lock:
            self._number += 1
            name = str(self._number)
        return Running(self, [str(word) for word in argv], box, plan, name, env)

    def run(self, argv: list[str], box: Path, plan: Plan | None = None, **env: str) -> Ended:
        """Run a command to its end."""
        return self.begin(argv, box, plan, **env).end()


class Running:
    """A command that runs, and the conductor of its calls. `step` must be called until it returns False."""

    def __init__(self, lab: Lab, argv: list[str], box: Path, plan: Plan | None, name: str, env: dict[str, str]) -> None:
        self.argv, self.plan, self.began = argv, plan, time.monotonic()
        self.out, self.err = lab.base / f"{name}.out", lab.base / f"{name}.err"
        self.status: int | None = None
        self.selector = selectors.DefaultSelector()
        self.waiting: list[tuple[socket.socket, str, tuple[str, ...]]] = []  # asked and not answered
        self.active: tuple[socket.socket, Call] | None = None  # its call runs now
        self.held: tuple[socket.socket, Call] | None = None
        self.buffers: dict[socket.socket, bytes] = {}
        self.count, self.hung, self.killed = 0, False, False
        variables = lab.environment(box) | env
        if plan is not None:
            address = lab.base / f"{name}.s"
            self.listening = socket.socket(socket.AF_UNIX)
            self.listening.bind(str(address))
            self.listening.listen(64)
            self.selector.register(self.listening, selectors.EVENT_READ)
            variables |= {"LD_PRELOAD": str(lab.shim), "CRASH_WATCH": str(box), "CRASH_SOCKET": str(address)}
        self.server = socket.socket(socket.AF_UNIX)
        self.server.connect(str(lab.address))
        request = {"argv": argv, "env": variables, "out": str(self.out), "err": str(self.err)}
        self.server.sendall(json.dumps(request).encode() + b"\n")
        self.answers = self.server.makefile()
        self.pid = int(self.answers.readline())
        self.selector.register(self.server, selectors.EVENT_READ)

    def end(self) -> Ended:
        """Wait for the end."""
        while self.step():
            pass
        return self.ended()

    def ended(self) -> Ended:
        for path in (self.out, self.err):
            path.touch()
        texts = [path.read_text(errors="replace") for path in (self.out, self.err)]
        self.out.unlink()
        self.err.unlink()
        code = os.waitstatus_to_exitcode(self.status or 0)
        return Ended(self.argv, code, *texts, time.monotonic() - self.began, self.hung)

    def step(self, seconds: float = 0.2) -> bool:
        """Handle what comes within some seconds; return whether the command still runs."""
        for key, _ in self.selector.select(seconds):
            if key.fileobj is self.server:
                self._read_status()
            elif self.plan is not None and key.fileobj is self.listening:
                connection, _ = self.listening.accept()
                self.buffers[connection] = b""
                self.selector.register(connection, selectors.EVENT_READ)
            else:
                self._read(key.fileobj)
        self._answer()
        if self.plan is not None:
            self.plan.idle()
        if time.monotonic() - self.began > SECONDS and not self.hung:
            self.hung = True
            self.kill()
        if self.status is not None and (not self.buffers or self.killed):
            self._close()
            return False
        return True

    def kill(self) -> None:
        """End the command and its children."""
        self.killed = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def release(self) -> None:
        """Let the held call run."""
        assert self.held
        connection, call = self.held
        self.held, self.active = None, (connection, call)
        self._send(connection, GO)

    def _read_status(self) -> None:
        line = self.answers.readline()
        self.status = int(line) if line else 255 << 8
        self.selector.unregister(self.server)
        if self.status & 0x7F:  # it was killed: so are its children
            self.kill()
            self.killed = not self.buffers  # those end in a moment; wait for that

    def _read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            self.selector.unregister(connection)
            connection.close()
            del self.buffers[connection]
            self.waiting = [one for one in self.waiting if one[0] is not connection]
            if self.active and self.active[0] is connection:
                self.active = None
            if self.held and self.held[0] is connection:
                self.held = None
            return
        *lines, self.buffers[connection] = (self.buffers[connection] + data).split(b"\n")
        for line in lines:
            if line == b"A":
                assert self.active is not None
                assert self.active[0] is connection
                call, self.active = self.active[1], None
                assert self.plan is not None
                self.plan.after(call)
                self._send(connection, GO)
            else:
                name, *paths = line.decode(errors="surrogateescape").removeprefix("B ").split("\t")
                self.waiting.append((connection, name, tuple(filter(None, paths))))

    def _answer(self) -> None:
        """Answer the process that waits longest, unless a call runs or is held."""
        while self.waiting and self.active is None and self.held is None and self.plan is not None:
            connection, name, paths = self.waiting.pop(0)
            call = Call(self.count, name, paths)
            self.count += 1
            self.plan.calls.append(call)
            answer = self.plan.before(call)
            if answer == HOLD:
                self.held = (connection, call)
                return
            if answer == GO:
                self.active = (connection, call)
            if answer == KILL:
                self._send(connection, KILL)
                self.active = (connection, call)  # nobody else gets an answer
                return
            self._send(connection, answer)

    def _send(self, connection: socket.socket, answer: str) -> None:
        with contextlib.suppress(ConnectionError):
            connection.sendall(answer.encode() + b"\n")

    def _close(self) -> None:
        self.selector.close()
        self.answers.close()
        self.server.close()
        if self.plan is not None:
            self.listening.close()
        for connection in self.buffers:
            connection.close()
