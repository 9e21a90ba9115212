"""What requests and answers look like: one description, which reads, refuses and documents them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

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
