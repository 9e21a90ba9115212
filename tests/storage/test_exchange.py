"""A folder is replaced by another in one step; what is read meanwhile is all of one of them."""

import errno
import os
import stat
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest

import hyperfocal.storage.exchange
from hyperfocal.errors import RunError
from hyperfocal.storage.manifest import write_manifest
from hyperfocal.storage.run_folder import (
    CONFIG,
    DATA,
    FILES,
    MODEL,
    RunFolder,
    read_stable,
)
from hyperfocal.storage.whole import ASIDE, whole_file
from run_cases import files, full_disk, replace, write_other


@pytest.fixture(params=["exchange", "two renames"])
def way(request, monkeypatch):
    """Replace folders on a file system that can exchange names, and on one that cannot."""
    if request.param == "two renames":
        monkeypatch.setattr("hyperfocal.storage.exchange.EXCHANGE", 1 << 20)  # a flag that no system knows: EINVAL
    return request.param


def test_what_a_killed_process_left_of_the_replaced_run_is_removed(run, way):
    """It was killed after its two renames, while it removed the old run."""
    left = run.path.with_name(f".{run.path.name}.replaced")
    left.mkdir()
    (left / MODEL).touch()
    with run.writing():
        assert not left.exists()


def test_a_run_is_replaced_and_other_files_stay(run, way):
    run.write_text("notes.txt", "mine")
    run.write_text("plots/a.png", "mine")
    (run.path / "latest").symlink_to("plots/a.png")
    os.mkfifo(run.path / "pipe")
    number = (run.path / "notes.txt").stat().st_ino
    replace(run)
    assert files(run.path) == sorted([CONFIG, DATA, "latest", "notes.txt", "plots/a.png"])
    assert run.read_text(CONFIG) == "seed = 1\n"
    assert (run.path / "latest").is_symlink()
    assert (run.path / "pipe").is_fifo()
    assert (run.path / "notes.txt").stat().st_ino == number  # not a copy: a program that has it open goes on
    assert list(run.path.parent.iterdir()) == [run.path]


def test_a_link_to_a_run_stays_one(run, tmp_path, way):
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "current"
    link.symlink_to(run.path)
    replace(RunFolder(link))
    assert link.is_symlink()
    assert run.read_text(CONFIG) == "seed = 1\n"


def test_the_working_folder_is_replaced_file_by_file_if_that_is_allowed(run, monkeypatch):
    """Else the shell of the user would be left in a folder that is gone."""
    monkeypatch.chdir(run.path)
    with pytest.raises(RunError, match=r"cannot be replaced: .*it is the working folder\. It is unchanged"):
        replace(RunFolder("."))
    replace(RunFolder("."), or_in_place=True)
    assert Path.cwd() == run.path
    assert files(run.path) == sorted([CONFIG, DATA])


def test_a_file_that_comes_during_the_exchange_stays(run, monkeypatch):
    """`predict --out run/p.csv`, for example."""
    exchange = hyperfocal.storage.exchange.exchange

    def late(fresh, path):
        (path / "p.csv").write_text("late")
        exchange(fresh, path)

    monkeypatch.setattr("hyperfocal.storage.exchange.exchange", late)
    replace(run)
    assert run.read_text("p.csv") == "late"


def test_a_file_that_is_rewritten_during_the_exchange_is_the_new_one(run, monkeypatch):
    run.write_text("p.csv", "early")
    run.write_text("plots/a.png", "early")
    exchange = hyperfocal.storage.exchange.exchange

    def late(fresh, path):
        time.sleep(0.01)  # of the clock of the file system
        for name in ("p.csv", "plots/b.png", "plots/deep/c.png"):
            RunFolder(path).write_text(name, "late")
        exchange(fresh, path)

    monkeypatch.setattr("hyperfocal.storage.exchange.exchange", late)
    replace(run)
    assert [run.read_text(name) for name in ("p.csv", "plots/b.png", "plots/deep/c.png")] == ["late"] * 3
    assert run.read_text("plots/a.png") == "early"
    assert files(run.path) == sorted([CONFIG, DATA, "p.csv", "plots/a.png", "plots/b.png", "plots/deep/c.png"])


