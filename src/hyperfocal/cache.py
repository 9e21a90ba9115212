"""Arrays that are computed once, kept on disk by the hash of what made them, and mapped into memory by all who ask."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hyperfocal.errors import RunError

Arrays = dict[str, NDArray[Any]]
VARIABLE = "HYPERFOCAL_CACHE"


def default_cache() -> Path:
    """Return the folder that the variable HYPERFOCAL_CACHE names, else ~/.cache/hyperfocal."""
    asked = os.environ.get(VARIABLE, "")
    return Path(asked) if asked else Path.home() / ".cache" / "hyperfocal"


def hash_texts(texts: pl.Series) -> str:
    """Return a checksum of texts and their order."""
    digest = hashlib.sha256()
    for text in texts.to_list():
        raw = text.encode()
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()


def hash_of(*parts: Any) -> str:
    """Return a checksum of JSON-able values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def cached(folder: Path | None, key: str, make: Callable[[], Arrays]) -> Arrays:
    """Return the arrays kept under `key`, mapped into memory; or make and keep them.

    Several processes may ask at once: the arrays appear whole or not at all, and the first to finish stays.

    Args:
        folder: of the cache; None makes the arrays and keeps nothing.
        key: checksum of everything that they depend on.
        make: name -> array.

    Raises:
        RunError: the folder cannot be written.
    """
    if folder is None:
        return make()
    place = folder / key
    if not any(place.glob("*.npy")):  # no folder, or what is left of one that was removed
        _keep(place, make())
    try:
        return {path.stem: np.load(path, mmap_mode="c", allow_pickle=False) for path in sorted(place.glob("*.npy"))}
    except (OSError, ValueError, EOFError) as error:
        raise RunError(f"cache {place}: is damaged ({error}). Remove this folder; it will be made anew") from None


def _keep(place: Path, arrays: Arrays) -> None:
    aside = place.with_name(f".{uuid4().hex}.{place.name}")
    try:
        aside.mkdir(parents=True)
        for name, array in arrays.items():
            np.save(aside / f"{name}.npy", array, allow_pickle=False)
        with suppress(OSError):  # another process was first
            aside.rename(place)
        if not place.is_dir():
            raise OSError("the folder could not be renamed")
    except OSError as error:
        raise RunError(
            f"cache {place.parent}: cannot be written ({error}). Free some space, or name another folder with "
            f"the variable {VARIABLE}"
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
