"""Answers by onnxruntime in place of torch, from a run or an exported folder.

    engine = open_engine(Path("run"))          # or a folder that `hyperfocal export RUN --onnx` wrote
    engine.rank([["C12", "C7"]], k=3)          # of a recommend run: [(items, scores)]
    engine.scores(["a glass of red wine"])     # of a classify run: (1, L) logits, in the order of engine.labels

Several threads may use one engine at once. The service uses it for `--engine onnx`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperfocal.classify.files import read_fit as read_classifier
from hyperfocal.classify.service import ClassifyPredictor
from hyperfocal.errors import RunError
from hyperfocal.export.export import SETTINGS, export_onnx
from hyperfocal.export.graphs import need
from hyperfocal.private.work import temporary_folder
from hyperfocal.recommend.files import read_fit as read_recommender
from hyperfocal.recommend.service import RecommendPredictor
from hyperfocal.sequences import Sequences
from hyperfocal.storage.run_folder import RunFolder


def open_engine(path: Path, *, threads: int = 0) -> Any:
    """Return the `Recommender` or `Classifier` of `standalone/` for a run or an exported folder.

    A run is first exported to a temporary folder, which takes some seconds. A request uses `threads` CPU threads; 0:
    one per core.

    Raises:
        RunError: neither a run nor an export, a damaged one, or a run whose encoder cannot be exported.
        ConfigError: the extra `export` is not installed.
    """
    need("onnxruntime")
    if (path / "predict.py").is_file():
        return _open(path, threads)
    with temporary_folder() as folder:
        export_onnx(path, folder / "onnx")
        return _open(folder / "onnx", threads)


def _open(folder: Path, threads: int) -> Any:
    import onnxruntime

    from hyperfocal.export.standalone import classifier, recommender

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        ranks = settings["job"] == "recommend"
        engine = recommender.Recommender(folder, options) if ranks else classifier.Classifier(folder, options)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise RunError(f"{folder}: the export is damaged ({error}). Write it again with `hyperfocal export`") from None
    if settings.get("encoder") == "apart":
        raise RunError(f"{folder}: its sentence encoder was not exported, so ONNX cannot answer. Use --engine torch")
    return engine


def recommend_by_onnx(path: Path, version: str) -> RecommendPredictor:
    """Return the predictor of a run of `recommend`; errors as in `read_fit` and `open_engine`."""
    fit, engine = read_recommender(RunFolder.open(path)), open_engine(path, threads=1)

    def scores(histories: Sequences) -> Tensor:
        rows = [row.tolist() for row in histories.items.split(histories.lengths.tolist())]
        return torch.from_numpy(engine.scores(rows))

    return RecommendPredictor(fit, version, scores)


def classify_by_onnx(path: Path, version: str) -> ClassifyPredictor:
    """Return the predictor of a run of `classify`; errors as in `read_fit` and `open_engine`."""
    fit, engine = read_classifier(RunFolder.open(path)), open_engine(path, threads=1)

    def answer(texts: list[str]) -> tuple[Tensor, Tensor]:
        scores, known = engine.answer(texts)
        return torch.from_numpy(scores), torch.from_numpy(known)

    return ClassifyPredictor(fit, version, answer)
