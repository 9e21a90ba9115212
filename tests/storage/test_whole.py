"""Files that appear whole or not at all, and the modes, links and leftovers of such files."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch

from hyperfocal.data.files import write_frame
from hyperfocal.errors import RunError
from hyperfocal.storage.run_folder import (
    CHECKPOINT,
    CONFIG,
    DATA,
    MODEL,
    RunFolder,
)
from hyperfocal.storage.whole import whole_file
from run_cases import TENSORS, files, full_disk


def write_half(path: Path, error: BaseException) -> None:
    with whole_file(path) as aside:
        aside.write_text("half")
        raise error


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "a.csv.gz"
    with whole_file(path) as aside:
        aside.write_text("half")
        assert not path.exists()
        assert (aside.parent.parent, aside.name) == (path.parent, "a.csv.gz")  # the name's end gives the format
        aside.write_text("whole")
    assert path.read_text() == "whole"
    assert files(tmp_path) == ["new/folder/a.csv.gz"]


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt(), OSError("a disk")])
def test_an_error_leaves_the_file_before(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(RunError if isinstance(error, OSError) else type(error)):
        write_half(path, error)
    assert path.read_text() == "before"
    assert files(tmp_path) == ["a.txt"]


def test_a_file_is_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: calls.append("flush") or fsync(number))
    monkeypatch.setattr(Path, "replace", lambda *paths: calls.append("rename") or replace(*paths))
    with whole_file(tmp_path / "a.txt") as aside:
        aside.write_text("x")
    assert calls == ["flush", "rename", "flush"]  # the folder too, so that the name lasts


def test_nothing_was_written(tmp_path):
    with pytest.raises(RunError, match=r"cannot write .*a\.txt"), whole_file(tmp_path / "a.txt"):
        pass
    assert not files(tmp_path)


def test_a_folder_stands_in_the_way(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with (
        pytest.raises(RunError, match=r"cannot write .*a\.txt: .*Is a directory"),
        whole_file(tmp_path / "a.txt") as aside,
    ):
        aside.write_text("x")
    assert not files(tmp_path)


def test_a_file_stands_where_the_folder_should(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(RunError, match=r"cannot write .*config\.toml"):
        RunFolder(tmp_path / "run").write_text(CONFIG, "")
    assert files(tmp_path) == ["run"]


# A full disk


def test_a_disk_that_is_full_on_flushing_leaves_the_checkpoint(run, monkeypatch):
    before = (run.path / CHECKPOINT).read_bytes()
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(RunError) as caught:
        run.write_tensors(CHECKPOINT, {"a": torch.zeros(9)})
    assert str(caught.value) == (
        f"cannot write {run.path / CHECKPOINT}: [Errno 28] No space left on device. "
        "Free some space or choose another folder"
    )
    assert (run.path / CHECKPOINT).read_bytes() == before
    assert files(run.path) == sorted([CONFIG, DATA, CHECKPOINT, MODEL, "metrics.json"])


@pytest.mark.parametrize("size", [30_000, 10**6])
def test_a_full_disk_leaves_the_checkpoint(small_disk, size):
    run = RunFolder(small_disk / "run")
    run.write_tensors(CHECKPOINT, {"a": torch.arange(15_000, dtype=torch.float32)})  # 60 of 128 kB
    with pytest.raises(RunError, match=r"cannot write .*last\.safetensors: .*No space left on device"):
        run.write_tensors(CHECKPOINT, {"a": torch.zeros(size)})
    assert run.read_tensors(CHECKPOINT)[0]["a"].tolist() == list(range(15_000))
    assert files(small_disk) == [f"run/{CHECKPOINT}"]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.jsonl.gz", "a.parquet", "a.txt"])
def test_a_full_disk_leaves_the_predictions(small_disk, name):
    (small_disk / name).write_text("before")
    noise = pl.DataFrame({"user": [os.urandom(16).hex() for _ in range(20_000)]})
    with (
        pytest.raises(RunError, match=r"cannot write .*No space left on device"),
        whole_file(small_disk / name) as aside,
    ):
        aside.write_text(noise["user"].str.join()[0]) if name == "a.txt" else write_frame(noise, aside)
    assert (small_disk / name).read_text() == "before"
    assert files(small_disk) == [name]


# The mode and the link of a file that is rewritten


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_new_files_have_the_mode_that_the_umask_allows(run, umask, mode):
    before = os.umask(umask)
    try:
        run.write_text("new.txt", "x")
        run.write_tensors("new.safetensors", TENSORS)
    finally:
        os.umask(before)
    assert {stat.S_IMODE((run.path / name).stat().st_mode) for name in ("new.txt", "new.safetensors")} == {mode}


def test_a_file_that_is_rewritten_keeps_its_mode_and_its_link(tmp_path):
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "a.txt", tmp_path / "a.txt"
    real.write_text("before")
    real.chmod(0o604)
    link.symlink_to("real/a.txt")
    with whole_file(link) as aside:
        aside.write_text("after")
    assert link.is_symlink()
    assert real.read_text() == "after"
    assert stat.S_IMODE(real.stat().st_mode) == 0o604
    assert files(tmp_path) == ["a.txt", "real/a.txt"]


def test_nobody_else_can_look_into_a_file_that_is_being_written(tmp_path):
    with whole_file(tmp_path / "a.txt") as aside:
        aside.write_text("half")
        assert stat.S_IMODE(aside.parent.stat().st_mode) == 0o700


def test_a_killed_writer_leaves_nothing_for_long_and_a_living_one_is_left_alone(tmp_path):
    code = "import os, sys; from pathlib import Path; from hyperfocal.storage.whole import ASIDE, whole_file\n"
    code += "with whole_file(Path(sys.argv[1])) as aside:\n    aside.write_text('half'); os.kill(os.getpid(), 9)"
    for _ in range(3):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.txt")], check=False)
    assert len(list(tmp_path.iterdir())) == 1  # each removes what the one before left
    with whole_file(tmp_path / "b.txt") as living:
        living.write_text("b")
        with whole_file(tmp_path / "a.txt") as aside:
            aside.write_text("a")
        assert living.exists()
    assert files(tmp_path) == ["a.txt", "b.txt"]


def test_many_files_in_one_folder_list_it_few_times(tmp_path, monkeypatch):
    listed, scandir = [], os.scandir

    def counted(folder):
        listed.append(len(os.listdir(folder)))  # noqa: PTH208
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", counted)
    for number in range(200):
        with whole_file(tmp_path / f"{number}.csv") as aside:
            aside.write_text("a")
    assert len(files(tmp_path)) == 200
    names = sum(listed)
    assert names <= 2_000  # of the temporary folders too; to list the folder for each file would read 19,900 more


def test_a_folder_of_the_user_beside_a_file_or_in_a_run_stays(run):
    """Its name begins as that of a temporary folder does."""
    for folder in (run.path.parent, run.path, run.path / "checkpoints"):
        (folder / ".hyperfocal-cache").mkdir()
        (folder / ".hyperfocal-cache" / "thesis.tex").write_text("years of work")
    with whole_file(run.path.parent / "a.txt") as aside:
        aside.write_text("a")
    with run.writing():
        run.write_text(CONFIG, "seed = 1\n")
    for folder in (run.path.parent, run.path, run.path / "checkpoints"):
        assert (folder / ".hyperfocal-cache" / "thesis.tex").read_text() == "years of work"


def test_a_file_system_that_reports_any_owner_and_mode(tmp_path, monkeypatch):
    """As vfat, CIFS and NFS with root_squash do. A cache is not used there, but an output is written."""
    fstat = os.fstat

    def report(number):
        state = list(fstat(number))
        state[0], state[4] = stat.S_IFMT(state[0]) | 0o777, 65534
        return os.stat_result(state)

    monkeypatch.setattr(os, "fstat", report)
    for _ in range(2):
        with whole_file(tmp_path / "a.txt") as aside:
            aside.write_text("a")
    assert files(tmp_path) == ["a.txt"]
    assert os.listdir(tmp_path) == ["a.txt"]  # noqa: PTH208 - hidden folders too
