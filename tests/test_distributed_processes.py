"""Failures of several processes: one is killed, one stops answering, Ctrl-C, different data, a start that fails."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed as dist
from click.testing import CliRunner

from distributed_cases import launch, log
from hyperfocal.cli import main
from hyperfocal.distributed import is_first, lost_contact, processes, rank, world_size
from hyperfocal.errors import ConfigError, TrainingError
from hyperfocal.machine import count_cores, set_threads
from hyperfocal.storage.run_folder import CHECKPOINT, MODEL, RunFolder
from hyperfocal.training.weights import verify_run

EPOCHS = 30
SETTINGS = ["model.embedding_width=8", f"train.epochs={EPOCHS}", "train.patience=0", "train.checkpoint_seconds=0"]
FIT = ["--model", "gru", "--history", "4", *(part for setting in SETTINGS for part in ("--set", setting))]
HYPERFOCAL = ["-m", "hyperfocal"]


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    path = tmp_path_factory.mktemp("log") / "log.csv"
    log(400).write_csv(path)
    return path


def start(arguments, **environment):
    """Start two processes without torchrun, and return them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    started = []
    for number in range(2):
        numbers = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "OMP_NUM_THREADS": 1}
        variables = os.environ | place | {name: str(value) for name, value in (numbers | environment).items()}
        command = [sys.executable, *HYPERFOCAL, *map(str, arguments[number])]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=variables, **pipes))
    return started


def wait_for(path, process, seconds=300):
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, f"no {path} after {seconds} s"
        time.sleep(0.05)


