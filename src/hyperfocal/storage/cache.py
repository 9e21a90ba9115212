"""A cache of arrays on disk, found by a hash of everything that they depend on and mapped into memory.

`cached` keeps any arrays, `cached_vectors` one vector per text, and `cached_streamed` what is made from a file that is
too large for memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hyperfocal.errors import RunError
from hyperfocal.parts import files_of
from hyperfocal.private.folders import VARIABLE, cache_folder, names_in, path_of, warn_unused
from hyperfocal.private.work import temporary_folder, work_folder
from hyperfocal.storage.entries import Arrays as Arrays
from hyperfocal.storage.entries import cached as cached
from hyperfocal.storage.entries import find, with_file

FORMAT = 2  # of the cached arrays; increase it when their content changes
KEY = re.compile("[0-9a-f]{64}")  # of `hash_of` and `hash_array`
ENDS = 2**16  # bytes hashed at the start and at the end of a file


def cached_streamed(folder: Path, key: str, make: Callable[[Path], Arrays]) -> Arrays:
    """Return the arrays cached under `key`, mapped; make them through files if they are not there.

    If the folder cannot be used, the files are in a temporary one.

    Args:
        folder, key: as in `cached`.
        make: gets a temporary folder for its files, and returns name -> array.

    Raises:
        RunError: the files cannot be written.
    """

    def build() -> Arrays:
        try:
            return make(stack.enter_context(_building(folder)))
        except OSError as error:
            if not _is_elsewhere(folder):
                raise
            warn_unused(folder, error)
            return make(stack.enter_context(temporary_folder()))

    try:
        with ExitStack() as stack:
            return cached(folder, key, build)
    except OSError as error:
        fix = f"Free some space, or name another folder with the variable {VARIABLE}"
        raise RunError(f"cache {folder}: cannot be written ({error.strerror or error}). {fix}") from None


@contextmanager
def _building(folder: Path) -> Iterator[Path]:
    """Yield a work folder in a cache."""
    with cache_folder(folder) as place, work_folder(place) as (name, number):
        yield path_of(number, folder / name)


def _is_elsewhere(folder: Path) -> bool:
    """Return whether the system's folder for temporary files is on another disk, or the cache is not there."""
    try:
        with cache_folder(folder) as place:
            return os.fstat(place).st_dev != Path(tempfile.gettempdir()).stat().st_dev
    except OSError:
        return True


def cached_vectors(
    folder: Path | None, digests: NDArray[np.bytes_], make: Callable[[NDArray[np.intp]], NDArray[Any]]
) -> NDArray[Any]:
    """Return (N, D) vectors, one per digest, mapped into memory; make and cache the vectors that are not there.

    An entry is a list of digests with their vectors. A new entry copies the vectors that other entries already have, so
    each digest's vector is made once. A folder therefore belongs to one way of making vectors.

    Args:
        folder: of all entries. None: make the vectors without caching.
        digests: (N,) checksums of what the vectors are made from.
        make: (M,) positions of distinct digests in `digests` -> (M, D) vectors.

    """
    key = hash_array(digests)
    return cached(folder, key, lambda: {"digests": digests, "vectors": _gather(folder, digests, make)})["vectors"]


def _gather(
    folder: Path | None, digests: NDArray[np.bytes_], make: Callable[[NDArray[np.intp]], NDArray[Any]]
) -> NDArray[Any]:
    distinct, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    missing = np.ones(len(distinct), dtype=bool)
    parts = [] if folder is None else list(_stored(folder, distinct, missing))
    if missing.any() or not parts:
        parts.append((np.flatnonzero(missing), make(first[missing])))
    rows, vectors = (np.concatenate(each) for each in zip(*parts, strict=True))
    gathered: NDArray[Any] = vectors[np.argsort(rows)[inverse]]
    return gathered


def _stored(
    folder: Path, distinct: NDArray[np.bytes_], missing: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[np.intp], NDArray[Any]]]:
    """Yield places in `distinct` and their vectors from each entry that has some, and mark them as not missing."""
    for key in _keys(folder):
        known = find(folder, key, ["digests"])
        if known is None:
            continue
        _, ours, theirs = np.intersect1d(distinct, known["digests"], return_indices=True)
        new = missing[ours]
        entry = find(folder, key, ["vectors"]) if new.any() else None
        if entry is not None:
            yield ours[new], entry["vectors"][theirs[new]]
            missing[ours] = False


def _keys(folder: Path) -> list[str]:
    """Return the keys of the entries of a folder."""
    try:
        with cache_folder(folder) as place:
            return sorted(filter(KEY.fullmatch, names_in(place)))
    except OSError:
        return []


def hash_of(*values: Any) -> str:
    """Return a checksum of JSON-able values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def hash_array(values: NDArray[Any]) -> str:
    """Return a checksum of an array's numbers and their order."""
    return hashlib.sha256(values.tobytes()).hexdigest()


def digest_texts(texts: pl.Series) -> NDArray[np.bytes_]:
    """Return (N,) checksums of 16 bytes, one per text."""
    digests = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts.to_list()]
    return np.array(digests, dtype="S16")


def key_of(path: Path, columns: list[Any]) -> str:
    """Return a checksum of a file and the columns that are read: of its name, size, times and ends.

    A folder, or a pattern such as `logs/*.parquet`, counts by the parts that are read. Files that cannot be read get a
    key that was never used: reading them reports the error.
    """
    try:
        states = [_state(file) for file in files_of(path)]
    except OSError:
        return hash_of(uuid4().hex)
    return (
        hash_of(FORMAT, *states[0], columns)
        if path.is_file()
        else hash_of(FORMAT, str(path.resolve()), states, columns)
    )


def _state(path: Path) -> tuple[str, int, int, int, str]:
    """Return the facts of a file that change with its content: a program can set its time back, but not `st_ctime`."""
    state = path.stat()
    with path.open("rb") as file:
        first = file.read(ENDS)
        file.seek(max(state.st_size - ENDS, 0))
        ends = hashlib.sha256(first + file.read()).hexdigest()
    return str(path.resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns, ends


def map_blocks(blocks: Iterable[Arrays], work: Path) -> Arrays:
    """Concatenate the arrays of all blocks in files, one per name in the folder `work`; return them mapped.

    Raises:
        OSError: the files cannot be written.
    """
    empty: Arrays = {}
    with ExitStack() as stack:
        files: dict[str, IO[bytes]] = {}
        for block in blocks:
            for name, array in block.items():
                if name not in files:
                    files[name] = stack.enter_context((work / f"{name}.bin").open("wb"))
                    empty[name] = array[:0]
                files[name].write(array.tobytes())
    return {
        name: map_file(work / f"{name}.bin", array.dtype).reshape(-1, *array.shape[1:]) for name, array in empty.items()
    }


def map_file(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the numbers of a file, mapped; an empty file, which cannot be mapped, gives an empty array."""
    if not path.stat().st_size:
        return np.empty(0, dtype=dtype)
    with path.open("rb") as file:
        return with_file(np.memmap(file, dtype=dtype, mode="r"), file, path)


def pack(table: pl.DataFrame) -> NDArray[np.uint8]:
    """Return a frame as an array of bytes, for `unpack`."""
    buffer = BytesIO()
    table.write_ipc(buffer)
    return np.frombuffer(buffer.getbuffer(), dtype=np.uint8)


def unpack(packed: NDArray[np.uint8]) -> pl.DataFrame:
    """Return the frame that `pack` got."""
    return pl.read_ipc(packed.tobytes())
