"""Work folders of processes that end, are killed at any moment, fork, and race."""

import os
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hyperfocal.private.folders import names_in, opened
from hyperfocal.private.work import (
    EARLIER_SECONDS,
    LOCK,
    TEMPORARY,
    WORK,
    held,
    remove_leftovers,
    temporary_folder,
    work_folder,
)
from user_cases import OTHER, give, needs_root

DIGITS = "0123456789abcdef"  # end the name of a work folder
USE = """
import os, sys, tempfile, time
from pathlib import Path
from hyperfocal.private.folders import names_in, opened
from hyperfocal.private.work import *
"""


@pytest.fixture
def place(tmp_path):
    with opened(tmp_path) as number:
        yield number


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Return the system's folder for temporary files, which is empty."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def start(code: str, *arguments: object, **variables: str) -> subprocess.Popen:
    command = [sys.executable, "-c", USE + code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | variables)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestEnds:
    def test_it_is_private_and_removed_at_the_end(self, tmp_path, place):
        before = os.umask(0)
        try:
            with work_folder(place) as (name, number):
                assert name.startswith(WORK)
                (tmp_path / name / "a" / "b").mkdir(parents=True)
                assert sorted(names_in(number)) == names(tmp_path / name)
                assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700
                assert stat.S_IMODE((tmp_path / name / LOCK).stat().st_mode) == 0o600
        finally:
            os.umask(before)
        assert names(tmp_path) == []

    def test_after_an_error(self, tmp_path, place):
        with pytest.raises(ZeroDivisionError), work_folder(place):
            1 / 0  # noqa: B018
        assert names(tmp_path) == []

    def test_no_descriptor_is_left(self, tmp_path, place):
        """The folder is removed again if its lock cannot be made."""
        usual = resource.getrlimit(resource.RLIMIT_NOFILE)
        for more in (0, 1):  # descriptors: of the folder, of the lock
            free = os.dup(place)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, usual[1]))
            try:
                with pytest.raises(OSError, match="Too many open files"), work_folder(place):
                    pass
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, usual)
            assert names(tmp_path) == []

    def test_two_in_one_process(self, tmp_path, place):
        with work_folder(place) as (one, _), work_folder(place) as (other, _):
            assert names(tmp_path) == sorted([one, other])

    def test_no_descriptor_stays_open(self, place):
        before = names(Path("/proc/self/fd"))
        with work_folder(place), temporary_folder():
            pass
        assert names(Path("/proc/self/fd")) == before

    def test_temporary(self, temporary):
        with temporary_folder() as folder:
            (folder / "x").touch()
            assert folder.parent == temporary
            assert folder.name.startswith(TEMPORARY)
        assert names(temporary) == []

    def test_a_system_without_temporary_files(self, monkeypatch, tmp_path):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
        with pytest.raises(FileNotFoundError), temporary_folder():
            pass

    @pytest.mark.parametrize(("end", "code"), [("", 0), ("sys.exit(3)", 3), ("1 / 0", 1)])
    def test_the_folder_of_a_process(self, tmp_path, end, code):
        process = start(f"print(process_folder() == process_folder())\n{end}", TMPDIR=str(tmp_path))
        assert process.communicate(timeout=60)[0] == "True\n"
        assert (process.returncode, names(tmp_path)) == (code, [])

    def test_a_fork_does_not_remove_the_folder_of_its_process(self, tmp_path):
        code = """
folder = process_folder()
child = os.fork()
if child:
    os.waitpid(child, 0)
    print(folder.is_dir())
else:
    del folder  # and end as a process does
"""
        process = start(code, TMPDIR=str(tmp_path))
        assert process.communicate(timeout=60)[0] == "True\n"
        assert names(tmp_path) == []


