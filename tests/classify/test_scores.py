"""How a classifier's documents are scored, beside scikit-learn and arithmetic one can see."""

import math

import polars as pl
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score

from hyperfocal.classify.acceptance import Judged
from hyperfocal.classify.label_model import LabelSpace
from hyperfocal.classify.prepare import Labelled
from hyperfocal.classify.scores import (
    comparable,
    evaluate_decisions,
    score_labels,
    table_of_labels,
    tier_scores,
)
from hyperfocal.classify.validation import cross_fitted, draw_halves
from hyperfocal.config.classify import DecisionSettings
from hyperfocal.data.documents import Documents
from hyperfocal.data.taxonomy import Taxonomy
from hyperfocal.data.vocabulary import Vocabulary
from hyperfocal.labels import SparseLabels
from hyperfocal.metrics.intervals import intervals

N, L = 80, 4
RANDOM = torch.Generator().manual_seed(0)
SCORES = torch.randn(N, L, generator=RANDOM)
HITS = (torch.randn(N, L, generator=RANDOM) + SCORES) > torch.tensor([0.0, 0.7, 1.4, 2.0])
TRUTH, COUNTS = SparseLabels.from_dense(HITS), torch.tensor([300, 100, 30, 5])
DECIDED = {"half": [SparseLabels.from_dense(SCORES > 0)], "tuned": [SparseLabels.from_dense(SCORES > 0.3)]}
PER_LABEL = DecisionSettings()
LABELS = LabelSpace(Vocabulary(pl.Series(["a", "b", "c", "d"])), None, COUNTS, 400, consistent=False)


def decided_of(scores, truth, settings, groups=None):
    """Return the decisions of the first cross-fit."""
    halves, *_ = draw_halves(len(scores), groups, seed=0)
    return cross_fitted(Judged(scores, {}, truth, COUNTS, "macro_ap", 0), None, settings, halves)[0]


class TestCrossDecisions:
    def test_no_document_sees_its_own_truth(self):
        """Whatever the truth of one half becomes, the decisions of that half stay."""
        before = decided_of(SCORES, TRUTH, PER_LABEL).to_dense()
        half = torch.randperm(N, generator=torch.Generator().manual_seed(0)) % 2
        other = HITS.clone()
        other[half == 0] = ~other[half == 0]
        after = decided_of(SCORES, SparseLabels.from_dense(other), PER_LABEL).to_dense()
        assert torch.equal(before[half == 0], after[half == 0])
        assert not torch.equal(before[half == 1], after[half == 1])

    def test_nor_that_of_its_group(self):
        """All documents but one are of one group, so the group's decisions cannot depend on its truth."""
        groups = torch.full((N,), 7)
        groups[0] = 1_000
        found = [
            decided_of(SCORES, SparseLabels.from_dense(hits), PER_LABEL, groups).to_dense()[1:]
            for hits in (HITS, torch.cat([HITS[:1], ~HITS[1:]]))
        ]
        assert torch.equal(*found)

    def test_groups_are_halved_whatever_their_numbers(self):
        """Numbers far apart, as `group_numbers` gives them, are as good as 0 and 1: no half is empty."""
        rule = DecisionSettings(rule="global")
        near = torch.arange(N) % 2
        expected = decided_of(SCORES, TRUTH, rule, near).to_dense()
        assert not torch.equal(expected, (SCORES > 0).float())
        for distance in range(2, 10):
            decided = decided_of(SCORES, TRUTH, rule, distance * near).to_dense()
            assert torch.equal(decided, expected)

    @pytest.mark.parametrize("number", [0, 1])
    def test_too_few_to_tune_are_decided_at_one_half(self, number):
        decided = decided_of(SCORES[:number], TRUTH.select(torch.arange(number)), PER_LABEL)
        assert torch.equal(decided.to_dense(), (SCORES[:number] > 0).float())

    def test_one_group_alone_too(self):
        decided = decided_of(SCORES, TRUTH, PER_LABEL, torch.zeros(N, dtype=torch.int64))
        assert torch.equal(decided.to_dense(), (SCORES > 0).float())


