"""Read files larger than memory block by block, with the place of every row in the file for error messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import IO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hyperfocal.data.common_types import unified
from hyperfocal.data.compression import READ_ERRORS
from hyperfocal.data.faults import unreadable
from hyperfocal.data.files import File
from hyperfocal.data.memory import check_block, check_user
from hyperfocal.data.parquet_parts import scan_blocks
from hyperfocal.data.readers import Reader, check_exists, read_frame
from hyperfocal.data.text_bytes import open_text_bytes
from hyperfocal.errors import DataError

BLOCK_BYTES = 2**26  # a block of text ends after this size, even if it has few lines
LINES_AT_ONCE = 1_000  # read between two checks of the size


@dataclass(frozen=True, eq=False)
class Block:
    """Some rows of a file."""

    frame: pl.DataFrame  # the rows
    file: File  # the file, with the row number of the first row
    share: float  # fraction of the file read so far, in [0, 1]


def read_blocks(
    path: Path, rows: int, *, readers: Mapping[str, Reader] | None = None, row: str = "event"
) -> Iterator[Block]:
    """Yield the rows of a file, about `rows` at a time, each block read as `read_frame` reads a whole file.

    A block of text ends after BLOCK_BYTES, so with lines of similar length it has at most twice as many bytes. A block
    of a CSV file ends at a line end outside quotes. A column that earlier blocks have and this one does not, as JSON
    lines allow, is null. A format that a reader recognises in the first block holds for the others.

    Raises:
        DataError: as in `read_frame`.
    """
    file = File(path)
    check_exists(file)
    if path.is_file() and path.stat().st_size == 0:
        read_frame(file, row=row)  # raises the right error
    columns: dict[str, pl.DataType] = {}
    first = 0
    for piece, share, reader in _pieces(file, rows):
        placed = replace(piece, first=first, columns=tuple(columns))
        if first and placed.raw is not None and _is_blank(placed):
            continue
        frame = read_frame(placed, readers={**(readers or {}), **reader}, row=row)
        absent = [pl.lit(None, dtype).alias(name) for name, dtype in columns.items() if name not in frame.columns]
        columns |= frame.schema
        check_block(frame.height, len(columns), placed)
        yield Block(frame.with_columns(absent), File(path, first=first), share)
        first += frame.height


def _is_blank(piece: File) -> bool:
    """Return whether a block has only blank lines, as a file may have at its end."""
    assert piece.raw is not None
    lines = piece.raw.splitlines()
    return not any(line.strip() for line in (lines[1:] if piece.kind == "csv" else lines))


def _pieces(file: File, rows: int) -> Iterator[tuple[File, float, dict[str, Reader]]]:
    """Yield each block as a file, the fraction read so far, and the reader if the block needs a special one."""
    try:
        yield from (_parquet_pieces if file.kind == "parquet" else _text_pieces)(file, rows)
    except (pl.exceptions.PolarsError, *READ_ERRORS) as error:
        raise unreadable(file, error) from None


def _parquet_pieces(file: File, rows: int) -> Iterator[tuple[File, float, dict[str, Reader]]]:
    for lazy, share in scan_blocks(file.path, rows):
        yield file, share, {"parquet": partial(_collect, lazy)}


def _collect(lazy: pl.LazyFrame, _: File) -> pl.DataFrame:
    return lazy.collect()


def _text_pieces(file: File, rows: int) -> Iterator[tuple[File, float, dict[str, Reader]]]:
    size, quoted = file.path.stat().st_size, file.quoted
    with file.path.open("rb") as raw, open_text_bytes(raw) as lines:
        header = _read_header(lines) if file.kind == "csv" else b""
        before = 0
        started = False
        while (content := _read_lines(lines, rows, quoted)) or not started:
            started = True
            yield replace(file, raw=header + content, line=before), min(raw.tell() / size, 1.0), {}
            before += content.count(b"\n")


def _read_header(lines: IO[bytes]) -> bytes:
    """Return the first line that is not blank, and the lines up to the end of its quotes."""
    for line in lines:
        if line.strip():
            return line + _close_quotes(lines, line.count(b'"'))
    return b""


def _read_lines(lines: IO[bytes], rows: int, quoted: bool) -> bytes:
    chunks: list[bytes] = []
    size, at_once = 0, 1
    while rows > 0 and size < BLOCK_BYTES and (chunk := b"".join(islice(lines, min(rows, at_once)))):
        chunks.append(chunk)
        rows, size, at_once = rows - at_once, size + len(chunk), min(2 * at_once, LINES_AT_ONCE)
    content = b"".join(chunks)
    return content + _close_quotes(lines, content.count(b'"')) if quoted else content


def _close_quotes(lines: IO[bytes], quotes: int) -> bytes:
    """Return the lines up to the one that closes an open quote, after `quotes` quotes, or up to BLOCK_BYTES."""
    rest: list[bytes] = []
    size = 0
    while quotes % 2 and size < BLOCK_BYTES and (line := lines.readline()):
        rest.append(line)
        size += len(line)
        quotes += line.count(b'"')
    return b"".join(rest)


def whole_users(blocks: Iterator[Block], users_of: Callable[[pl.DataFrame, File], pl.Series]) -> Iterator[Block]:
    """Yield blocks that end where a user ends: the rows of the last user move to the next block.

    The blocks of a long user are joined once, at the end of the user.

    Args:
        blocks: of a file.
        users_of: returns the user of each row of a block. Null: the user of the row before.

    Raises:
        DataError: the rows of a user are not consecutive, or surely need more memory than there can be.
    """
    seen, block = Seen(), next(blocks, None)
    waiting: list[Block] = []  # the rows so far of the last user
    height = 0  # the number of these rows
    user: str | None = None  # the last user; None: no row so far has one
    while block is not None:
        following = next(blocks, None)
        users = _fill(_read_users(waiting, block, users_of), user)
        end = block.frame.height if following is None else _last_start(users)
        if end or following is None or (user is not None and (users.head(1) != user).any()):
            _check_new(seen, users.head(end), user, [*waiting, block])
            yield _join([*waiting, _rows(block, 0, end)])
            waiting, height = [], 0
        if following is not None and len(users):
            waiting.append(_rows(block, end, len(users)))
            user, height = users[-1], height + len(users) - end
            check_user(height, block.frame.width, user, block.file)
        block = following


def _read_users(waiting: list[Block], block: Block, users_of: Callable[[pl.DataFrame, File], pl.Series]) -> pl.Series:
    """Return the users of a block, whose columns get the types that they have together with the row before."""
    if not waiting or waiting[-1].frame.schema == block.frame.schema:
        return users_of(block.frame, block.file)
    height = waiting[-1].frame.height
    joined = _join([_rows(waiting[-1], height - 1, height), block])
    return users_of(joined.frame, joined.file).slice(1)


def _fill(users: pl.Series, before: str | None) -> pl.Series:
    """Fill each null with the user of the row before, and the first ones of a file with the first user."""
    users = users.fill_null(strategy="forward")
    return users.fill_null(strategy="backward") if before is None else users.fill_null(before)


def _last_start(users: pl.Series) -> int:
    """Return the row number where the last user begins."""
    others = (users != users.tail(1)).arg_true()
    return int(others[-1]) + 1 if len(others) else 0


def _rows(block: Block, start: int, end: int) -> Block:
    """Return some rows of a block."""
    file = replace(block.file, first=block.file.first + start)
    return replace(block, frame=block.frame.slice(start, end - start), file=file)


def _join(blocks: list[Block]) -> Block:
    """Return the rows of consecutive blocks as one block."""
    alike = [[block.frame for block in group] for _, group in groupby(blocks, lambda block: block.frame.schema)]
    frames = [pl.concat(group) for group in alike]
    if len(frames) > 1:
        names = ["earlier rows"] + ["later rows"] * (len(frames) - 1)
        frames = [pl.concat(unified([frame.lazy() for frame in frames], names)).collect()]
    return replace(blocks[-1], frame=frames[0], file=blocks[0].file)


def _check_new(seen: Seen, users: pl.Series, user: str | None, blocks: list[Block]) -> None:
    """Raise DataError if one of the users, or the user before them, is in earlier blocks.

    Args:
        seen: the users in earlier blocks.
        users: of the first rows of the last block.
        user: of the blocks before it. None: there are none, or they have no user.
        blocks: the blocks.
    """
    before = [] if user is None else [user]
    names = pl.concat([pl.Series(before, dtype=pl.String), users.cast(pl.String)])
    row = seen.again(names)
    if row is not None:
        file, place = (blocks[0].file, 0) if row < len(before) else (blocks[-1].file, row - len(before))
        at = str(file) if file.kind == "lines" else file.place(place)  # a line of a log has many rows
        raise DataError(
            f"{at}: user {names[row]!r} has rows earlier in the file, with other users between, but a "
            "file read block by block needs the rows of a user together. Sort it by user, or set --block above its "
            "number of rows"
        )


class Seen:
    """The names in the blocks so far, stored as 8-byte hashes.

    The hashes are in sorted arrays, each more than twice as long as the next, so that a hash is copied about
    log2 N times.
    """

    def __init__(self) -> None:
        self._arrays: list[NDArray[np.uint64]] = []

    def again(self, names: pl.Series) -> int | None:
        """Return the row of a name that an earlier call had, or None; then add all names."""
        hashes = names.hash(0).to_numpy()
        distinct = np.unique(hashes)
        known = np.zeros(len(distinct), dtype=bool)
        for array in self._arrays:
            known |= _is_in(distinct, array)
        self._add(distinct)
        return int(np.isin(hashes, distinct[known]).argmax()) if known.any() else None

    def _add(self, hashes: NDArray[np.uint64]) -> None:
        while self._arrays and len(self._arrays[-1]) <= 2 * len(hashes):
            hashes = np.sort(np.concatenate([self._arrays.pop(), hashes]), kind="stable")  # merges them
        self._arrays.append(hashes)


def _is_in(hashes: NDArray[np.uint64], array: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return whether each hash is in a sorted array that is not empty."""
    places = np.minimum(np.searchsorted(array, hashes), len(array) - 1)
    same: NDArray[np.bool_] = array[places] == hashes
    return same