def weights(run):
    return (run / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_one_is_killed_and_all_are_resumed(train, tmp_path):
    run, whole = tmp_path / "run", tmp_path / "whole"
    fit = ["recommend", "fit", train, "--out", run, *FIT]
    first, second = start([fit, fit])
    wait_for(run / CHECKPOINT, first)
    second.kill()
    _, errors = first.communicate(timeout=120)
    second.communicate()
    assert first.returncode == 2
    assert "error: process 0 of 2 lost contact with another process" in errors
    assert "start all again with --resume" in errors
    _, state = RunFolder(run).read_checkpoint()
    assert 0 <= state["epoch"] < EPOCHS
    resumed = launch(HYPERFOCAL, *fit, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count("Run folder:") == 1  # one process prints
    fit[fit.index(run)] = whole
    assert launch(HYPERFOCAL, *fit).returncode == 0
    assert weights(run) == weights(whole)  # with dropout, which each process draws separately
    assert verify_run(RunFolder(run)) == {}


@pytest.mark.slow
def test_one_falls_silent(train, tmp_path):
    fit = ["recommend", "fit", train, "--out", tmp_path / "run", *FIT]
    first, second = start([fit, fit], HYPERFOCAL_TIMEOUT=5)
    wait_for(tmp_path / "run" / CHECKPOINT, first)
    second.send_signal(signal.SIGSTOP)
    try:
        _, errors = first.communicate(timeout=120)
    finally:
        second.kill()
        second.communicate()
    assert first.returncode == 2
    assert "lost contact with another process" in errors


@pytest.mark.slow
def test_ctrl_c_stops_all_after_a_checkpoint(train, tmp_path):
    fit = ["recommend", "fit", train, "--out", tmp_path / "run", *FIT]
    first, second = start([fit, fit])
    wait_for(tmp_path / "run" / CHECKPOINT, first)
    second.send_signal(signal.SIGINT)  # one is enough
    outcomes = [process.communicate(timeout=120)[1] for process in (first, second)]
    assert [first.returncode, second.returncode] == [130, 130]
    assert "stopped. The same command with --resume continues" in outcomes[0]
    assert "stopped" not in outcomes[1]
    assert RunFolder(tmp_path / "run").read_checkpoint() is not None


@pytest.mark.slow
def test_other_data_is_refused_in_all(train, tmp_path):
    other = tmp_path / "other.csv"
    log(300).write_csv(other)
    fits = [["recommend", "fit", path, "--out", tmp_path / "run", *FIT] for path in (train, other)]
    for process in start(fits):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 2
        assert "error: process 1 and process 0 have different data" in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_classify_with_folds_gives_what_one_process_gives(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERFOCAL_CACHE", str(tmp_path / "cache"))
    documents = tmp_path / "train.jsonl"
    names = ["wine", "beer", "tea", "milk"]
    rows = [{"text": f"{names[n % 4]} {names[n % 3]} {n % 5}", "labels": [names[n % 4]]} for n in range(120)]
    documents.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = {"train.folds": 2, "train.epochs": 2, "train.batch_size": 7, "head.dropout": 0, "features.kind": "ngrams"}
    fit = [
        "classify",
        "fit",
        documents,
        *(part for name, value in asked.items() for part in ("--set", f"{name}={value}")),
    ]
    done = launch(HYPERFOCAL, *fit, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    alone = CliRunner().invoke(main, [*map(str, fit), "--out", str(tmp_path / "one")])
    assert alone.exit_code == 0, alone.output
    two, one = (RunFolder(tmp_path / name) for name in ("two", "one"))
    assert two.read_json("metrics.json")["data"] == one.read_json("metrics.json")["data"]
    for name in ("checkpoints/fold0.safetensors", "checkpoints/fold1.safetensors", MODEL):
        found, expected = (run.read_tensors(name)[0] for run in (two, one))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


class TestAlone:
    def test_one_process_needs_no_others(self, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "1")
        with processes():
            assert (rank(), world_size(), is_first()) == (0, 1, True)

    @pytest.mark.parametrize(
        ("variables", "message"),
        [
            ({"WORLD_SIZE": "two"}, "WORLD_SIZE = 'two' is not allowed"),
            ({"WORLD_SIZE": "2"}, "RANK = '' is not allowed with several processes. Expected a whole number"),
            ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE = 2, but MASTER_ADDR is not set"),
        ],
    )
    def test_a_start_that_lacks_something(self, monkeypatch, variables, message):
        for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError, match=message), processes():
            raise AssertionError("it has begun")

    def test_a_group_that_is_there_is_used_and_left(self):
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        try:
            with processes():
                assert (rank(), world_size()) == (0, 1)
            assert dist.is_initialized()
        finally:
            dist.destroy_process_group()

    def test_nobody_else_comes(self, monkeypatch):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        variables = {
            "WORLD_SIZE": 2,
            "RANK": 1,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "HYPERFOCAL_TIMEOUT": 1,
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        with (
            pytest.raises(TrainingError, match=f"process 1 of 2 cannot meet the others at 127.0.0.1:{port}"),
            processes(),
        ):
            raise AssertionError("it has begun")

    @pytest.mark.parametrize(
        "command", [["recommend", "grid"], ["recommend", "update"], ["classify", "grid"], ["classify", "update"]]
    )
    def test_other_commands_are_refused(self, monkeypatch, tmp_path, command):
        monkeypatch.setenv("WORLD_SIZE", "2")
        places = ["run", "log.csv"] if command[1] == "update" else ["log.csv", "--out", str(tmp_path / "grid")]
        result = CliRunner().invoke(main, [*command, *places])
        assert result.exit_code == 2
        assert f"error: `{' '.join(command)}` does not run in several processes" in result.output
        assert not (tmp_path / "grid").exists()

    def test_processes_share_the_cores_of_a_machine(self, monkeypatch):
        monkeypatch.setattr("hyperfocal.machine.local_processes", lambda: 3)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
        monkeypatch.setattr("hyperfocal.machine._quota", lambda: 100)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")  # torchrun's default
        assert count_cores() == 2
        monkeypatch.setattr("torch.set_num_threads", lambda _: None)
        assert set_threads(0) == set_threads(5) == 2
        assert set_threads(1) == 1


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no room"), RuntimeError("CUDA error: an illegal memory access")], ids=str
)
def test_an_error_of_this_process_is_no_lost_contact(error):
    with pytest.raises(type(error)) as caught, lost_contact():
        raise error
    assert caught.value is error
    said = r"process 0 of 1 lost contact with another process \(Connection closed\)"
    with pytest.raises(TrainingError, match=said), lost_contact():
        raise RuntimeError("Connection closed")
