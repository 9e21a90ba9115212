"""The JavaScript that draws charts: Vega, Vega-Lite and Vega-Embed, bundled by vl-convert without a network."""

from __future__ import annotations

import logging
from importlib.metadata import version
from pathlib import Path

from hyperfocal.errors import RunError
from hyperfocal.runs import whole_file

log = logging.getLogger(__name__)
LEAST = 100_000  # characters of a bundle that is whole


def bundle(cache: Path) -> str:
    """Return the script, which defines `vegaEmbed`; made once for each version of vl-convert, which takes seconds.

    Args:
        cache: folder that keeps it. Where it cannot be written, the script is made each time.
    """
    path = cache / f"vega-{version('vl-convert-python')}.js"
    if path.is_file():
        kept = path.read_text(encoding="utf-8", errors="replace")
        if len(kept) > LEAST:
            return kept
    import vl_convert

    made = str(vl_convert.javascript_bundle(None))
    try:
        with whole_file(path) as aside:
            aside.write_text(made, encoding="utf-8")
    except RunError as error:
        log.info("the charts' script is not kept: %s", error)
    return made
