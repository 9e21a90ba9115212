"""Runs that are only some files, and faults, for the tests of the storage."""

import errno
from pathlib import Path

import torch

from hyperfocal.storage.run_folder import CONFIG, DATA, RunFolder

TENSORS = {"a": torch.arange(6).reshape(2, 3), "b.c": torch.tensor(0.5, dtype=torch.bfloat16), "none": torch.empty(0)}


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def write_other(path: Path) -> None:
    """Write a run of seed 1."""
    RunFolder(path).write_json(DATA, {"fingerprint": "2e"})
    RunFolder(path).write_text(CONFIG, "seed = 1\n")


def replace(run: RunFolder, write=write_other, *, or_in_place: bool = False) -> None:
    with run.writing():
        run.replace_by(write, or_in_place=or_in_place)