def test_every_file_of_a_folder_is_flushed_before_the_exchange(run, monkeypatch):
    """Also those that a library wrote."""
    flushed, fsync = set(), os.fsync

    def write(path):
        write_other(path)
        (path / "encoder").mkdir()
        (path / "encoder" / "model.bin").write_bytes(b"x")

    def note(number):
        flushed.add(Path(f"/proc/self/fd/{number}").readlink().name)
        fsync(number)

    monkeypatch.setattr(os, "fsync", note)
    replace(run, write)
    assert {CONFIG, DATA, "encoder", "model.bin", "run"} <= flushed


def test_private_files_stay_private(run, way):
    """An update must not open the training data to everybody."""
    (run.path / DATA).chmod(0o600)
    replace(run)
    assert stat.S_IMODE((run.path / DATA).stat().st_mode) == 0o600


def test_the_folder_that_the_user_knows_is_named(run):
    def write(path: Path) -> None:
        with whole_file(path / MODEL):
            full_disk()

    with pytest.raises(RunError) as caught:
        replace(run, write)
    assert str(caught.value).startswith(f"cannot write {run.path / MODEL}: [Errno 28] No space left on device")


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
@pytest.mark.parametrize("in_place", [True, False])
def test_a_run_that_this_user_cannot_remove_is_not_replaced(run, tmp_path, in_place):
    (run.path / "checkpoints").chmod(0o755)  # of root
    for path in (run.path, tmp_path, *tmp_path.parents[: len(tmp_path.parents) - 2]):
        path.chmod(0o777)
    before = files(run.path)
    code = f"""
import os, sys
from hyperfocal.storage.run_folder import RunFolder
os.setuid(65534)
run = RunFolder(sys.argv[1])
with run.writing():
    run.replace_by(lambda path: RunFolder(path).write_text("config.toml", ""), or_in_place={in_place})
"""
    ended = subprocess.run([sys.executable, "-c", code, run.path], capture_output=True, text=True, check=False)
    assert "RunError" in ended.stderr
    assert "checkpoints" in ended.stderr
    assert files(run.path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_mode_of_the_folder_stays(run, way):
    run.path.chmod(0o2750)
    replace(run)
    assert stat.S_IMODE(run.path.stat().st_mode) == 0o2750


@pytest.mark.parametrize("error", [full_disk, RuntimeError, KeyboardInterrupt])
def test_a_run_that_is_not_written_whole_replaces_nothing(run, error, way):
    def write(path: Path) -> None:
        write_other(path)
        raise error() if isinstance(error, type) else OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = files(run.path)
    with pytest.raises((RunError, RuntimeError, KeyboardInterrupt)):
        replace(run, write)
    assert files(run.path) == before
    assert run.read_text(CONFIG) == "seed = 0\n"
    assert list(run.path.parent.iterdir()) == [run.path]


def test_a_second_rename_that_fails_is_undone(run, monkeypatch):
    monkeypatch.setattr("hyperfocal.storage.exchange.EXCHANGE", 1 << 20)
    rename = Path.rename

    def refuse(path, to):
        return full_disk() if ASIDE in str(path) else rename(path, to)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(RunError, match=r"cannot be replaced: .*No space left on device\. It is unchanged"):
        replace(run)
    assert run.read_text(CONFIG) == "seed = 0\n"
    assert list(run.path.parent.iterdir()) == [run.path]


@pytest.mark.parametrize("reader", [RunFolder.open, lambda path: replace(RunFolder(path))])
def test_a_kill_between_two_renames_is_repaired(run, reader, monkeypatch):
    monkeypatch.setattr("hyperfocal.storage.exchange.MOMENT_SECONDS", 0.05)
    run.path.rename(run.path.with_name(".run.replaced"))
    reader(run.path)
    assert run.has(CONFIG)
    assert list(run.path.parent.iterdir()) == [run.path]


def test_a_kill_after_two_renames_leaves_nothing_for_long(run, monkeypatch):
    monkeypatch.setattr("hyperfocal.storage.exchange.EXCHANGE", 1 << 20)
    write_other(run.path.with_name(".run.replaced"))
    assert RunFolder.open(run.path).read_text(CONFIG) == "seed = 0\n"
    replace(run)
    assert list(run.path.parent.iterdir()) == [run.path]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_mount_point_is_replaced_file_by_file_if_that_is_allowed(small_disk):
    run = RunFolder(small_disk)
    write_other(small_disk)
    run.write_text("notes.txt", "mine")
    run.write_text(MODEL, "old")
    with pytest.raises(RunError, match=r"cannot be replaced: .*It is unchanged"):
        replace(run)
    assert run.has(MODEL)
    replace(run, or_in_place=True)
    assert files(small_disk) == sorted([CONFIG, DATA, "notes.txt"])


def stop_at_a_mount_point(*_, **__):
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def test_removing_in_place_begins_with_the_settings_and_ends_with_the_data(run, monkeypatch):
    """Killed in between, the folder is known as what a run left, and a new run may begin there."""
    removed = []
    unlink = Path.unlink

    def note(path, **options):
        unlink(path, **options)
        removed.append(path.name)
        run.refuse_taken()

    monkeypatch.setattr("hyperfocal.storage.run_folder.whole_folder", stop_at_a_mount_point)
    monkeypatch.setattr(Path, "unlink", note)
    replace(run, lambda path: None, or_in_place=True)
    names = [name for name in removed if name in FILES]
    assert (names[0], names[-1]) == (CONFIG, DATA)
    assert MODEL in names


def test_a_run_that_is_replaced_in_place_without_space_can_begin_again(run, monkeypatch):
    """The folder is a mount point, so the old run goes first; the notes of a user stay."""
    run.write_text("notes.txt", "mine")
    monkeypatch.setattr("hyperfocal.storage.run_folder.whole_folder", stop_at_a_mount_point)
    with pytest.raises(OSError, match="No space left on device"):
        replace(run, full_disk, or_in_place=True)
    assert files(run.path) == [DATA, "notes.txt"]
    run.refuse_taken()


def test_a_new_folder_in_place_is_no_failure_if_its_name_cannot_be_flushed(run, monkeypatch):
    monkeypatch.setattr("hyperfocal.storage.exchange.flush", full_disk)
    replace(run)
    assert run.read_text(CONFIG) == "seed = 1\n"


# Reading while a run is replaced


def test_what_is_read_is_of_one_run(run):
    """The run is replaced between the first and the second file that is read."""
    write_manifest(run)

    def read_both(folder: RunFolder) -> tuple[str, str]:
        fingerprint = folder.read_json(DATA)["fingerprint"]
        if fingerprint == "1f":
            replace(run, lambda path: (write_other(path), write_manifest(RunFolder(path))))
        return fingerprint, folder.read_text(CONFIG)

    assert read_stable(run.path, read_both) == ("2e", "seed = 1\n")


def test_a_file_that_vanished_because_the_run_was_replaced_is_no_damage(run):
    write_manifest(run)

    def read_all(folder: RunFolder) -> str:
        if folder.has("metrics.json"):
            replace(run, lambda path: (write_other(path), write_manifest(RunFolder(path))))
            folder.read_text("metrics.json")
        return folder.read_text(CONFIG)

    assert read_stable(run.path, read_all) == "seed = 1\n"


def test_a_run_that_is_replaced_again_and_again(run):
    number = count()

    def write(path: Path) -> None:
        RunFolder(path).write_text(CONFIG, f"seed = {next(number)}")
        write_manifest(RunFolder(path))

    write_manifest(run)
    with pytest.raises(RunError, match=r"was replaced 5 times while it was read\. Try again later"):
        read_stable(run.path, lambda _: replace(run, write))
    assert next(number) == 5
