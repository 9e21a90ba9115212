"""The engine `onnx`: a run is answered by onnxruntime in place of torch, its network exported as the service starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.classify.service import ClassifyPredictor
from hyperfocal.export.engine import open_engine
from hyperfocal.recommend.recommender import Recommender
from hyperfocal.recommend.service import RecommendPredictor
from hyperfocal.sequences import Sequences


def recommend_by_onnx(path: Path, version: str) -> RecommendPredictor:
    """Return the predictor of a run of `recommend`; errors as in `Recommender.load` and `open_engine`."""
    recommender = Recommender.load(path)
    session: Any = open_engine(path, threads=1)

    def scores(histories: Sequences) -> Tensor:
        return torch.from_numpy(
            session.scores([row.tolist() for row in histories.items.split(histories.lengths.tolist())])
        )

    return RecommendPredictor(recommender.fit_, version, scores)


def classify_by_onnx(path: Path, version: str) -> ClassifyPredictor:
    """Return the predictor of a run of `classify`; errors as in `MultiLabelClassifier.load` and `open_engine`."""
    classifier = MultiLabelClassifier.load(path)
    session: Any = open_engine(path, threads=1)
    return ClassifyPredictor(classifier, version, lambda texts: torch.from_numpy(session.scores(texts)))
