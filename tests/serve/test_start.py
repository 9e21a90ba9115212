"""What does not start says why, with exit code 2."""

import shutil
import socket
import subprocess

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