def documents(truth, groups=None):
    """Return documents with these true labels."""
    names = None if groups is None else [f"g{group}" for group in groups.tolist()]
    return Labelled(Documents.from_lists([""] * len(truth), [[]] * len(truth), groups=names), truth, {})


class TestScores:
    def test_against_scikit_learn(self):
        values, resamples = score_labels(SCORES, TRUTH, DECIDED, COUNTS, 400)
        truth, half, tuned = HITS.numpy(), (SCORES > 0).numpy(), (SCORES > 0.3).numpy()
        assert values["macro_ap"] == pytest.approx(average_precision_score(truth, SCORES.numpy(), average="macro"))
        for average in ("micro", "macro"):
            assert values[f"half.{average}_f1"] == pytest.approx(f1_score(truth, half, average=average))
            assert values[f"tuned.{average}_f1"] == pytest.approx(f1_score(truth, tuned, average=average))
        assert resamples == {}

    def test_a_report_has_the_value_inside_its_interval(self):
        report, resamples, _ = evaluate_decisions(SCORES, DECIDED["tuned"], documents(TRUTH), LABELS, SCORES)
        assert report["documents"] == N
        assert {"macro_ap", "half.macro_f1", "tuned.micro_f1"} <= report["intervals"].keys()
        for name, interval in report["intervals"].items():
            assert interval["mean"] == report["values"][name]
            if not math.isnan(interval["mean"]):
                assert interval["low"] <= interval["mean"] <= interval["high"], name
                assert interval["low"] < interval["high"], name
        assert resamples.keys() == report["intervals"].keys()

    def test_documents_of_a_group_count_as_one(self):
        """40 copies of 2 documents tell as little as 2: the interval is wide."""
        pair = torch.arange(N) % 2
        scores, truth = SCORES[pair], TRUTH.select(pair)
        grouped, alone = (
            evaluate_decisions(scores, [DECIDED["tuned"][0].select(pair)], documents(truth, groups), LABELS, scores)
            for groups in (pair, None)
        )
        grouped, alone = (found.metrics["intervals"]["tuned.micro_f1"] for found in (grouped, alone))
        assert grouped["high"] - grouped["low"] > 2 * (alone["high"] - alone["low"])

    def test_decisions_of_two_cross_fits_are_averaged(self):
        """The variance over the resamples grows by that of the mean of two: a quarter of their squared distance."""
        fits = [SparseLabels.from_dense(SCORES > 0.3), SparseLabels.from_dense(SCORES > 0.9)]
        weights = torch.poisson(torch.ones(4_000, N), generator=torch.Generator().manual_seed(0))
        (one, first), (other, second), (both, mixed) = (
            score_labels(SCORES, TRUTH, {"tuned": each}, COUNTS, 400, weights=weights)
            for each in (fits[:1], fits[1:], fits)
        )
        for name in ("tuned.macro_f1", "tuned.micro_f1"):
            assert both[name] == pytest.approx((one[name] + other[name]) / 2)
            assert torch.equal(mixed[name][::2], first[name][::2])
            assert torch.equal(mixed[name][1::2], second[name][1::2])
            within = (first[name].var() + second[name].var()) / 2
            between = (first[name].mean() - second[name].mean()) ** 2 / 4
            assert float(mixed[name].var()) == pytest.approx(float(within + between), rel=0.05)
        assert torch.equal(mixed["macro_ap"], first["macro_ap"])

    def test_a_bucket_of_few_documents_is_not_compared(self):
        """The tail has label d alone, which is true for 3 documents, 20 documents, or 20 documents of 3 groups."""
        truths = {number: torch.zeros(N, L, dtype=torch.bool) for number in (3, 20)}
        for number, hits in truths.items():
            hits[:, :3], hits[:number, 3] = HITS[:, :3], True
        resamples = {name: torch.ones(5) for name in ("macro_ap", "tail_ap", "tuned.tail_f1", "tuned.macro_f1")}
        groups = torch.arange(N) % 3
        for number, owners, shown in ((3, None, False), (20, None, True), (20, groups, False)):
            labelled = documents(SparseLabels.from_dense(truths[number]), owners)
            known = comparable(resamples, labelled, torch.tensor([300, 300, 300, 5]))
            assert [bool(values.isfinite().all()) for values in known.values()] == [True, shown, shown, True]

    def test_each_cross_fit_has_its_own_halves(self):
        groups = torch.arange(N) // 2
        for halves in (draw_halves(N, groups, seed=0), draw_halves(N, groups, seed=1)):
            assert len(halves) == 2
            assert not torch.equal(*halves)
            assert all(torch.equal(each[::2], each[1::2]) and int(each.sum()) == N // 2 for each in halves)

    def test_intervals_are_quantiles_around_the_value(self):
        resampled = torch.arange(1001, dtype=torch.float64) / 2000
        resampled[0] = torch.nan  # a resample without a positive; 1 to 1,000 remain, of mean 500.5
        (found,) = intervals({"x": 0.3}, {"x": resampled}).values()
        low, high = (0.3 + (1 + share * 999 - 500.5) / 2000 for share in (0.025, 0.975))
        assert found == (0.3, pytest.approx(low), pytest.approx(high))

    def test_intervals_end_where_the_metric_does(self):
        resampled = torch.tensor([0.0, 0.5, 1.0]).double()
        assert intervals({"x": 0.9}, {"x": resampled})["x"].high == 1
        assert intervals({"x": 0.1}, {"x": resampled})["x"].low == 0


class TestTables:
    tree = Taxonomy(["1", "2", "3"], ["Food", "Wine", "Red wine"], [-1, 0, 1])

    def test_f1_of_the_labels_of_each_tier(self):
        labels = ["2", "1", "3"]
        truth = SparseLabels.from_lists([[1], [0, 1], [0, 1, 2]], num_labels=3)
        tuned = SparseLabels.from_lists([[1], [1], [0, 1]], num_labels=3)
        assert tier_scores(tuned, truth, labels, self.tree) == {
            "1": {"labels": 1, "micro_f1": 1.0, "macro_f1": 1.0},
            "2": {"labels": 1, "micro_f1": 2 * 1 / (1 + 2), "macro_f1": 2 * 1 / (1 + 2)},
            "3": {"labels": 1, "micro_f1": 0.0, "macro_f1": 0.0},
        }

    def test_a_tier_of_several_labels_is_averaged_over_those_with_a_true_document(self):
        tree = Taxonomy(["a", "b", "c"], ["A", "B", "C"], [-1, -1, -1])
        truth = SparseLabels.from_lists([[0], [0, 1]], num_labels=3)
        tuned = SparseLabels.from_lists([[0, 1], [2]], num_labels=3)
        expected = {"labels": 3, "micro_f1": 2 * 1 / (3 + 3), "macro_f1": (2 / 3 + 0) / 2}
        assert tier_scores(tuned, truth, ["a", "b", "c"], tree) == {"1": pytest.approx(expected)}

    def test_a_row_a_label_the_most_frequent_first(self):
        counts = torch.tensor([5, 300, 30, 300])
        rows = table_of_labels(SCORES, DECIDED["tuned"][0], TRUTH, counts, ["a", "b", "c", "d"])
        assert [row["label"] for row in rows] == ["b", "d", "c", "a"]
        assert [row["train_documents"] for row in rows] == [300, 300, 30, 5]
        assert rows[0]["f1"] == pytest.approx(f1_score(HITS[:, 1].numpy(), (SCORES[:, 1] > 0.3).numpy()))
