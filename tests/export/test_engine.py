"""The engine `onnx` gives the same answers as torch."""

from __future__ import annotations

import pytest

from hyperfocal.cli.serve import engine_by_name
from hyperfocal.errors import ConfigError
from hyperfocal.serve.live import load_predictor
from hyperfocal.serve.messages import ClassifyRequest, RecommendRequest
from serve_cases import DOCUMENTS, ITEMS


def answer(path, engine, request):
    return load_predictor(path, engine_by_name(engine)).answer([request])[0]


def test_recommendations(recommend_path):
    request = RecommendRequest(histories=[ITEMS[:3], ITEMS[5:6], [], ["x"]], k=6)
    ours, theirs = (answer(recommend_path, engine, request) for engine in ("onnx", "torch"))
    for one, other in zip(ours.answers, theirs.answers, strict=True):
        assert [best.item for best in one.items] == [best.item for best in other.items]
        assert (one.known, one.note) == (other.known, other.note)
        assert [best.score for best in one.items] == pytest.approx([best.score for best in other.items], abs=1e-4)


def test_labels(classify_path):
    request = ClassifyRequest(texts=[*DOCUMENTS, "xyzzy plugh", ""])
    ours, theirs = (answer(classify_path, engine, request) for engine in ("onnx", "torch"))
    for one, other in zip(ours.answers, theirs.answers, strict=True):
        assert (one.labels, one.known, one.note) == (other.labels, other.known, other.note)
        assert [best.score for best in one.scores] == pytest.approx([best.score for best in other.scores], abs=1e-4)


def test_an_unknown_engine():
    with pytest.raises(ConfigError, match=r"--engine 'tensorflow' is unknown\. Allowed: torch, onnx"):
        engine_by_name("tensorflow")
