"""Refusals: every answer that is not 2xx has the same form, `{"error": {"reason", "message", "where"}}`."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from hyperfocal.errors import HyperfocalError
from hyperfocal.serve.messages import Fault, Refused

REASONS = {404: "not_found", 405: "method_not_allowed"}


class Refusal(Exception):  # noqa: N818 - an answer, not a failure of ours
    """A request that is not answered.

    Attributes:
        status: of HTTP.
        fault: what the body says.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        where: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.fault, self.headers = status, Fault(reason, message, where), headers

    def response(self) -> Response:
        """Return the answer."""
        content = msgspec.json.encode(Refused(self.fault))
        return Response(content, self.status, self.headers, "application/json")


def failure() -> Refusal:
    """Return the answer to a request that met a bug of ours."""
    return Refusal(500, "failed", "the server failed; its log says why. Try again, or report it")


def install(app: FastAPI) -> None:
    """Let an app answer everything that goes wrong in our form."""

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> Response:
        return error.response()

    @app.exception_handler(HyperfocalError)
    async def wrong(request: Request, error: HyperfocalError) -> Response:
        return Refusal(422, "not_possible", str(error)).response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        reason = REASONS.get(error.status_code, "refused")
        message = f"{request.method} {request.url.path}: {error.detail}. GET /docs lists what there is"
        return Refusal(error.status_code, reason, message, headers=error.headers).response()

    @app.exception_handler(RequestValidationError)
    async def query(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return Refusal(422, "invalid", str(first["msg"]), ".".join(map(str, first["loc"]))).response()

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return failure().response()
