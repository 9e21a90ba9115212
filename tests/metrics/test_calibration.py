"""Calibration against written-out arithmetic and numpy."""

import math

import numpy as np
import pytest
import torch

from hyperfocal.errors import ConfigError, DataError
from hyperfocal.metrics import calibration
from hyperfocal.metrics.calibration import calibration_error
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
