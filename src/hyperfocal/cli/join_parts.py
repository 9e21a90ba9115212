"""Join part files into one file whose ids have one type, also if a part alone has ids of another type.

Ids are integers if they are integers in all parts, else text, as if the file had been predicted at once.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import polars as pl

from hyperfocal.data.compression import create_packed
from hyperfocal.data.files import File
from hyperfocal.errors import RunError

ROW_GROUP = 100_000  # rows of a Parquet file that are in memory while parts are joined
FIELD = re.compile(rb'[{,] ?"(?:[^"\\]|\\.)*": ?("(?:[^"\\]|\\.)*"|-?\d+)')  # of an id, at the start of a line
ID_TYPES = (pl.String, pl.Int64, pl.UInt64)


def join_parts(paths: list[Path], joined: Path) -> None:
    """Write the rows of all parts, in this order, in the format of the joined file's name.

    Raises:
        RunError: a part is damaged.
        OSError: the file cannot be written.
    """
    kind = File(joined).kind
    if kind == "parquet":
        _join_tables(paths, joined)
        return
    texts = _text_places(paths) if kind == "jsonl" else []
    with create_packed(joined) as out:
        for path in paths:
            with path.open("rb") as part:
                if texts:
                    out.writelines(_with_texts(part, texts))
                else:
                    shutil.copyfileobj(part, out, 2**20)


def _join_tables(paths: list[Path], joined: Path) -> None:
    tables = [pl.scan_parquet(path, glob=False) for path in paths]
    types = _id_types(tables, [_schema(path) for path in paths])
    same = [table.with_columns(pl.col(name).cast(dtype) for name, dtype in types.items()) for table in tables]
    rows = pl.concat(same) if types else pl.scan_parquet(paths, glob=False)
    try:
        rows.sink_parquet(joined, row_group_size=ROW_GROUP, maintain_order=True)
    except pl.exceptions.ComputeError as error:  # a full disk
        raise OSError(str(error)) from error


def _schema(path: Path) -> dict[str, pl.DataType]:
    try:
        return dict(pl.read_parquet_schema(path))
    except pl.exceptions.PolarsError as error:
        raise RunError(f"{path}: is damaged ({error}). Remove the folder to start over") from None


def _id_types(tables: Sequence[pl.LazyFrame], schemas: Sequence[dict[str, pl.DataType]]) -> dict[str, pl.DataType]:
    """Return the types of the ids whose type differs between parts."""
    types: dict[str, pl.DataType] = {}
    for name in schemas[0]:
        used = {schema[name] for schema in schemas}
        if len(used) > 1 and used <= set(ID_TYPES):
            types[name] = pl.String() if pl.String in used or _is_negative(name, tables) else pl.UInt64()
    return types


def _is_negative(name: str, tables: Sequence[pl.LazyFrame]) -> bool:
    smallest = pl.collect_all([table.select(pl.col(name).min()) for table in tables])
    return any(int(each.item() or 0) < 0 for each in smallest)


def _text_places(paths: Sequence[Path]) -> list[bool]:
    """Return for each of the first fields of JSON lines whether some parts have text there and others integers.

    [] if there is no such field.
    """
    firsts = [json.loads(line) for line in map(_first_line, paths) if line]
    mixed = [{type(row[name]) for row in firsts} == {int, str} for name in (firsts[0] if firsts else ())]
    return mixed[: len(mixed) - mixed[::-1].index(True)] if True in mixed else []


def _first_line(path: Path) -> bytes:
    with path.open("rb") as part:
        return part.readline()


def _with_texts(lines: IO[bytes], texts: Sequence[bool]) -> Iterator[bytes]:
    """Yield JSON lines in which the integers of the fields marked in `texts` are text."""
    for line in lines:
        pieces, place = [], 0
        for text in texts:
            field = FIELD.match(line, place)
            assert field, "ids are the first fields"
            value = field[1] if field[1].startswith(b'"') or not text else b'"' + field[1] + b'"'
            pieces += [line[place : field.start(1)], value]
            place = field.end()
        yield b"".join([*pieces, line[place:]])
