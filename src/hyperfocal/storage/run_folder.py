"""The run folder: all files that are needed to predict with a run, explain it and repeat it.

    config.toml  data.json  model.safetensors  vocabulary.json  metrics.json  history.jsonl  environment.json
    evidence.json  report.html
    manifest.json: a checksum of each file, for `verify`
    checkpoints/: last.safetensors, previous.safetensors; fold0.safetensors ...: out-of-fold scores
    recommend: baselines.safetensors    classify: features.json  thresholds.json  labels.csv  taxonomy.json  encoder/
                                        texts.safetensors

Files appear whole or not at all: they are written aside, flushed and renamed. Nothing is unpickled. A file of tensors
contains its own checksum.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hyperfocal.errors import ConfigError, RunError

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
    MANIFEST, "features.json", "thresholds.json", "labels.csv", "taxonomy.json", "evidence.json", "report.html",
    "texts.safetensors", ENCODER, "checkpoints",
)  # fmt: skip
ASIDE = re.compile(rf"\.\d+\.({'|'.join(map(re.escape, FILES))})")  # left by a killed process
DEMO = ".hyperfocal-demo"  # marks a folder that a demo may overwrite


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; at the end flush it and rename it to `path`, or remove it after an error.

    Raises:
        RunError: it cannot be written. A file that was at `path` before is still there.
    """
    aside = path.with_name(f".{os.getpid()}.{path.name}")  # the end of the name gives the format
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        aside.replace(path)
        _flush_folder(path.parent)
    except (OSError, SafetensorError) as error:
        raise RunError(f"cannot write {path}: {error}. Free some space or choose another folder") from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Make a rename durable, on file systems that can flush a folder."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


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

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """Return the folder of an existing run.

        Raises:
            RunError: the folder holds no run.
        """
        run = cls(path)
        if not (run.path / CONFIG).is_file():
            problem = "holds no run: config.toml is missing" if run.path.exists() else "no such folder"
            raise RunError(f"run {run.path}: {problem}. Give the folder that `fit` wrote")
        return run

    def refuse_taken(self, *, resume: bool | None = None, overwrite: bool | None = None) -> None:
        """Check that a run may be written here; change nothing. None: the caller offers no such choice.

        Raises:
            RunError: the folder holds another run, or files that do not belong to a run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"run {self.path}: is a file, not a folder. Choose another folder")
        names = [name for name in self._names() if not ASIDE.fullmatch(name)]
        if names and not {CONFIG, DATA} <= set(names):
            raise RunError(f"run {self.path}: it holds other files ({names[0]}) and no run. Choose another folder")
        if names and not (resume or overwrite):
            ways = "" if overwrite is None else ", or replace it with `overwrite=True`"
            ways = ways if resume is None else f", continue it with `resume=True`{ways}"
            raise RunError(f"run {self.path}: holds a run already. Choose another folder{ways}")

    def clear(self) -> None:
        """Remove the run that is here, if there is one.

        Raises:
            RunError: it cannot be removed.
        """
        try:
            leftovers = filter(ASIDE.fullmatch, self._names())
            for name in [*leftovers, *FILES[::-1]]:  # config.toml last: until then the folder is recognized as a run
                path = self.path / name
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"run {self.path}: cannot remove the run that is here: {error}") from error

    def replace_by(self, write: Callable[[Path], None]) -> None:
        """Replace this run by the one that `write` writes to a temporary folder, once that is complete.

        Files in this folder that do not belong to the run are kept.

        Raises:
            RunError: the new run cannot be written, or the folders cannot be renamed.
        """
        path = self.path.resolve()
        fresh, old = (path.with_name(f".{os.getpid()}.{path.name}.{suffix}") for suffix in ("new", "old"))
        try:
            write(fresh)
            path.rename(old)
            _put_in_place(fresh, path, old)
        except OSError as error:
            raise RunError(f"run {self.path}: cannot be replaced: {error}. It is unchanged") from error
        finally:
            if os.path.exists(path):  # noqa: PTH110 - False on a disk that is gone; the error names both folders
                shutil.rmtree(fresh, ignore_errors=True)
        try:
            for entry in old.iterdir():
                if entry.name not in FILES:
                    entry.rename(path / entry.name)
        except OSError as error:
            raise RunError(
                f"run {self.path}: is replaced by the new run, but other files of the folder are still in {old}: "
                f"{error}. Move them by hand, and remove that folder"
            ) from error
        shutil.rmtree(old, ignore_errors=True)

    def _names(self) -> list[str]:
        return sorted(entry.name for entry in self.path.iterdir()) if self.path.is_dir() else []

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

    def write_manifest(self) -> None:
        """Write a checksum of each file of the run, except the report and checkpoints, which contain their own."""
        listed = {*FILES} - {"checkpoints", "report.html", MANIFEST}
        files = [path.relative_to(self.path) for path in sorted(self.path.rglob("*")) if path.is_file()]
        names = [file.as_posix() for file in files if file.parts[0] in listed]
        self.write_json(MANIFEST, {"files": {name: _checksum_of_file(self.path / name) for name in names}})

    def is_as_written(self, name: str) -> bool:
        """Return whether the manifest lists this file with its present checksum."""
        if not self.has(MANIFEST):
            return False
        manifest = self.read_json(MANIFEST)
        with self.guard(MANIFEST):
            return bool(manifest["files"].get(name) == _checksum_of_file(self.path / name))

    def verify(self) -> dict[str, str]:
        """Return the faults of the manifest's files and the checkpoints: name -> "missing", "changed" or the error.

        Raises:
            RunError: there is no manifest, or it is damaged.
        """
        manifest = self.read_json(MANIFEST)
        with self.guard(MANIFEST):
            files = {str(name): str(checksum) for name, checksum in manifest["files"].items()}
        faults = {}
        for name, checksum in files.items():
            if not self.has(name):
                faults[name] = "missing"
            elif _checksum_of_file(self.path / name) != checksum:
                faults[name] = "changed"
        for path in sorted((self.path / CHECKPOINT).parent.glob("*.safetensors")):
            name = path.relative_to(self.path).as_posix()
            try:
                self.read_tensors(name)
            except RunError as error:
                faults[name] = str(error)
        return faults

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
            return (self.path / name).read_text(encoding="utf-8")
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
                metadata = file.metadata() or {}
            about = json.loads(metadata["about"]) if "about" in metadata else metadata  # earlier versions
            text = about.get("state", "{}")
            if about.get("checksum", "") not in ("", _checksum_of_tensors(tensors, text)):
                raise ValueError("its checksum differs: bytes have changed on the disk")
            state = json.loads(text)
            if not isinstance(state, dict):
                raise ValueError("its state is not a table of names and values")
        return tensors, state

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
        if name == MODEL and any((self.path / CHECKPOINT).parent.glob("*.safetensors")):
            return RunError(f"run {self.path}: training has not finished. Continue it with `resume=True`")
        return RunError(f"run {self.path}: {name} is missing. Restore the file or fit again")


def _put_in_place(fresh: Path, path: Path, old: Path) -> None:
    """Rename `fresh` to `path`, from where `old` was moved; if that fails, rename `old` back.

    Raises:
        OSError: the first rename failed.
        RunError: the second failed too.
    """
    try:
        fresh.rename(path)
    except BaseException as error:
        try:
            old.rename(path)
        except OSError as second:
            raise RunError(
                f"run {path}: cannot be replaced ({error}), nor put back ({second}). Nothing is lost: the old run is "
                f"{old}, the new one is {fresh}, both whole. Rename one of them to {path.name}"
            ) from error
        raise


def _checksum_of_tensors(tensors: dict[str, Tensor], state: str) -> str:
    """Return the SHA-256 of a text and of the names, types, shapes and bytes of contiguous tensors on the CPU."""
    checksum = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        checksum.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():  # an empty one may have any stride
            checksum.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return checksum.hexdigest()


def _checksum_of_file(path: Path) -> str:
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


def claim_demo(out: Path) -> None:
    """Make and mark a folder for a demo; an empty folder or that of an earlier demo is reused.

    Raises:
        RunError: the folder holds something else.
    """
    if out.exists() and not (out.is_dir() and ((out / DEMO).exists() or not any(out.iterdir()))):
        raise RunError(f"{out}: exists and is not a folder of this demo. Choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    (out / DEMO).touch()
