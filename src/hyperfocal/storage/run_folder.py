"""The run folder: everything a stranger needs to predict, explain and repeat a run.

    config.toml  data.json  model.safetensors  vocabulary.json  metrics.json  history.jsonl  environment.json
    evidence.json  report.html
    manifest.json: a checksum of each file, by which `verify` knows what has changed
    checkpoints/last.safetensors  previous.safetensors, the one before; fold0.safetensors ...: scores out of fold
    recommend: baselines.safetensors    classify: features.json  thresholds.json  labels.csv  taxonomy.json  encoder/

Files appear whole or not at all: they are written aside, flushed and renamed. Nothing is unpickled. Files of tensors
hold a checksum of their own.
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
ENCODER = "encoder"  # a folder: the encoder, where it was fine-tuned
PARTS = (
    CONFIG, DATA, MODEL, "baselines.safetensors", "vocabulary.json", "metrics.json", "history.jsonl",
    "environment.json", "events.safetensors", "users.json", "items.safetensors", "items.json",
    MANIFEST, "features.json", "thresholds.json", "labels.csv", "taxonomy.json", "evidence.json", "report.html",
    ENCODER, "checkpoints",
)  # fmt: skip
ASIDE = re.compile(rf"\.\d+\.({'|'.join(map(re.escape, PARTS))})")  # what a killed process leaves


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path aside to write to; on leaving, flush it and rename it to `path`, or on an error remove it.

    Raises:
        RunError: it cannot be written. What stood at `path` before is then still there.
    """
    aside = path.with_name(f".{os.getpid()}.{path.name}")  # the end of the name tells the format
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
    """Make a renaming last; file systems that cannot flush a folder do without."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _put_in_place(fresh: Path, path: Path, old: Path) -> None:
    """Rename `fresh` to `path`, where `old` was; if that fails, rename `old` back.

    Raises:
        OSError: it failed.
        RunError: that failed too.
    """
    try:
        fresh.rename(path)
    except BaseException as error:
        try:
            old.rename(path)
        except OSError as second:
            raise RunError(
                f"run {path}: cannot be replaced ({error}), nor put back ({second}). Nothing is lost: the run as it "
                f"was is {old}, the new one is {fresh}, both whole. Rename one of them to {path.name}"
            ) from error
        raise


class RunFolder:
    """A folder that holds one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Return the folder of an existing run.

        Raises:
            RunError: there is no run.
        """
        run = cls(path)
        if not (run.path / CONFIG).is_file():
            what = "holds no run: config.toml is missing" if run.path.exists() else "no such folder"
            raise RunError(f"run {path}: {what}. Give the folder that `fit --out` wrote")
        return run

    def refuse_taken(self, *, resume: bool = False, overwrite: bool = False) -> None:
        """Make sure that a run may be written here, without touching anything.

        Raises:
            RunError: the folder holds another run, or files that are no run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"run {self.path}: is a file, not a folder. Choose another --out")
        found = [name for name in self._names() if not ASIDE.fullmatch(name)]
        if found and not {CONFIG, DATA} <= set(found):
            raise RunError(f"run {self.path}: it holds other files ({found[0]}) and no run. Choose another --out")
        if found and not (resume or overwrite):
            raise RunError(
                f"run {self.path}: holds a run already. Continue it with --resume, replace it with --overwrite, "
                "or choose another --out"
            )

    def clear(self) -> None:
        """Remove the run that is here, if one is.

        Raises:
            RunError: it cannot be removed.
        """
        try:
            leftovers = filter(ASIDE.fullmatch, self._names())
            for name in [*leftovers, *PARTS[::-1]]:  # config.toml last: until then the folder is still known as a run
                part = self.path / name
                if part.is_dir():
                    shutil.rmtree(part)
                else:
                    part.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"run {self.path}: cannot remove the run that is here: {error}") from error

    def replace_by(self, write: Callable[[Path], None]) -> None:
        """Put the run that `write` writes to a folder beside in place of this one, which stays until that is whole.

        Files of other names in this folder are kept.

        Raises:
            RunError: it cannot be written, or the folders cannot be renamed.
        """
        path = self.path.resolve()
        fresh, old = (path.with_name(f".{os.getpid()}.{path.name}.{part}") for part in ("new", "old"))
        try:
            write(fresh)
            path.rename(old)
            _put_in_place(fresh, path, old)
        except OSError as error:
            raise RunError(f"run {self.path}: cannot be replaced: {error}. It is as it was") from error
        finally:
            if os.path.exists(path):  # noqa: PTH110 - False on a disk that is gone; the error says where both are
                shutil.rmtree(fresh, ignore_errors=True)
        try:
            for entry in old.iterdir():
                if entry.name not in PARTS:
                    entry.rename(path / entry.name)
        except OSError as error:
            raise RunError(
                f"run {self.path}: is replaced by the new run, which is whole; but other files that were in the folder "
                f"are still in {old}: {error}. Move them by hand, and remove that folder"
            ) from error
        shutil.rmtree(old, ignore_errors=True)

    def _names(self) -> list[str]:
        return sorted(entry.name for entry in self.path.iterdir()) if self.path.is_dir() else []

    def write_text(self, name: str, text: str) -> None:
        """Write a text file, whole or not at all."""
        with whole_file(self.path / name) as aside:
            aside.write_text(text, encoding="utf-8")

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file, whole or not at all; JSON knows no nan, so it becomes null."""
        self.write_text(name, json.dumps(without_nan(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def write_tensors(self, name: str, tensors: dict[str, Tensor], *, state: dict[str, Any] | None = None) -> None:
        """Write named tensors and a JSON-able state to a safetensors file, whole or not at all."""
        with whole_file(self.path / name) as aside:
            plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
            text = json.dumps(state or {})
            about = {"state": text, "checksum": checksum_of_tensors(plain, text)}
            save_file(plain, aside, metadata={"about": json.dumps(about)})  # several would come in any order

    def write_checkpoint(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Write a checkpoint; the one before stays beside it, in case that the new one is damaged later."""
        with suppress(FileNotFoundError):
            (self.path / CHECKPOINT).replace(self.path / PREVIOUS)
        self.write_tensors(CHECKPOINT, tensors, state=state)

    def read_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the newest checkpoint that is whole, or None if there is none; a damaged one is named in the log.

        Raises:
            RunError: there are checkpoints, and none is whole.
        """
        errors = []
        for name in filter(self.has, (CHECKPOINT, PREVIOUS)):
            try:
                found = self.read_tensors(name)
            except RunError as error:
                errors.append(error)
            else:
                for damage in errors:
                    logger.warning("%s. It is passed over: training goes on from %s", str(damage).split(". ")[0], name)
                if errors:  # else the next checkpoint would put the damaged one in place of this
                    (self.path / CHECKPOINT).unlink(missing_ok=True)
                return found
        if errors:
            raise errors[0]
        return None

    def write_manifest(self) -> None:
        """Write a checksum of each file of the run but checkpoints, which have their own, and the report."""
        kept = {*PARTS} - {"checkpoints", "report.html", MANIFEST}
        files = [path.relative_to(self.path) for path in sorted(self.path.rglob("*")) if path.is_file()]
        names = [file.as_posix() for file in files if file.parts[0] in kept]
        self.write_json(MANIFEST, {"files": {name: checksum_of_file(self.path / name) for name in names}})

    def is_as_written(self, name: str) -> bool:
        """Return whether the manifest has this file, with the checksum that it has now."""
        if not self.has(MANIFEST):
            return False
        files = self.read_json(MANIFEST)
        with self.guard(MANIFEST):
            return bool(files["files"].get(name) == checksum_of_file(self.path / name))

    def verify(self) -> dict[str, str]:
        """Return what is wrong with files of the manifest and checkpoints: name -> "missing", "changed" or why.

        Raises:
            RunError: there is no manifest, or it is damaged.
        """
        listed = self.read_json(MANIFEST)
        with self.guard(MANIFEST):
            files = {str(name): str(checksum) for name, checksum in listed["files"].items()}
        wrong = {}
        for name, checksum in files.items():
            if not self.has(name):
                wrong[name] = "missing"
            elif checksum_of_file(self.path / name) != checksum:
                wrong[name] = "changed"
        for path in sorted((self.path / CHECKPOINT).parent.glob("*.safetensors")):
            name = path.relative_to(self.path).as_posix()
            try:
                self.read_tensors(name)
            except RunError as error:
                wrong[name] = str(error)
        return wrong

    def has(self, name: str) -> bool:
        """Return whether the file is there; of a damaged manifest the name may be too long for any file."""
        try:
            return (self.path / name).is_file()
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            return False

    def read_text(self, name: str) -> str:
        """Return the text of a file.

        Raises:
            RunError: it is missing or not readable.
        """
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise self._missing(name) from None
        except (OSError, UnicodeDecodeError) as error:
            raise self.damaged(name, error) from None

    def read_json(self, name: str) -> Any:
        """Return the value of a JSON file; errors as in `read_text`."""
        try:
            return json.loads(self.read_text(name))
        except (ValueError, RecursionError) as error:  # no JSON, a number of 5,000 digits, 100,000 brackets
            raise self.damaged(name, error) from None

    def read_tensors(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and the state of a safetensors file; errors as in `read_text`."""
        if not self.has(name):
            raise self._missing(name)
        with self.guard(name):
            with safe_open(self.path / name, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dict
                metadata = file.metadata() or {}
            about = json.loads(metadata["about"]) if "about" in metadata else metadata  # as earlier versions have it
            text = about.get("state", "{}")
            if about.get("checksum", "") not in ("", checksum_of_tensors(tensors, text)):
                raise ValueError("its checksum is another: bytes have changed on the disk")
            state = json.loads(text)
            if not isinstance(state, dict):
                raise ValueError("its state is no table of names and values")
        return tensors, state

    @contextmanager
    def guard(self, name: str) -> Iterator[None]:
        """Turn whatever goes wrong inside, while the content of a file is put to use, into `damaged`.

        Not what is no damage: too little memory, an encoder that is not installed, a disk that is away.
        """
        try:
            yield
        except (RunError, ConfigError, MemoryError):
            raise
        except OSError as error:
            raise RunError(f"run {self.path}: {name} cannot be read: {error}") from error
        except Exception as error:  # a damaged file may do anything to what reads it
            raise self.damaged(name, error) from error

    def damaged(self, name: str, error: Exception) -> RunError:
        """Return the error for a file that is not what it should be."""
        return RunError(f"run {self.path}: {name} is damaged ({error}). Restore the file or fit again with --overwrite")

    def _missing(self, name: str) -> RunError:
        if name == MODEL and any((self.path / CHECKPOINT).parent.glob("*.safetensors")):
            return RunError(f"run {self.path}: training has not finished. Continue it with `fit ... --resume`")
        return RunError(f"run {self.path}: {name} is missing. Restore the file or fit again with --overwrite")


def checksum_of_tensors(tensors: dict[str, Tensor], state: str) -> str:
    """Return the SHA-256 of names, types, shapes and bytes of contiguous tensors on the CPU, and of a text."""
    found = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():  # an empty one may have any stride
            found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def checksum_of_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def without_nan(value: Any) -> Any:
    """Return a JSON-able value with None in place of nan and infinity, which JSON does not know."""
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def describe_environment() -> dict[str, Any]:
    """Return the versions, processor and threads that a run used."""
    packages = ("hyperfocal", "torch", "numpy", "polars", "scipy", "safetensors")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in packages},
        "cpu_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


MARK = ".hyperfocal-demo"  # says that the folder is ours to overwrite


def claim_demo(out: Path) -> None:
    """Make the folder, or make sure that it is an earlier demo's.

    Raises:
        RunError: it holds something else.
    """
    if out.exists() and not (out.is_dir() and ((out / MARK).exists() or not any(out.iterdir()))):
        raise RunError(f"{out}: is there already and is no demo of ours. Choose another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).touch()
