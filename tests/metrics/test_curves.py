import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from hyperfocal.errors import DataError
from hyperfocal.labels import SparseLabels
from hyperfocal.metrics import calibration as curves
from hyperfocal.metrics.calibration import calibration_error, decision_curve, reliability

THRESHOLDS = torch.tensor([0.1, 0.3, 0.5, 0.9])


@pytest.fixture(params=[2**20, 7], ids=["one block", "a row a block"])
def data(request, monkeypatch):
    monkeypatch.setattr(curves, "BLOCK_NUMBERS", request.param)
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.random((50, 6)).round(2).astype(np.float32))  # some on a threshold
    truth = rng.random((50, 6)) < 0.3
    truth[:, 5] = False
    return scores, truth


def test_the_curve_is_that_of_scikit_learn(data):
    scores, truth = data
    found = decision_curve(scores, SparseLabels.from_dense(torch.from_numpy(truth)), THRESHOLDS)
    for place, threshold in enumerate(THRESHOLDS):
        decided = (scores >= threshold).numpy()
        assert found["micro_f1"][place] == pytest.approx(f1_score(truth, decided, average="micro"))
        known = f1_score(truth[:, :5], decided[:, :5], average="macro", zero_division=0)
        assert found["macro_f1"][place] == pytest.approx(known)


def test_the_bins_add_up_to_the_calibration_error(data):
    scores, truth = data
    labels = SparseLabels.from_dense(torch.from_numpy(truth))
    rows = reliability(scores, labels, torch.linspace(0, 1, 16, dtype=torch.float64).float())
    assert sum(row["pairs"] for row in rows) == 300
    error = sum(row["pairs"] * abs(row["mean"] - row["frequency"]) for row in rows) / 300
    assert error == pytest.approx(calibration_error(scores, labels), abs=0.02)  # bounds in float32 and in float64


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
