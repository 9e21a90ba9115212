"""What both `predict` commands do with a file larger than memory: blocks in, part files out, one whole file at the end.

The options are here, and what runs; heavy imports are inside, so that --help answers at once.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    import polars as pl

    from hyperfocal.data.blocks import Block
    from hyperfocal.tasks.parts import Parts, Write

Command = TypeVar("Command", bound=Callable[..., Any])
LARGE_BYTES = 64 * 2**20  # files from here on are read block by block
LARGE_PACKED_BYTES = 16 * 2**20  # .gz and .parquet, which grow when they are unpacked


def block_options(command: Command) -> Command:
    """Add --block and --resume to a command."""
    command = click.option("--resume", is_flag=True, help="Go on after a crash: predict only what is missing.")(command)
    return click.option(
        "--block",
        type=click.IntRange(min=1),
        help="Rows that are read at once.  [default: all; of large files as many as suit]",
    )(command)


def in_blocks(path: Path, out: Path, options: dict[str, Any]) -> bool:
    """Return whether a file is read block by block: it is large, or somebody asked for it."""
    if options["block"] is not None or (options["resume"] and out.with_name(f"{out.name}.parts").exists()):
        return True
    limit = LARGE_PACKED_BYTES if path.suffix in (".gz", ".parquet") else LARGE_BYTES
    return path.is_file() and path.stat().st_size >= limit


def write_parts(
    blocks: Iterator[Block],
    predict: Callable[[Block], tuple[pl.DataFrame, Counter[str]]],
    write: Write,
    parts: Parts,
    *,
    resume: bool,
) -> Counter[str]:
    """Predict every block that is not done yet, under a progress bar, and join the parts; return what was counted.

    Ctrl-C ends the program with 130 and says how to go on.
    """
    from hyperfocal.report.progress import PredictProgress

    total: Counter[str] = Counter()
    number = 0
    try:
        with PredictProgress() as progress:
            for number, block in enumerate(blocks, 1):
                if number == 1:  # only now: a file that cannot be read leaves no folder
                    parts.begin(resume=resume)
                counts = parts.done(number - 1)
                if counts is None:
                    frame, counts = predict(block)
                    parts.put(number - 1, frame, counts, write)
                total += counts
                progress.watch(number, block.share)
            parts.join(number)
    except KeyboardInterrupt:
        click.echo(f"stopped. The same command with --resume goes on with what is in {parts.folder}.", err=True)
        sys.exit(130)
    return total