class TestKilled:
    def leave(self, folder: Path, code: str = "print(name, flush=True); time.sleep(600)") -> str:
        """Start a process with a work folder, kill it when it has printed the name, and return the name."""
        process = start(f"with opened(sys.argv[1]) as p, work_folder(p) as (name, n): {code}", folder)
        try:
            name = process.stdout.readline().strip()
        finally:
            process.kill()
            process.communicate(timeout=60)
        assert (folder / name).is_dir()
        return name

    def test_the_next_process_removes_it(self, tmp_path, place):
        name = self.leave(tmp_path)
        (tmp_path / name / "deep" / "er").mkdir(parents=True)
        (tmp_path / name / "link").symlink_to(tmp_path)
        (tmp_path / "stays").touch()
        with work_folder(place):
            assert not (tmp_path / name).exists()
        assert names(tmp_path) == ["stays"]

    def test_kills_leave_one_folder_at_most(self, tmp_path):
        for _ in range(3):
            self.leave(tmp_path)
            assert len(names(tmp_path)) == 1

    def test_before_the_lock_was_made_or_while_it_was_removed(self, tmp_path, place):
        (tmp_path / f"{WORK}{DIGITS}").mkdir()
        remove_leftovers(place, WORK)
        assert names(tmp_path) == []

    def test_while_it_was_removed(self, tmp_path, place):
        """A kill after any call that removes something leaves a folder that the next process removes."""
        code = """
import hyperfocal.private.work as work
removals = 0
def end(call):
    def counted(*given, **named):
        global removals
        call(*given, **named)
        removals += 1
        if removals == int(sys.argv[2]):
            os._exit(9)
    return counted
with opened(sys.argv[1]) as place, work_folder(place) as (name, number):
    for path in ("a/b", "c"):
        os.makedirs(Path(sys.argv[1]) / name / path)
    for path in ("a/file", "file"):
        (Path(sys.argv[1]) / name / path).touch()
    for call in ("unlink", "rmdir"):
        setattr(os, call, end(getattr(os, call)))
print(removals)
"""
        for number in range(1, 20):
            process = start(code, tmp_path, number)
            try:
                output = process.communicate(timeout=60)[0]
            finally:
                process.kill()
            if process.returncode == 0:
                break
            assert process.returncode == 9
            remove_leftovers(place, WORK)
            assert names(tmp_path) == []
        assert output == "7\n"  # two files, three folders, the lock and the work folder

    @pytest.mark.parametrize("prefix", [WORK, TEMPORARY, ".hyperfocal-"])
    def test_folders_of_the_user_stay(self, tmp_path, place, prefix):
        """A folder that is no work folder stays, whatever its name: it holds something and has no lock."""
        for end in ("", "x", "cache", DIGITS[:-1], DIGITS + "0", DIGITS.upper(), DIGITS):
            (tmp_path / f"{prefix}{end}").mkdir()
            (tmp_path / f"{prefix}{end}" / "thesis.tex").write_text("years of work")
        (tmp_path / f"{prefix}empty").mkdir()
        (tmp_path / f"{prefix}run").mkdir()
        (tmp_path / f"{prefix}run" / LOCK).touch()  # as a run has one
        before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
        with work_folder(place, prefix):
            pass
        assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before

    def test_one_that_lives_stays(self, tmp_path, place):
        code = "with opened(sys.argv[1]) as p, work_folder(p) as (name, n): print(name, flush=True); sys.stdin.read()"
        process = subprocess.Popen(
            [sys.executable, "-c", USE + code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            name = process.stdout.readline().strip()
            process.send_signal(signal.SIGSTOP)  # it lives, even if it does nothing
            for _ in range(3):
                remove_leftovers(place, WORK)
            assert names(tmp_path) == [name]
            process.send_signal(signal.SIGCONT)
            process.communicate("", timeout=60)
        finally:
            process.kill()
        assert names(tmp_path) == []

    def test_one_that_another_process_holds_stays_until_that_ends(self, tmp_path, place):
        code = "with opened(sys.argv[1]) as p, work_folder(p) as (name, n): print(name, flush=True); time.sleep(600)"
        process = start(code, tmp_path)
        try:
            name = process.stdout.readline().strip()
            with held(tmp_path / name):
                process.kill()
                process.communicate(timeout=60)
                remove_leftovers(place, WORK)
                assert (tmp_path / name).is_dir()
        finally:
            process.kill()
        remove_leftovers(place, WORK)
        assert names(tmp_path) == []
        with pytest.raises(FileNotFoundError), held(tmp_path / name):
            pass

    @needs_root
    def test_folders_of_others_stay(self, temporary):
        theirs = temporary / f"{TEMPORARY}{DIGITS}"
        theirs.mkdir()
        give(theirs)
        (temporary / f"{TEMPORARY}{DIGITS[::-1]}").symlink_to(temporary)
        (temporary / f"{TEMPORARY}{DIGITS[8:] * 2}").touch()
        with temporary_folder():
            pass
        assert len(names(temporary)) == 3
        assert theirs.stat().st_uid == OTHER

    def test_leftovers_of_earlier_versions_stay_for_a_day(self, tmp_path, place):
        """They have no lock, so their process may live."""
        folders = [".building-abc_12x9", f".{'0a' * 16}.key"]
        for name in folders:
            (tmp_path / name / "deep").mkdir(parents=True)
            (tmp_path / name / "deep" / "values.bin").touch()
        files = [f"native-{'0a' * 10}.123.so", f"native-{'0a' * 10}.so", ".mine", "logs", ".building-site"]
        for name in files:
            (tmp_path / name).touch()
        remove_leftovers(place, WORK)
        assert len(names(tmp_path)) == 7
        old = time.time() - EARLIER_SECONDS - 60
        for path in (*tmp_path.rglob("*"),):
            os.utime(path, (old, old))
        (tmp_path / folders[0] / "deep" / "values.bin").touch()  # it is written to at this moment
        remove_leftovers(place, WORK)
        assert names(tmp_path) == sorted([folders[0], *files[1:]])

    def test_a_file_system_without_locks(self, tmp_path, place, monkeypatch):
        """Work goes on, and nothing is removed that may live."""

        def refuse(*_):
            raise OSError(95, "Operation not supported")

        (tmp_path / f"{WORK}{DIGITS}").mkdir()
        (tmp_path / f"{WORK}{DIGITS}" / LOCK).touch()
        monkeypatch.setattr("fcntl.flock", refuse)
        with work_folder(place) as (name, _):
            assert (tmp_path / name).is_dir()
        assert names(tmp_path) == [f"{WORK}{DIGITS}"]


class TestRaces:
    @pytest.mark.parametrize("killed", [0, 3])
    def test_many_make_and_clean_at_once(self, tmp_path, killed):
        """Each looks whether its folder and file are still there after every other process has cleaned."""
        code = """
with opened(sys.argv[1]) as place:
    for number in range(150):
        with work_folder(place) as (name, folder):
            path = Path(sys.argv[1]) / name
            (path / "mine").write_text(name)
            remove_leftovers(place, WORK)
            assert (path / "mine").read_text() == name
            assert sorted(os.listdir(folder)) == [".lock", "mine"]
print("done")
"""
        processes = [start(code, tmp_path) for _ in range(5)]
        try:
            for process in processes[:killed]:
                time.sleep(0.2)
                process.kill()
            outputs = [process.communicate(timeout=120)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert outputs[killed:] == ["done\n"] * (5 - killed)
        with opened(tmp_path) as place:
            remove_leftovers(place, WORK)
        assert names(tmp_path) == []
