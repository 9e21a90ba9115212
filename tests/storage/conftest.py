"""A run, and a small file system."""

import math
import subprocess

import pytest

from hyperfocal.storage.run_folder import CHECKPOINT, CONFIG, DATA, MODEL, RunFolder
from run_cases import TENSORS


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
