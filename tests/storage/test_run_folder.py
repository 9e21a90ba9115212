import errno
import json
import math
import os
import pickle
import subprocess
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from hyperfocal.data.files import write_frame
from hyperfocal.errors import ConfigError, RunError
from hyperfocal.storage.run_folder import (
    CHECKPOINT,
    CONFIG,
    DATA,
    FILES,
    MANIFEST,
    MODEL,
    PREVIOUS,
    RunFolder,
    describe_environment,
    whole_file,
)

TENSORS = {"a": torch.arange(6).reshape(2, 3), "b.c": torch.tensor(0.5, dtype=torch.bfloat16), "none": torch.empty(0)}


@pytest.fixture
def run(tmp_path):
    """A folder with a run in it."""
    run = RunFolder(tmp_path / "run")
    run.write_json(DATA, {"fingerprint": "1f"})
    run.write_text(CONFIG, "seed = 0\n")
    run.write_tensors(CHECKPOINT, TENSORS, state={"epoch": 3, "best": -math.inf})
    run.write_tensors(MODEL, TENSORS)
    run.write_json("metrics.json", {"map@3": 0.25})
    return run


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 128 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot mount a small file system: {error}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def write_half(path: Path, error: BaseException) -> None:
    with whole_file(path) as aside:
        aside.write_text("half")
        raise error


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


# Checkpoints and the manifest


