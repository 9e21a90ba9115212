"""Temperatures against scipy, and offsets against a search over all of them."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss

from hyperfocal.config.classify import DecisionSettings
from hyperfocal.labels import SparseLabels
from hyperfocal.offsets import best_class, fit_temperature, tune_offsets

GENERATOR = torch.Generator().manual_seed(0)


def problem(number=60, classes=3, *, sharpness=2.0):
    """Return scores and the classes that they predict, with errors; the last class is rare."""
    shares = torch.tensor([0.6, 0.3, 0.1])[:classes]
    true = torch.multinomial(shares, number, replacement=True, generator=GENERATOR)
    noise = torch.randn(number, classes, generator=GENERATOR)
    scores = sharpness * (noise + torch.nn.functional.one_hot(true, classes) + shares.log())
    return scores, true


def one_each(classes, num_labels=3):
    return SparseLabels.from_csr(torch.arange(len(classes) + 1), classes, num_labels=num_labels)


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 5.0])
def test_the_temperature_minimizes_the_log_loss(sharpness):
    scores, true = problem(200, sharpness=sharpness)

    def loss(t):
        return log_loss(true.numpy(), (scores.double() / t).softmax(1).numpy())

    expected = minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-8})
    assert fit_temperature(scores, one_each(true)) == pytest.approx(expected.x, rel=1e-4)


def test_the_temperature_has_limits():
    sure = torch.tensor([[5.0, 0.0], [0.0, 5.0]])
    assert 0.05 <= fit_temperature(sure, one_each(torch.tensor([0, 1]), 2)) < 0.3
    assert fit_temperature(sure, one_each(torch.tensor([1, 0]), 2)) == pytest.approx(20, rel=1e-3)
    assert fit_temperature(sure[:0], one_each(torch.tensor([], dtype=torch.int64), 2)) == 1


OBJECTIVES = {
    "micro": accuracy_score,
    "macro": lambda true, decided: f1_score(true, decided, average="macro", labels=np.unique(true), zero_division=0),
    "recall": balanced_accuracy_score,
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_offsets_are_near_the_best_of_a_fine_grid(objective):
    scores, true = problem(80)
    settings = DecisionSettings(rule="balanced", objective=objective, shrinkage=0.0)
    offsets = tune_offsets(scores, one_each(true), true.bincount(minlength=3), settings, 1.0)
    reached = OBJECTIVES[objective](true.numpy(), best_class(scores - offsets).indices.numpy())
    steps = np.arange(-6, 6.01, 0.25)
    plain = OBJECTIVES[objective](true.numpy(), scores.argmax(1).numpy())
    best = max(
        OBJECTIVES[objective](true.numpy(), (scores - torch.tensor([0.0, a, b])).argmax(1).numpy())
        for a, b in itertools.product(steps, steps)
    )
    assert reached >= plain
    assert reached >= best - 0.02


def test_offsets_are_shrunk_by_support():
    scores, true = problem(80)
    truth, counts = one_each(true), true.bincount(minlength=3)
    settings = {each: DecisionSettings(rule="balanced", objective="macro", shrinkage=each) for each in (0.0, 10.0, 1e9)}
    own, between, shared = (tune_offsets(scores, truth, counts, each, 1.0) for each in settings.values())
    weight = counts / (counts + 10)
    assert between.tolist() == pytest.approx((weight * own + (1 - weight) * shared).tolist(), abs=1e-4)
    prior = counts.log() - counts.log().max()
    ratio = (shared / prior)[prior != 0].tolist()
    assert ratio == pytest.approx([ratio[0]] * len(ratio), abs=1e-4)  # a multiple of the log prior


def test_documents_without_a_class_are_left_out():
    scores, true = problem(40)
    truth = SparseLabels.from_lists([[], *([label] for label in true[1:].tolist())], num_labels=3)
    settings, counts = DecisionSettings(rule="balanced"), true.bincount(minlength=3)
    expected = tune_offsets(scores[1:], one_each(true[1:]), counts, settings, 1.0)
    assert tune_offsets(scores, truth, counts, settings, 1.0).tolist() == expected.tolist()
    assert fit_temperature(scores, truth) == fit_temperature(scores[1:], one_each(true[1:]))
