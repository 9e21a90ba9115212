"""Thresholds against all cuts there are, and against arithmetic one can see."""

import json
import math
from itertools import product

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from hyperfocal import thresholds
from hyperfocal.config.classify import DecisionSettings
from hyperfocal.errors import DataError
from hyperfocal.labels import SparseLabels
from hyperfocal.thresholds import Decisions, tune_decisions

quick = settings(deadline=None, max_examples=60)
OBJECTIVES = ("micro", "macro", "both", "f_beta")
LEVELS = (-1e30, -7.0, -1.0, 0.0, 0.5, math.nextafter(1.0, 2.0), 1.0, 3.0, 2.0**25, 2.0**25 + 4)


@st.composite
def cases(draw, *, positives: bool = True, labels: int = 4):
    """Return (scores, truth), both (N, L): few documents and labels, and scores that often tie."""
    number, width = draw(st.integers(1, 7)), draw(st.integers(1, labels))
    values = st.sampled_from(LEVELS) | st.floats(-4, 4, width=32)
    cells = [draw(st.lists(values, min_size=width, max_size=width)) for _ in range(number)]
    marks = [draw(st.lists(st.booleans(), min_size=width, max_size=width)) for _ in range(number)]
    assume(not positives or any(map(any, marks)))
    return torch.tensor(cells, dtype=torch.float32), torch.tensor(marks)


def tuned(scores: Tensor, truth: Tensor, counts: Tensor | None = None, **changes) -> Decisions:
    counts = truth.sum(0) if counts is None else counts
    return tune_decisions(scores, SparseLabels.from_dense(truth), counts, DecisionSettings(**changes))


def f_score(decided: Tensor, truth: Tensor, beta: float = 1.0) -> float:
    """(1 + beta^2) tp / (d + beta^2 P)."""
    right, pairs, true = (int(part.sum()) for part in (decided & truth, decided, truth))
    return (1 + beta**2) * right / (pairs + beta**2 * true)


def objective(decided: Tensor, truth: Tensor, name: str, beta: float) -> float:
    micro = f_score(decided, truth, beta if name == "f_beta" else 1.0)
    columns = [label for label in range(truth.shape[1]) if truth[:, label].any()]
    macro = sum(f_score(decided[:, label], truth[:, label]) for label in columns) / len(columns)
    return {"micro": micro, "f_beta": micro, "macro": macro, "both": micro + macro}[name]


def every_cut(scores: Tensor) -> list[Tensor]:
    """Return the decisions of each common threshold that decides differently; without -inf, the last decides all."""
    distinct = scores.flatten().unique()
    return [scores > cut for cut in distinct] + [torch.ones_like(scores, dtype=torch.bool)]


class TestGlobal:
    @pytest.mark.parametrize("name", OBJECTIVES)
    @quick
    @given(cases(), st.sampled_from([0.1, 0.5, 1.0, 2.0, 10.0]))
    def test_it_is_the_best_of_all_cuts(self, name, case, beta):
        scores, truth = case
        decisions = tuned(scores, truth, rule="global", objective=name, beta=beta)
        best = max(objective(decided, truth, name, beta) for decided in every_cut(scores))
        reached = objective(decisions.decide(scores).to_dense(torch.bool), truth, name, beta)
        assert reached == pytest.approx(best, abs=2e-6)
        assert len(set(decisions.thresholds.tolist())) == 1

    def test_written_out(self):
        """Cut below 3, 2, 1, 0, -1: micro-F1 is 2/4, 2/5, 4/6, 6/7, 6/8."""
        scores, truth = torch.tensor([[3.0, 1.0], [2.0, 0.0], [-1.0, -1.0]]), torch.zeros(3, 2, dtype=torch.bool)
        truth[0], truth[1, 1] = True, True
        assert tuned(scores, truth, rule="global", objective="micro").thresholds.tolist() == [-0.5, -0.5]

    def test_micro_and_macro_want_different_cuts(self):
        """Label 0 is often right and scores high; label 1 is right once, among many: only macro-F1 goes down to it."""
        scores, truth = torch.full((20, 2), -9.0), torch.zeros(20, 2, dtype=torch.bool)
        scores[:10, 0], truth[:10, 0] = 5.0, True
        scores[10:15, 0] = 1.0  # five wrong ones on the way
        scores[0, 1], truth[0, 1] = 0.0, True
        cuts = [tuned(scores, truth, rule="global", objective=name).thresholds[0] for name in ("micro", "macro")]
        assert cuts == [3.0, -4.5]  # 20/21 and not 22/27; (20/25 + 1)/2 and not (1 + 0)/2

    def test_beta_decides_between_precision_and_recall(self):
        scores = torch.tensor([[4.0], [3.0], [2.0], [1.0], [0.0]])
        truth = torch.tensor([[1], [0], [0], [1], [0]]).bool()
        picky, generous = (tuned(scores, truth, rule="global", objective="f_beta", beta=beta) for beta in (0.1, 5.0))
        assert (picky.thresholds.tolist(), generous.thresholds.tolist()) == ([3.5], [0.5])


