"""Metrics of the best k labels against written-out arithmetic, plain loops and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from hyperfocal.errors import ConfigError, DataError
from hyperfocal.metrics.average_precision import average_precision, micro_average_precision
from hyperfocal.metrics.calibration import calibration_error
from hyperfocal.metrics.label_ranking import (
    best_labels,
    ndcg_at_k,
    precision_at_k,
    propensities,
    propensity_scored_precision,
    ranking_scores,
)
from label_cases import NUM_LABELS, cases, draw, labels, normal, quick


class TestBestLabels:
    @quick
    @given(cases(), st.integers(1, 6))
    def test_against_a_stable_sort(self, case, k):
        scores, _ = case
        expected = [sorted(range(NUM_LABELS), key=lambda label: -row[label])[:k] for row in scores.tolist()]
        assert best_labels(scores, k).tolist() == [row + [-1] * (k - len(row)) for row in expected]

    @pytest.mark.parametrize("levels", [1, 3, 10**6])
    @pytest.mark.parametrize("num_labels", [300, 1500])
    def test_many_labels(self, levels, num_labels):
        scores = torch.randint(levels, (20, num_labels), generator=torch.Generator().manual_seed(0)) - 9.0
        expected = scores.sort(dim=1, descending=True, stable=True)[1][:, :5]
        assert torch.equal(best_labels(scores, 5), expected)

    @pytest.mark.parametrize(("rows", "num_labels"), [(0, 3), (2, 0)])
    def test_nothing(self, rows, num_labels):
        assert best_labels(torch.zeros(rows, num_labels), 2).tolist() == [[-1, -1]] * rows

    def test_minus_infinity_is_a_score(self):
        assert best_labels(torch.tensor([[-math.inf, 0.0, -math.inf]]), 2).tolist() == [[1, 0]]

    @pytest.mark.parametrize("k", [0, -1])
    def test_k(self, k):
        with pytest.raises(ConfigError, match=f"k = {k} is not allowed"):
            best_labels(torch.zeros(1, 3), k)


SCORES = torch.tensor([[4.0, 3, 2, 1], [4, 3, 2, 1], [1, 2, 3, 4]])
TRUTH = labels([[0, 2], [], [1]])


class TestBestK:
    @pytest.mark.parametrize(
        ("k", "expected"),
        [
            (1, [1 / 1, math.nan, 0 / 1]),
            (3, [2 / 3, math.nan, 1 / 3]),
            (5, [2 / 5, math.nan, 1 / 5]),  # of 4 labels
        ],
    )
    def test_precision_by_hand(self, k, expected):
        assert precision_at_k(SCORES, TRUTH, k).tolist() == pytest.approx(expected, abs=1e-15, nan_ok=True)

    @pytest.mark.parametrize(
        ("k", "expected"),
        [
            (1, [1, math.nan, 0]),
            (2, [1 / (1 + 1 / math.log2(3)), math.nan, 0]),  # 2 true labels, both would fit
            (3, [(1 + 1 / math.log2(4)) / (1 + 1 / math.log2(3)), math.nan, 1 / math.log2(4)]),
            (5, [(1 + 1 / math.log2(4)) / (1 + 1 / math.log2(3)), math.nan, 1 / math.log2(4)]),
        ],
    )
    def test_ndcg_by_hand(self, k, expected):
        assert ndcg_at_k(SCORES, TRUTH, k).tolist() == pytest.approx(expected, abs=1e-15, nan_ok=True)

    @pytest.mark.parametrize("k", [1, 3, 5, 30])
    def test_ndcg_against_scikit_learn(self, k):
        scores, truth = normal(50, 30), draw(50, 30, 0.1, 1)
        some = truth.lengths > 0
        values = ndcg_at_k(scores, truth, k)
        rows = zip(truth.to_dense()[some].numpy(), scores[some].numpy(), strict=True)
        np.testing.assert_allclose(values[some], [ndcg_score(want[None], row[None], k=k) for want, row in rows])
        assert values[~some].isnan().all()
        assert 0 < int(some.sum()) < 50

    @pytest.mark.parametrize("metric", [precision_at_k, ndcg_at_k])
    def test_ranked_scores_that_do_not_fit(self, metric):
        with pytest.raises(DataError, match=r"scores: expected \(2, 4\) float"):
            metric(torch.zeros(2, 5), labels([[0], [1]]), 1)


class TestPropensityScoredPrecision:
    @pytest.mark.parametrize(
        ("k", "expected"),
        [
            (1, (1 / 0.5 + 0) / (1 / 0.1 + 1 / 0.25)),  # the best first labels are 2 and 1
            (2, (1 / 0.5 + 0) / (1 / 0.1 + 1 / 0.5 + 1 / 0.25)),
            (3, (1 / 0.5 + 1 / 0.1 + 1 / 0.25) / (1 / 0.1 + 1 / 0.5 + 1 / 0.25)),
            (9, 1),
        ],
    )
    def test_psp_by_hand(self, k, expected):
        chances = torch.tensor([0.5, 0.25, 0.1, 0.9], dtype=torch.float64)
        assert propensity_scored_precision(best_labels(SCORES, k), TRUTH, chances, k) == pytest.approx(
            expected, abs=1e-15
        )

    @quick
    @given(cases(), st.integers(1, 5))
    def test_psp_against_a_loop(self, case, k):
        scores, truth = case
        chances = [0.9, 0.3, 0.3, 0.05]
        got = best = 0.0
        for row, want in zip(scores.tolist(), truth.to_dense().bool().tolist(), strict=True):
            ranked = sorted(range(NUM_LABELS), key=lambda label: -row[label])[:k]
            got += sum(1 / chances[label] for label in ranked if want[label])
            best += sum(sorted((1 / chances[label] for label in range(NUM_LABELS) if want[label]), reverse=True)[:k])
        value = propensity_scored_precision(
            best_labels(scores, k), truth, torch.tensor(chances, dtype=torch.float64), k
        )
        assert value == pytest.approx(got / best if best else math.nan, abs=1e-12, nan_ok=True)

    def test_equal_propensities_leave_precision(self):
        scores, truth = normal(40, 30), draw(40, 30, 0.2, 1)  # precision over the best possible
        best = truth.lengths.clamp(max=3).sum().item() / 3
        expected = precision_at_k(scores, truth, 3).nansum().item() / best
        assert propensity_scored_precision(best_labels(scores, 3), truth, torch.full((30,), 0.2), 3) == pytest.approx(
            expected
        )

    @pytest.mark.parametrize("chances", [[0.5, 0.5, 0.5, 0.0], [0.5, 0.5, 0.5, math.nan]])
    def test_propensities_not_above_0(self, chances):
        with pytest.raises(DataError, match=r"is not allowed. Expected numbers above 0"):
            propensity_scored_precision(best_labels(SCORES, 1), TRUTH, torch.tensor(chances), 1)

    def test_propensities_of_another_shape(self):
        with pytest.raises(DataError, match=r"expected \(4,\), one for each label, got \(3,\)"):
            propensity_scored_precision(best_labels(SCORES, 1), TRUTH, torch.ones(3), 1)


class TestRankingScores:
    def test_each_value_is_that_of_its_function(self):
        scores, truth = 3 * normal(60, 250) - 3, draw(60, 250, 0.02, 1)
        counts = torch.arange(250) * 2
        chances, single = propensities(counts, 900), average_precision(scores, truth)
        expected = {
            "macro_ap": single.nanmean().item(),
            "micro_ap": micro_average_precision(scores, truth),
            "head_ap": single[100:].nanmean().item(),
            "medium_ap": single[10:100].nanmean().item(),
            "tail_ap": single[:10].nanmean().item(),
            **{f"precision@{k}": precision_at_k(scores, truth, k).nanmean().item() for k in (1, 3, 5)},
            "ndcg@5": ndcg_at_k(scores, truth, 5).nanmean().item(),
            **{f"psp@{k}": propensity_scored_precision(best_labels(scores, k), truth, chances, k) for k in (1, 3, 5)},
            "calibration_error": calibration_error(scores.sigmoid(), truth),
        }
        values = ranking_scores(scores, truth, counts, 900)
        assert list(values) == list(expected)
        assert values == pytest.approx(expected, abs=1e-12)
        assert all(isinstance(value, float) for value in values.values())

    def test_fewer_labels_than_ranks_and_an_empty_bucket(self):
        values = ranking_scores(torch.tensor([[1.0, 0]]), labels([[0]], 2), torch.tensor([5, 4]), 9)
        assert (values["precision@5"], values["ndcg@5"], values["psp@5"]) == (1 / 5, 1, 1)
        assert math.isnan(values["head_ap"])

    def test_counts_of_another_shape(self):
        with pytest.raises(DataError, match=r"counts: expected \(4,\)"):
            ranking_scores(SCORES, TRUTH, torch.ones(3), 9)


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
