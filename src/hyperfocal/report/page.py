"""From the blocks of a page to one HTML file: everything inside, nothing loaded, all text of users escaped.

The page carries a content security policy that allows its own two scripts, by their checksum, and no request at all:
what stands in a label can neither run nor call home, even if it were not escaped.

The JavaScript that draws charts: Vega, Vega-Lite and Vega-Embed, bundled by vl-convert without a network.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from hyperfocal.errors import RunError
from hyperfocal.report.blocks import Page
from hyperfocal.storage.cache import default_cache
from hyperfocal.storage.run_folder import whole_file

REPORT = "report.html"
REST_OF_POLICY = "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def write_page(page: Page, path: Path) -> Path:
    """Write the page, whole or not at all, and return its path.

    Raises:
        RunError: it cannot be written.
    """
    html = render(page)
    with whole_file(path) as aside:
        aside.write_text(html, encoding="utf-8")
    return path


def render(page: Page) -> str:
    """Return the page as HTML."""
    charts: list[dict[str, Any]] = []
    scripts = [Markup(bundle(default_cache())), Markup(_asset("page.js"))]
    blocks = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_shown, trim_blocks=True, lstrip_blocks=True
    )

    def keep(spec: dict[str, Any]) -> int:
        charts.append(visible(spec))
        return len(charts) - 1

    return blocks.from_string(_asset("page.html")).render(
        page=asdict(page),
        keep=keep,
        charts=charts,
        scripts=scripts,
        style=Markup(_asset("page.css")),
        policy=_policy(scripts),
    )


def _asset(name: str) -> str:
    return files("hyperfocal.report").joinpath("assets", name).read_text(encoding="utf-8")


def _policy(scripts: list[Markup]) -> str:
    sums = (base64.b64encode(hashlib.sha256(str(script).encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{each}'" for each in sums)
    return f"default-src 'none'; script-src {allowed}; {REST_OF_POLICY}"


def _shown(value: Any) -> Any:
    """Return what the template writes for a value: text in which every character can be seen."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def visible(value: Any) -> Any:
    """Return texts, also inside lists and dicts, with a sign in place of each control character.

    >>> visible({"a": ["\\x00b"]})
    {'a': ['\u2400b']}
    """
    if isinstance(value, str):
        return CONTROLS.sub(lambda found: _sign(ord(found[0])), value)
    if isinstance(value, dict):
        return {visible(key): visible(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [visible(part) for part in value]
    return value


def _sign(code: int) -> str:
    """Return the picture of a control character that Unicode has, or the replacement character."""
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"


def line_of(write: Callable[[], Path], again: str) -> str:
    """Write a report at the end of a command; return a line that says where it is, or, as a warning, why it is not.

    What was trained is kept by then, and a mistake in a report must not look like one in a run: no error leaves.

    Args:
        write: writes it.
        again: the command that tries once more.
    """
    try:
        return f"Report: {write()}"
    except Exception as error:
        return f"warning: no report was written ({type(error).__name__}: {error}). All else is kept; try `{again}`"


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
