"""The pages: read once, served from memory, loading nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.responses import Response

FOLDER = Path(__file__).parent / "page"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
ADDRESSES = {"index.html": "/", "docs.html": "/docs"}  # the others are at /page/NAME
HEAD = "head.html"  # what the heads of the pages share, in each in place of a comment with its name


def add_pages(app: FastAPI) -> None:
    """Add a route for each file of the page."""
    head = (FOLDER / HEAD).read_bytes()
    for path in sorted(FOLDER.iterdir()):
        if path.suffix in KINDS and path.name != HEAD:
            content = path.read_bytes().replace(f"<!-- {HEAD} -->\n".encode(), head)
            _add(app, ADDRESSES.get(path.name, f"/page/{path.name}"), content, KINDS[path.suffix])


def _add(app: FastAPI, address: str, content: bytes, kind: str) -> None:
    async def page() -> Response:
        return Response(content, media_type=kind)

    app.add_api_route(address, page, include_in_schema=False)
