"""Logs larger than memory: item numbers on disk, mapped into memory, in the order of their users."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from hyperfocal.data.tables import Form, Log
from hyperfocal.sequences import Sequences, user_blocks

Arrays = dict[str, NDArray[Any]]
BLOCK_EVENTS = 2**22  # events that a pass over a mapped log holds at once


@dataclass(frozen=True, eq=False)
class MappedLog:
    """A log whose events are numbers in a file, and of which only ids and offsets are in memory.

    User u did items `ids[items[offsets[u]:offsets[u + 1]]]`.

    Attributes:
        users: (U,) text, in order of first appearance.
        ids: (L,) text, every item of the log, ascending.
        items: (N,) int32, mapped.
        offsets: (U + 1,) int64.
        user_column, item_column, form, ties: as in `Log`.
    """

    users: pl.Series
    ids: pl.Series
    items: NDArray[np.int32]
    offsets: NDArray[np.int64]
    user_column: str
    item_column: str
    form: Form
    ties: int

    def __len__(self) -> int:
        """Return U, the number of users."""
        return len(self.users)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return (U,) the number of events of each user."""
        return np.diff(self.offsets)

    def select(self, users: NDArray[np.int64]) -> Log:
        """Return the given users (row numbers) with their events in memory."""
        lengths = self.lengths[users]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        places = np.repeat(self.offsets[users] - offsets[:-1], lengths) + np.arange(offsets[-1])
        items = self.ids.gather(pl.Series(self.items[places], dtype=pl.UInt32)).alias("item")
        names = self.users.gather(pl.Series(users, dtype=pl.UInt32))
        return Log(names, items, offsets, self.user_column, self.item_column, self.form)

    def blocks(self) -> Iterator[slice]:
        """Yield the users in blocks of about BLOCK_EVENTS events."""
        yield from user_blocks(self.offsets, BLOCK_EVENTS)

    def to_arrays(self) -> Arrays:
        """Return what `from_arrays` reads."""
        facts = pl.DataFrame(
            {"user": [self.user_column], "item": [self.item_column], "form": [self.form], "ties": [self.ties]}
        )
        tables = {"users": self.users.to_frame("user"), "ids": self.ids.to_frame("item"), "facts": facts}
        packed = {name: pack(table) for name, table in tables.items()}
        return {"items": self.items, "offsets": self.offsets, **packed}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> MappedLog:
        """Build from `to_arrays`."""
        users, ids, facts = (unpack(arrays[name]) for name in ("users", "ids", "facts"))
        user_column, item_column, form, ties = facts.row(0)
        return cls(users["user"], ids["item"], arrays["items"], arrays["offsets"], user_column, item_column, form, ties)


def count_items(log: MappedLog, kept: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return (L,) the events of each item, of the users that (U,) `kept` names."""
    counts = np.zeros(len(log.ids), dtype=np.int64)
    for block in log.blocks():
        counts += np.bincount(_events(log, block, kept), minlength=len(counts))
    return counts


def keep_users(log: MappedLog, kept: NDArray[np.bool_], numbers: NDArray[np.int32], path: Path) -> Arrays:
    """Write the events of some users under other numbers; return `items`, mapped, and `offsets`.

    Args:
        log: U users over L items.
        kept: (U,) which users.
        numbers: (L,) the new number of each item that they have.
        path: of the file to write.

    Raises:
        OSError: it cannot be written.
    """
    offsets = np.concatenate([[0], np.cumsum(log.lengths[kept])]).astype(np.int64)
    with path.open("wb") as file:
        for block in log.blocks():
            file.write(numbers[_events(log, block, kept)].tobytes())
    return {"items": map_items(path), "offsets": offsets}


def map_items(path: Path) -> NDArray[np.int32]:
    """Return the int32 numbers of a file, mapped."""
    return map_file(path, np.dtype(np.int32))


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


def as_sequences(arrays: Arrays, num_items: int) -> Sequences:
    """Return mapped `items` and `offsets` as sequences; their item numbers are int32."""
    return Sequences(torch.from_numpy(arrays["items"]), torch.from_numpy(arrays["offsets"]), num_items)


def _events(log: MappedLog, block: slice, kept: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return the items of the kept users of a block."""
    offsets = log.offsets[block.start : block.stop + 1]
    events: NDArray[np.int32] = log.items[offsets[0] : offsets[-1]][np.repeat(kept[block], np.diff(offsets))]
    return events


def pack(table: pl.DataFrame) -> NDArray[np.uint8]:
    """Return the bytes of a frame, from which `unpack` makes it again."""
    buffer = BytesIO()
    table.write_ipc(buffer)
    return np.frombuffer(buffer.getbuffer(), dtype=np.uint8)


def unpack(packed: NDArray[np.uint8]) -> pl.DataFrame:
    """Return the frame of `pack`."""
    return pl.read_ipc(packed.tobytes())