class TestCuts:
    @pytest.mark.parametrize("rule", ["global", "per_label"])
    @pytest.mark.parametrize("high", [1.0, -1.0, 1e-45, 16_777_216.0, 3e38, -3e38, 0.1])
    def test_between_floats_that_touch(self, rule, high):
        """The middle of two neighbours rounds to one of them; at the upper one it would decide neither."""
        top = torch.tensor(high)
        low = top.nextafter(torch.tensor(-math.inf))
        scores, truth = torch.stack([top, low] * 10)[:, None], torch.tensor([True, False] * 10)[:, None]
        decisions = tuned(scores, truth, rule=rule, objective="micro", shrinkage=0.0)
        assert decisions.decide(scores).to_dense(torch.bool).equal(truth)

    @pytest.mark.parametrize("rule", ["global", "per_label"])
    @pytest.mark.parametrize("score", [0.0, -5.0, 1e9, -1e9, 3e38])
    def test_all_scores_alike_and_all_true(self, rule, score):
        """A threshold 1 below 1e9 would be 1e9 again."""
        scores, truth = torch.full((6, 2), score), torch.ones(6, 2, dtype=torch.bool)
        assert tuned(scores, truth, rule=rule).decide(scores).num_positives == 12

    @quick
    @given(cases(), st.sampled_from(OBJECTIVES))
    def test_tied_scores_are_decided_alike(self, case, name):
        scores, truth = case
        decided = tuned(scores, truth, rule="global", objective=name).decide(scores).to_dense(torch.bool)
        for score in scores.unique():
            assert len(decided[scores == score].unique()) == 1

    def test_a_tie_is_not_cut_for_the_order_of_the_documents(self):
        """One of three at the top is true. Decided are all three (2/4) or none; the first alone would give 1."""
        scores, truth = torch.tensor([[2.0], [2.0], [2.0], [0.0]]), torch.tensor([[1], [0], [0], [0]]).bool()
        for rule in ("global", "per_label"):
            assert tuned(scores, truth, rule=rule, shrinkage=0.0).decide(scores).rows.tolist() == [0, 1, 2]


