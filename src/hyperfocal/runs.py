"""The run folder: everything a stranger needs to predict, explain and repeat a run.

    config.toml  data.json  model.safetensors  vocabulary.json  metrics.json  history.jsonl  environment.json
    evidence.json  report.html
    checkpoints/last.safetensors  fold0.safetensors ...: scores out of fold
    recommend: baselines.safetensors    classify: features.json  thresholds.json  labels.csv  taxonomy.json  encoder/

Files appear whole or not at all: they are written aside, flushed and renamed. Nothing is unpickled.
"""

from __future__ import annotations

import json
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

from hyperfocal.errors import RunError

CONFIG = "config.toml"
DATA = "data.json"
MODEL = "model.safetensors"
CHECKPOINT = "checkpoints/last.safetensors"
ENCODER = "encoder"  # a folder: the encoder, where it was fine-tuned
PARTS = (
    CONFIG, DATA, MODEL, "baselines.safetensors", "vocabulary.json", "metrics.json", "history.jsonl",
    "environment.json", "events.safetensors", "users.json", "items.safetensors", "items.json",
    "features.json", "thresholds.json", "labels.csv", "taxonomy.json", "evidence.json", "report.html", ENCODER,
    "checkpoints",
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
    except (OSError, SafetensorError) as error:
        raise RunError(f"cannot write {path}: {error}. Free some space or choose another folder") from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


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
            try:
                fresh.rename(path)
            except BaseException:
                old.rename(path)
                raise
            for entry in old.iterdir():
                if entry.name not in PARTS:
                    entry.rename(path / entry.name)
        except OSError as error:
            raise RunError(f"run {self.path}: cannot be replaced: {error}. It is as it was") from error
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
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
            save_file(plain, aside, metadata={"state": json.dumps(state or {})})

    def has(self, name: str) -> bool:
        """Return whether the file is there."""
        return (self.path / name).is_file()

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
        except json.JSONDecodeError as error:
            raise self.damaged(name, error) from None

    def read_tensors(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and the state of a safetensors file; errors as in `read_text`."""
        if not self.has(name):
            raise self._missing(name)
        try:
            with safe_open(self.path / name, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dict
                return tensors, json.loads((file.metadata() or {}).get("state", "{}"))
        except (SafetensorError, OSError, json.JSONDecodeError) as error:
            raise self.damaged(name, error) from None

    @contextmanager
    def guard(self, name: str) -> Iterator[None]:
        """Turn whatever goes wrong inside, while the content of a file is put to use, into `damaged`."""
        try:
            yield
        except RunError:
            raise
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
            raise self.damaged(name, error) from error

    def damaged(self, name: str, error: Exception) -> RunError:
        """Return the error for a file that is not what it should be."""
        return RunError(f"run {self.path}: {name} is damaged ({error}). Restore the file or fit again with --overwrite")

    def _missing(self, name: str) -> RunError:
        if name == MODEL and any((self.path / CHECKPOINT).parent.glob("*.safetensors")):
            return RunError(f"run {self.path}: training has not finished. Continue it with `fit ... --resume`")
        return RunError(f"run {self.path}: {name} is missing. Restore the file or fit again with --overwrite")


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
