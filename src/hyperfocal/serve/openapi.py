"""The OpenAPI description of the service, with the message schemas of `messages.py`."""

from __future__ import annotations

from typing import Any

import msgspec

from hyperfocal.serve.messages import JSON, ModelQuery, schemas

ABOUT = """\
Predictions of a trained run. Bodies are JSON; every error says why: `{"error": {"reason", "message", "where"}}`.

- 429 with `Retry-After`: the queue is full, or too many requests of a connection wait.
- 413: the body is too large. 415: it is not sent as JSON. 400: it is malformed. 422: it breaks this description.
- 409: the run was trained for the other job.
- 414, 431: the URL or the headers are too large. 408: the request arrives too slowly.
- 403: the Host is a name that the service does not answer to.
"""
REFUSED = {
    400: "The body is malformed JSON, or the request is malformed HTTP.",
    401: "The key is missing or wrong.",
    403: "The Host is not allowed; or, without a key, the run is in another folder than the one served.",
    408: "The headers or the body took too long to arrive.",
    409: "The run was trained for the other job.",
    413: "The body is too large.",
    414: "The URL is too long.",
    415: "The body is not sent as JSON.",
    422: "The request does not match this description, or cannot be answered.",
    429: "The queue is full, or too many requests of the connection wait; `Retry-After` says when to try again.",
    431: "The headers are too large or too many.",
    500: "The server failed; its log says why.",
    503: "The request took too long, too many connections are open, or the service is shutting down.",
}
Content = dict[str, Any]  # media type -> schema
ANY = (400, 408, 413, 414, 429, 431, 500, 503)  # refusals of every request
PREDICTING = (401, 403, 409, 415, 422)


def description(version: str, *, keyed: bool) -> dict[str, Any]:
    """Return the OpenAPI description for a version of this package; if `keyed`, clients need a key."""
    components: dict[str, Any] = {"schemas": schemas()}
    about: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "hyperfocal", "description": ABOUT, "version": version},
        "paths": _paths(),
        "components": components,
    }
    if keyed:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        about["security"] = [{"key": []}]
    return about


def _paths() -> dict[str, Any]:
    anything: Content = {JSON: {"schema": {}}}
    text: Content = {"text/plain": {"schema": {"type": "string"}}}
    operations: list[tuple[str, str, str, Content, tuple[int, ...]]] = [
        ("post", "/v1/recommend", "The next items of each history", _message("Recommendations"), PREDICTING),
        ("post", "/v1/similar", "The items most like each item", _message("SimilarItems"), PREDICTING),
        ("post", "/v1/classify", "The labels of each text", _message("Classifications"), PREDICTING),
        ("get", "/v1/model", "The model card of the run", anything, (401, 403, 422)),
        ("post", "/v1/reload", "Load another run, or the same one again, without losing a request",
         _message("Reloaded"), (401, 403, 415, 422)),
        ("get", "/health", "Whether the process is alive", anything, ()),
        ("get", "/ready", "Whether it takes requests: 503 while it shuts down", anything, ()),
        ("get", "/metrics", "Counters for Prometheus", text, (401, 403)),
    ]  # fmt: skip
    paths = {operation[1]: {operation[0]: _operation(*operation)} for operation in operations}
    paths["/v1/recommend"]["post"]["requestBody"] = {"required": True, "content": _message("RecommendRequest")}
    paths["/v1/similar"]["post"]["requestBody"] = {"required": True, "content": _message("SimilarRequest")}
    paths["/v1/classify"]["post"]["requestBody"] = {"required": True, "content": _message("ClassifyRequest")}
    paths["/v1/reload"]["post"]["requestBody"] = {"required": False, "content": _message("ReloadRequest")}
    paths["/v1/model"]["get"]["parameters"] = _parameters()
    return paths


def _operation(method: str, path: str, summary: str, answer: Content, refusals: tuple[int, ...]) -> dict[str, Any]:
    responses = {"200": {"description": "The answer.", "content": answer}}
    for status in sorted((*refusals, *ANY)):
        responses[str(status)] = {"description": REFUSED[status], "content": _message("Refused")}
    name = path.rpartition("/")[2] + path.replace("/", "_")
    return {"summary": summary, "operationId": f"{name}_{method}", "responses": responses}


def _parameters() -> list[dict[str, Any]]:
    """Return the description of the query of `/v1/model`."""
    _, schemas = msgspec.json.schema_components([ModelQuery])
    return [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": schema["description"]}
        for name, schema in schemas["ModelQuery"]["properties"].items()
    ]


def _message(name: str) -> Content:
    return {JSON: {"schema": {"$ref": f"#/components/schemas/{name}"}}}
