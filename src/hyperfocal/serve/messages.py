"""What requests and answers look like: one description, which reads, refuses and documents them.

Bodies of requests and answers, by msgspec.

Refusals: every answer that is not 2xx has the same form, `{"error": {"reason", "message", "where"}}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from msgspec import Meta, Struct
from starlette.exceptions import HTTPException
from starlette.responses import Response

from hyperfocal.errors import HyperfocalError

MOST_ROWS = 1_000  # histories or texts a request
MOST_ANSWERED = 100_000  # items or labels with their scores an answer, some 4 to 10 MB
MOST_EXPLAINED = 8  # texts a request whose words are weighed
Name = Annotated[str, Meta(max_length=1_000)]
Value = str | int | float | bool | list[str] | None
Rank = Annotated[int, Meta(ge=1, le=1_000)]


class RecommendRequest(Struct, forbid_unknown_fields=True):
    """Histories in, the next items of each out.

    Attributes:
        histories: item ids of each user, oldest first.
        k: items to return; without, as many as the run was trained to predict. Histories x k are 100,000 at most.
        exclude: items never to return; those of a history are not returned either.
        new_items: items that training never saw, each with its id and its features in the run's columns; they are
            ranked beside the others.
    """

    histories: Annotated[
        list[Annotated[list[Name], Meta(max_length=10_000)]],
        Meta(min_length=1, max_length=MOST_ROWS, examples=[[["a", "b"], ["c"]]]),
    ]
    k: Rank | None = None
    exclude: Annotated[list[Name], Meta(max_length=MOST_ROWS)] = []
    new_items: Annotated[list[dict[Name, Value]], Meta(max_length=MOST_ROWS)] = []


class ItemScore(Struct):
    """An item and its score: larger is better; only comparable within one history."""

    item: str
    score: float


class NextItems(Struct):
    """The answer to a history: the best items first, and those of the history that the model does not know."""

    items: list[ItemScore]
    unknown: list[str]


class Recommendations(Struct):
    """An answer a history, in their order, and the version of the model that gave them."""

    model: str
    answers: list[NextItems]


class ClassifyRequest(Struct, forbid_unknown_fields=True):
    """Texts in, the labels of each out.

    Attributes:
        texts: of any length up to 100,000 characters.
        threshold: "tuned" decides as the run does, "half" at a probability of 0.5, a number at that probability.
        top: labels whose scores are returned, the best ones. Texts x top are 100,000 at most.
        explain: whether to tell which words mattered most for the best label.
    """

    texts: Annotated[
        list[Annotated[str, Meta(max_length=100_000)]],
        Meta(min_length=1, max_length=MOST_ROWS, examples=[["a glass of red wine"]]),
    ]
    threshold: Literal["tuned", "half"] | Annotated[float, Meta(ge=0, le=1)] = "tuned"
    top: Annotated[int, Meta(ge=0, le=1_000)] = 10
    explain: bool = False


class LabelScore(Struct):
    """A label's probability, what it has to exceed, whether it is decided, and its path where the run has a tree."""

    label: str
    score: float
    threshold: float | None
    decided: bool
    path: str | None = None


class WordEffect(Struct):
    """A word, how far the label's log-odds fall without it, and where it stands: start and end in characters."""

    word: str
    effect: float
    places: list[tuple[int, int]]


class TextAnswer(Struct, omit_defaults=True):
    """The answer to a text: labels decided, the best scores; a note, and words of the label `explained`, if any."""

    labels: list[str]
    scores: list[LabelScore]
    note: str | None = None
    explained: str | None = None
    words: list[WordEffect] | None = None


class Classifications(Struct):
    """An answer a text, in their order, and the version of the model that gave them."""

    model: str
    answers: list[TextAnswer]


class ReloadRequest(Struct, forbid_unknown_fields=True):
    """Which run to swap in: a folder on the server, or without one the same folder anew."""

    run: Annotated[str, Meta(min_length=1, max_length=4_000)] | None = None


class Reloaded(Struct):
    """The version of the model that answers now, and how many processes have it."""

    model: str
    run: str
    workers: int


class Fault(Struct):
    """Why a request was refused: a word for programs, a sentence for people, and where in the body."""

    reason: str
    message: str
    where: str | None = None


class Refused(Struct):
    """What every answer that is not 2xx looks like."""

    error: Fault


DOCUMENTED: tuple[type[Struct], ...] = (
    RecommendRequest, Recommendations, ClassifyRequest, Classifications, ReloadRequest, Reloaded, Refused,
)  # fmt: skip


def schemas() -> dict[str, Any]:
    """Return the JSON schemas of everything above, by name, as OpenAPI's components."""
    _, components = msgspec.json.schema_components(DOCUMENTED, ref_template="#/components/schemas/{name}")
    return components


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
