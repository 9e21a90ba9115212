"""From the blocks of a page to one HTML file: everything inside, nothing loaded, all text of users escaped.

The page carries a content security policy that allows its own two scripts, by their checksum, and no request at all:
what stands in a label can neither run nor call home, even if it were not escaped.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from hyperfocal.cache import default_cache
from hyperfocal.report.blocks import Page
from hyperfocal.report.vega import bundle
from hyperfocal.runs import whole_file

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
