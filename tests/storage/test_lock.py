"""One writer of a folder at a time."""

import errno
import os
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from hyperfocal.cli import main
from hyperfocal.errors import RunError
from hyperfocal.storage.lock import FolderLock
from hyperfocal.storage.run_folder import (
    CONFIG,
    RunFolder,
)
from run_cases import files, replace, write_other


def test_a_second_writer_is_refused_and_told_who_writes(run):
    code = "import sys; from hyperfocal.storage.run_folder import RunFolder\n"
    code += "with RunFolder(sys.argv[1]).writing(): print('in', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout.readline() == "in\n"
        with pytest.raises(RunError) as caught, run.writing():
            pytest.fail("two writers")
        assert re.fullmatch(
            rf"{run.path}: process {first.pid} on \S+, since [-0-9:+ ]+, is writing to it\. Wait until it ends",
            str(caught.value),
        )
        first.kill()  # its lock ends with it
    with run.writing():
        assert (run.path / ".lock").exists()
    assert not (run.path / ".lock").exists()


def test_a_folder_in_which_nothing_was_written_is_gone(tmp_path):
    with RunFolder(tmp_path / "a" / "run").writing():
        assert (tmp_path / "a" / "run").is_dir()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("times", [1, 3])
def test_a_folder_that_is_removed_before_its_lock_is_made(times, tmp_path, monkeypatch):
    """At the worst moment, and its parent too."""
    opened, left = os.open, [times]

    def remove_first(path, *options, **named):
        if str(path).endswith(".lock") and left[0]:
            left[0] -= 1
            (tmp_path / "a" / "run").rmdir()
            if left[0] % 2 == 0:
                (tmp_path / "a").rmdir()
        return opened(path, *options, **named)

    monkeypatch.setattr(os, "open", remove_first)
    with FolderLock(tmp_path / "a" / "run"):
        assert (tmp_path / "a" / "run" / ".lock").is_file()
    assert left == [0]
    assert not list(tmp_path.iterdir())


def test_the_lock_is_the_same_through_a_link_and_after_an_exchange(run, tmp_path):
    (tmp_path / "link").symlink_to(run.path)
    with run.writing():
        for _ in range(2):
            with pytest.raises(RunError, match="is writing to it"), RunFolder(tmp_path / "link").writing():
                pytest.fail("two writers")
            run.replace_by(write_other)


def test_many_writers_at_once_lose_nothing(tmp_path):
    """Each of several processes adds 1 to a number in a run, again and again, and replaces the run whole."""
    code = (
        "import sys, time\n"
        "from hyperfocal.errors import RunError\n"
        "from hyperfocal.storage.run_folder import RunFolder\n"
        "run, done = RunFolder(sys.argv[1]), 0\n"
        "while done < 25:\n"
        "    try:\n"
        "        with run.writing():\n"
        "            number = int(run.read_text('config.toml')) + 1\n"
        "            run.replace_by(lambda path: RunFolder(path).write_text('config.toml', str(number)))\n"
        "            done += 1\n"
        "    except RunError as error:\n"
        "        assert 'is writing to it' in str(error), error\n"
        "        time.sleep(0.001)\n"
    )
    run = RunFolder(tmp_path / "run")
    run.write_text(CONFIG, "0")
    writers = [subprocess.Popen([sys.executable, "-c", code, str(run.path)]) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert run.read_text(CONFIG) == "75"
    assert files(tmp_path) == [f"run/{CONFIG}"]


def test_a_file_system_without_locks_refuses_nobody_and_says_so(run, monkeypatch, caplog):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", unsupported)
    with run.writing(), RunFolder(run.path).writing():
        replaced = replace(run)
    assert replaced is None
    assert len([record for record in caplog.records if "this file system has no locks" in record.message]) == 1


def test_patience_waits_for_the_other_writer(run):
    code = "import sys, time; from hyperfocal.storage.run_folder import RunFolder\n"
    code += "with RunFolder(sys.argv[1]).writing(): print('in', flush=True); time.sleep(1)"
    with subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "in\n"
        with FolderLock(run.path, patience=60):
            pass


def test_a_grid_in_the_folder_that_a_fit_writes_to(tmp_path, monkeypatch):
    monkeypatch.setattr("hyperfocal.grid.search.PATIENCE_SECONDS", 0.1)
    (tmp_path / "log.csv").write_text("user,item,order\n" + "".join(f"u{n // 9},i{n % 9},{n}\n" for n in range(270)))
    words = ["recommend", "grid", str(tmp_path / "log.csv"), "--out", str(tmp_path / "out"), "--losses", "bce"]
    with RunFolder(tmp_path / "out").writing():
        ended = CliRunner().invoke(main, [*words, "--encoders", "mean", "--set", "train.epochs=1"])
    assert ended.exit_code == 2
    assert re.search(r"error: .*out: process \d+ on .* is writing to it", ended.stderr)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_the_lock_file_of_another_user_who_was_killed(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").write_text("{}")
    for path in (folder, *folder.parents[: len(folder.parents) - 2]):
        path.chmod(0o777)
    code = "import os, sys; from hyperfocal.storage.lock import FolderLock; from pathlib import Path\n"
    code += "os.setuid(65534)\nwith FolderLock(Path(sys.argv[1])) as lock: print(len(lock._held))"
    ended = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=False)
    assert ended.stdout == "1\n", ended.stderr
    assert not (folder / ".lock").exists()
