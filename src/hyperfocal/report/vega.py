"""The JavaScript that draws charts: Vega, Vega-Lite and Vega-Embed, bundled by vl-convert without a network."""

from __future__ import annotations

import logging
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

from hyperfocal.errors import RunError
from hyperfocal.runs import whole_file

log = logging.getLogger(__name__)
LEAST = 100_000  # characters of a bundle that is whole
MAKE = "import sys, vl_convert; sys.stdout.buffer.write(vl_convert.javascript_bundle().encode())"
LONGEST = 120  # seconds to wait for it


def bundle(folder: Path) -> str:
    """Return the script, which defines `vegaEmbed`; made once for each version of vl-convert, which takes seconds.

    Args:
        folder: keeps it. Where it cannot be written, the script is made by each process.

    Raises:
        RunError: it cannot be made.
    """
    path = folder / f"vega-{version('vl-convert-python')}.js"
    if path.is_file():
        kept = path.read_text(encoding="utf-8", errors="replace")
        if len(kept) > LEAST:
            return kept
    made = _made()
    try:
        with whole_file(path) as aside:
            aside.write_text(made, encoding="utf-8")
    except RunError as error:
        log.info("the charts' script is not kept: %s", error)
    return made


@cache
def _made() -> str:
    """Make the script in a process of its own: an engine that takes much memory, or fails, harms no other."""
    try:
        made = subprocess.run([sys.executable, "-c", MAKE], capture_output=True, timeout=LONGEST, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", b"") or b"").decode(errors="replace").strip().splitlines()
        raise RunError(
            f"the charts' script cannot be made by vl-convert: {said[-1] if said else error}. "
            "Reinstall it: pip install --force-reinstall vl-convert-python"
        ) from error
    return made.stdout.decode()
