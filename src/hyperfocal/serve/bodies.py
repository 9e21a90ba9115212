"""Bodies of requests and answers, by msgspec."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from starlette.responses import Response

from hyperfocal.serve.refusals import Refusal

Body = TypeVar("Body")
JSON = "application/json"


def read(decoder: msgspec.json.Decoder[Body], content: bytes) -> Body:
    """Return what a body says.

    Raises:
        Refusal: 400 for JSON that is not well-formed, 422 for another type or a limit; with the place.
    """
    try:
        return decoder.decode(content)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `")
        raise Refusal(422, "invalid", message, place.rstrip("`") or "$") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, "malformed", f"the body is not JSON: {error}") from None


def as_json(value: Any) -> Response:
    """Return an answer."""
    return Response(msgspec.json.encode(value), media_type=JSON)
