"""Average precision against written-out arithmetic and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from scipy.sparse import csr_matrix
from sklearn.metrics import average_precision_score

from hyperfocal.errors import DataError
from hyperfocal.labels import SparseLabels
from hyperfocal.metrics import average_precision as ap_module
from hyperfocal.metrics.average_precision import (
    average_precision,
    micro_average_precision,
    ranked_positives,
)
from label_cases import cases, draw, labels, normal, quick


def oracle(scores: torch.Tensor, truth: SparseLabels) -> list[float]:
    """Return scikit-learn's average precision of each label, nan where there is no true document."""
    dense = truth.to_dense(torch.int64).numpy()
    columns = zip(dense.T, scores.double().numpy().T, strict=True)
    return [average_precision_score(want, column) if want.any() else math.nan for want, column in columns]


class TestAveragePrecision:
    @pytest.mark.parametrize(
        ("column", "true", "expected"),
        [
            ([4, 3, 2, 1], [0, 2], (1 / 1 + 2 / 3) / 2),
            ([4, 3, 2, 1], [3], 1 / 4),
            ([4, 2, 2, 1], [1], 1 / 3),  # tied with one more: both are above the same threshold
            ([4, 2, 2, 1], [1, 2], 2 / 3),
            ([4, 2, 2, 1], [0, 1], (1 / 1 + 2 / 3) / 2),
            ([0, 0, 0, 0], [2], 1 / 4),
            ([-1, -2, -3, -4], [0], 1),
            ([math.inf, -math.inf, 0, 0], [1], 1 / 4),
            ([4, 3, 2, 1], [], math.nan),
        ],
    )
    def test_by_hand(self, column, true, expected):
        truth = labels([[0] if row in true else [] for row in range(4)], 1)
        value = average_precision(torch.tensor(column, dtype=torch.float32)[:, None], truth)
        assert value.dtype == torch.float64
        assert value.tolist() == pytest.approx([expected], abs=1e-15, nan_ok=True)

    @quick
    @given(cases())
    def test_against_scikit_learn(self, case):
        scores, truth = case
        assert average_precision(scores, truth).tolist() == pytest.approx(oracle(scores, truth), abs=1e-12, nan_ok=True)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    @pytest.mark.parametrize("block", [1, 40 * 7, 2**20])
    def test_300_labels_in_blocks(self, monkeypatch, dtype, block):
        monkeypatch.setattr(ap_module, "BLOCK_NUMBERS", block)
        scores, truth = normal(40, 300).to(dtype), draw(40, 300, 0.05, 1)
        before = scores.clone()
        np.testing.assert_allclose(average_precision(scores, truth), oracle(scores, truth), atol=1e-12)
        assert torch.equal(scores, before)  # TRAPS 8

    @quick
    @given(cases())
    def test_micro_against_scikit_learn(self, case):
        scores, truth = case
        value = micro_average_precision(scores, truth)
        if truth.num_positives == 0:
            assert math.isnan(value)
        else:
            flat = truth.to_dense(torch.int64).flatten().numpy()
            assert value == pytest.approx(average_precision_score(flat, scores.flatten().numpy()), abs=1e-12)

    def test_micro_of_300_labels(self):
        scores, truth = normal(40, 300), draw(40, 300, 0.05, 1)
        expected = average_precision_score(csr_matrix(truth.to_dense().numpy()).toarray(), scores, average="micro")
        assert micro_average_precision(scores, truth) == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize(("rows", "num_labels"), [(0, 3), (3, 0), (0, 0)])
    def test_nothing(self, rows, num_labels):
        scores, truth = torch.zeros(rows, num_labels), labels([[]] * rows, num_labels)
        assert average_precision(scores, truth).isnan().tolist() == [True] * num_labels
        assert math.isnan(micro_average_precision(scores, truth))

    def test_the_steps_of_ties(self):
        scores = torch.tensor([[1.0, 0], [3, 0], [3, 0], [2, 0], [3, 0]])
        truth = labels([[0], [0], [], [], [0]], 2)
        [(numbers, steps)] = ranked_positives(scores, truth)
        assert numbers.tolist() == [0]  # label 1 has no true document
        assert sorted(steps.documents[:2].tolist()) == [1, 4]
        assert steps.documents[2].item() == 0
        assert steps.ends.tolist() == [3, 3, 5]
        assert (steps.firsts.tolist(), steps.lasts.tolist()) == ([0, 0, 0], [1, 1, 2])

    @pytest.mark.parametrize("scores", [torch.zeros(2, 3), torch.zeros(8), torch.zeros(2, 4, dtype=torch.int64)])
    @pytest.mark.parametrize("metric", [average_precision, micro_average_precision])
    def test_scores_that_do_not_fit(self, metric, scores):
        with pytest.raises(DataError, match=r"scores: expected \(2, 4\) float"):
            metric(scores, labels([[0], [1]]))

    def test_nan(self):
        scores = torch.zeros(2, 4)
        scores[1, 2] = math.nan
        with pytest.raises(DataError, match="row 1 has nan for label 2"):
            average_precision(scores, labels([[0], [1]]))