def flip(path: Path) -> None:
    """Change a bit in the last byte, where the tensors are."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


class TestCheckpoints:
    def test_the_one_before_is_kept(self, run):
        run.write_checkpoint({"a": torch.ones(2)}, {"epoch": 4})
        assert run.read_tensors(PREVIOUS)[1] == {"epoch": 3, "best": -math.inf}
        assert run.read_checkpoint()[1] == {"epoch": 4}

    @pytest.mark.parametrize("damage", [flip, lambda path: path.write_bytes(b"half"), Path.unlink])
    def test_a_damaged_one_is_named_and_passed_over(self, run, damage, caplog):
        run.write_checkpoint({"a": torch.ones(2)}, {"epoch": 4})
        damage(run.path / CHECKPOINT)
        there = (run.path / CHECKPOINT).exists()
        assert run.read_checkpoint()[1]["epoch"] == 3
        named = [record.message for record in caplog.records]
        assert len(named) == there
        assert not (run.path / CHECKPOINT).exists()  # else it would take the whole one's place
        for message in named:
            assert "checkpoints/last.safetensors is damaged" in message
            assert "continues from checkpoints/previous.safetensors" in message

    def test_none_that_is_whole(self, run):
        flip(run.path / CHECKPOINT)
        with pytest.raises(RunError, match="its checksum differs: bytes have changed on the disk"):
            run.read_checkpoint()
        (run.path / CHECKPOINT).unlink()
        assert run.read_checkpoint() is None


def test_the_same_tensors_are_the_same_bytes(run):
    written = set()
    for _ in range(20):
        run.write_tensors("a.safetensors", TENSORS, state={"epoch": 3})
        written.add((run.path / "a.safetensors").read_bytes())
    assert len(written) == 1


def test_a_file_of_an_earlier_version_is_read(run):
    save_file({"a": torch.ones(2)}, run.path / "old.safetensors", metadata={"state": '{"epoch": 3}'})
    assert run.read_tensors("old.safetensors")[1] == {"epoch": 3}


class TestManifest:
    def test_what_is_whole(self, run):
        run.write_manifest()
        assert set(run.read_json(MANIFEST)["files"]) == {CONFIG, DATA, MODEL, "metrics.json"}
        assert run.verify() == {}

    def test_what_is_wrong_is_named(self, run):
        run.write_manifest()
        (run.path / CONFIG).write_text("seed = 1\n")
        (run.path / "metrics.json").unlink()
        flip(run.path / CHECKPOINT)
        found = run.verify()
        assert (found[CONFIG], found["metrics.json"]) == ("changed", "missing")
        assert "bytes have changed" in found[CHECKPOINT]
        assert len(found) == 3

    def test_a_name_too_long_for_a_file_is_missing(self, run):
        run.write_json(MANIFEST, {"files": {"a" * 5_000: "0"}})
        assert run.verify() == {"a" * 5_000: "missing"}

    def test_without_a_manifest(self, run):
        with pytest.raises(RunError, match=r"manifest\.json is missing"):
            run.verify()


# Whole files


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "a.csv.gz"
    with whole_file(path) as aside:
        aside.write_text("half")
        assert not path.exists()
        assert (aside.parent, aside.name[-9:]) == (path.parent, ".a.csv.gz")  # the format is told by the name's end
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


# Round trips


def test_tensors_and_state_round_trip(run):
    tensors, state = run.read_tensors(CHECKPOINT)
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype
    assert state == {"epoch": 3, "best": -math.inf}
    assert run.read_tensors(MODEL)[1] == {}


def test_tensors_that_are_views_with_gradients_are_written(run):
    table = torch.arange(6.0).reshape(2, 3).requires_grad_()
    run.write_tensors(MODEL, {"turned": table.T})
    assert run.read_tensors(MODEL)[0]["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_text_and_json_round_trip(run):
    run.write_text("notes.txt", "Ж\n")
    run.write_json("metrics.json", {"Ж": [1, 0.1, None, "x"], "pair": (1, 2)})
    assert run.read_text("notes.txt") == "Ж\n"
    assert run.read_json("metrics.json") == {"Ж": [1, 0.1, None, "x"], "pair": [1, 2]}
    assert "Ж" in run.read_text("metrics.json")


def test_json_is_json_where_a_metric_is_not_a_number(run):
    """A bucket without a true item has no mean."""
    run.write_json("metrics.json", {"head": {"map@3": math.nan}, "all": [1.5, math.inf, (math.nan,)]})
    read = json.loads(run.read_text("metrics.json"), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert read == {"head": {"map@3": None}, "all": [1.5, None, [None]]}


def test_has(run):
    assert run.has(CONFIG)
    assert not run.has("history.jsonl")
    assert not run.has("checkpoints")  # a folder


def test_the_environment(run):
    environment = describe_environment()
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["cpu_threads"] == torch.get_num_threads()
    run.write_json("environment.json", environment)
    assert run.read_json("environment.json") == environment


# Damage


def test_open(run, tmp_path):
    assert RunFolder.open(str(run.path)).read_text(CONFIG) == "seed = 0\n"
    (tmp_path / "empty").mkdir()
    for name, what in (("none", "no such folder"), ("empty", r"holds no run: config\.toml is missing")):
        with pytest.raises(RunError, match=rf"run .*{name}: {what}\. Give the folder"):
            RunFolder.open(tmp_path / name)


def read(run: RunFolder, name: str) -> None:
    if "safetensors" in name:
        run.read_tensors(name)
    else:
        run.read_json(name)


@pytest.mark.parametrize("name", [MODEL, CHECKPOINT, "metrics.json"])
def test_a_missing_file(run, name):
    (run.path / CHECKPOINT).unlink()
    (run.path / name).unlink(missing_ok=True)
    with pytest.raises(RunError) as caught:
        read(run, name)
    assert str(caught.value) == f"run {run.path}: {name} is missing. Restore the file or fit again"


def test_a_model_that_is_missing_beside_a_checkpoint_is_unfinished(run):
    (run.path / MODEL).unlink()
    with pytest.raises(RunError, match=r"training has not finished\. Continue it with `resume=True`"):
        run.read_tensors(MODEL)


@pytest.mark.parametrize("name", [MODEL, CHECKPOINT, "metrics.json"])
def test_a_truncated_file(run, name):
    whole = (run.path / name).read_bytes()
    for size in {0, 1, 7, 8, len(whole) // 2, len(whole) - 2}:
        (run.path / name).write_bytes(whole[:size])
        with pytest.raises(RunError, match=rf"{name} is damaged \(.+\)\. Restore the file or fit again"):
            read(run, name)


def test_text_that_is_none(run):
    (run.path / "metrics.json").write_bytes(b"\xff\xfe")
    with pytest.raises(RunError, match=r"metrics\.json is damaged"):
        run.read_json("metrics.json")
    (run.path / "metrics.json").unlink()
    (run.path / "metrics.json").mkdir()
    with pytest.raises(RunError, match=r"metrics\.json is damaged"):
        run.read_json("metrics.json")


@pytest.mark.parametrize("name", [MODEL, "metrics.json"])
def test_nothing_is_unpickled(run, tmp_path, name, monkeypatch):
    class Trap:
        def __reduce__(self):
            return Path.write_text, (tmp_path / "sprung", "")

    for content in (pickle.dumps({"a": Trap()}), b""):
        (run.path / name).write_bytes(content)
        if not content:
            torch.save({"a": Trap()}, run.path / name)
        with pytest.raises(RunError, match="is damaged"):
            read(run, name)
    assert not (tmp_path / "sprung").exists()
    for module, function in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, function, lambda *_, **__: pytest.fail("unpickled"))
    run.write_tensors(MODEL, TENSORS)
    run.write_json("metrics.json", {})
    read(run, name)


def test_guard(run):
    for error in (ValueError("x"), KeyError("x"), TypeError("x"), IndexError("x"), RuntimeError("x")):
        with pytest.raises(RunError, match=r"metrics\.json is damaged \('?x'?\)"), run.guard("metrics.json"):
            raise error
    with pytest.raises(RunError, match=r"^as it is$"), run.guard("metrics.json"):
        raise RunError("as it is")
    with run.guard("metrics.json"):
        pass


# Whose folder it is


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_a_new_or_empty_folder_is_free(tmp_path, options):
    RunFolder(tmp_path / "new").refuse_taken(**options)
    RunFolder(tmp_path).refuse_taken(**options)
    assert not list(tmp_path.iterdir())  # and nothing was written


def test_a_run_is_not_overwritten_unasked(run):
    before = files(run.path)
    with pytest.raises(RunError, match=r"holds a run already\. Choose another folder"):
        run.refuse_taken()
    run.refuse_taken(resume=True)
    run.refuse_taken(overwrite=True)
    assert files(run.path) == before


def test_the_advice_is_what_the_caller_can_do(run):
    """`None` is a caller without the parameter."""
    advice = {
        (None, None): "Choose another folder",
        (None, False): "Choose another folder, or replace it with `overwrite=True`",
        (False, False): "Choose another folder, continue it with `resume=True`, or replace it with `overwrite=True`",
    }
    for (resume, overwrite), words in advice.items():
        with pytest.raises(RunError) as caught:
            run.refuse_taken(resume=resume, overwrite=overwrite)
        assert str(caught.value) == f"run {run.path}: holds a run already. {words}"


@pytest.mark.parametrize("path", [None, 3, b"run", ["run"]])
def test_a_path_that_is_none(path):
    with pytest.raises(ConfigError, match="is not the path of a run"):
        RunFolder.open(path)


def test_a_path_of_another_library(run):
    class Other:
        def __fspath__(self):
            return str(run.path)

    assert RunFolder.open(Other()).path == run.path


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}, {"resume": True, "overwrite": True}])
def test_a_folder_with_other_files_is_never_taken(tmp_path, options):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match=r"it holds other files \(thesis\.tex\) and no run. Choose another folder"):
        RunFolder(tmp_path).refuse_taken(**options)
    with pytest.raises(RunError, match="is a file, not a folder"):
        RunFolder(tmp_path / "thesis.tex").refuse_taken(**options)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_what_a_killed_process_leaves_is_no_run_and_no_other_file(tmp_path):
    (tmp_path / f".4711.{CONFIG}").write_text("seed =")
    RunFolder(tmp_path).refuse_taken()
    RunFolder(tmp_path).clear()
    assert not list(tmp_path.iterdir())


def test_clear_removes_the_run_and_nothing_else(run):
    for name in FILES:
        if not (run.path / name).exists():
            run.write_text(name, "")
    run.write_text("notes.txt", "mine")
    run.write_text("plots/a.png", "mine")
    run.clear()
    assert files(run.path) == ["notes.txt", "plots/a.png"]
    run.clear()
    RunFolder(run.path / "none").clear()


def test_clear_removes_the_settings_last(run, monkeypatch):
    """Killed halfway, the folder is still known as a run."""
    removed = []
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **_: removed.append(path.name) or unlink(path, missing_ok=True))
    run.clear()
    assert removed[-1] == CONFIG
    assert MODEL in removed


def test_clear_that_fails(run, monkeypatch):
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: full_disk())
    with pytest.raises(RunError, match="cannot remove the run that is here"):
        run.clear()


# Replacing a run by another


def write_other(path: Path) -> None:
    """Write a run of seed 1."""
    RunFolder(path).write_json(DATA, {"fingerprint": "2e"})
    RunFolder(path).write_text(CONFIG, "seed = 1\n")


def refuse_renames(monkeypatch, *ends: str) -> None:
    """Let each renaming of a path that ends so fail, as on a full disk."""
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, to: full_disk() if path.name.endswith(ends) else rename(path, to))


def test_a_run_is_replaced_and_other_files_stay(run):
    run.write_text("notes.txt", "mine")
    run.replace_by(write_other)
    assert files(run.path) == sorted([CONFIG, DATA, "notes.txt"])
    assert run.read_text(CONFIG) == "seed = 1\n"
    assert list(run.path.parent.iterdir()) == [run.path]


@pytest.mark.parametrize("end", ["run", ".new"])  # of the run to its place aside; of the new one to its own
def test_a_run_that_cannot_be_replaced_is_as_it_was(run, monkeypatch, end):
    before = files(run.path)
    refuse_renames(monkeypatch, end)
    with pytest.raises(RunError, match=r"cannot be replaced: .*No space left on device\. It is unchanged"):
        run.replace_by(write_other)
    assert files(run.path) == before
    assert run.read_text(CONFIG) == "seed = 0\n"
    assert list(run.path.parent.iterdir()) == [run.path]


def test_a_run_that_cannot_be_put_back_either_is_named(run, monkeypatch):
    before = files(run.path)
    refuse_renames(monkeypatch, ".new", ".old")
    with pytest.raises(RunError, match="Nothing is lost") as caught:
        run.replace_by(write_other)
    old, new = sorted(run.path.parent.iterdir(), key=lambda path: path.name.endswith(".new"))
    assert f"the old run is {old}, the new one is {new}" in str(caught.value)
    assert files(old) == before
    assert files(new) == [CONFIG, DATA]


def test_other_files_that_cannot_be_moved_are_said_to_be_elsewhere(run):
    def write(path: Path) -> None:
        write_other(path)
        RunFolder(path).write_text("plots/b.png", "new")

    run.write_text("plots/a.png", "mine")  # a folder is not renamed to one with files in it
    with pytest.raises(RunError, match="is replaced by the new run, but other files") as caught:
        run.replace_by(write)
    [old] = [path for path in run.path.parent.iterdir() if path != run.path]
    assert f"are still in {old}: " in str(caught.value)
    assert (old / "plots" / "a.png").read_text() == "mine"
    assert run.read_text(CONFIG) == "seed = 1\n"
