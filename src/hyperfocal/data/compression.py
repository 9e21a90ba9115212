"""Open gzip, bzip2 and zstd files, recognized by their first bytes, and write them by the suffix of their name."""

from __future__ import annotations

import bz2
import gzip
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

READ_ERRORS = (OSError, EOFError, zlib.error, zstd.ZstdError)  # the last three: a truncated or damaged file
MAGIC = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "bzip2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),  # a block, or the end of an empty file
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),  # a frame, or a skippable frame
}
MAGIC_BYTES = 10  # that the expressions above need
CHECKSUM: dict[int, int] = {zstd.CompressionParameter.checksum_flag: 1}  # as the program zstd does
OPENERS: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
    "": lambda raw: raw,
    "gzip": lambda raw: cast(IO[bytes], gzip.GzipFile(fileobj=raw)),
    "bzip2": lambda raw: cast(IO[bytes], bz2.BZ2File(raw)),
    "zstd": lambda raw: cast(IO[bytes], zstd.ZstdFile(raw)),
}
PACKERS: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
    ".gz": lambda raw: cast(IO[bytes], gzip.GzipFile("", "wb", fileobj=raw, mtime=0)),
    ".bz2": lambda raw: cast(IO[bytes], bz2.BZ2File(raw, "wb")),
    ".zst": lambda raw: cast(IO[bytes], zstd.ZstdFile(raw, "wb", options=CHECKSUM)),
}


def compression_of(head: bytes) -> str:
    """Return "gzip", "bzip2" or "zstd" by the first MAGIC_BYTES of a file, or "" for an uncompressed file.

    >>> compression_of(gzip.compress(b"user,item")), compression_of(b"user,item")
    ('gzip', '')
    """
    return next((name for name, magic in MAGIC.items() if magic.match(head)), "")


def is_compressed(path: Path) -> bool:
    """Return whether the content of a file is compressed; False if there is no file."""
    try:
        with path.open("rb") as raw:
            return bool(compression_of(raw.read(MAGIC_BYTES)))
    except OSError:  # reading the file reports the error
        return False


def open_unpacked(raw: IO[bytes]) -> IO[bytes]:
    """Return a stream of the unpacked bytes of an open, seekable file; closing it leaves `raw` open."""
    name = compression_of(raw.read(MAGIC_BYTES))
    raw.seek(0)
    return OPENERS[name](raw)


def without_packed(path: Path) -> Path:
    """Return a path without .gz, .bz2 or .zst at its end.

    >>> without_packed(Path("log.csv.zst")).name
    'log.csv'
    """
    return path.with_suffix("") if path.suffix.lower() in PACKERS else path


@contextmanager
def create_packed(path: Path) -> Iterator[IO[bytes]]:
    """Create a file of bytes, compressed if its name ends in .gz, .bz2 or .zst.

    A .gz file stores no name and no time stamp, so that the same content gives the same bytes.
    """
    with path.open("wb") as raw, PACKERS.get(path.suffix.lower(), OPENERS[""])(raw) as packed:
        yield packed
