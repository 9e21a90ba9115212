"""Weights of opinions: the minimum of a penalised logistic loss, on pairs that stand for all pairs."""

import json

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import binary_cross_entropy_with_logits

from hyperfocal.classify import combination as combination_file
from hyperfocal.classify.combination import PENALTY, Combination, fit_weights
from hyperfocal.classify.opinions import Shares
from hyperfocal.errors import DataError
from hyperfocal.labels import SparseLabels


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shares(dense):
    return Shares(csr_matrix(dense.float().numpy()))


def case(number=200, labels=6, *, seed=0, rarity=2.0):
    """Return logits, two opinions, and a truth that both and the logits know a part of."""
    parts = [draw(number, labels, seed=seed + part) for part in range(4)]
    logits, first, second = 2 * parts[0] - rarity, parts[1].relu(), parts[2].relu()
    odds = 0.5 * logits + 2 * first - second - 1
    truth = torch.rand(number, labels, generator=torch.Generator().manual_seed(seed)) < odds.sigmoid()
    return logits.float(), {"text": shares(first), "first_line": shares(second)}, SparseLabels.from_dense(truth)


def loss_of(point, design, hits, share, start):
    fit = binary_cross_entropy_with_logits(design @ point, hits, share, reduction="sum")
    return float(fit + PENALTY / 2 * (point - start).square().sum())


def pairs_of(logits, opinions, truth):
    rows, labels = (index.flatten() for index in torch.meshgrid(*map(torch.arange, logits.shape), indexing="ij"))
    columns = [logits[rows, labels].double(), *(one.at(rows, labels) for one in opinions.values())]
    design = torch.stack([*columns, torch.ones(len(rows), dtype=torch.float64)], 1)
    return design, truth.to_dense(torch.float64)[rows, labels], labels


def best_by_scipy(design, hits, share, start):
    """Return the minimum of the loss by a method that shares no line with ours."""

    def value(point):
        point = torch.from_numpy(point).requires_grad_()
        fit = binary_cross_entropy_with_logits(design @ point, hits, share, reduction="sum")
        total = fit + PENALTY / 2 * (point - start).square().sum()
        (slope,) = torch.autograd.grad(total, point)
        return total.item(), slope.numpy()

    return torch.from_numpy(minimize(value, start.numpy(), jac=True, method="L-BFGS-B", tol=1e-14).x)


class TestNewton:
    @pytest.mark.parametrize("seed", range(4))
    def test_it_ends_where_scipy_does(self, seed):
        design, hits, _ = pairs_of(*case(seed=seed))
        share, start = draw(len(hits), seed=seed).exp(), torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
        found = combination_file._newton(design, hits, share, start)
        torch.testing.assert_close(found, best_by_scipy(design, hits, share, start), atol=1e-4, rtol=1e-4)

    def test_with_a_penalty_toward_zero_it_is_scikit_learns_regression(self):
        design, hits, _ = pairs_of(*case())
        zeros, share = torch.zeros(4, dtype=torch.float64), torch.ones_like(hits)
        model = LogisticRegression(C=1 / PENALTY, fit_intercept=False, tol=1e-10, max_iter=1_000)
        expected = torch.from_numpy(model.fit(design.numpy(), hits.numpy()).coef_[0])
        torch.testing.assert_close(combination_file._newton(design, hits, share, zeros), expected, atol=1e-4, rtol=1e-4)

    def test_a_full_step_that_diverges_is_halved(self):
        """All scores are far below 0, so the curvature is nearly 0 and a full step is a thousand times too long."""
        design = torch.stack([torch.full((4_000,), -12.0), torch.zeros(4_000), torch.ones(4_000)], 1).double()
        design[:40, 1] = 1
        hits = torch.zeros(4_000, dtype=torch.float64)
        hits[:20] = 1
        start, share = torch.tensor([1.0, 0, 0], dtype=torch.float64), torch.ones_like(hits)
        probability = (design @ start).sigmoid()
        gradient = design.T @ (probability - hits)
        hessian = design.T @ (design * (probability * (1 - probability))[:, None]) + torch.eye(3) * PENALTY
        full = start - torch.linalg.solve(hessian, gradient)
        assert loss_of(full, design, hits, share, start) > loss_of(start, design, hits, share, start)
        found = combination_file._newton(design, hits, share, start)
        expected = best_by_scipy(design, hits, share, start)
        best = loss_of(expected, design, hits, share, start)
        assert loss_of(found, design, hits, share, start) == pytest.approx(best, rel=1e-6)

    @pytest.mark.parametrize("hits", [torch.zeros(30), torch.ones(30)], ids=["none", "all"])
    def test_one_class_alone_ends(self, hits):
        start = torch.tensor([1.0, 0, 0], dtype=torch.float64)
        design = torch.cat([draw(30, 2), torch.ones(30, 1, dtype=torch.float64)], 1)
        assert combination_file._newton(design, hits.double(), torch.ones(30).double(), start).isfinite().all()


