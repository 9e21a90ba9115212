"""A disk that is full, read-only, forbidden or gone: a clear error, exit code 2, and existing files unchanged."""

import errno
import gc
import io
import os
import re
import shutil
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from hyperfocal.cli import main
from hyperfocal.data.files import write_lines
from hyperfocal.private.folders import VARIABLE
from hyperfocal.storage.run_folder import RunFolder
from hyperfocal.training.weights import verify_run

NOBODY = 65534
FAST = ["--set", "train.epochs=1", "--set", "train.threads=1"]
TINY = [*FAST, "--set", "model.embedding_width=8", "--set", "train.checkpoint_seconds=0"]
NGRAMS = ["--set", "features.kind=ngrams", *FAST]
COMMANDS = {  # GOOD is a folder to read from, DISK the faulty one
    "recommend fit": ["recommend", "fit", "GOOD/log.csv", "--out", "DISK/new", *TINY],
    "recommend fit --resume": ["recommend", "fit", "GOOD/log.csv", "--out", "DISK/cut", "--resume"],
    "recommend update": ["recommend", "update", "DISK/recommend", "GOOD/more.csv"],
    "recommend predict": ["recommend", "predict", "GOOD/recommend", "GOOD/log.csv", "--out", "DISK/out.csv"],
    "recommend predict --block": [
        "recommend", "predict", "GOOD/recommend", "GOOD/log.csv", "--out", "DISK/out.parquet", "--block", "30",
    ],
    "recommend grid": [
        "recommend", "grid", "GOOD/log.csv", "--out", "DISK/grid", "--encoders", "mean", "--losses", "bce",
        "--seeds", "1", *TINY,
    ],
    "classify fit": ["classify", "fit", "GOOD/texts.jsonl", "--out", "DISK/new", *NGRAMS],
    "classify predict": ["classify", "predict", "GOOD/classify", "GOOD/texts.jsonl", "--out", "DISK/out.jsonl"],
    "export --onnx": ["export", "GOOD/recommend", "--onnx", "DISK/onnx"],
    "export --safetensors": ["export", "GOOD/classify", "--safetensors", "DISK/plain", "--overwrite"],
    "report": ["report", "DISK/recommend"],
}  # fmt: skip
MESSAGES = {  # of the system, or of SQLite
    "full": "No space left on device|database or disk is full",
    "read-only": "Read-only file system",
    "forbidden": "Permission denied",
}


def invoke(good: Path, disk: Path, words: list[str]):
    """Run a command in this process."""
    given = [word.replace("GOOD", str(good)).replace("DISK", str(disk)) for word in words]
    return CliRunner(env={VARIABLE: str(good / "cache")}).invoke(main, given)


def done(good: Path, *words: str) -> None:
    ended = invoke(good, good, list(words))
    assert ended.exit_code == 0, ended.output


