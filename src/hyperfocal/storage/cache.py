"""Arrays that are computed once, kept on disk by the hash of what made them, and mapped into memory by all who ask.

Files larger than memory: which those are, and what is kept in the cache of what was made from one.
"""

from __future__ import annotations

import hashlib
import json
import os
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

from hyperfocal.distributed import local_processes
from hyperfocal.errors import ConfigError, RunError

Arrays = dict[str, NDArray[Any]]
VARIABLE = "HYPERFOCAL_CACHE"
NAMES = "arrays.json"  # an entry's arrays; written last, so that an entry without it is not whole


def default_cache() -> Path:
    """Return the folder that the variable HYPERFOCAL_CACHE names, else ~/.cache/hyperfocal."""
    asked = os.environ.get(VARIABLE, "")
    return Path(asked) if asked else Path.home() / ".cache" / "hyperfocal"


def digest_texts(texts: pl.Series) -> NDArray[np.bytes_]:
    """Return (N,) checksums of 16 bytes, one a text."""
    digests = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts.to_list()]
    return np.array(digests, dtype="S16")


def hash_array(values: NDArray[Any]) -> str:
    """Return a checksum of an array's numbers and their order."""
    return hashlib.sha256(values.tobytes()).hexdigest()


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
        RunError: the folder cannot be written; an array is damaged or missing.
    """
    if folder is None:
        return make()
    place = folder / key
    if not (place / NAMES).is_file():
        _remove_leftover(place)
        _keep(place, make())
    return _read(place)


def cached_vectors(
    folder: Path | None, digests: NDArray[np.bytes_], make: Callable[[NDArray[np.intp]], NDArray[Any]]
) -> NDArray[Any]:
    """Return (N, D) vectors, one a digest, mapped into memory: taken from the folder, or made and kept there.

    An entry is a set of digests in some order. A new one takes the vectors that others have already, so that a
    digest's vector is made once; a folder therefore belongs to one way of making them.

    Args:
        folder: of all entries; None makes the vectors and keeps nothing.
        digests: (N,) checksums of what the vectors are made from.
        make: (M,) positions in `digests`, no digest twice -> (M, D) vectors.

    Raises:
        RunError: the folder cannot be written; an array of this very set is damaged or missing.
    """
    key = hashlib.sha256(digests.tobytes()).hexdigest()
    return cached(folder, key, lambda: {"digests": digests, "vectors": _gather(folder, digests, make)})["vectors"]


def _gather(
    folder: Path | None, digests: NDArray[np.bytes_], make: Callable[[NDArray[np.intp]], NDArray[Any]]
) -> NDArray[Any]:
    wanted, first, where = np.unique(digests, return_index=True, return_inverse=True)
    missing = np.ones(len(wanted), dtype=bool)
    parts, owners = [], []
    for entry in _entries(folder):
        _, here, there = np.intersect1d(wanted, entry["digests"], return_indices=True)
        new = missing[here]
        parts.append(entry["vectors"][there[new]])
        owners.append(here[new])
        missing[here] = False
    if missing.any() or not parts:
        parts.append(make(first[missing]))
        owners.append(np.flatnonzero(missing))
    found: NDArray[Any] = np.concatenate(parts)[np.argsort(np.concatenate(owners))[where]]
    return found


def _entries(folder: Path | None) -> Iterator[Arrays]:
    """Yield the entries of a folder, one at a time; those that are damaged, or still being written, are left out."""
    for names in sorted(folder.glob(f"[!.]*/{NAMES}")) if folder else ():
        with suppress(RunError):
            yield _read(names.parent)


def _read(place: Path) -> Arrays:
    try:
        names = json.loads((place / NAMES).read_text())
        return {name: np.load(place / f"{name}.npy", mmap_mode="c", allow_pickle=False) for name in names}
    except (OSError, ValueError, EOFError) as error:
        raise RunError(f"cache {place}: is damaged ({error}). Remove this folder; it will be made anew") from None


def _remove_leftover(place: Path) -> None:
    """Remove what a removal has left of an entry."""
    if place.is_dir() and not (place / NAMES).is_file():  # in this order: another process may bring a whole one now
        shutil.rmtree(place, ignore_errors=True)


def _keep(place: Path, arrays: Arrays) -> None:
    aside = place.with_name(f".{uuid4().hex}.{place.name}")
    try:
        aside.mkdir(parents=True)
        for name, array in arrays.items():
            np.save(aside / f"{name}.npy", array, allow_pickle=False)
        (aside / NAMES).write_text(json.dumps(list(arrays)))
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


def map_file(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the numbers of a file, mapped; an empty file cannot be."""
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype=dtype)


