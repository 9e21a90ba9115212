"""Entries of a cache: arrays in a private folder, with the checksum of each file.

    KEY/entry.json    the key, and size and checksum of each array; its second line is the checksum of the first
    KEY/NAME.npy      an array

An entry is written aside and renamed, and its files are never changed afterwards. What is mapped from it therefore
stays as it is, even if the entry is replaced. An entry that is damaged, or that another user can change, is removed and
made again. The checksums find damage; that nobody else can write the files is checked by their owner and mode.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import weakref
import zlib
from collections.abc import Callable, Collection
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hyperfocal.private.folders import (
    FOLDER_MODE,
    NO_LINK,
    ONLY_FOLDER,
    NotPrivateError,
    cache_folder,
    check_private,
    create_file,
    open_file,
    opened,
    path_of,
    warn_unused,
)
from hyperfocal.private.work import WORK, remove_leftovers, work_folder

logger = logging.getLogger(__name__)
Arrays = dict[str, NDArray[Any]]
INDEX = "entry.json"
BLOCK = 2**20  # bytes read at once for a checksum
NEW, OLD = "new", "old"  # an entry in a work folder: before it is put in place, and after it was replaced


def cached(folder: Path | None, key: str, make: Callable[[], Arrays]) -> Arrays:
    """Return the arrays cached under `key`, mapped into memory; make and cache them if they are not there.

    Several processes may ask at once: the arrays appear whole or not at all, and the first to finish wins. If the
    folder cannot be used, the reason is logged once and the arrays are made without caching.

    Args:
        folder: of the cache. None: make the arrays without caching.
        key: checksum of everything that they depend on.
        make: returns name -> array.
    """
    if folder is None:
        return make()
    arrays = find(folder, key)
    if arrays is not None:
        return arrays
    arrays = make()
    try:
        with cache_folder(folder) as place:
            _write(place, key, arrays)
    except OSError as error:
        warn_unused(folder, error)
        return arrays
    return find(folder, key) or arrays


def find(folder: Path, key: str, names: Collection[str] = ()) -> Arrays | None:
    """Return the arrays of an entry, mapped; None if there is no whole one, and if the folder cannot be used.

    Args:
        folder: of the cache.
        key: of the entry.
        names: of the arrays to read and check. Empty: all.
    """
    try:
        with cache_folder(folder) as place:
            remove_leftovers(place, WORK)
            return _find(place, folder / key, names)
    except OSError as error:
        warn_unused(folder, error)
        return None


def _find(place: int, path: Path, names: Collection[str]) -> Arrays | None:
    try:
        entry = os.open(path.name, os.O_RDONLY | ONLY_FOLDER | NO_LINK, dir_fd=place)
    except (FileNotFoundError, NotADirectoryError):  # the second for a link, too
        return None
    try:
        return _read(entry, path, names)
    except (ValueError, FileNotFoundError, NotPrivateError) as error:
        if getattr(error, "filename", None) != INDEX:  # no index: partly removed, or of an earlier version
            logger.warning("cache %s: is damaged and made again (%s)", path, error)
        _discard(place, path.name, entry)
        return None
    finally:
        os.close(entry)


def _read(entry: int, path: Path, names: Collection[str]) -> Arrays:
    """Return the arrays of an open folder, mapped.

    Raises:
        ValueError, FileNotFoundError: an array is damaged or missing.
        NotPrivateError: another user can change the folder or a file.
    """
    check_private(entry)
    with open_file(INDEX, entry) as file:
        listed, _, checksum = file.read().partition(b"\n")
    if hashlib.sha256(listed).hexdigest().encode() != checksum:
        raise ValueError(f"{INDEX} has another checksum")
    index = json.loads(listed)
    if index["key"] != path.name:
        raise ValueError(f"{INDEX} has another key")
    return {name: _map(entry, path / f"{name}.npy", *index["arrays"][name]) for name in names or index["arrays"]}


def _map(entry: int, path: Path, size: int, checksum: int) -> NDArray[Any]:
    with open_file(path.name, entry) as file:
        found = os.fstat(file.fileno()).st_size
        if found != size:
            raise ValueError(f"{path.name} has {found:,} bytes, not {size:,}")
        if _checksum(file) != checksum:
            raise ValueError(f"{path.name} has another checksum")
        file.seek(0)
        np.lib.format.read_magic(file)
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
        array = np.memmap(file, dtype, "c", file.tell(), shape, "F" if by_column else "C")
        return with_file(array, file, path)


def with_file(array: np.memmap[Any, Any], file: IO[bytes], path: Path) -> np.memmap[Any, Any]:
    """Give a mapped array a `filename` that names its open file for as long as it lives, even if that is removed."""
    number = os.dup(file.fileno())
    weakref.finalize(array.base, os.close, number)
    array.filename = str(path_of(number, path))
    return array


def _checksum(file: BufferedReader) -> int:
    checksum, block = 0, memoryview(bytearray(BLOCK))
    while size := file.readinto(block):
        checksum = zlib.crc32(block[:size], checksum)
    return checksum


def _write(place: int, key: str, arrays: Arrays) -> None:
    """Write an entry to an open folder, unless another process is first."""
    with work_folder(place) as (_, work):
        os.mkdir(NEW, FOLDER_MODE, dir_fd=work)
        with opened(NEW, within=work) as entry:
            listed = json.dumps({"key": key, "arrays": {name: _save(entry, name, arrays[name]) for name in arrays}})
            with create_file(INDEX, entry) as file:
                file.write(f"{listed}\n{hashlib.sha256(listed.encode()).hexdigest()}".encode())
        try:
            os.rename(NEW, key, src_dir_fd=work, dst_dir_fd=place)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise


def _save(entry: int, name: str, array: NDArray[Any]) -> tuple[int, int]:
    """Write an array to a file, and return the file's size and checksum."""
    with create_file(f"{name}.npy", entry) as file:
        summed = _Summed(file)
        np.lib.format.write_array(summed, np.asanyarray(array), version=(1, 0), allow_pickle=False)
        return summed.size, summed.checksum


class _Summed:
    """A file with the size and the checksum of everything that is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.size, self.checksum = file, 0, 0

    def write(self, content: bytes) -> int:
        self.size, self.checksum = self.size + len(content), zlib.crc32(content, self.checksum)
        return self._file.write(content)


def _discard(place: int, key: str, entry: int) -> None:
    """Remove an open entry, unless another process has replaced it."""
    with suppress(OSError), work_folder(place) as (_, work):
        os.rename(key, OLD, src_dir_fd=place, dst_dir_fd=work)
        if os.stat(OLD, dir_fd=work, follow_symlinks=False).st_ino != os.fstat(entry).st_ino:
            os.rename(OLD, key, src_dir_fd=work, dst_dir_fd=place)
