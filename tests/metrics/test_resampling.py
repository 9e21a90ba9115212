"""Resampled metrics against the same metrics of repeated documents, and scikit-learn's weighted ones."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from sklearn.metrics import average_precision_score

from hyperfocal.errors import ConfigError, DataError
from hyperfocal.labels import SparseLabels, bucket_means
from hyperfocal.metrics import average_precision as ap_module
from hyperfocal.metrics import resampling
from hyperfocal.metrics.average_precision import average_precision
from hyperfocal.metrics.decisions import decision_scores
from hyperfocal.metrics.resampling import resample_weights, resampled_ap, resampled_f1

COUNTS = torch.tensor([300, 250, 30, 5])  # two head labels, one medium, one tail
quick = settings(deadline=None, max_examples=100)


def labels(lists: list[list[int]], num_labels: int = 4) -> SparseLabels:
    return SparseLabels.from_lists(lists, num_labels=num_labels)


def draw(rows: int, num_labels: int, share: float, seed: int) -> SparseLabels:
    dense = torch.rand(rows, num_labels, generator=torch.Generator().manual_seed(seed)) < share
    return SparseLabels.from_scipy(csr_matrix(dense.numpy()))


def normal(rows: int, num_labels: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, num_labels, generator=torch.Generator().manual_seed(seed))


def repeated(weights: torch.Tensor) -> torch.Tensor:
    """Return the documents of one resample, each as often as it weighs."""
    return torch.repeat_interleave(torch.arange(len(weights)), weights.long())


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, SparseLabels, SparseLabels, torch.Tensor]:
    """Return scores with ties, decided and true labels of 1 to 7 documents over 4 labels, and 3 resamples."""
    rows = draw(st.integers(1, 7))

    def rows_of(row: st.SearchStrategy, number: int = rows) -> list:
        return draw(st.lists(row, min_size=number, max_size=number))

    scores = rows_of(st.lists(st.sampled_from([-3.0, 0.0, 0.5, 9.0]), min_size=4, max_size=4))
    lists = st.lists(st.integers(0, 3), max_size=4)
    weights = rows_of(st.lists(st.integers(0, 3), min_size=rows, max_size=rows), 3)
    return torch.tensor(scores), labels(rows_of(lists)), labels(rows_of(lists)), torch.tensor(weights).float()


def same(value: torch.Tensor, expected: list[float]) -> None:
    assert value.dtype == torch.float64
    assert value.tolist() == pytest.approx(expected, abs=1e-12, nan_ok=True)


class TestWeights:
    def test_poisson_of_1(self):
        weights = resample_weights(2000, resamples=300)
        assert (weights.shape, weights.dtype) == ((300, 2000), torch.float32)
        assert torch.equal(weights, weights.round())
        for number, chance in enumerate([math.exp(-1), math.exp(-1), math.exp(-1) / 2, math.exp(-1) / 6]):
            assert (weights == number).double().mean().item() == pytest.approx(chance, abs=0.004)  # 6 deviations

    def test_the_seed_decides(self):
        first, again, other = (resample_weights(50, resamples=4, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert len({tuple(row) for row in first.tolist()}) == 4

    def test_a_group_shares_its_weights(self):
        groups = torch.tensor([7, -1, 7, 3, -1, 7])
        weights = resample_weights(6, groups=groups, resamples=200)
        assert torch.equal(weights[:, 0], weights[:, 2])
        assert torch.equal(weights[:, 0], weights[:, 5])
        assert torch.equal(weights[:, 1], weights[:, 4])
        assert len({tuple(column) for column in weights.T.tolist()}) == 3

    def test_no_document(self):
        assert resample_weights(0, resamples=2).shape == (2, 0)
        assert resample_weights(0, groups=torch.empty(0, dtype=torch.int64), resamples=2).shape == (2, 0)

    def test_errors(self):
        with pytest.raises(ConfigError, match="resamples = 0 is not allowed"):
            resample_weights(3, resamples=0)
        with pytest.raises(DataError, match=r"groups: expected \(3,\), one for each document, got \(2,\)"):
            resample_weights(3, groups=torch.tensor([0, 1]))


class TestF1:
    def test_by_hand(self):
        decided, truth = labels([[0], [0, 2], []]), labels([[0], [1], [0]])
        weights = torch.tensor([[1.0, 1, 1], [2, 0, 1], [0, 3, 0]])
        values = resampled_f1(decided, truth, COUNTS, weights)
        same(values["micro_f1"], [2 * 1 / (3 + 3), 2 * 2 / (2 + 3), 2 * 0 / (6 + 3)])
        zero, two = 2 * 1 / (2 + 2), 2 * 2 / (2 + 3)  # label 0; label 1 is never decided
        same(values["macro_f1"], [(zero + 0) / 2, two, 0])  # label 1 has no weight in the second resample
        same(values["head_f1"], [(zero + 0) / 2, two, 0])
        same(values["medium_f1"], [math.nan] * 3)  # label 2 is only decided

    @quick
    @given(cases())
    def test_whole_weights_are_repeated_documents(self, case):
        _, decided, truth, weights = case
        values = resampled_f1(decided, truth, COUNTS, weights)
        picks = [repeated(row) for row in weights]
        expected = [decision_scores(decided.select(pick), truth.select(pick), COUNTS) for pick in picks]
        for name, value in values.items():
            same(value, [scores[name] for scores in expected])
        assert list(values) == ["micro_f1", "macro_f1", "head_f1", "medium_f1", "tail_f1"]

    def test_weights_of_1(self):
        decided, truth, counts = draw(50, 300, 0.03, 0), draw(50, 300, 0.03, 1), torch.arange(300)
        expected = decision_scores(decided, truth, counts)
        for name, value in resampled_f1(decided, truth, counts, torch.ones(2, 50)).items():
            same(value, [expected[name]] * 2)


class TestAveragePrecision:
    def test_by_hand(self):
        scores = torch.tensor([[4.0], [3], [3], [1]])
        truth, counts = labels([[0], [], [0], [0]], 1), torch.tensor([5])
        weights = torch.tensor([[1.0, 1, 1, 1], [2, 1, 0, 1], [0, 3, 2, 0], [0, 5, 0, 0], [0, 0, 0, 0]])
        expected = [
            (1 / 1 + 2 / 3 + 3 / 4) / 3,
            (2 * 2 / 2 + 1 * 3 / 4) / 3,
            (2 * 2 / 5) / 2,  # tied with the second document
            math.nan,  # no true document has weight
            math.nan,
        ]
        values = resampled_ap(scores, truth, counts, weights)
        same(values["macro_ap"], expected)
        same(values["tail_ap"], expected)
        same(values["head_ap"], [math.nan] * 5)

    @quick
    @given(cases())
    def test_whole_weights_are_repeated_documents(self, case):
        scores, _, truth, weights = case
        values = resampled_ap(scores, truth, COUNTS, weights)
        assert list(values) == ["macro_ap", "head_ap", "medium_ap", "tail_ap"]
        picks = [repeated(row) for row in weights]
        single = [self.oracle(scores[pick], truth.select(pick).to_dense(torch.int64)) for pick in picks]
        for name, mean in bucket_means(torch.tensor(single, dtype=torch.float64), COUNTS).items():
            same(values[f"{name}_ap"], mean.tolist())

    @staticmethod
    def oracle(scores, truth):
        """Return scikit-learn's average precision of each label, nan where there is no true document."""
        columns = zip(truth.T.numpy(), scores.T.numpy(), strict=True)
        return [average_precision_score(want, column) if want.any() else math.nan for want, column in columns]

    @pytest.mark.parametrize("resamples", [1, 5, 6, 11])
    @pytest.mark.parametrize("block", [1, 60 * 7, 2**20])
    def test_blocks_against_scikit_learn(self, monkeypatch, resamples, block):
        monkeypatch.setattr(ap_module, "BLOCK_NUMBERS", block)
        monkeypatch.setattr(resampling, "RESAMPLES_PER_BLOCK", 5)
        truth, scores, counts = draw(60, 40, 0.05, 1), normal(60, 40), torch.arange(40) * 7
        weights = resample_weights(60, resamples=resamples)
        kept = [weights[:, truth.to_dense()[:, label] > 0].sum(1) > 0 for label in range(40)]
        dense = truth.to_dense(torch.int64).numpy()
        single = [
            [
                average_precision_score(dense[:, label], scores[:, label], sample_weight=row)
                if kept[label][r]
                else np.nan
                for label in range(40)
            ]
            for r, row in enumerate(weights.double().numpy())
        ]
        values = resampled_ap(scores, truth, counts, weights)
        for name, mean in bucket_means(torch.tensor(single, dtype=torch.float64), counts).items():
            same(values[f"{name}_ap"], mean.tolist())

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_weights_of_1(self, dtype):
        scores, truth, counts = normal(60, 300).round(decimals=1), draw(60, 300, 0.03, 1), torch.arange(300)
        expected = bucket_means(average_precision(scores, truth), counts)
        values = resampled_ap(scores, truth, counts, torch.ones(2, 60, dtype=dtype))
        for name, mean in expected.items():
            same(values[f"{name}_ap"], [mean.item()] * 2)

    def test_weights_need_not_be_whole(self):
        scores, truth, counts = normal(30, 1), draw(30, 1, 0.3, 1), torch.tensor([5])
        weights = normal(2, 30, 1).double().exp()
        column, want = scores[:, 0], truth.to_dense(torch.int64)[:, 0]
        expected = [average_precision_score(want, column, sample_weight=row) for row in weights.numpy()]
        same(resampled_ap(scores, truth, counts, weights)["macro_ap"], expected)

    def test_the_spread_of_a_mean(self):
        """The resamples scatter about the value of all documents, as the bootstrap promises."""
        truth, counts = draw(400, 3, 0.3, 1), torch.tensor([5, 5, 5])
        scores = normal(400, 3) + 2 * truth.to_dense()
        values = resampled_ap(scores, truth, counts, resample_weights(400))["macro_ap"]
        whole = average_precision(scores, truth).mean().item()
        assert values.mean().item() == pytest.approx(whole, abs=0.01)
        assert 0.005 < values.std().item() < 0.05