class TestWeights:
    def test_weights_are_relative_to_the_scale_of_the_head(self):
        logits, opinions, truth = case()
        design, hits, labels = pairs_of(logits, opinions, truth)
        counts = truth.counts().double()
        share = (counts.rsqrt() * counts.sum() / counts.sqrt().sum())[labels]  # a mean of 1 over all positives
        start = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
        point = best_by_scipy(design, hits, share, start)
        found = fit_weights(logits, opinions, truth, power=0.5)
        assert found == pytest.approx(
            {"text": float(point[1] / point[0]), "first_line": float(point[2] / point[0])}, rel=1e-3
        )
        assert found["text"] == pytest.approx(2 / 0.5, rel=0.4)  # as `case` draws the truth
        assert found["first_line"] == pytest.approx(-1 / 0.5, rel=0.5)

    def test_a_head_that_knows_nothing_leaves_all_to_the_opinions(self):
        logits, opinions, truth = case()
        flat = fit_weights(torch.zeros_like(logits), opinions, truth)
        assert all(np.isfinite(list(flat.values())))
        opposite = fit_weights(-100 * logits.abs(), opinions, truth)  # the best scale is about 0: it stays positive
        assert all(np.isfinite(list(opposite.values())))

    def test_labels_without_a_document_count_as_others(self):
        logits, opinions, truth = case(labels=6)
        none = SparseLabels.from_dense(truth.to_dense(torch.bool) & (torch.arange(6) < 5))
        assert all(np.isfinite(list(fit_weights(logits, opinions, none, power=1.0).values())))
        empty = SparseLabels.from_dense(torch.zeros(200, 6, dtype=torch.bool))
        assert all(np.isfinite(list(fit_weights(logits, opinions, empty, power=1.0).values())))


class TestPairs:
    def test_few_pairs_are_all(self):
        truth = case(30, 4)[2]
        rows, labels, hits, share = combination_file._pairs(truth, 0)
        torch.testing.assert_close(hits.reshape(30, 4), truth.to_dense(torch.float64))
        assert (rows * 4 + labels).tolist() == list(range(120))
        assert share.unique().tolist() == [1]

    def test_a_sample_stands_for_all_pairs(self, monkeypatch):
        """The mean of a sum over pairs, over 200 samples, is the sum over all pairs."""
        logits, _, truth = case(60, 20)
        values = (logits.double() ** 2 + truth.to_dense(torch.float64)).flatten()
        monkeypatch.setattr(combination_file, "MOST_PAIRS", 300)
        sums = []
        for seed in range(200):
            rows, labels, hits, share = combination_file._pairs(truth, seed)
            positive = hits > 0
            assert int(positive.sum()) == truth.num_positives
            assert share[positive].unique().tolist() == [1]
            pairs = rows * 20 + labels
            torch.testing.assert_close(truth.to_dense(torch.float64).flatten()[pairs], hits)
            assert share.sum().item() == pytest.approx(1_200)  # all pairs
            sums.append((share * values[pairs]).sum().item())
        spread = np.std(sums) / np.sqrt(len(sums))
        assert np.mean(sums) == pytest.approx(values.sum().item(), abs=4 * spread)
        assert spread < 0.02 * values.sum().item()

    def test_weights_of_a_sample_are_near_those_of_all(self, monkeypatch):
        logits, opinions, truth = case(400, 20)
        every = fit_weights(logits, opinions, truth)
        monkeypatch.setattr(combination_file, "MOST_PAIRS", 3_000)
        sampled = [fit_weights(logits, opinions, truth, seed=seed) for seed in range(8)]
        assert sampled[0] == fit_weights(logits, opinions, truth, seed=0)
        assert sampled[0] != sampled[1]
        for name, weight in every.items():
            assert np.mean([one[name] for one in sampled]) == pytest.approx(weight, rel=0.15)


OPINIONS = {
    "text": shares(torch.tensor([[1.0, 0.5], [0, 0]])),
    "first_line": shares(torch.tensor([[0.0, 1], [0, 1]])),
}
LOGITS = torch.tensor([[-1.0, 0], [2, 3]])


class TestCombination:
    @pytest.mark.parametrize(
        ("limit", "expected"),
        [
            (None, [[-1 + 2, 0 + 2 * 0.5 - 3], [2, 3 - 3]]),
            (10, [[-1, 0 + 2 * 0.5 - 3], [2, 3 - 3]]),  # the first label has 10 documents
            (11, [[-1 + 2, 0 + 2 * 0.5 - 3], [2, 3 - 3]]),
            (1, [[-1, 0], [2, 3]]),
        ],
    )
    def test_scores(self, limit, expected):
        combination = Combination({"text": 2.0, "first_line": -3.0}, limit)
        logits = LOGITS.clone()
        found = combination.apply(logits, OPINIONS, torch.tensor([10, 1]))
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))
        torch.testing.assert_close(logits, LOGITS)  # not edited in place

    def test_without_weights_scores_are_the_logits(self):
        assert Combination().apply(LOGITS, {}, torch.tensor([1, 1])) is LOGITS

    @pytest.mark.parametrize("limit", [None, 50])
    def test_it_survives_json(self, limit):
        combination = Combination({"text": 1 / 3, "similarity": -0.0}, limit)
        again = Combination.from_json(json.loads(json.dumps(combination.to_json())))
        assert (dict(again.weights), again.limit) == ({"text": 1 / 3, "similarity": -0.0}, limit)

    @pytest.mark.parametrize(
        "value",
        [
            None, [], {}, {"weights": {}}, {"weights": [1], "limit": None}, {"weights": {"text": "x"}, "limit": None},
            {"weights": {"text": float("nan")}, "limit": None}, {"weights": {"text": 1.0}, "limit": "many"},
            {"weights": {"text": None}, "limit": 1}, {"weights": {"smell": 1.0}, "limit": None},
            {"weights": {"text": 1.0}, "limit": float("inf")},
        ],
    )  # fmt: skip
    def test_another_value_is_refused(self, value):
        with pytest.raises(DataError, match="not a combination"):
            Combination.from_json(value)
