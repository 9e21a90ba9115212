"""The run that is served, and its replacement by another: loaded next to it, checked, then swapped in."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hyperfocal.errors import ConfigError, RunError
from hyperfocal.serve.messages import Classifications, NextItems, Recommendations
from hyperfocal.storage.run_folder import CONFIG, DATA, MODEL, RunFolder, read_stable

log = logging.getLogger("hyperfocal.serve")
MODEL_FILES = (  # all that answers depend on
    CONFIG, MODEL, "vocabulary.json", "thresholds.json", "features.json", "taxonomy.json", "baselines.safetensors",
    "items.json", "items.safetensors", "item_table.parquet", "opinions.json", "label_vectors.safetensors",
)  # fmt: skip


class Predictor(Protocol):
    """A loaded run of either job."""

    job: str  # "recommend" or "classify"
    version: str  # checksum of the model, part of every answer
    names: Sequence[str]  # the items or labels, the most frequent in training first
    sample: Any  # a request that it can answer, used to check it after loading

    def card(self) -> dict[str, Any]:
        """Return the description of the run for `/v1/model`: metrics, counts and column names."""

    def answer(self, requests: Sequence[Any]) -> list[Any]:
        """Return the answer to each request, computed as one batch, or the error that prevents it."""


@dataclass(frozen=True)
class Engine:
    """A way to compute answers; worker processes receive it pickled."""

    name: str  # for `/v1/model`
    loaders: Mapping[str, Callable[[Path, str], Predictor]]  # job -> function of a run folder and its model's version


class Live:
    """The run that is served. A batch that has begun ends with the model that it began with.

    Args:
        path: run folder.
        engine: loads this run and all that replace it.

    Attributes:
        predictor: answers requests now.
        path: folder of its run.
        loaded: when it was loaded, in seconds since the epoch.
        draining: whether the service is shutting down.

    Raises:
        RunError, ConfigError: as in `load_predictor`.
    """

    def __init__(self, path: Path, engine: Engine) -> None:
        self.predictor = load_predictor(path, engine)
        self.path, self.engine, self.loaded = path, engine, time.time()
        self.draining = False
        self._lock = asyncio.Lock()

    @property
    def job(self) -> str:
        """Return the job, which no swap changes."""
        return self.predictor.job

    @property
    def version(self) -> str:
        """Return the version of the model that answers now."""
        return self.predictor.version

    def answer(self, requests: Sequence[Any]) -> list[Any]:
        """Return the answers to requests by the model that is live when the call begins."""
        return self.predictor.answer(requests)

    async def swap(self, path: Path | None = None) -> None:
        """Load a run and serve it from now on; None loads the current folder again. Swaps run one at a time.

        Raises:
            RunError, ConfigError: the run cannot be served, or is of the other job; the current model stays.
        """
        async with self._lock:
            path = path or self.path
            predictor = await asyncio.to_thread(load_predictor, path, self.engine)
            if predictor.job != self.job:
                raise ConfigError(
                    f"run {path}: its job is `{predictor.job}`, but this service serves `{self.job}`. "
                    "Start another service for it"
                )
            self.predictor, self.path, self.loaded = predictor, path, time.time()
        log.warning("serving run %s, version %s", path, predictor.version)

    async def try_swap(self, path: Path | None = None) -> None:
        """Swap as `swap` does; log an error instead of raising it, because no client waits for it."""
        try:
            await self.swap(path)
        except Exception as error:
            log.error("run not loaded, the current model stays: %s", error)


def load_predictor(path: Path, engine: Engine) -> Predictor:
    """Return the predictor of a run, after it has answered its sample.

    Raises:
        RunError: no run, an unfinished or damaged one, one of an unknown job, or one whose scores are not finite.
        ConfigError: the engine cannot load this run, or a package that the run needs is not installed.
    """
    return read_stable(path, lambda run: _load(run, engine))


def _load(run: RunFolder, engine: Engine) -> Predictor:
    job = job_of(run)
    if job not in engine.loaders:
        allowed = ", ".join(engine.loaders)
        raise RunError(f"run {run.path}: its job {job!r} is unknown. Jobs that can be served: {allowed}")
    predictor = engine.loaders[job](run.path, version_of(run))
    with run.guard(MODEL):
        (answer,) = predictor.answer([predictor.sample])
        if isinstance(answer, Exception):
            raise ValueError(f"it cannot answer a request: {answer}")
        if not all(map(math.isfinite, _scores(answer))):
            raise ValueError("its scores are not finite")
    return predictor


def _scores(answer: Recommendations | Classifications) -> list[float]:
    ranked = (one.items if isinstance(one, NextItems) else one.scores for one in answer.answers)
    return [best.score for row in ranked for best in row]


def job_of(run: RunFolder) -> str:
    """Return the job of a run; raise RunError if its data.json is missing or damaged."""
    with run.guard(DATA):
        return str(run.read_json(DATA).get("job", "recommend"))


def version_of(run: RunFolder) -> str:
    """Return a checksum of all files that answers depend on: equal runs have equal versions on every machine."""
    digest = hashlib.sha256()
    for name in MODEL_FILES:
        if run.has(name):
            digest.update(name.encode())
            with (run.path / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]
