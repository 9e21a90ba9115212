"""A cache of arrays on disk, found by a hash of everything that they depend on and mapped into memory.

`cached` keeps any arrays, `cached_vectors` one vector per text, and `cached_streamed` what is made from a file that is
too large for memory.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any
from uuid import uuid4

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hyperfocal.errors import RunError
from hyperfocal.parts import files_of

Arrays = dict[str, NDArray[Any]]
NAMES = "arrays.json"  # the names of an entry's arrays; written last, so an entry without it is incomplete
FORMAT = 2  # of the cached arrays; increase it when their content changes
ENDS = 2**16  # bytes hashed at the start and at the end of a file


def cached(folder: Path | None, key: str, make: Callable[[], Arrays]) -> Arrays:
    """Return the arrays cached under `key`, mapped into memory; make and cache them if they are not there.

    Several processes may ask at once: the arrays appear whole or not at all, and the first to finish wins.

    Args:
        folder: of the cache. None: make the arrays without caching.
        key: checksum of everything that they depend on.
        make: returns name -> array.

    Raises:
        RunError: the folder cannot be written; an array is damaged or missing.
    """
    if folder is None:
        return make()
    entry = folder / key
    if not (entry / NAMES).is_file():
        if entry.is_dir() and not (entry / NAMES).is_file():  # in this order: another process may write a whole one now
            shutil.rmtree(entry, ignore_errors=True)  # left by an interrupted removal
        _write(entry, make())
    return _read(entry)


def cached_streamed(folder: Path, key: str, make: Callable[[Path], Arrays]) -> Arrays:
    """Return the arrays cached under `key`, mapped; make them through files if they are not there.

    Args:
        folder, key: as in `cached`.
        make: gets a temporary folder on the same disk for its files, and returns name -> array.

    Raises:
        RunError: the folder cannot be written.
    """

    def build() -> Arrays:
        folder.mkdir(parents=True, exist_ok=True)
        return make(Path(stack.enter_context(TemporaryDirectory(prefix=".building-", dir=folder))))

    try:
        with ExitStack() as stack:
            return cached(folder, key, build)
    except OSError as error:
        raise _not_writable(folder, error) from None


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

    Raises:
        RunError: the folder cannot be written; an array of exactly these digests is damaged or missing.
    """
    key = hash_array(digests)
    return cached(folder, key, lambda: {"digests": digests, "vectors": _gather(folder, digests, make)})["vectors"]


def _gather(
    folder: Path | None, digests: NDArray[np.bytes_], make: Callable[[NDArray[np.intp]], NDArray[Any]]
) -> NDArray[Any]:
    distinct, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    missing = np.ones(len(distinct), dtype=bool)
    vectors, owners = [], []
    for entry in _entries(folder):
        _, ours, theirs = np.intersect1d(distinct, entry["digests"], return_indices=True)
        new = missing[ours]
        vectors.append(entry["vectors"][theirs[new]])
        owners.append(ours[new])
        missing[ours] = False
    if missing.any() or not vectors:
        vectors.append(make(first[missing]))
        owners.append(np.flatnonzero(missing))
    gathered: NDArray[Any] = np.concatenate(vectors)[np.argsort(np.concatenate(owners))[inverse]]
    return gathered


def _entries(folder: Path | None) -> Iterator[Arrays]:
    """Yield the entries of a folder; damaged and incomplete entries are skipped."""
    for names in sorted(folder.glob(f"[!.]*/{NAMES}")) if folder else ():
        with suppress(RunError):
            yield _read(names.parent)


def _read(entry: Path) -> Arrays:
    try:
        names = json.loads((entry / NAMES).read_text())
        return {name: np.load(entry / f"{name}.npy", mmap_mode="c", allow_pickle=False) for name in names}
    except (OSError, ValueError, EOFError) as error:
        raise RunError(f"cache {entry}: is damaged ({error}). Remove this folder; it will be made again") from None


def _write(entry: Path, arrays: Arrays) -> None:
    aside = entry.with_name(f".{uuid4().hex}.{entry.name}")
    try:
        aside.mkdir(parents=True)
        for name, array in arrays.items():
            np.save(aside / f"{name}.npy", array, allow_pickle=False)
        (aside / NAMES).write_text(json.dumps(list(arrays)))
        with suppress(OSError):  # another process was first
            aside.rename(entry)
        if not entry.is_dir():
            raise OSError("the folder could not be renamed")
    except OSError as error:
        raise _not_writable(entry.parent, error) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _not_writable(folder: Path, error: OSError) -> RunError:
    fix = "Free some space, or name another folder with the variable HYPERFOCAL_CACHE"
    return RunError(f"cache {folder}: cannot be written ({error}). {fix}")


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
    """Return a checksum of a file and the columns that are read: of its name, size, time and ends.

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


def _state(path: Path) -> tuple[str, int, int, str]:
    state = path.stat()
    with path.open("rb") as file:
        first = file.read(ENDS)
        file.seek(max(state.st_size - ENDS, 0))
        ends = hashlib.sha256(first + file.read()).hexdigest()
    return str(path.resolve()), state.st_size, state.st_mtime_ns, ends


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
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype=dtype)


def pack(table: pl.DataFrame) -> NDArray[np.uint8]:
    """Return a frame as an array of bytes, for `unpack`."""
    buffer = BytesIO()
    table.write_ipc(buffer)
    return np.frombuffer(buffer.getbuffer(), dtype=np.uint8)


def unpack(packed: NDArray[np.uint8]) -> pl.DataFrame:
    """Return the frame that `pack` got."""
    return pl.read_ipc(packed.tobytes())