class TestPerLabel:
    @staticmethod
    def folds(number: int, seed: int = 0) -> Tensor:
        return torch.randperm(number, generator=torch.Generator().manual_seed(seed)) % 5

    def own(self, scores: Tensor, truth: Tensor) -> float:
        """The mean over five folds of the best cut for F1, of all cuts, on the documents of the other folds."""
        found = []
        for number in range(5):
            kept = self.folds(len(scores)) != number
            if not truth[kept].any():
                continue
            ordered = scores.sort(descending=True).values.tolist()
            best, cut = -1.0, 0.0
            for high, low in zip(ordered, [*ordered[1:], ordered[-1] - 2], strict=True):
                middle = (high + low) / 2
                value = f_score(scores[kept] > middle, truth[kept])
                if high > low and value > best + 1e-9:
                    best, cut = value, middle
            found.append(cut)
        return sum(found) / len(found)

    @pytest.mark.parametrize("shrinkage", [0.0, 4.0, 10.0])
    def test_the_formula(self, shrinkage):
        """w * own + (1 - w) * pooled, w = P / (P + shrinkage); under macro-F1 the cut of a label is its own alone."""
        torch.manual_seed(3)
        scores, truth = torch.randn(40, 3), torch.rand(40, 3) < torch.tensor([0.5, 0.2, 0.1])
        scores = scores + 2 * truth
        pooled, *_ = tuned(scores, truth, rule="global", objective="macro").thresholds.tolist()  # < 150: one pool
        decisions = tuned(scores, truth, rule="per_label", objective="macro", shrinkage=shrinkage)
        for label in range(3):
            positives = int(truth[:, label].sum())
            weight = positives / (positives + shrinkage)
            expected = weight * self.own(scores[:, label], truth[:, label]) + (1 - weight) * pooled
            assert float(decisions.thresholds[label]) == pytest.approx(expected, abs=1e-5)
        assert len(decisions.thresholds.unique()) == 3

    def test_three_positives_cannot_overfit(self):
        """A tail label's 3 positives are noise far up: its own cut is about 8, the others' 0; it may move by 3/13."""
        torch.manual_seed(0)
        scores, truth = torch.empty(200, 2), torch.zeros(200, 2, dtype=torch.bool)
        scores[:, 0] = torch.cat([torch.full((100,), 1.0), torch.full((100,), -1.0)])
        truth[:100, 0] = True
        scores[:, 1] = torch.linspace(-6, 6, 200)
        scores[:3, 1], truth[:3, 1] = 10.0, True
        free, shrunk = (
            tuned(scores, truth, rule="per_label", objective="macro", shrinkage=value).thresholds.tolist()
            for value in (0.0, 10.0)
        )
        pooled = tuned(scores, truth, rule="per_label", objective="macro", shrinkage=1e12).thresholds.tolist()
        assert free[1] == pytest.approx(8, abs=0.05)  # between 6 and 10
        assert pooled[0] == pytest.approx(pooled[1], abs=1e-5)
        assert shrunk[1] == pytest.approx(3 / 13 * free[1] + 10 / 13 * pooled[1], abs=1e-4)
        assert shrunk[0] == pytest.approx(100 / 110 * free[0] + 10 / 110 * pooled[0], abs=1e-4)

    def test_labels_without_a_validation_positive_get_the_pools_threshold(self):
        scores, truth = torch.randn(30, 3), torch.zeros(30, 3, dtype=torch.bool)
        truth[:, 0] = scores[:, 0] > 0.3
        counts = torch.tensor([50, 9, 9])
        for shrinkage in (0.0, 10.0):
            decisions = tuned(scores, truth, counts, rule="per_label", objective="macro", shrinkage=shrinkage)
            alike = tuned(scores, truth, counts, rule="global", objective="macro").thresholds
            assert decisions.thresholds[1:].tolist() == pytest.approx(alike[1:].tolist())

    @pytest.mark.parametrize("name", ["micro", "macro", "both"])
    def test_the_rarest_labels_join_the_pool_before_when_no_positive_is_left_for_them(self, name):
        """Labels 0 and 1 fill a pool each; label 2 has no positive, and a pool of its own would decide nothing."""
        scores = torch.linspace(-2, 2, 400)[:, None] + torch.tensor([0.0, 7.0, 7.0])
        truth = torch.stack([scores[:, 0] > 0, scores[:, 1] > 7, torch.zeros(400)], 1).bool()
        counts = torch.tensor([90, 20, 1])
        found = tuned(scores, truth, counts, rule="per_label", objective=name).thresholds.tolist()
        assert found == pytest.approx([0, 7, 7], abs=0.02)

    def test_pools_are_of_labels_about_as_frequent(self):
        """200 positives for each of two frequent labels, cut at 0; the rare ones share a cut at 5."""
        torch.manual_seed(0)
        scores, truth = torch.randn(400, 12) * 0.5, torch.zeros(400, 12, dtype=torch.bool)
        for label in range(12):
            share, place = (0.5, 0.0) if label < 2 else (0.05, 5.0)
            true = torch.rand(400) < share
            scores[:, label] += place + torch.where(true, 2.0, -2.0)
            truth[:, label] = true
        counts = torch.tensor([300, 300, *range(30, 20, -1)])
        order = torch.randperm(12)
        found = torch.empty(12)
        options = {"rule": "per_label", "objective": "micro", "shrinkage": 1e12}
        found[order] = tuned(scores[:, order], truth[:, order], counts[order], **options).thresholds
        assert found[:2].tolist() == pytest.approx([0, 0], abs=0.7)
        assert found[2:].tolist() == pytest.approx([5] * 10, abs=0.7)
        assert len(found[2:].unique()) == 1

    @pytest.mark.parametrize("name", ["micro", "macro", "f_beta"])
    @quick
    @given(cases(labels=3), st.sampled_from([0.5, 1.0, 2.0]), st.permutations(range(3)))
    def test_pooled_thresholds_are_the_best_of_all_combinations(self, name, case, beta, counts):
        """Pools of two positives, and nothing of a label's own."""
        scores, truth = case
        options = {"objective": name, "beta": beta, "shrinkage": 1e300}
        counts = torch.tensor(counts[: truth.shape[1]])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(thresholds, "POOL", 2)
            decided = tuned(scores, truth, counts, rule="per_label", **options).decide(scores).to_dense(torch.bool)
        pools = [[]]
        for label in counts.argsort(descending=True).tolist():
            if int(truth[:, pools[-1]].sum()) >= 2:
                pools.append([])
            pools[-1].append(label)
        if len(pools) > 1 and int(truth[:, pools[-1]].sum()) < 2:
            pools[-2:] = [pools[-2] + pools[-1]]
        best = 0.0
        for cuts in product(*(every_cut(scores[:, pool]) for pool in pools)):
            whole = torch.zeros_like(truth)
            for pool, cut in zip(pools, cuts, strict=True):
                whole[:, pool] = cut
            best = max(best, objective(whole, truth, name, beta))
        assert objective(decided, truth, name, beta) == pytest.approx(best, abs=2e-6)

    def test_none_decided_can_be_a_labels_own_best(self):
        """The only true one of label 1 is the last of 40: for micro-F1 each way to reach it costs more than it gives,
        so its own threshold is above all scores, as its pool's is.
        """
        scores, truth = torch.linspace(3, -3, 40)[:, None].repeat(1, 2), torch.zeros(40, 2, dtype=torch.bool)
        truth[:20, 0], truth[39, 1] = True, True
        decisions = tuned(scores, truth, rule="per_label", objective="micro", shrinkage=0.0)
        assert decisions.thresholds[1] == 4  # one above the best score
        assert decisions.decide(scores).counts().tolist() == [20, 0]

    def test_the_seed_decides_the_folds(self):
        torch.manual_seed(1)
        truth = torch.rand(30, 4) < 0.3
        scores, labels = torch.randn(30, 4) + truth, SparseLabels.from_dense(truth)
        found = [
            tune_decisions(scores, labels, truth.sum(0), DecisionSettings(), seed=seed).thresholds.tolist()
            for seed in (0, 0, 1)
        ]
        assert found[0] == found[1] != found[2]

    @quick
    @given(cases(), st.sampled_from(OBJECTIVES), st.sampled_from([0.0, 10.0]))
    def test_it_is_never_not_a_number(self, case, name, shrinkage):
        scores, truth = case
        before = scores.clone()
        decisions = tuned(scores, truth, rule="per_label", objective=name, shrinkage=shrinkage)
        assert decisions.thresholds.isfinite().all()
        assert decisions.thresholds.shape == (scores.shape[1],)
        assert scores.equal(before)


