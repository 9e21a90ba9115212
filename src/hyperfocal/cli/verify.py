"""The command `verify`. Heavy imports are inside."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
def verify(run: Path) -> None:
    """Check every file of a run against the checksums that `fit` wrote down, and its checkpoints.

    Ends with 0 where all are as they were written, else with 2 and a line for each that is not.
    """
    from hyperfocal.errors import RunError
    from hyperfocal.runs import MANIFEST, RunFolder

    folder = RunFolder.open(run)
    wrong = folder.verify()
    count = len(folder.read_json(MANIFEST)["files"])
    if wrong:
        lines = "".join(f"\n  {name}: {what}" for name, what in wrong.items())
        raise RunError(
            f"run {run}: {len(wrong)} files are not as they were written:{lines}\n"
            "Restore them from a copy, or fit again with --overwrite"
        )
    click.echo(f"{run}: {count} files are as they were written.")
