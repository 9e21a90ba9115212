"""What does not start says why, with exit code 2."""

import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from hyperfocal.cli import main
from serve_cases import command


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which the command sets, and this puts back


def refused(*arguments):
    """Run the command in this process, which must refuse to start; return its error on one line."""
    result = CliRunner().invoke(main, [str(argument) for argument in command(*arguments)[3:]])
    assert (result.exit_code, result.stdout) == (2, "")
    return " ".join(result.stderr.split())


def process_refused(*arguments):
    """Do the same in a process of its own."""
    ended = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (2, "")
    return " ".join(ended.stderr.split())


@pytest.fixture
def damaged(recommend_path, tmp_path):
    return shutil.copytree(recommend_path, tmp_path / "damaged")


def test_no_run(tmp_path):
    assert refused(tmp_path / "nothing").endswith("no such folder. Give the folder that `fit` wrote")


def test_a_file_that_is_cut_short(damaged):
    content = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(content[: len(content) // 2])
    assert "model.safetensors is damaged" in process_refused(damaged)


def test_weights_that_are_no_numbers(damaged):
    weights = load_file(damaged / "model.safetensors")
    save_file({name: weight * float("nan") for name, weight in weights.items()}, damaged / "model.safetensors")
    assert "model.safetensors is damaged (its scores are not finite)" in refused(damaged)


@pytest.mark.slow
def test_two_workers_report_a_damaged_run_too(damaged):
    (damaged / "vocabulary.json").write_text("{}")
    assert "vocabulary.json is damaged" in process_refused(damaged, "--workers", "2")


def test_a_job_that_is_none_of_ours(damaged):
    (damaged / "data.json").write_text('{"job": "translate", "fingerprint": "0"}')
    assert "its job 'translate' is unknown. Jobs that can be served: recommend, classify" in refused(damaged)


def test_an_unknown_engine_and_too_many_workers(recommend_path):
    assert "--engine 'steam' is unknown. Allowed: torch, onnx" in refused(recommend_path, "--engine", "steam")
    assert "each takes a core, and there are" in refused(recommend_path, "--workers", "1000")


def test_a_port_that_is_taken(recommend_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        message = refused(recommend_path, "--port", str(taken.getsockname()[1]))
    assert "already in use" in message


def test_help_teaches():
    taught = CliRunner().invoke(main, ["serve", "--help"]).stdout
    for word in ("curl --json", "/v1/recommend", "/v1/classify", "/v1/reload", "HYPERFOCAL_API_KEY", "/metrics"):
        assert word in taught
    for word in ("--allow-host", "--connections", "--idle", "/health"):
        assert word in taught


def test_what_was_imported_is_left_out_of_garbage_collections(recommend_path):
    """A full collection over it would stop every answer for some 0.2 s."""
    code = (
        "import gc, os, signal, sys; from pathlib import Path; from hyperfocal.cli.serve import engine_by_name\n"
        "from hyperfocal.serve.server import Service, bind, serve\n"
        "def announce():\n"
        "    print(gc.get_freeze_count(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "with bind('127.0.0.1', 0) as door:\n"
        "    serve(Service(Path(sys.argv[1]), engine_by_name('torch')), door, announce)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, recommend_path], capture_output=True, text=True, timeout=120)
    assert int(done.stdout) > 50_000, done.stderr


def test_a_hangup_at_any_time_of_the_start_ends_nothing(recommend_path):
    """SIGHUP comes every 50 ms from the first import on; several at once are one reload."""
    with subprocess.Popen(
        command(recommend_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        try:
            wait_until_ignored(process)
            line = ""
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                while not selector.select(0.05):
                    process.send_signal(signal.SIGHUP)
                line = process.stdout.readline()
            assert "Serving" in line
            process.terminate()
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0
    assert 1 <= said.count("serving run") <= 2


def wait_until_ignored(process):
    """Wait until the process takes SIGHUP, by default its end."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        status = Path(f"/proc/{process.pid}/status").read_text()
        masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigIgn", "SigCgt"))]
        if any(mask & 1 for mask in masks):
            return
        time.sleep(0.005)
    raise AssertionError("SIGHUP still ends the process")


@pytest.mark.parametrize("stream", ["/dev/full", None, "broken pipe"])
def test_output_that_cannot_be_written_does_not_stop_the_service(recommend_path, stream):
    """Its address and its warnings have nowhere to go; it serves, and ends well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = command(recommend_path, "--host", "0.0.0.0")
    arguments[arguments.index("--port") + 1] = str(port)
    with unwritable(stream) as streams, subprocess.Popen(arguments, **streams) as process:
        try:
            client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
            until = time.monotonic() + 60
            while not answers(client) and time.monotonic() < until:
                time.sleep(0.1)
            for _ in range(3):
                process.send_signal(signal.SIGHUP)  # each logs a line
                time.sleep(0.2)
                assert answers(client)
            client.close()
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()


@contextmanager
def unwritable(stream):
    """Give options of Popen whose stdout and stderr are full, closed, or a pipe that nobody reads."""
    if stream is None:
        yield {"preexec_fn": lambda: (os.close(1), os.close(2))}
    elif stream == "broken pipe":
        reading, writing = os.pipe()
        os.close(reading)
        try:
            yield {"stdout": writing, "stderr": writing}
        finally:
            os.close(writing)
    else:
        with Path(stream).open("w") as file:
            yield {"stdout": file, "stderr": file}


def answers(client):
    try:
        return client.get("/health").status_code == 200
    except httpx.HTTPError:
        return False
