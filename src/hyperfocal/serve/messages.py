"""Requests, answers and refusals of the API: one description that decodes, validates and documents them.

Every answer that is not 2xx has one form, `{"error": {"reason", "message", "where"}}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct, field
from starlette.responses import Response

from hyperfocal.rules import Id, Name, Rules

LONGEST_TEXT = 100_000  # characters
MOST_ROWS = 1_000  # histories or texts per request
MOST_ANSWERED = 100_000  # items or labels with scores per answer, some 4 to 10 MB
MOST_BUILT = 10_000  # items per answer with `max_per` or `diversity`, which take them one by one
MOST_EXCLUDED = 1_000_000  # histories x excluded items of a request, which are dealt with one by one
MOST_EXPLAINED = 8  # texts per request with `explain`
MOST_WORDS = 60  # distinct words per text that `explain` removes, each of which costs one more text to score
JSON = "application/json"
PLACE = re.compile(r" - at (?:`key` in )?`\$([^`]*)`$")  # how msgspec ends a message, except at the root
BOOLEANS = {"yes": "true", "on": "true", "no": "false", "off": "false"}  # words that msgspec does not know
Value = str | int | float | bool | list[str] | None
Rank = Annotated[int, Meta(ge=1, le=1_000)]
Headers = Mapping[str, str]
Body = TypeVar("Body")


class RecommendRequest(Rules, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Histories or known users in, the next items of each out.

    Attributes:
        histories: item ids of each user, oldest first; null: `users` are given.
        users: ids of users of the training log; null: `histories` are given.
        k: items to return; null: as many as the run was trained to predict. Histories x k may not exceed 100,000.
        candidates: for each history or user the only items that may be returned; null: all.
        explain: whether to return the items of the history without which the score of an item falls most.
        new_items: items that were not in the training data, each with its id and its features in the run's columns.
            They are ranked together with the known items.
        repeats: whether items of the history may be returned.
        repeat_after: is refused, because histories have no times.
        only: the only items that may be returned; null: all.
        exclude: items never to return. Histories x `exclude` may not exceed 1,000,000.
        filters: conditions on columns of the item table, as "in_stock = true", "price < 20" or
            "category in [shoes, bags]". An item has to satisfy all of them; a missing value satisfies none.
        max_per: column of the item table -> how many items of a list may share a value of that column. With `max_per`
            or `diversity`, histories x k may not exceed 10,000.
        diversity: 0 to 1, how much a list avoids similar items.
    """

    histories: (
        Annotated[
            list[Annotated[list[Id], Meta(max_length=10_000)]],
            Meta(min_length=1, max_length=MOST_ROWS, examples=[[["a", "b"], ["c"]]]),
        ]
        | None
    ) = None
    users: Annotated[list[Id], Meta(min_length=1, max_length=MOST_ROWS)] | None = None
    k: Rank | None = None
    candidates: Annotated[list[Annotated[list[Id], Meta(max_length=10_000)]], Meta(max_length=MOST_ROWS)] | None = None
    explain: bool = False
    new_items: Annotated[list[dict[Name, Value]], Meta(max_length=MOST_ROWS)] = field(default_factory=list)

    @property
    def number(self) -> int:
        """Number of users."""
        return len(self.histories or self.users or ())


class ItemScore(Struct, omit_defaults=True):
    """An item and its score. Higher is better; scores compare only within one history.

    The item is a number if the ids of the training log were numbers. It has its title if the item table has a column
    title or name, and with `explain` the items of the history that raise its score most.
    """

    item: str | int
    score: float
    title: str | None = None
    because: list[str | int] | None = None


class NextItems(Struct, omit_defaults=True):
    """The answer to one history: the next items, best first, and items of the history unknown to the model.

    `known` is false if no item of the history is known to the model; then a note says so. A note also says if rules
    leave fewer than k items.
    """

    items: list[ItemScore]
    unknown: list[str | int | float]
    known: bool
    note: str | None = None


class Recommendations(Struct):
    """One answer per history, in the order of the request, and the version of the model that computed them."""

    model: str
    answers: list[NextItems]


class SimilarRequest(Struct, forbid_unknown_fields=True):
    """Items in, the items most like each out.

    Attributes:
        items: ids of items that the run knows.
        k: items to return for each. Items x k may not exceed 100,000.
    """

    items: Annotated[list[Id], Meta(min_length=1, max_length=MOST_ROWS, examples=[["a"]])]
    k: Rank = 10


class SimilarItems(Struct):
    """The items most like each item of the request, the most alike first, with their similarity as score."""

    model: str
    answers: list[list[ItemScore]]


class NewLabel(Struct, forbid_unknown_fields=True):
    """A label that was not in the training data.

    Attributes:
        label: as answers call it.
        name: whose words are looked for in the texts; "": the label itself.
        description: which only a sentence encoder reads, after the name.
    """

    label: Annotated[str, Meta(min_length=1, max_length=1_000)]
    name: Annotated[str, Meta(max_length=1_000)] = ""
    description: Annotated[str, Meta(max_length=10_000)] = ""


