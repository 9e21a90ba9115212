"""Baselines of a classifier against scikit-learn, and their place in the metrics of a run."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import LinearSVC

from hyperfocal import MultiLabelClassifier
from hyperfocal.classify.baselines import NEIGHBORS, baseline_scores, score_knn, score_prior, score_svm
from hyperfocal.labels import SparseLabels
from hyperfocal.models.text_head import Features, SparseRows

TINY = {"features.kind": "ngrams", "train.epochs": 2, "train.threads": 1, "head.name": "linear"}
TEXTS = ["red wine from France", "white wine", "dark beer", "beer from Belgium"] * 10
LABELS = [["wine"], ["wine", "white"], ["beer"], ["beer"]] * 10


def draw(number, seed):
    return np.abs(np.random.default_rng(seed).normal(size=(number, 8))).astype(np.float32)


def dense(values):
    return Features(None, torch.from_numpy(values))


def sparse(values):
    rows, columns = values.nonzero()
    indptr = torch.from_numpy(np.searchsorted(rows, np.arange(len(values) + 1)))
    return Features(SparseRows(indptr, torch.from_numpy(columns), torch.from_numpy(values[rows, columns])), None)


TRAIN, OTHERS = draw(60, 0), draw(300, 1)  # more documents than a block
TRAIN[TRAIN < 0.5], OTHERS[OTHERS < 0.5] = 0, 0
UNIT = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (TRAIN, OTHERS)]
TRUTH = np.random.default_rng(2).random((60, 3)) < [0.5, 0.2, 0.0]
TARGETS = SparseLabels.from_dense(torch.from_numpy(TRUTH))
KINDS = pytest.mark.parametrize("make", [dense, sparse])


def test_the_prior_is_the_share_of_documents():
    scores = score_prior(dense(TRAIN), TARGETS, dense(OTHERS))
    np.testing.assert_allclose(scores[[0, 299]], np.stack([TRUTH.mean(0)] * 2), rtol=1e-6)


@KINDS
def test_neighbors_are_those_of_scikit_learn(make):
    search = NearestNeighbors(n_neighbors=NEIGHBORS, metric="cosine").fit(UNIT[0])
    distances, nearest = search.kneighbors(UNIT[1])
    expected = ((1 - distances)[:, :, None] * TRUTH[nearest]).sum(1)
    np.testing.assert_allclose(score_knn(make(TRAIN), TARGETS, make(OTHERS)), expected, rtol=1e-4, atol=1e-6)


@KINDS
def test_margins_are_those_of_scikit_learn(make):
    scores = score_svm(make(TRAIN), TARGETS, make(OTHERS)).numpy()
    for label in (0, 1):
        machine = LinearSVC(random_state=0).fit(UNIT[0], TRUTH[:, label])
        np.testing.assert_allclose(scores[:, label], machine.decision_function(UNIT[1]), atol=2e-3)
    assert not scores[:, 2].any()  # no document has the label


def test_folds_score_documents_that_were_not_seen():
    folds = torch.arange(60) % 3
    scores = baseline_scores((dense(TRAIN), TARGETS), dense(TRAIN), "all", folds)
    np.testing.assert_allclose(scores["prior"][0], TRUTH[folds.numpy() != 0].mean(0), rtol=1e-6)
    np.testing.assert_allclose(scores["prior"][1], TRUTH[folds.numpy() != 1].mean(0), rtol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"train.folds": 2}])
def test_a_run_has_them(settings):
    classifier = MultiLabelClassifier(settings=TINY | settings).fit(TEXTS, LABELS)
    baselines = classifier.metrics_["baselines"]
    assert list(baselines) == ["prior", "knn", "svm"]
    assert baselines["knn"]["macro_ap"] > baselines["prior"]["macro_ap"]
    assert 0 <= baselines["svm"]["tuned.macro_f1"] <= 1


def test_they_can_be_switched_off():
    classifier = MultiLabelClassifier(settings=TINY | {"train.baselines": "off"}).fit(TEXTS, LABELS)
    assert classifier.metrics_["baselines"] == {}


def test_what_takes_long_is_left_out_and_said(monkeypatch, caplog):
    monkeypatch.setattr("hyperfocal.classify.baselines.MOST_NUMBERS", 10)
    caplog.set_level("INFO", "hyperfocal")
    assert list(baseline_scores((dense(TRAIN), TARGETS), dense(OTHERS), "auto")) == ["prior", "knn"]
    assert "baseline svm is left out" in caplog.text
    assert list(baseline_scores((dense(TRAIN), TARGETS), dense(OTHERS), "all")) == ["prior", "knn", "svm"]