@pytest.fixture(scope="module")
def good():
    """Return a folder that everybody may read, with data and a run of each job; `cut` is an interrupted run."""
    folder = Path(tempfile.mkdtemp())
    rows = [(f"u{user}", f"i{(user + step) % 9}", step) for user in range(30) for step in range(6)]
    log = pl.DataFrame(rows, schema=["user", "item", "order"], orient="row")
    log.write_csv(folder / "log.csv")
    later = [(f"u{user}", f"i{(2 * user + step) % 9}", 6 + step) for user in range(30) for step in range(6)]
    pl.DataFrame(later, schema=["user", "item", "order"], orient="row").write_csv(folder / "more.csv")
    texts = [{"text": f"{word} and {word}s", "labels": [word]} for word in ("sport", "music", "food") * 12]
    write_lines(texts, folder / "texts.jsonl")
    done(folder, "recommend", "fit", "GOOD/log.csv", "--out", "GOOD/recommend", *TINY)
    done(folder, "classify", "fit", "GOOD/texts.jsonl", "--out", "GOOD/classify", *NGRAMS)
    done(folder, "export", "GOOD/classify", "--safetensors", "GOOD/plain")
    shutil.copytree(folder / "recommend", folder / "cut")
    for name in ("model.safetensors", "manifest.json", "metrics.json"):
        (folder / "cut" / name).unlink()
    shutil.rmtree(folder / "cache")
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    (folder / "cache").mkdir()
    (folder / "cache").chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def disk(good):
    """Return a small separate file system with a copy of the runs."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m,mode=755", "tmpfs", folder], capture_output=True, text=True
    )
    if mount.returncode:
        folder.rmdir()
        pytest.skip(f"cannot mount a small file system: {mount.stderr}")
    try:
        for name in ("recommend", "cut", "plain"):
            shutil.copytree(good / name, folder / name)
        yield folder
    finally:
        gc.collect()  # tensors are mapped from their files, which keeps the disk busy
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()


@contextmanager
def faulty(disk: Path, fault: str):
    """Make a file system full or read-only, or become a user who may not write there."""
    if fault == "full":
        with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(4_096)):
                pass
        yield
    elif fault == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        yield
    else:
        os.seteuid(NOBODY)  # who may read what everybody may
        try:
            yield
        finally:
            os.seteuid(0)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "filler" and path.parent.name != "checkpoints"
    }


def error_of(ended):
    """Return what a command printed on stderr, without the plan of the data that may come before."""
    plan, mark, message = ended.stderr.strip().partition("error: ")
    assert plan == "" or plan.startswith("Read ")
    return mark + message


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
@pytest.mark.parametrize("fault", MESSAGES)
@pytest.mark.parametrize("command", COMMANDS)
def test_the_error_is_clear_and_existing_files_are_unchanged(good, disk, command, fault):
    before = contents(disk)
    with faulty(disk, fault):
        ended = invoke(good, disk, COMMANDS[command])
    assert ended.exit_code == 2, (ended.output, ended.exception)
    message = error_of(ended)
    assert message.count("\n") == 0, message
    assert message.startswith("error: ")
    assert re.search(MESSAGES[fault], message), message
    assert str(disk) in message
    after = contents(disk)
    assert {name: after.get(name) for name in before} == before
    assert not [name for name in after if name not in before and Path(name).suffix != ""], "half-written files"
    assert verify_run(RunFolder.open(disk / "recommend")) == {}
    state, original = (RunFolder.open(folder / "cut").read_checkpoint()[1] for folder in (disk, good))
    assert state == original


@contextmanager
def lost(folder: Path, monkeypatch):
    """Let every access to a folder fail as on a network file system whose server is gone."""

    def refusing(real):
        def call(path, *arguments, **options):
            if isinstance(path, str | os.PathLike) and Path(path).is_relative_to(folder):
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
            return real(path, *arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for module, name in ((io, "open"), (os, "stat"), (os, "open"), (os, "mkdir"), (os, "scandir"), (os, "listdir")):
            patch.setattr(module, name, refusing(getattr(module, name)))
        yield


@pytest.mark.parametrize("command", COMMANDS)
def test_a_lost_network_folder_is_a_clear_error(good, tmp_path, monkeypatch, command):
    disk = tmp_path / "disk"
    shutil.copytree(good, disk)
    before = contents(disk)
    with lost(disk, monkeypatch):
        ended = invoke(good, disk, COMMANDS[command])
    assert ended.exit_code == 2, (ended.output, ended.exception)
    assert error_of(ended).startswith("error: ")
    assert "Stale file handle" in ended.stderr
    assert contents(disk) == before


def test_a_lost_input_is_a_clear_error(good, tmp_path, monkeypatch):
    shutil.copytree(good, tmp_path / "disk")
    for words in (
        ["verify", "DISK/recommend"],
        ["recommend", "predict", "DISK/recommend", "GOOD/log.csv", "--out", "x.csv"],
    ):
        with lost(tmp_path / "disk", monkeypatch):
            ended = invoke(good, tmp_path / "disk", words)
        assert ended.exit_code == 2, (ended.output, ended.exception)
        assert "Stale file handle" in ended.stderr


def test_an_export_that_cannot_be_put_in_place_leaves_the_earlier_one(good, tmp_path, monkeypatch):
    shutil.copytree(good / "plain", tmp_path / "plain")
    before = contents(tmp_path)

    def refuse(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("hyperfocal.storage.exchange.exchange", refuse)
    ended = invoke(good, tmp_path, COMMANDS["export --safetensors"])
    assert ended.exit_code == 2
    assert "Input/output error" in ended.stderr
    assert contents(tmp_path) == before