class ClassifyRequest(Struct, forbid_unknown_fields=True):
    """Documents in, the labels of each out.

    Attributes:
        texts: plain texts of up to 100,000 characters each; or objects with the columns of the training documents, as
            {"text": "...", "section": "games"}, which a run with fields or vectors needs. Null: `rows` are given.
        rows: of a feature matrix, for a run that was fitted on one: lists of all values, as [0.5, 0, 2]; or objects
            with the values other than 0 by the number or name of their feature, as {"0": 0.5, "2": 2}.
        threshold: "tuned" uses the run's thresholds, "half" a probability of 0.5, a number that probability. A run with
            one label per text has no threshold and refuses "half" and numbers.
        top: how many of the best labels to return with their scores. Texts x top may not exceed 100,000.
        explain: whether to return the words that mattered most for the best label.
        new_labels: labels that were not in the training data, scored by their texts next to the known labels.
    """

    texts: (
        Annotated[
            list[Annotated[str, Meta(max_length=LONGEST_TEXT)] | dict[str, Any]],
            Meta(min_length=1, max_length=MOST_ROWS, examples=[["a glass of red wine"]]),
        ]
        | None
    ) = None
    rows: Annotated[list[list[float] | dict[str, float]], Meta(min_length=1, max_length=MOST_ROWS)] | None = None
    threshold: Literal["tuned", "half"] | Annotated[float, Meta(ge=0, le=1)] = "tuned"
    top: Annotated[int, Meta(ge=0, le=1_000)] = 10
    explain: bool = False
    new_labels: Annotated[list[NewLabel], Meta(max_length=1_000)] = []

    @property
    def number(self) -> int:
        """Number of documents."""
        return len(self.texts or self.rows or ())


class LabelScore(Struct):
    """A label with its probability, its threshold, the decision, and its path if the run has a taxonomy."""

    label: str
    score: float
    threshold: float | None
    decided: bool
    path: str | None = None


class WordEffect(Struct):
    """A word, how far the label's log-odds fall without it, and its places: start and end in characters."""

    word: str
    effect: float
    places: list[tuple[int, int]]


class TextAnswer(Struct, omit_defaults=True):
    """The answer to one text: its labels, the best scores and, with `explain`, the label explained and its words.

    `known` is false if the model knows no n-gram or word of the text; then a note says so. An
    empty text is unknown. A run with one label per text gives one label, and scores that sum to 1 over all labels.
    `name_words` are the words of the text that the name of the explained label has, in lower case; it is missing if the
    model does not look for that name.
    """

    labels: list[str]
    scores: list[LabelScore]
    known: bool
    note: str | None = None
    explained: str | None = None
    words: list[WordEffect] | None = None
    name_words: list[str] | None = None


class Classifications(Struct):
    """One answer per text, in the order of the request, and the version of the model that computed them."""

    model: str
    answers: list[TextAnswer]


class ModelQuery(Struct):
    """The query of `/v1/model`."""

    names: Annotated[bool, Meta(description="Whether to return names of items or labels, frequent ones first.")] = False
    search: Annotated[
        str, Meta(max_length=200, description="Only names that contain this text; names that begin with it first.")
    ] = ""
    limit: Annotated[int, Meta(ge=1, le=10_000, description="How many names to return at most.")] = 100


class ReloadRequest(Struct, forbid_unknown_fields=True):
    """The run to load: a folder on the server; null reloads the folder that is served."""

    run: Annotated[str, Meta(min_length=1, max_length=4_000)] | None = None


class Reloaded(Struct):
    """The version of the model that is served now, its run, and how many processes serve it."""

    model: str
    run: str
    workers: int


class Fault(Struct):
    """Why a request was refused: a code for programs, a sentence for people, and the place in the body."""

    reason: str
    message: str
    where: str | None = None


class Refused(Struct):
    """The body of every answer that is not 2xx."""

    error: Fault


DOCUMENTED: tuple[type[Struct], ...] = (
    RecommendRequest, Recommendations, SimilarRequest, SimilarItems, ClassifyRequest, Classifications, ReloadRequest,
    Reloaded, Refused,
)  # fmt: skip


class Refusal(Exception):  # noqa: N818 - an answer, not a failure of the server
    """A request that gets an error as its answer, with an HTTP status, a body of one `Fault`, and extra headers."""

    def __init__(
        self, status: int, reason: str, message: str, where: str | None = None, headers: Headers | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.fault, self.headers = status, Fault(reason, message, where), headers

    def closing(self) -> Refusal:
        """Return the same refusal, which also closes the connection."""
        headers = {**(self.headers or {}), "Connection": "close"}
        return Refusal(self.status, self.fault.reason, self.fault.message, self.fault.where, headers)

    def response(self) -> Response:
        """Return the HTTP answer."""
        return Response(msgspec.json.encode(Refused(self.fault)), self.status, self.headers, JSON)


def read(decoder: msgspec.json.Decoder[Body], content: bytes) -> Body:
    """Return the decoded and validated body of a request.

    Raises:
        Refusal: 400 for malformed JSON, 422 for a wrong type or an exceeded limit, with the place in the body.
    """
    try:
        return decoder.decode(content)
    except msgspec.ValidationError as error:
        raise _invalid(error, "$") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, "malformed", f"the body is not JSON: {error}") from None


def read_model_query(query: Mapping[str, str]) -> ModelQuery:
    """Return the validated query of `/v1/model`; other parameters are ignored.

    Raises:
        Refusal: 422 for a wrong type or an exceeded limit, with the name of the parameter.
    """
    try:
        names = query.get("names", "false")
        return msgspec.convert({**query, "names": BOOLEANS.get(names.lower(), names)}, ModelQuery, strict=False)
    except msgspec.ValidationError as error:
        raise _invalid(error, "query") from None


def _invalid(error: msgspec.ValidationError, root: str) -> Refusal:
    message = str(error)
    place = PLACE.search(message)
    return Refusal(422, "invalid", PLACE.sub("", message), root + (place[1] if place else ""))


def as_json(value: Any) -> Response:
    """Return a value as an HTTP answer in JSON."""
    return Response(msgspec.json.encode(value), media_type=JSON)


def schemas() -> dict[str, Any]:
    """Return the JSON schema of every message by name, as components of an OpenAPI description."""
    _, components = msgspec.json.schema_components(DOCUMENTED, ref_template="#/components/schemas/{name}")
    return components
