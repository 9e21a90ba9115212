"""The OpenAPI description: FastAPI's, with the bodies that `messages.py` describes."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from hyperfocal.serve.messages import schemas

ABOUT = """\
Answers of a trained run. Bodies are JSON; whatever is refused says why: `{"error": {"reason", "message", "where"}}`.

- 429 with `Retry-After`: more is waiting than the queue holds.
- 413: the body is too large. 415: it is not JSON. 400: it is not well-formed. 422: it is not what is described here.
- 409: the run is of the other job.
"""
REFUSED = {
    400: "The body is not well-formed JSON.",
    401: "The key is missing or wrong.",
    403: "Without a key: the run is not beside the one served, or the Host is not this machine.",
    409: "The run is of the other job.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "The request is not what is described here, or cannot be answered.",
    429: "More is waiting than the queue holds; `Retry-After` says when to try again.",
    503: "It took too long, or the service shuts down.",
}


def body(name: str, *, required: bool = True) -> dict[str, Any]:
    """Return what a route says of the body that it reads."""
    return {"requestBody": {"required": required, "content": _content(name)}}


def responses(name: str | None, *statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what a route says of its answers: 200 with a body by that name, and refusals."""
    done: dict[str, Any] = {"description": "The answer."} | ({"content": _content(name)} if name else {})
    refused: dict[int | str, dict[str, Any]] = {
        status: {"description": REFUSED[status], "content": _content("Refused")} for status in statuses
    }
    return {200: done, **refused}


def _content(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def describe(app: FastAPI, *, keyed: bool) -> None:
    """Let an app describe itself, once."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = get_openapi(title=app.title, version=app.version, description=ABOUT, routes=app.routes)
            found.setdefault("components", {})["schemas"] = schemas()
            if keyed:
                found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
                found["security"] = [{"key": []}]
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
