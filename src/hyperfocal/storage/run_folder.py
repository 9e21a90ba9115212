"""The run folder: all files that are needed to predict with a run, explain it and repeat it.

    config.toml  data.json  model.safetensors  vocabulary.json  metrics.json  history.jsonl  environment.json
    evidence.json  report.html
    manifest.json: a checksum of each file, for `verify`; written last
    checkpoints/: last.safetensors, previous.safetensors; fold0.safetensors ...: out-of-fold scores
    recommend: baselines.safetensors    classify: features.json  thresholds.json  labels.csv  taxonomy.json  encoder/
                                        texts.safetensors  opinions.json  label_vectors.safetensors

Files appear whole or not at all, and so does a run that replaces another one. One process writes at a time. Nothing is
unpickled. A file of tensors contains its own checksum, and that of the model also the settings and the checksum of the
data that it belongs to.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import platform
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hyperfocal.errors import ConfigError, HyperfocalError, RunError
from hyperfocal.storage.exchange import remove_replaced, restore, whole_folder, why_fixed
from hyperfocal.storage.lock import LOCK, FolderLock
from hyperfocal.storage.whole import ASIDE, remove_aside, whole_file

logger = logging.getLogger("hyperfocal")
CONFIG = "config.toml"
DATA = "data.json"
MODEL = "model.safetensors"
CHECKPOINT = "checkpoints/last.safetensors"
PREVIOUS = "checkpoints/previous.safetensors"
MANIFEST = "manifest.json"
ENCODER = "encoder"  # a folder with the fine-tuned encoder
FILES = (
    CONFIG, DATA, MODEL, "baselines.safetensors", "vocabulary.json", "metrics.json", "history.jsonl",
    "environment.json", "events.safetensors", "users.json", "items.safetensors", "items.json",
    "item_table.parquet",
    MANIFEST, "features.json", "thresholds.json", "labels.csv", "taxonomy.json", "evidence.json", "report.html",
    "texts.safetensors", "opinions.json", "label_vectors.safetensors", ENCODER, "checkpoints",
)  # fmt: skip
LEFT = re.compile(rf"\.\d+\.({'|'.join(map(re.escape, FILES))})")  # by a killed process of an earlier version
FIXED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.EXDEV)  # of a folder that cannot be renamed
ATTEMPTS = 5  # to read a run that is being replaced
Read = TypeVar("Read")


class RunFolder:
    """A folder that holds one run. Raises ConfigError if `path` is not a path."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, str | os.PathLike):
            raise ConfigError(f"{path!r} is not the path of a run. Give a str or a Path")
        self.path = Path(path)
        try:
            str(self.path).encode()
        except UnicodeEncodeError:  # safetensors opens no such file
            raise ConfigError(f"run {self.path}: its name is not valid UTF-8. Rename the folder") from None
        self._lock: FolderLock | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """Return the folder of an existing run.

        Raises:
            RunError: the folder holds no run.
        """
        run = cls(path)
        restore(run.place)
        if not (run.path / CONFIG).is_file():
            problem = "holds no run: config.toml is missing" if run.path.exists() else "no such folder"
            raise RunError(f"run {run.path}: {problem}. Give the folder that `fit` wrote")
        return run

    @property
    def place(self) -> Path:
        """Return the path of the folder without links."""
        return Path(os.path.realpath(self.path))

    @contextmanager
    def writing(self, patience: float = 0) -> Iterator[None]:
        """Lock the folder for writing; first restore or remove what a killed process left.

        Args:
            patience: seconds to wait while another process writes to it.

        Raises:
            RunError: another process writes to it, or it cannot be written.
        """
        restore(self.place)
        with FolderLock(self.place, patience) as self._lock:
            for folder in (self.place.parent, self.place, (self.place / CHECKPOINT).parent):
                remove_aside(folder)
            remove_replaced(self.place)
            try:
                yield
            finally:
                self._lock = None

    def refuse_fixed(self) -> None:
        """Raise RunError if the run cannot be replaced in one step, for a command that does not write file by file."""
        if why := why_fixed(self.place):
            raise RunError(f"run {self.path}: cannot be replaced: {why}. Write to another folder with `out=`")

    def refuse_taken(self, *, resume: bool | None = None, overwrite: bool | None = None) -> None:
        """Check that a run may be written here; change nothing. None: the caller offers no such choice.

        Raises:
            RunError: the folder holds another run, or files that do not belong to a run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"run {self.path}: is a file, not a folder. Choose another folder")
        names = self._names()
        if not names or self._is_remainder(names):
            return
        if not {CONFIG, DATA} <= set(names):
            raise RunError(f"run {self.path}: it holds other files ({names[0]}) and no run. Choose another folder")
        if not (resume or overwrite):
            ways = "" if overwrite is None else ", or replace it with `overwrite=True`"
            ways = ways if resume is None else f", continue it with `resume=True`{ways}"
            raise RunError(f"run {self.path}: holds a run already. Choose another folder{ways}")

    def _is_remainder(self, names: list[str]) -> bool:
        """Return whether these names are left of a run that was begun or removed: a new run may begin beside them."""
        if CONFIG in names or DATA not in names:
            return False
        with suppress(RunError):
            identity = self.read_json(DATA)
            return isinstance(identity, dict) and "fingerprint" in identity
        return False

    def clear(self) -> None:
        """Remove the run: its settings first; its file of the data last, or not at all beside other files."""
        left = filter(LEFT.fullmatch, os.listdir(self.path)) if self.path.is_dir() else ()  # noqa: PTH208 - names
        others = [name for name in FILES if name not in (CONFIG, DATA)]
        last = () if set(self._names()) - set(FILES) else (DATA,)
        try:
            for folder in (self.path, *(self.path / name for name in others if (self.path / name).is_dir())):
                if not os.access(folder, os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
            for path in (self.path / name for name in (CONFIG, *left, *others, *last)):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"run {self.path}: cannot remove the run that is here: {error}") from error

    def replace_by(self, write: Callable[[Path], None], *, or_in_place: bool = False) -> None:
        """Replace this folder in one step by the one that `write` writes; call it inside `writing`.

        Files in this folder that do not belong to a run are kept.

        Args:
            write: gets an empty temporary folder.
            or_in_place: whether to remove the run file by file, and write here, if the folder cannot be replaced: if it
                is a mount point or is in a folder that is not writable.

        Raises:
            RunError: the new run cannot be written, or the folders cannot be exchanged.
        """
        assert self._lock is not None, "a run is replaced by its only writer"
        try:
            whole_folder(self.place, write, self._lock, lambda name: name in FILES or bool(LEFT.fullmatch(name)))
        except OSError as error:
            if not (or_in_place and error.errno in FIXED):
                fix = "Free some space or choose another folder"
                raise RunError(f"run {self.path}: cannot be replaced: {error}. It is unchanged. {fix}") from error
            self.clear()
            write(self.path)

    def _names(self) -> list[str]:
        """Return the names in the folder, without what locks and killed processes leave."""
        names = os.listdir(self.path) if self.path.is_dir() else []  # noqa: PTH208 - names only
        return sorted(
            name for name in names if name != LOCK and not name.startswith(ASIDE) and not LEFT.fullmatch(name)
        )

    def write_text(self, name: str, text: str) -> None:
        """Write a text file, whole or not at all."""
        with whole_file(self.path / name) as aside:
            aside.write_text(text, encoding="utf-8")

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file, whole or not at all; nan and infinity become null."""
        self.write_text(name, json.dumps(without_nan(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def write_tensors(self, name: str, tensors: dict[str, Tensor], *, state: dict[str, Any] | None = None) -> None:
        """Write named tensors and a JSON-able state to a safetensors file, whole or not at all."""
        with whole_file(self.path / name) as aside:
            plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
            text = json.dumps(state or {})
            about = {"state": text, "checksum": _checksum_of_tensors(plain, text)}
            save_file(plain, aside, metadata={"about": json.dumps(about)})  # several keys would come in any order

    def write_checkpoint(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Write a checkpoint; keep the previous one in case the new one is damaged later."""
        with suppress(FileNotFoundError):
            (self.path / CHECKPOINT).replace(self.path / PREVIOUS)
        self.write_tensors(CHECKPOINT, tensors, state=state)

    def read_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the newest intact checkpoint, or None without a checkpoint; a damaged one is logged.

        Raises:
            RunError: all checkpoints are damaged.
        """
        errors = []
        for name in filter(self.has, (CHECKPOINT, PREVIOUS)):
            try:
                checkpoint = self.read_tensors(name)
            except RunError as error:
                errors.append(error)
            else:
                for damage in errors:
                    logger.warning("%s. It is skipped: training continues from %s", str(damage).split(". ")[0], name)
                if errors:  # else the next checkpoint would replace this one by the damaged one
                    (self.path / CHECKPOINT).unlink(missing_ok=True)
                return checkpoint
        if errors:
            raise errors[0]
        return None

    def state(self) -> str:
        """Return a text that differs once another run is in this folder: the manifest. "": the run is unfinished."""
        with suppress(RunError):
            return self.read_text(MANIFEST)
        return ""

    def has(self, name: str) -> bool:
        """Return whether the file exists; a name from a damaged manifest may be too long for any file."""
        try:
            return (self.path / name).is_file()
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            return False

    def read_text(self, name: str) -> str:
        """Return the text of a file.

        Raises:
            RunError: the file is missing or not readable.
        """
        try:
            with open(self.path / name, encoding="utf-8", opener=_open_regular) as file:
                return file.read()
        except FileNotFoundError:
            raise self._missing(name) from None
        except (OSError, UnicodeDecodeError) as error:
            raise self.damaged(name, error) from None

    def read_json(self, name: str) -> Any:
        """Return the value of a JSON file, with the errors of `read_text`."""
        try:
            return json.loads(self.read_text(name))
        except (ValueError, RecursionError) as error:  # not JSON, a number of 5,000 digits, 100,000 brackets
            raise self.damaged(name, error) from None

    def read_tensors(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and the state of a safetensors file, with the errors of `read_text`."""
        if not self.has(name):
            raise self._missing(name)
        with self.guard(name):
            with safe_open(self.path / name, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is not a dict
                about = _about(file.metadata())
            text = about.get("state", "{}")
            if about.get("checksum", "") not in ("", _checksum_of_tensors(tensors, text)):
                raise ValueError("its checksum differs: bytes have changed on the disk")
            return tensors, _as_table(text)

    def read_state(self, name: str) -> dict[str, Any]:
        """Return the state of a safetensors file without reading its tensors, with the errors of `read_text`."""
        if not self.has(name):
            raise self._missing(name)
        with self.guard(name), safe_open(self.path / name, framework="pt") as file:
            return _as_table(_about(file.metadata()).get("state", "{}"))

    @contextmanager
    def guard(self, name: str) -> Iterator[None]:
        """Turn any error while the content of a file is used into the error of `damaged`.

        Except errors that show no damage: too little memory, an encoder that is not installed, an unreachable disk.
        """
        try:
            yield
        except (RunError, ConfigError, MemoryError):
            raise
        except OSError as error:
            raise RunError(f"run {self.path}: {name} cannot be read: {error}") from error
        except Exception as error:  # a damaged file may raise anything in its reader
            raise self.damaged(name, error) from error

    def damaged(self, name: str, error: Exception) -> RunError:
        """Return the error for a file with wrong content."""
        return RunError(f"run {self.path}: {name} is damaged ({error}). Restore the file or fit again")

    def _missing(self, name: str) -> RunError:
        if name == MODEL and not self.has(MANIFEST):
            return RunError(f"run {self.path}: training has not finished. Continue it with `resume=True`")
        return RunError(f"run {self.path}: {name} is missing. Restore the file or fit again")


def _about(metadata: dict[str, str] | None) -> dict[str, Any]:
    """Return state and checksum from the metadata of a file, which earlier versions did not put in one entry."""
    metadata = metadata or {}
    about: dict[str, Any] = json.loads(metadata["about"]) if "about" in metadata else metadata
    return about


def _as_table(text: str) -> dict[str, Any]:
    state = json.loads(text)
    if not isinstance(state, dict):
        raise ValueError("its state is not a table of names and values")
    return state


def _open_regular(path: str, flags: int) -> int:
    """Open a file; a pipe or a device, from which reading might never end, is an error."""
    number = os.open(path, flags | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(number).st_mode):
        return number
    os.close(number)
    raise OSError(errno.EINVAL, "it is not a regular file")


def read_stable(path: str | os.PathLike[str], read: Callable[[RunFolder], Read]) -> Read:
    """Return what `read` returns for the run in a folder, all of it from one run if the run is replaced meanwhile.

    Raises:
        RunError: the folder holds no run; the run is replaced again and again.
        HyperfocalError, OSError: `read` raised it.
    """
    for _ in range(ATTEMPTS):
        run = RunFolder.open(path)
        before = run.state()
        try:
            value = read(run)
        except (HyperfocalError, OSError):
            if run.state() == before:
                raise
            continue
        if run.state() == before:
            return value
    raise RunError(f"run {path}: was replaced {ATTEMPTS} times while it was read. Try again later")


def _checksum_of_tensors(tensors: dict[str, Tensor], state: str) -> str:
    """Return the SHA-256 of a text and of the names, types, shapes and bytes of contiguous tensors on the CPU."""
    checksum = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        checksum.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():  # an empty one may have any stride
            checksum.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return checksum.hexdigest()


def checksum_of_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def without_nan(value: Any) -> Any:
    """Return a JSON-able value with None in place of nan and infinity, which JSON cannot hold."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def describe_environment() -> dict[str, Any]:
    """Return the versions, threads and GPU that a run uses."""
    packages = ("hyperfocal", "torch", "numpy", "polars", "scipy", "safetensors")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in packages},
        "cpu_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