class TestRules:
    def test_half_is_a_probability_of_a_half(self):
        scores = torch.tensor([[-0.1, 0.0, 0.1], [2.0, -3.0, 1e-6]])
        decisions = tuned(scores, torch.ones(2, 3).bool(), rule="half")
        assert decisions.decide(scores).to_dense(torch.bool).equal(scores.double().sigmoid() > 0.5)
        assert decisions.decide(scores).indices.tolist() == [2, 0, 2]

    @pytest.mark.parametrize(("k", "labels"), [(1, [{2}, {0}]), (2, [{1, 2}, {0, 1}]), (9, [{0, 1, 2}, {0, 1, 2}])])
    def test_top_k(self, k, labels):
        scores = torch.tensor([[-3.0, -2.0, -1.0], [5.0, 4.0, 3.0]])
        decided = tuned(scores, torch.ones(2, 3).bool(), rule="top_k", k=k).decide(scores)
        assert [set(decided.select(torch.tensor([row])).indices.tolist()) for row in range(2)] == labels

    def test_minimum_one_gives_a_document_without_a_label_its_best(self):
        scores = torch.tensor([[-3.0, -1.0, -2.0], [1.0, -1.0, 2.0]])
        plain, one = Decisions(torch.zeros(3)), Decisions(torch.zeros(3), minimum_one=True)
        assert plain.decide(scores).to_dense().tolist() == [[0, 0, 0], [1, 0, 1]]
        assert one.decide(scores).to_dense().tolist() == [[0, 1, 0], [1, 0, 1]]

    @pytest.mark.parametrize("rule", ["half", "global", "per_label", "top_k"])
    @pytest.mark.parametrize("minimum_one", [False, True])
    def test_the_settings_come_through(self, rule, minimum_one):
        decisions = tuned(torch.randn(5, 3), torch.ones(5, 3).bool(), rule=rule, minimum_one=minimum_one, k=2)
        assert (decisions.top_k, decisions.minimum_one) == (2 if rule == "top_k" else 0, minimum_one)

    @pytest.mark.parametrize("rule", ["half", "global", "per_label", "top_k"])
    @pytest.mark.parametrize("shape", [(0, 3), (4, 0), (4, 3), (1, 1)])
    @pytest.mark.parametrize("minimum_one", [False, True])
    def test_nothing_true_to_tune_on(self, rule, shape, minimum_one):
        """Then the rule is that of a probability of 0.5."""
        scores = torch.randn(shape)
        decisions = tuned(scores, torch.zeros(shape).bool(), rule=rule, minimum_one=minimum_one, k=1)
        assert decisions.thresholds.tolist() == [0.0] * shape[1]
        assert len(decisions.decide(scores)) == shape[0]

    @pytest.mark.parametrize("rule", ["global", "per_label"])
    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_one_document_and_one_label(self, rule, name):
        scores = torch.tensor([[-3.0]])
        assert tuned(scores, torch.ones(1, 1).bool(), rule=rule, objective=name).decide(scores).num_positives == 1

    @pytest.mark.parametrize("rule", ["half", "global", "per_label", "top_k"])
    @pytest.mark.parametrize(("value", "shown"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
    def test_scores_that_are_no_finite_numbers(self, rule, value, shown):
        scores = torch.zeros(3, 2)
        scores[1, 0] = value
        with pytest.raises(DataError) as caught:
            tuned(scores, torch.ones(3, 2).bool(), rule=rule)
        assert str(caught.value).startswith(f"scores: {shown} for document 1 and label 0; expected finite numbers.")


class TestJson:
    numbers = st.floats(width=32, allow_nan=False)

    @quick
    @given(st.lists(numbers, max_size=6), st.integers(0, 5), st.booleans())
    def test_there_and_back(self, values, top_k, minimum_one):
        labels = [f"label {number}" for number in range(len(values))]
        decisions = Decisions(torch.tensor(values), top_k, minimum_one)
        text = json.dumps(decisions.to_json(labels))
        again = Decisions.from_json(json.loads(text), labels)
        assert again.thresholds.dtype == torch.float32
        assert again.thresholds.tolist() == decisions.thresholds.tolist()
        assert (again.top_k, again.minimum_one) == (top_k, minimum_one)
        assert json.dumps(again.to_json(labels)) == text

    @quick
    @given(cases())
    def test_the_decisions_are_the_same(self, case):
        scores, truth = case
        labels = [str(number) for number in range(scores.shape[1])]
        decisions = tuned(scores, truth)
        again = Decisions.from_json(json.loads(json.dumps(decisions.to_json(labels))), labels)
        assert again.decide(scores).keys.equal(decisions.decide(scores).keys)

    def test_a_number_of_labels_below_0_is_refused(self):
        value = Decisions(torch.tensor([1.0])).to_json(["a"]) | {"top_k": -1}
        with pytest.raises(DataError, match="top_k is -1; expected 0 or more"):
            Decisions.from_json(value, ["a"])

    def test_labels_in_another_order_keep_their_thresholds(self):
        value = Decisions(torch.tensor([1.0, 2.0])).to_json(["a", "b"])
        assert Decisions.from_json(value, ["b", "a"]).thresholds.tolist() == [2.0, 1.0]

    @pytest.mark.parametrize(
        "change",
        [
            {"thresholds": {"a": 1.0}},
            {"thresholds": {"a": 1.0, "b": None}},
            {"thresholds": {"a": 1.0, "b": "high"}},
            {"thresholds": {"a": 1.0, "b": math.nan}},
            {"thresholds": [1.0, 2.0]},
            {"top_k": None},
            {"top_k": math.inf},
            {"thresholds": {"a": 1.0, "b": 10**400}},
        ],
    )
    def test_what_is_no_decisions(self, change):
        value = Decisions(torch.tensor([1.0, 2.0])).to_json(["a", "b"])
        with pytest.raises(DataError, match="not decisions: "):
            Decisions.from_json(value | change, ["a", "b"])

    @pytest.mark.parametrize("value", [None, [], "x", 3, {}])
    def test_what_is_no_dictionary_of_them(self, value):
        with pytest.raises(DataError, match="not decisions: "):
            Decisions.from_json(value, ["a"])


def test_scores_all_below_a_probability_of_a_half_are_no_worse_to_tune():
    """From a start at which nothing is decided, micro-F1 climbs as far as from a start at its best common cut."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(3_000, 40, generator=generator) < 10 ** -torch.linspace(1.5, 3, 40)
    scores = torch.randn(3_000, 40, generator=generator) + truth
    rows = SparseLabels.from_dense(truth)
    near, far = (
        tune_decisions(scores - shift, rows, rows.counts(), DecisionSettings(objective="micro", shrinkage=1e12))
        for shift in (0, 8)
    )
    torch.testing.assert_close(near.thresholds, far.thresholds + 8, atol=1e-4, rtol=0)
