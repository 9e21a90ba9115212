"""The model that answers now, and how another takes its place: loaded beside, checked, then swapped.

What answers: a run of either job, loaded and checked.

A predictor has two methods: `card` describes it, `answer` answers requests together, one batch a call. An engine is a
function from a run folder to a predictor; `--engine` names it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from hyperfocal.classify.service import load_classify
from hyperfocal.errors import ConfigError, RunError
from hyperfocal.export.serving import classify_by_onnx, recommend_by_onnx
from hyperfocal.recommend.service import load_recommend
from hyperfocal.serve.messages import Classifications, NextItems, Recommendations
from hyperfocal.storage.run_folder import CONFIG, DATA, MODEL, RunFolder

log = logging.getLogger("hyperfocal.serve")


class Live:
    """The run that is served. A batch that has begun ends with the model that it began with.

    Args:
        path: of the run.
        engine: by which it is loaded.

    Attributes:
        predictor: what answers now.
        path: of its run.
        since: when it was loaded, seconds since the epoch.
        draining: whether the service is about to end.

    Raises:
        RunError, ConfigError: as in `load_predictor`.
    """

    def __init__(self, path: Path, engine: str = "torch") -> None:
        self.predictor = load_predictor(path, engine)
        self.path, self.engine, self.since = path, engine, time.time()
        self.draining = False
        self._lock = asyncio.Lock()

    @property
    def job(self) -> str:
        """Return the job, which no swap changes."""
        return self.predictor.job

    @property
    def version(self) -> str:
        """Return the checksum of the model that answers now."""
        return self.predictor.version

    def answer(self, requests: Sequence[Any]) -> list[Any]:
        """Return the answers to requests, from the model that is there when they are begun."""
        return self.predictor.answer(requests)

    async def swap(self, path: Path | None = None) -> None:
        """Let the run in a folder answer, None the same folder anew; one after the other.

        Raises:
            RunError, ConfigError: it cannot be served, or is of the other job; the model that is there goes on.
        """
        async with self._lock:
            chosen = self.path if path is None else path
            found = await asyncio.to_thread(load_predictor, chosen, self.engine)
            if found.job != self.job:
                raise ConfigError(
                    f"run {chosen}: is one of `{found.job}`, and this service is one of `{self.job}`. "
                    "Start another service for it"
                )
            self.predictor, self.path, self.since = found, chosen, time.time()
        log.warning("run %s answers now, version %s", chosen, found.version)

    async def try_swap(self, path: Path | None = None) -> str:
        """Swap as `swap` does, and return "" or why nothing changed, which is logged."""
        try:
            await self.swap(path)
        except Exception as error:  # whoever asked is not here to hear it, and who follows must go on
            log.error("not swapped, the run that is there goes on: %s", error)
            return str(error)
        return ""


class Predictor(Protocol):
    """What the service asks of a loaded run.

    Attributes:
        job: "recommend" or "classify".
        version: checksum of the model, part of every answer.
        names: the items or labels, the most frequent in training first.
        sample: a request that it can answer, by which it is checked.
    """

    job: str
    version: str
    names: Sequence[str]
    sample: Any

    def card(self) -> dict[str, Any]:
        """Return what `/v1/model` says: metrics, counts, whatever a client has to know."""

    def answer(self, requests: Sequence[Any]) -> list[Any]:
        """Return the answer to each request, or the error why there is none."""


Engine = Callable[[Path, str], Predictor]  # a run folder and the version of its model
ANSWERING = (
    CONFIG, MODEL, "vocabulary.json", "thresholds.json", "features.json", "taxonomy.json", "baselines.safetensors",
    "items.json", "items.safetensors",
)  # fmt: skip
TORCH: dict[str, Engine] = {"recommend": load_recommend, "classify": load_classify}
ONNX: dict[str, Engine] = {"recommend": recommend_by_onnx, "classify": classify_by_onnx}
ENGINES: dict[str, dict[str, Engine]] = {"torch": TORCH, "onnx": ONNX}  # name -> job -> engine


def load_predictor(path: str | Path, engine: str = "torch") -> Predictor:
    """Return the predictor of a run, after it has answered a sample.

    Raises:
        RunError: no run, an unfinished one, a damaged one, or one whose scores are no numbers.
        ConfigError: no such engine, or not for this job; something that the run needs is not installed.
    """
    if engine not in ENGINES:
        raise ConfigError(f"--engine {engine!r} is unknown. Allowed: {', '.join(ENGINES)}")
    run = RunFolder.open(path)
    job = job_of(run)
    predictor = ENGINES[engine][job](run.path, version_of(run))
    with run.guard(MODEL):
        (found,) = predictor.answer([predictor.sample])
        if isinstance(found, Exception):
            raise ValueError(f"it does not answer: {found}")
        if not all(map(math.isfinite, _scores(found))):
            raise ValueError("its scores are not numbers")
    return predictor


def _scores(found: Recommendations | Classifications) -> list[float]:
    ranked = (answer.items if isinstance(answer, NextItems) else answer.scores for answer in found.answers)
    return [one.score for row in ranked for one in row]


def job_of(run: RunFolder) -> str:
    """Return the job of a run.

    Raises:
        RunError: it does not say, or it is none of ours.
    """
    with run.guard(DATA):
        job = str(run.read_json(DATA).get("job", "recommend"))
    if job not in TORCH:
        raise RunError(f"run {run.path}: is one of {job!r}. Jobs that can be served: {', '.join(TORCH)}")
    return job


def version_of(run: RunFolder) -> str:
    """Return a checksum of all files that answers depend on: the same wherever the same run is served."""
    digest = hashlib.sha256()
    for name in ANSWERING:
        if run.has(name):
            digest.update(name.encode())
            with (run.path / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]