def map_blocks(blocks: Iterable[Arrays], work: Path) -> Arrays:
    """Write the arrays of all blocks one after the other, a file in `work` for each name; return them mapped.

    Raises:
        OSError: they cannot be written.
    """
    found: Arrays = {}
    with ExitStack() as open_files:
        files: dict[str, IO[bytes]] = {}
        for block in blocks:
            for name, array in block.items():
                if name not in files:
                    files[name] = open_files.enter_context((work / f"{name}.bin").open("wb"))
                    found[name] = array[:0]
                files[name].write(array.tobytes())
    shapes = {name: (-1, *empty.shape[1:]) for name, empty in found.items()}
    return {name: map_file(work / f"{name}.bin", found[name].dtype).reshape(shapes[name]) for name in found}


def pack(table: pl.DataFrame) -> NDArray[np.uint8]:
    """Return the bytes of a frame, from which `unpack` makes it again."""
    buffer = BytesIO()
    table.write_ipc(buffer)
    return np.frombuffer(buffer.getbuffer(), dtype=np.uint8)


def unpack(packed: NDArray[np.uint8]) -> pl.DataFrame:
    """Return the frame of `pack`."""
    return pl.read_ipc(packed.tobytes())


FORMAT = 1  # of the cached arrays; a change of what they hold makes a new number
MEMORY_SHARE = 1 / 16  # of the memory: a larger file is streamed, for as rows and text it takes ten times its size
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container
ENDS = 2**16  # bytes at either end of a file that tell it from another of its size and time


def is_streamed(data: Any, asked: str, impossible: str) -> bool:
    """Return whether data are streamed: where it is asked for, or possible and the file is too large for memory.

    Args:
        data: path of a file, if it is possible.
        asked: `data.stream`: auto, on or off.
        impossible: why these data cannot be streamed, or "".

    Raises:
        ConfigError: asked for where it is not possible.
    """
    if asked == "on" and impossible:
        raise ConfigError(f"data.stream = 'on' is not allowed {impossible}. Leave it out to read into memory")
    return asked != "off" and not impossible and (asked == "on" or _is_large(Path(data)))


def _is_large(path: Path) -> bool:
    """Of several processes of this machine each has its share of the memory."""
    return path.is_file() and path.stat().st_size > MEMORY_SHARE * memory_bytes() / local_processes()


def memory_bytes() -> int:
    """Return the memory of the machine, or of the container if that is less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(memory, int(MEMORY_LIMIT.read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return memory


def key_of(path: Path, columns: list[Any]) -> str:
    """Return a checksum of what is made from a file: its name, size, time and ends, and the columns that are read."""
    try:
        state = path.stat()
        with path.open("rb") as file:
            first = file.read(ENDS)
            file.seek(max(state.st_size - ENDS, 0))
            ends = hashlib.sha256(first + file.read()).hexdigest()
    except OSError:  # reading it will say what is wrong
        return hash_of(FORMAT, str(path), columns)
    return hash_of(FORMAT, str(path.resolve()), state.st_size, state.st_mtime_ns, ends, columns)


def kept(folder: Path, key: str, make: Callable[[Path], Arrays]) -> Arrays:
    """Return the arrays of a folder, mapped; or make them, in a folder beside that is gone then, and keep them.

    Raises:
        RunError: the folder cannot be written.
    """

    def build() -> Arrays:
        folder.mkdir(parents=True, exist_ok=True)
        return make(Path(room.enter_context(TemporaryDirectory(prefix=".building-", dir=folder))))

    try:
        with ExitStack() as room:
            return cached(folder, key, build)
    except OSError as error:
        raise RunError(
            f"cache {folder}: cannot be written ({error}). Free some space, or name another folder with the variable "
            "HYPERFOCAL_CACHE"
        ) from None
