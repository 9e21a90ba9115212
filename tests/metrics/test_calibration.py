"""Calibration and F1 curves against written-out arithmetic, numpy and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from hyperfocal.errors import ConfigError, DataError
from hyperfocal.labels import SparseLabels
from hyperfocal.metrics import calibration
from hyperfocal.metrics.calibration import calibration_error, decision_curve, reliability
from label_cases import draw, labels, normal


class TestCalibrationError:
    def test_by_hand(self):
        probabilities = torch.tensor([[0.1, 0.3], [0.6, 1.0], [0.5, 0.0]])
        truth = labels([[1], [0, 1], []], 2)
        low, high = abs((0.1 + 0.3 + 0.0) / 3 - 1 / 3), abs((0.6 + 1.0 + 0.5) / 3 - 2 / 3)  # 0.5 is in the upper bin
        assert calibration_error(probabilities, truth, 2) == pytest.approx(3 / 6 * low + 3 / 6 * high, abs=1e-7)

    @pytest.mark.parametrize("bins", [1, 2, 15, 64])
    @pytest.mark.parametrize("block", [7, 2**20])
    def test_against_numpy(self, monkeypatch, bins, block):
        monkeypatch.setattr(calibration, "BLOCK_NUMBERS", block)
        probabilities, truth = normal(40, 30).double().sigmoid(), draw(40, 30, 0.2, 1)
        p, true = probabilities.flatten().numpy(), truth.to_dense(torch.float64).flatten().numpy()
        places = np.clip(np.digitize(p, np.linspace(0, 1, bins + 1)) - 1, 0, bins - 1)
        members = [places == place for place in range(bins)]
        expected = sum(m.mean() * abs(p[m].mean() - true[m].mean()) for m in members if m.any())
        assert calibration_error(probabilities, truth, bins) == pytest.approx(expected, abs=1e-12)

    def test_right_probabilities(self):
        assert calibration_error(torch.full((4, 1), 0.25), labels([[0], [], [], []], 1)) == 0

    def test_nothing(self):
        assert math.isnan(calibration_error(torch.zeros(0, 3), labels([], 3)))

    @pytest.mark.parametrize("value", [-1e-6, 1.001, 4])
    def test_no_probability(self, value):
        with pytest.raises(DataError, match=r"probabilities: expected numbers in \[0, 1\]"):
            calibration_error(torch.tensor([[value]]).float(), labels([[0]], 1))

    def test_no_bin(self):
        with pytest.raises(ConfigError, match="bins = 0 is not allowed"):
            calibration_error(torch.zeros(1, 1), labels([[0]], 1), 0)

    @pytest.mark.parametrize("probabilities", [torch.zeros(2, 3), torch.zeros(2, 4, dtype=torch.int64)])
    def test_probabilities_that_do_not_fit(self, probabilities):
        with pytest.raises(DataError, match=r"expected \(2, 4\) float"):
            calibration_error(probabilities, labels([[0], [1]]))


THRESHOLDS = torch.tensor([0.1, 0.3, 0.5, 0.9])


@pytest.fixture(params=[2**20, 7], ids=["one block", "a row a block"])
def data(request, monkeypatch):
    monkeypatch.setattr(calibration, "BLOCK_NUMBERS", request.param)
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.random((50, 6)).round(2).astype(np.float32))  # some on a threshold
    truth = rng.random((50, 6)) < 0.3
    truth[:, 5] = False
    return scores, truth


def test_the_curve_is_that_of_scikit_learn(data):
    scores, truth = data
    curve = decision_curve(scores, SparseLabels.from_dense(torch.from_numpy(truth)), THRESHOLDS)
    for place, threshold in enumerate(THRESHOLDS):
        decided = (scores >= threshold).numpy()
        assert curve["micro_f1"][place] == pytest.approx(f1_score(truth, decided, average="micro"))
        known = f1_score(truth[:, :5], decided[:, :5], average="macro", zero_division=0)
        assert curve["macro_f1"][place] == pytest.approx(known)


def test_the_bins_add_up_to_the_calibration_error(data):
    scores, truth = data
    true = SparseLabels.from_dense(torch.from_numpy(truth))
    rows = reliability(scores, true, torch.linspace(0, 1, 16, dtype=torch.float64).float())
    assert sum(row["pairs"] for row in rows) == 300
    error = sum(row["pairs"] * abs(row["mean"] - row["frequency"]) for row in rows) / 300
    assert error == pytest.approx(calibration_error(scores, true), abs=0.02)  # bounds in float32 and in float64


def test_a_bin_holds_its_lower_bound_and_the_last_one_1():
    truth = SparseLabels.from_lists([[0, 1], []], num_labels=2)
    found = reliability(torch.tensor([[0.5, 1.0], [0.25, 0.0]]), truth, torch.tensor([0.0, 0.5, 1.0]))
    assert found == [
        {"low": 0.0, "high": 0.5, "pairs": 2, "mean": 0.125, "frequency": 0.0},
        {"low": 0.5, "high": 1.0, "pairs": 2, "mean": 0.75, "frequency": 1.0},
    ]


def test_scores_of_another_shape_are_refused():
    with pytest.raises(DataError, match="scores"):
        decision_curve(torch.zeros(2, 3), SparseLabels.from_lists([[0]], num_labels=1), THRESHOLDS)
