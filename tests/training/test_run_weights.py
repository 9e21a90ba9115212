"""The weights of a run belong to its settings and data: parts of two runs are refused, and `verify` names them."""

import json

import pytest
import torch

from hyperfocal.config.classify import ClassifySettings
from hyperfocal.errors import RunError
from hyperfocal.storage.manifest import write_manifest
from hyperfocal.storage.run_folder import CONFIG, DATA, MODEL, RunFolder
from hyperfocal.training.run import write_identity
from hyperfocal.training.weights import read_weights, verify_run, write_weights

TENSORS = {"a": torch.arange(3.0)}


def write_run(run: RunFolder, seed: int, fingerprint: str) -> RunFolder:
    write_identity(run, ClassifySettings(seed=seed), fingerprint, facts={})
    write_weights(run, TENSORS)
    write_manifest(run)
    return run


@pytest.fixture
def run(tmp_path):
    return write_run(RunFolder(tmp_path / "run"), 0, "1f")


def test_weights_round_trip(run):
    assert read_weights(run)["a"].tolist() == [0, 1, 2]
    assert verify_run(run) == {}


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (CONFIG, "config.toml has seed = 1, and model.safetensors was trained with 0"),
        (DATA, "data.json is not of the data that model.safetensors was trained on"),
    ],
)
def test_parts_of_two_runs_with_equal_shapes_are_refused(run, tmp_path, name, problem):
    other = write_run(RunFolder(tmp_path / "other"), 1, "2e")
    (run.path / name).write_bytes((other.path / name).read_bytes())
    with pytest.raises(RunError) as caught:
        read_weights(run)
    assert str(caught.value) == f"run {run.path}: {problem}. Restore the file, or fit again"
    assert verify_run(run) == {name: "changed", MODEL: problem}
    write_manifest(run)  # by a writer that mixed them
    assert verify_run(run) == {MODEL: problem}


def test_where_a_run_is_used_may_change(run):
    text = run.read_text(CONFIG)
    run.write_text(CONFIG, text.replace("threads = 0", "threads = 3").replace('device = "auto"', 'device = "cpu"'))
    assert run.read_text(CONFIG) != text
    assert read_weights(run)["a"].tolist() == [0, 1, 2]


def test_a_setting_that_is_gone_from_the_file_is_a_difference(run):
    run.write_text(CONFIG, run.read_text(CONFIG).replace("seed = 0\n", ""))
    with pytest.raises(RunError, match=r"config\.toml has seed = None, and model\.safetensors was trained with 0"):
        read_weights(run)


def test_a_run_of_an_earlier_version_is_bound_to_nothing(run):
    run.write_tensors(MODEL, TENSORS)
    run.write_text(DATA, json.dumps({"job": "classify", "fingerprint": "other"}))
    assert read_weights(run)["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("state", [{"settings": [1], "fingerprint": "1f"}, {"settings": "x"}, {"fingerprint": 3}])
def test_a_damaged_binding_is_an_error(run, state):
    run.write_tensors(MODEL, TENSORS, state=state)
    with pytest.raises(RunError):
        read_weights(run)


@pytest.mark.parametrize("damage", [None, "[", "{}"])
def test_every_fault_is_named_if_the_data_file_is_one_of_them(run, damage):
    (run.path / MODEL).write_bytes(b"x")
    if damage is None:
        (run.path / DATA).unlink()
    else:
        (run.path / DATA).write_text(damage)
    assert verify_run(run) == {MODEL: "changed", DATA: "missing" if damage is None else "changed"}
