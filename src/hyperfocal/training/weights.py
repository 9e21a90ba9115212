"""The weights of a run, bound to its settings and its data, so that parts of two runs are never taken for one."""

from __future__ import annotations

import tomllib
from contextlib import suppress
from typing import Any

from torch import Tensor

from hyperfocal.config.recipes import flatten
from hyperfocal.errors import RunError
from hyperfocal.storage.manifest import verify_files
from hyperfocal.storage.run_folder import CONFIG, DATA, MODEL, RunFolder

RUNS_IN = ("train.threads", "train.device", "features.encoder", "items.boost")  # settings that may change after a fit


def write_weights(run: RunFolder, tensors: dict[str, Tensor]) -> None:
    """Write the weights, with the settings of the run and the checksum of its data."""
    run.write_tensors(MODEL, tensors, state={"settings": _settings(run), "fingerprint": _fingerprint(run)})


def read_weights(run: RunFolder) -> dict[str, Tensor]:
    """Return the weights of a run.

    Raises:
        RunError: the run is unfinished; the file is damaged; its settings or data are not those of the run.
    """
    tensors, state = run.read_tensors(MODEL)
    if fault := _mixture(run, state):
        raise RunError(f"run {run.path}: {fault}. Restore the file, or fit again")
    return tensors


def verify_run(run: RunFolder) -> dict[str, str]:
    """Return the faults of a run: name -> "missing", "changed" or the error.

    Raises:
        RunError: the run is unfinished, or its manifest is damaged.
    """
    faults = verify_files(run)
    if MODEL not in faults:
        with suppress(RunError):  # of a file that is among the faults
            faults |= {MODEL: fault} if (fault := _mixture(run, run.read_state(MODEL))) else {}
    return faults


def _mixture(run: RunFolder, state: dict[str, Any]) -> str:
    """Return why the weights with this state are of another run; "": they are of this run, or of an earlier version."""
    if state.get("fingerprint") not in (None, _fingerprint(run)):
        return f"{DATA} is not of the data that {MODEL} was trained on"
    with run.guard(MODEL):
        settings = dict(state.get("settings", {}))
    now = _settings(run) if settings else {}
    changed = [key for key, value in settings.items() if key not in RUNS_IN and now.get(key) != value]
    if not changed:
        return ""
    key = changed[0]
    return f"{CONFIG} has {key} = {now.get(key)!r}, and {MODEL} was trained with {settings[key]!r}"


def _settings(run: RunFolder) -> dict[str, Any]:
    with run.guard(CONFIG):
        return flatten(tomllib.loads(run.read_text(CONFIG)))


def _fingerprint(run: RunFolder) -> str:
    with run.guard(DATA):
        return str(run.read_json(DATA)["fingerprint"])