@pytest.mark.parametrize(("rows", "num_labels"), [(0, 3), (3, 0), (0, 0), (3, 3)])
def test_nothing(rows, num_labels):
    empty, counts, weights = labels([[]] * rows, num_labels), torch.zeros(num_labels), torch.ones(2, rows)
    assert resampled_f1(empty, empty, counts, weights)["micro_f1"].tolist() == [0, 0]
    for name, value in resampled_ap(torch.zeros(rows, num_labels), empty, counts, weights).items():
        same(value, [math.nan] * 2)
        same(resampled_f1(empty, empty, counts, weights)[name.replace("ap", "f1")], [math.nan] * 2)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.ones(2, 3), r"weights: expected \(R, 2\) float, got \(2, 3\) torch.float32"),
        (torch.ones(2), r"weights: expected \(R, 2\) float, got \(2,\)"),
        (torch.ones(2, 2, dtype=torch.int64), r"weights: expected \(R, 2\) float, got \(2, 2\) torch.int64"),
        (torch.tensor([[1.0, -1.0]]), "weights: a weight is negative, infinite or nan"),
        (torch.tensor([[1.0, math.nan]]), "weights: a weight is negative, infinite or nan"),
        (torch.tensor([[1.0, math.inf]]), "weights: a weight is negative, infinite or nan"),
    ],
)
def test_weights_that_do_not_fit(weights, message):
    truth = labels([[0], [1]])
    with pytest.raises(DataError, match=message):
        resampled_f1(truth, truth, COUNTS, weights)
    with pytest.raises(DataError, match=message):
        resampled_ap(torch.zeros(2, 4), truth, COUNTS, weights)


def test_two_models_are_compared_on_the_same_resamples():
    truth, counts = draw(200, 10, 0.2, 1), torch.full((10,), 50)
    noise, weights = normal(200, 10), resample_weights(200, resamples=100)
    better, worse = (resampled_ap(noise + gain * truth.to_dense(), truth, counts, weights) for gain in (1.5, 1.3))
    difference = better["macro_ap"] - worse["macro_ap"]
    assert (difference > 0).all()
    assert difference.std() < better["macro_ap"].std() / 2  # pairing removes what both share
