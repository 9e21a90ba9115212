"""The files of a run: checkpoints, manifest, damage, and whose folder it is."""

import json
import math
import os
import pickle
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hyperfocal.errors import ConfigError, RunError
from hyperfocal.storage.manifest import read_manifest, verify_files, write_manifest
from hyperfocal.storage.run_folder import (
    CHECKPOINT,
    CONFIG,
    DATA,
    MANIFEST,
    MODEL,
    PREVIOUS,
    RunFolder,
    describe_environment,
)
from run_cases import TENSORS, files

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
        write_manifest(run)
        assert set(run.read_json(MANIFEST)["files"]) == {CONFIG, DATA, MODEL, "metrics.json"}
        assert verify_files(run) == {}

    def test_what_is_wrong_is_named(self, run):
        write_manifest(run)
        (run.path / CONFIG).write_text("seed = 1\n")
        (run.path / "metrics.json").unlink()
        flip(run.path / CHECKPOINT)
        faults = verify_files(run)
        assert (faults[CONFIG], faults["metrics.json"]) == ("changed", "missing")
        assert "bytes have changed" in faults[CHECKPOINT]
        assert len(faults) == 3

    def test_a_name_too_long_for_a_file_is_missing(self, run):
        run.write_json(MANIFEST, {"files": {"a" * 5_000: "0"}})
        assert verify_files(run) == {"a" * 5_000: "missing"}

    def test_without_a_manifest_the_run_is_unfinished(self, run):
        with pytest.raises(RunError, match=r"manifest\.json is missing, so `fit` has not finished"):
            verify_files(run)

    @pytest.mark.parametrize("name", ["../other", "/etc/passwd", "checkpoints/../../x", "a\x1b[2Jb", "a\nb"])
    def test_names_outside_of_the_run_or_with_control_characters(self, run, name):
        run.write_json(MANIFEST, {"files": {name: "0"}})
        with pytest.raises(RunError, match=r"manifest\.json is damaged \(.*is no name of a file in a run") as caught:
            read_manifest(run)
        assert str(caught.value).isprintable()

    def test_what_a_killed_process_left_is_no_damage(self, run):
        write_manifest(run)
        for name in (".hyperfocal-0123456789abcdef/last.safetensors", ".4711.last.safetensors"):
            path = (run.path / CHECKPOINT).parent / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"half")
        assert verify_files(run) == {}


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
    write_manifest(run)
    (run.path / name).unlink()
    with pytest.raises(RunError) as caught:
        read(run, name)
    assert str(caught.value) == f"run {run.path}: {name} is missing. Restore the file or fit again"


def test_a_missing_model_without_a_manifest_is_unfinished(run):
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
    (tmp_path / f".4711.{CONFIG}").write_text("seed =")  # of an earlier version
    (tmp_path / ".hyperfocal-0123456789abcdef").mkdir()
    (tmp_path / ".lock").write_text("{}")
    RunFolder(tmp_path).refuse_taken()


def test_a_run_without_settings_was_killed_as_it_began_or_ended(run):
    (run.path / CONFIG).unlink()
    run.refuse_taken()
    run.write_text(DATA, '{"mine": 1}')  # a file of the user that has the same name
    with pytest.raises(RunError, match=r"it holds other files"):
        run.refuse_taken()


@pytest.mark.parametrize("name", [CONFIG, DATA, MODEL, MANIFEST])
def test_a_pipe_or_a_device_in_a_run_is_an_error_at_once(run, name):
    write_manifest(run)
    path = run.path / name
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        path.unlink()
        make(path)
        with pytest.raises(RunError):
            read(run, name) if name != CONFIG else run.read_text(name)
        with suppress(RunError):
            assert verify_files(run)[name] == "missing"
