"""What a point reached, as it is kept in a row of the store, with a checksum that tells damage."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec
from safetensors.torch import load
from torch import Tensor

from hyperfocal.config.sections import Section
from hyperfocal.metrics.paired import Outcome


@dataclass(frozen=True, eq=False)
class Result:
    """A point that ended.

    Attributes:
        key: `point.key(fingerprint)`.
        name: the point's.
        seed: the point's.
        settings: the point's.
        error: why it failed, or "" where it is done.
        values: metric -> number; empty where it failed.
        resamples: metric -> (R,) tensor; empty where it failed.
        seconds: that it took.
        started: UTC, ISO 8601.
        finished: likewise.
    """

    key: str
    name: str
    seed: int
    settings: Section
    error: str
    values: dict[str, float]
    resamples: dict[str, Tensor]
    seconds: float
    started: str
    finished: str

    @property
    def done(self) -> bool:
        """Whether it ended without an error."""
        return not self.error


def outcomes(results: list[Result]) -> dict[str, list[Outcome]]:
    """Return name -> outcomes of the points that are done, as `verdicts` takes them."""
    found: dict[str, list[Outcome]] = {}
    for result in results:
        if result.done:
            found.setdefault(result.name, []).append(Outcome(result.seed, result.values, result.resamples))
    return found


def as_text(value: Any) -> str:
    """Return a value as JSON, the same text for the same value."""
    return msgspec.json.encode(value, order="sorted").decode()


def checksum_of(row: tuple[Any, ...]) -> str:
    """Return a checksum of texts, numbers and bytes in their order."""
    found = hashlib.sha256()
    for part in row:
        content = part if isinstance(part, bytes) else str(part).encode()
        found.update(b"%d:" % len(content) + content)
    return found.hexdigest()


def as_result(row: tuple[Any, ...], kind: type[Section]) -> Result:
    """Return the result of a row, whose settings are of a kind.

    Raises:
        ValueError, SafetensorError: it is not what was written.
    """
    *content, checksum = row
    if checksum_of(tuple(content)) != checksum:
        raise ValueError(f"the result of {row[1]!r} is not what was written")
    key, name, seed, settings, _, error, numbers, resamples, seconds, started, finished = content
    values = {
        metric: float("nan") if value is None else value for metric, value in msgspec.json.decode(numbers).items()
    }
    read = msgspec.json.decode(settings, type=kind)
    return Result(key, name, seed, read, error, values, load(resamples), seconds, started, finished)
