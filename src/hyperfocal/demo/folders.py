"""The folder of a demo: made, or known as an earlier demo's."""

from __future__ import annotations

from pathlib import Path

from hyperfocal.errors import RunError

MARK = ".hyperfocal-demo"  # says that the folder is ours to overwrite


def claim(out: Path) -> None:
    """Make the folder, or make sure that it is an earlier demo's.

    Raises:
        RunError: it holds something else.
    """
    if out.exists() and not (out.is_dir() and ((out / MARK).exists() or not any(out.iterdir()))):
        raise RunError(f"{out}: is there already and is no demo of ours. Choose another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).touch()
