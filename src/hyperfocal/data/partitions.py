"""Hash partitions on disk of a table larger than memory: all rows with one key are in one partition."""

from __future__ import annotations

from pathlib import Path

import polars as pl

PARTITIONS = 64  # of 100 million rows each has 1.6 million


def write_partitions(block: pl.DataFrame, key: str, work: Path, number: int) -> None:
    """Write each row of a block to the partition of its `key` column, a folder `partition-*` in `work`.

    The files of a partition sort by the block's number.

    Raises:
        OSError: the folder cannot be written.
    """
    numbered = block.with_columns(partition=block[key].hash(0) % PARTITIONS)
    try:
        for (partition,), rows in numbered.partition_by("partition", as_dict=True, include_key=False).items():
            folder = work / f"partition-{partition:03}"
            folder.mkdir(exist_ok=True)
            rows.write_ipc(folder / f"{number:06}.arrow", compression="lz4")
    except pl.exceptions.PolarsError as error:  # a full disk
        raise OSError(str(error)) from error


def partition_folders(work: Path) -> list[Path]:
    """Return the folders of all partitions, in order."""
    return sorted(work.glob("partition-*"))
