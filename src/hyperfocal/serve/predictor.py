"""What answers: a run of either job, loaded and checked.

A predictor has two methods: `card` describes it, `answer` answers requests together, one batch a call. An engine is a
function from a run folder to a predictor; `--engine` names it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from hyperfocal.errors import ConfigError, RunError
from hyperfocal.runs import CONFIG, DATA, MODEL, RunFolder
from hyperfocal.serve.classifying import load_classify
from hyperfocal.serve.messages import Classifications, NextItems, Recommendations
from hyperfocal.serve.onnx_serving import classify_by_onnx, recommend_by_onnx
from hyperfocal.serve.recommending import load_recommend


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
