"""Lists of ids in a file: one per line of a text, or one column of a table."""

from __future__ import annotations

from pathlib import Path

from hyperfocal.data.files import File
from hyperfocal.data.ids import IdKind, read_ids
from hyperfocal.data.readers import check_exists, read_frame
from hyperfocal.errors import DataError


def read_id_list(path: Path, names: tuple[str, ...], kind: IdKind | None = None) -> list[str]:
    """Return the distinct ids in a file, in its order.

    Args:
        path: .txt with one id per line, or a table: .csv, .tsv, .jsonl or .parquet.
        names: of the column of a table, the first that exists; without one, the first column.
        kind: of the ids that they are compared with. None: as the file shows.

    Raises:
        DataError: no such file, an unreadable one, or one without an id; an empty row of a table.
    """
    file = File(path)
    if file.kind == "lines":
        check_exists(file)
        with file.open() as lines:
            ids = [line.strip() for line in lines if line.strip()]
    else:
        frame = read_frame(file, row="id")
        name = next((name for name in names if name and name in frame.columns), frame.columns[0])
        ids = read_ids(frame[name], file, "Give one id per row", kind)[0].to_list()
    if not ids:
        raise DataError(f"{file}: has no id. Give one id per line")
    return list(dict.fromkeys(ids))
