"""Read text files as UTF-8 bytes with line feeds, from compressed files, UTF-16, UTF-32 or carriage returns.

A character that cannot be decoded becomes bytes that are not UTF-8, so that its line can be named. A line of a
compressed file has at most LONGEST_LINE bytes, because a small file may unpack to one that exhausts memory.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from io import SEEK_SET, BufferedReader, RawIOBase
from pathlib import Path
from typing import IO, Any, cast

from hyperfocal.data.compression import open_unpacked

CHUNK = 2**17  # bytes read at a time
LONGEST_LINE = 2**28  # bytes
MARKS = {  # UTF-32 first: its mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
DAMAGED = b"\xff"  # never part of UTF-8


class LongLine(OSError):  # noqa: N818 - said as it is
    """A line that may exhaust memory."""


def damage_of(error: BaseException) -> str:
    """Return why a file cannot be read to its end, and what to do about it."""
    if isinstance(error, LongLine):
        return f"{error}. Unpack the file if you trust it"
    return f"the file is truncated or damaged ({error}). Copy or download it again"


def open_text_bytes(raw: IO[bytes]) -> IO[bytes]:
    """Return a stream of the bytes of an open, seekable file as UTF-8 with line feeds; closing it closes the file."""
    try:
        unpacked = open_unpacked(raw)
        recoding = recoding_of(unpacked.read(CHUNK))
        unpacked.seek(0)
    except BaseException:
        raw.close()
        raise
    if unpacked is raw and not recoding:
        return raw
    return cast(IO[bytes], _Stream(_Recoded(unpacked, recoding), raw))


def is_plain(path: Path) -> bool:
    """Return whether a text file is neither compressed nor recoded, so that its bytes can be parsed as they are."""
    with path.open("rb") as raw:
        return open_text_bytes(raw) is raw


def recoding_of_file(path: Path) -> str:
    """Return the recoding that a file needs, as `recoding_of` does."""
    with path.open("rb") as raw:
        return recoding_of(open_unpacked(raw).read(CHUNK))


def recoding_of(head: bytes) -> str:
    r"""Return the recoding that a text needs, by its first bytes: "UTF-16", "UTF-32", "carriage returns", or "".

    >>> recoding_of("user".encode("utf-16")), recoding_of(b"user\ra\rb"), recoding_of(b"user\r\na")
    ('UTF-16', 'carriage returns', '')
    """
    name = next((name for mark, name in MARKS.items() if head.startswith(mark)), "")
    if name or b"\n" in head or b"\r" not in head[:-1] or b"\0" in head:
        return name
    return "carriage returns"


class _Stream(BufferedReader):
    """A buffered stream that closes the file that it reads."""

    def __init__(self, stream: RawIOBase, file: IO[bytes]) -> None:
        super().__init__(stream, CHUNK)
        self._file = file

    def close(self) -> None:
        """Close the stream and the file."""
        try:
            super().close()
        finally:
            self._file.close()


class _Recoded(RawIOBase):
    """The bytes of a stream as UTF-8 with line feeds, read from the start to the end."""

    def __init__(self, source: IO[bytes], recoding: str) -> None:
        self._source, self._recoding = source, recoding
        self.seek(0)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Go back to the start; other positions are not allowed."""
        assert (offset, whence) == (0, SEEK_SET), "only to the start"
        self._source.seek(0)
        self._chunks = _limited(_recode(self._source, self._recoding))
        self._rest, self._place = memoryview(b""), 0
        return 0

    def tell(self) -> int:
        """Return the number of bytes read."""
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with the next bytes; return their number, 0 at the end."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        self._place += size
        return size


def _limited(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield chunks; raise LongLine for a line that is too long."""
    length = 0
    for chunk in chunks:
        end = chunk.rfind(b"\n")
        length = length + len(chunk) if end < 0 else len(chunk) - end
        if length > LONGEST_LINE:
            raise LongLine(f"a line unpacks to more than {LONGEST_LINE // 2**20} MiB")
        yield chunk


def _recode(source: IO[bytes], recoding: str) -> Iterator[bytes]:
    if not recoding:
        while chunk := source.read(CHUNK):
            yield chunk
        return
    if recoding == "carriage returns":
        while chunk := source.read(CHUNK):
            yield chunk.replace(b"\r", b"\n")
        return
    decoder = codecs.getincrementaldecoder(recoding)("surrogatepass")
    while chunk := source.read(CHUNK):
        yield _encoded(decoder, chunk)
    yield _encoded(decoder, b"", final=True)


def _encoded(decoder: codecs.IncrementalDecoder, chunk: bytes, *, final: bool = False) -> bytes:
    try:
        return decoder.decode(chunk, final).encode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return DAMAGED
