"""Propensities against written-out arithmetic."""

import math

import pytest
import torch

from hyperfocal.errors import DataError
from hyperfocal.metrics.label_ranking import propensities


class TestPropensities:
    def test_by_hand(self):
        scale = (math.log(1000) - 1) * (1.5 + 1) ** 0.55
        expected = [1 / (1 + scale * math.exp(-0.55 * math.log(count + 1.5))) for count in (1, 30, 1000)]
        values = propensities(torch.tensor([1, 30, 1000]), 1000)
        assert values.tolist() == pytest.approx(expected, abs=1e-15)
        assert values[0] < values[1] < values[2] < 1

    def test_one_training_document(self):
        """N_l = 1 cancels (b + 1)^a: p = 1 / (1 + log N - 1) = 1 / log N."""
        assert propensities(torch.tensor([1]), 500, 0.6, 2.6).item() == pytest.approx(1 / math.log(500))

    @pytest.mark.parametrize(("counts", "num_examples", "least"), [([1], 2, 3), ([7, 9], 8, 9), ([], 0, 3)])
    def test_too_few_documents(self, counts, num_examples, least):
        with pytest.raises(DataError, match=f"num_examples = {num_examples} is not allowed. Expected {least} or more"):
            propensities(torch.tensor(counts), num_examples)
