"""Files larger than memory, read block by block, with every row's place in the file known for messages."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hyperfocal.data.files import READ_ERRORS, File, Reader, read_frame, unreadable
from hyperfocal.errors import DataError

MOST_BYTES = 2**26  # after which a block of text ends, however few its lines
MOST_AT_ONCE = 1_000  # lines between two looks at the size


@dataclass(frozen=True, eq=False)
class Block:
    """Some rows of a file.

    Attributes:
        frame: the rows.
        file: the file, which knows that these are its rows from `first` on.
        share: of the file that is read by now, 0 to 1.
    """

    frame: pl.DataFrame
    file: File
    share: float


def read_blocks(
    path: Path, rows: int, *, readers: Mapping[str, Reader] | None = None, row: str = "an event"
) -> Iterator[Block]:
    """Yield the rows of a file, about `rows` at once, each block read as `read_frame` reads a file of its own.

    Blocks of text end after MOST_BYTES, and with lines of like length have at most twice as many.
    A block of a CSV file ends at the end of a line that is outside quotes. Columns that an earlier block had and
    this one lacks, as in JSON lines, are null.

    Raises:
        DataError: as in `read_frame`.
    """
    file = File(path)
    if not path.is_file() or path.stat().st_size == 0:
        read_frame(file, row=row)  # which says what is wrong
    columns: dict[str, pl.DataType] = {}
    first = 0
    for piece, share, reader in _pieces(file, rows):
        placed = replace(piece, first=first)
        if first and placed.raw is not None and _blank(placed):
            continue
        frame = read_frame(placed, readers={**(readers or {}), **reader}, row=row)
        absent = [pl.lit(None, kind).alias(name) for name, kind in columns.items() if name not in frame.columns]
        columns |= frame.schema
        yield Block(frame.with_columns(absent), replace(placed, raw=None), share)
        first += frame.height


def _blank(piece: File) -> bool:
    """Return whether a block holds no row: blank lines at the end of a file are none."""
    assert piece.raw is not None
    lines = piece.raw.splitlines()
    return not any(line.strip() for line in (lines[1:] if piece.kind == "csv" else lines))


def _pieces(file: File, rows: int) -> Iterator[tuple[File, float, dict[str, Reader]]]:
    """Yield the blocks of a file as files, the share that is read, and what reads them where it is not the usual."""
    try:
        yield from (_parquet_pieces if file.kind == "parquet" else _text_pieces)(file, rows)
    except (pl.exceptions.PolarsError, *READ_ERRORS) as error:
        raise unreadable(file, error) from None


def _parquet_pieces(file: File, rows: int) -> Iterator[tuple[File, float, dict[str, Reader]]]:
    assert file.path is not None
    lazy = pl.scan_parquet(file.path, glob=False)
    height = int(lazy.select(pl.len()).collect().item())
    for start in range(0, max(height, 1), rows):
        reader = partial(_collect, lazy.slice(start, rows))
        yield file, min((start + rows) / max(height, 1), 1.0), {"parquet": reader}


def _collect(lazy: pl.LazyFrame, _: File) -> pl.DataFrame:
    return lazy.collect()


def _text_pieces(file: File, rows: int) -> Iterator[tuple[File, float, dict[str, Reader]]]:
    assert file.path is not None
    size, quoted = file.path.stat().st_size, file.kind == "csv"
    with file.path.open("rb") as raw:
        lines = cast(IO[bytes], gzip.GzipFile(fileobj=raw) if file.path.suffix == ".gz" else raw)
        header = _header(lines) if quoted else b""
        begun = False
        while (content := _lines(lines, rows, quoted)) or not begun:
            begun = True
            yield replace(file, raw=header + content), min(raw.tell() / size, 1.0), {}


def _header(lines: IO[bytes]) -> bytes:
    """Return the first line that is not blank, and the lines that its quotes need."""
    for line in lines:
        if line.strip():
            return line + _rest_of_quotes(lines, line.count(b'"'))
    return b""


def _lines(lines: IO[bytes], rows: int, quoted: bool) -> bytes:
    parts: list[bytes] = []
    size, at_once = 0, 1
    while rows > 0 and size < MOST_BYTES and (part := b"".join(islice(lines, min(rows, at_once)))):
        parts.append(part)
        rows, size, at_once = rows - at_once, size + len(part), min(2 * at_once, MOST_AT_ONCE)
    content = b"".join(parts)
    return content + _rest_of_quotes(lines, content.count(b'"')) if quoted else content


def _rest_of_quotes(lines: IO[bytes], quotes: int) -> bytes:
    """Return the lines up to the one that closes an open quote."""
    rest = []
    while quotes % 2 and (line := lines.readline()):
        rest.append(line)
        quotes += line.count(b'"')
    return b"".join(rest)


def whole_users(blocks: Iterator[Block], users_of: Callable[[pl.DataFrame, File], pl.Series]) -> Iterator[Block]:
    """Yield blocks that end where a user ends: the rows of the last one go to the next block.

    Args:
        blocks: of a log.
        users_of: (N,) the user of each row.

    Raises:
        DataError: a user's rows do not stand together.
    """
    seen, block = Seen(), next(blocks, None)
    while block is not None:
        following = next(blocks, None)
        users = users_of(block.frame, block.file)
        end = block.frame.height if following is None else _last_start(users)
        if end or following is None:
            _refuse_again(seen, users.head(end), block.file)
            yield replace(block, frame=block.frame.head(end))
        block = None if following is None else _joined(block, end, following)


def _last_start(users: pl.Series) -> int:
    """Return where the rows of the last user begin."""
    others = (users != users[-1]).arg_true()
    return int(others[-1]) + 1 if len(others) else 0


def _joined(block: Block, end: int, following: Block) -> Block:
    """Return the rows of a block from `end` on, and after them those of the following one."""
    try:
        frame = pl.concat([block.frame.slice(end), following.frame], how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        raise unreadable(block.file, error) from None
    return replace(following, frame=frame, file=replace(block.file, first=block.file.first + end))


def _refuse_again(seen: Seen, users: pl.Series, file: File) -> None:
    again = seen.again(users)
    if again is not None:
        raise DataError(
            f"{file.place(again)}: user {users[again]!r} has rows earlier in the file, with other users between. The "
            "file is read block by block, so the rows of a user have to stand together: sort it by user, or give a "
            "--block that is larger than the file has rows"
        )


class Seen:
    """The names that blocks had so far, as 8 bytes each."""

    def __init__(self) -> None:
        self._hashes: NDArray[np.uint64] = np.empty(0, dtype=np.uint64)

    def again(self, names: pl.Series) -> int | None:
        """Return where a name stands that an earlier call had, or None; from now on these are known."""
        hashes = names.hash(0).to_numpy()
        fresh = np.unique(hashes)
        places = np.searchsorted(self._hashes, fresh)
        known = self._hashes[np.minimum(places, len(self._hashes) - 1)] == fresh if len(self._hashes) else []
        self._hashes = np.insert(self._hashes, places, fresh)
        return int(np.isin(hashes, fresh[known]).argmax()) if np.any(known) else None
