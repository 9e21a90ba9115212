"""A fork server: it has imported everything, and runs each command in a forked child, which then need not.

    python crash_server.py SOCKET

A request is one line of JSON: {"argv": [...], "env": {...}, "out": file, "err": file}. The answers are two lines: the
process id, and the wait status at the end. An `argv` of ["!load", ...] calls that function of `crash_actions.py`.
"""

import atexit
import contextlib
import ctypes
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import sys
import traceback


def main(address: str) -> None:
    import_everything()
    with socket.socket(socket.AF_UNIX) as listening, selectors.DefaultSelector() as waiting:
        listening.bind(address)
        listening.listen(64)
        waiting.register(listening, selectors.EVENT_READ)
        waiting.register(sys.stdin, selectors.EVENT_READ)  # its end is ours
        print("ready", flush=True)
        while True:
            for key, _ in waiting.select():
                if key.fileobj is sys.stdin:
                    return
                if key.fileobj is listening:
                    start(listening, waiting)
                else:
                    report_end(key, waiting)


def import_everything() -> None:
    import hyperfocal.cli

    names = [module.name for module in pkgutil.walk_packages(hyperfocal.__path__, "hyperfocal.")]
    for name in [*names, "torch._dynamo", "crash_actions"]:
        if not any(
            part in name for part in ("__main__", "templates", "standalone", "triton_kernels", "export.ray_data")
        ):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)


def start(listening: socket.socket, waiting: selectors.BaseSelector) -> None:
    connection, _ = listening.accept()
    request = json.loads(connection.makefile().readline())
    pid = os.fork()
    if pid == 0:
        listening.close()
        connection.close()
        be_command(**request)
    connection.sendall(f"{pid}\n".encode())
    waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, connection))


def report_end(key: selectors.SelectorKey, waiting: selectors.BaseSelector) -> None:
    pid, connection = key.data
    _, status = os.waitpid(pid, 0)
    waiting.unregister(key.fd)
    os.close(key.fd)
    with contextlib.suppress(OSError), connection:
        connection.sendall(f"{status}\n".encode())


def be_command(argv: list[str], env: dict[str, str], out: str, err: str) -> None:
    """Become the command, in a process group of its own; end the process."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(env)
    if "LD_PRELOAD" in env:
        ctypes.CDLL(env["LD_PRELOAD"]).crash_attach()
    sys.argv = ["hyperfocal", *argv]
    code = 1
    try:
        code = run(argv)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def run(argv: list[str]) -> int:
    if step := os.environ.get("CRASH_MEMORY"):
        importlib.import_module("crash_actions").fail_at_step(int(step))
    if argv[0].startswith("!"):
        return getattr(importlib.import_module("crash_actions"), argv[0][1:])(*argv[1:]) or 0
    importlib.import_module("hyperfocal.cli").main(argv, prog_name="hyperfocal")
    return 0


if __name__ == "__main__":
    main(*sys.argv[1:])
