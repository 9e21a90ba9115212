"""Render the blocks of a page as one HTML file that loads nothing and escapes all text of users.

The page carries a content security policy that allows its two scripts, by their checksums, and no request at all: text
in a label can neither run nor send anything, even if it were not escaped. One script is page.js; the other draws the
charts: Vega, Vega-Lite and Vega-Embed, which vl-convert bundles without a network.
"""

from __future__ import annotations

import base64
import hashlib
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

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from hyperfocal.errors import RunError
from hyperfocal.machine import default_cache
from hyperfocal.report.blocks import Page
from hyperfocal.storage.cache import Arrays, cached, hash_of
from hyperfocal.storage.whole import whole_file

REPORT = "report.html"
REST_OF_POLICY = "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
PRINT_BUNDLE = "import sys, vl_convert; sys.stdout.buffer.write(vl_convert.javascript_bundle().encode())"
TIMEOUT = 120  # seconds to wait for it


def write_page(page: Page, path: Path) -> Path:
    """Write a page as a whole or not at all, and return its path.

    Raises:
        RunError: it cannot be written.
    """
    html = render(page)
    with whole_file(path) as aside:
        aside.write_text(html, encoding="utf-8")
    return path


def line_of(write: Callable[[], Path], again: str) -> str:
    """Write a report at the end of a command, and return a line with its path, or a warning if that fails.

    The trained model is already saved by then, and an error in a report must not look like one in training: no
    exception leaves this function.

    Args:
        write: writes the report.
        again: command that tries once more.
    """
    try:
        return f"Report: {write()}"
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        return f"warning: no report was written ({cause}). All else is saved; try `{again}`"


def render(page: Page) -> str:
    """Return a page as HTML."""
    charts: list[dict[str, Any]] = []
    scripts = [Markup(bundle(default_cache())), Markup(_asset("page.js"))]
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_visible_text, trim_blocks=True, lstrip_blocks=True
    )

    def add_chart(spec: dict[str, Any]) -> int:
        charts.append(visible(spec))
        return len(charts) - 1

    return environment.from_string(_asset("page.html")).render(
        page=asdict(page),
        add_chart=add_chart,
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


def _visible_text(value: Any) -> Any:
    """Return the text that the template writes for a value, with every character visible."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def visible(value: Any) -> Any:
    """Replace each control character by a sign, in a text and in the texts of lists and dicts.

    >>> visible({"a": ["\\x00b"]})
    {'a': ['\u2400b']}
    """
    if isinstance(value, str):
        return CONTROLS.sub(lambda match: _sign(ord(match[0])), value)
    if isinstance(value, dict):
        return {visible(key): visible(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [visible(each) for each in value]
    return value


def _sign(code: int) -> str:
    """Return Unicode's picture of a control character, or the replacement character."""
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"


def bundle(folder: Path) -> str:
    """Return the script that defines `vegaEmbed`; it is made once per version of vl-convert, which takes seconds.

    Args:
        folder: where the script is cached. If it cannot be used, each process makes the script.

    Raises:
        RunError: it cannot be made.
    """

    def make() -> Arrays:
        return {"script": np.frombuffer(make_bundle().encode(), dtype=np.uint8)}

    return cached(folder, hash_of("vega", version("vl-convert-python")), make)["script"].tobytes().decode()


@cache
def make_bundle() -> str:
    """Make the script in a separate process, because its engine takes much memory and may crash.

    Raises:
        RunError: it cannot be made.
    """
    try:
        result = subprocess.run([sys.executable, "-c", PRINT_BUNDLE], capture_output=True, timeout=TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        lines = (getattr(error, "stderr", b"") or b"").decode(errors="replace").strip().splitlines()
        raise RunError(
            f"vl-convert cannot make the script of the charts: {lines[-1] if lines else error}. "
            "Reinstall it: pip install --force-reinstall vl-convert-python"
        ) from error
    return result.stdout.decode()
