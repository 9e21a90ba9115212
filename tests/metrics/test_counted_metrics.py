"""Metrics with weights equal those of repeated documents and of scikit-learn; unknown pairs count nowhere."""

import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
)
from sklearn.metrics import (
    log_loss as log_loss_of_scikit_learn,
)

from hyperfocal.config.classify import DecisionSettings
from hyperfocal.counted_labels import counted
from hyperfocal.labels import SparseLabels
from hyperfocal.metrics.average_precision import average_precision, micro_average_precision
from hyperfocal.metrics.calibration import calibration_error, decision_curve, reliability
from hyperfocal.metrics.decisions import decision_scores, label_table
from hyperfocal.metrics.label_ranking import precision_at_k, ranking_scores
from hyperfocal.metrics.one_label import class_calibration_error, class_scores, log_loss
from hyperfocal.metrics.resampling import resampled_ap, resampled_f1
from hyperfocal.offsets import fit_temperature, tune_offsets
from hyperfocal.thresholds import tune_decisions

N, L = 60, 7
GENERATOR = torch.Generator().manual_seed(3)
SCORES = (torch.randn(N, L, generator=GENERATOR) * 2).round() / 2  # with ties
TRUE = torch.rand(N, L, generator=GENERATOR) < 0.25
DECIDED = SparseLabels.from_dense(SCORES > 0.5)
TRUTH = SparseLabels.from_dense(TRUE)
WEIGHTS = torch.randint(1, 4, (N,), generator=GENERATOR).double()
TIMES = torch.arange(N).repeat_interleave(WEIGHTS.long())
UNKNOWN = (torch.rand(N, L, generator=GENERATOR) < 0.3) & ~TRUE
WEIGHTED = counted(TRUTH, WEIGHTS, None)
MASKED = counted(TRUTH, None, SparseLabels.from_dense(UNKNOWN))
COUNTS = torch.tensor([300, 100, 60, 30, 20, 10, 5])
CLASSES = SparseLabels.from_lists([[int(row)] for row in SCORES.argsort(1)[:, 2]], num_labels=L)
BEST = SparseLabels.from_lists([[int(row)] for row in SCORES.argmax(1)], num_labels=L)


def same(weighted, repeated):
    assert weighted == pytest.approx(repeated, nan_ok=True, abs=1e-6)


class TestWeightsAreRepetitions:
    def test_ranking(self):
        same(
            ranking_scores(SCORES, WEIGHTED, COUNTS, 400),
            ranking_scores(SCORES[TIMES], TRUTH.select(TIMES), COUNTS, 400),
        )

    def test_decisions(self):
        repeated = decision_scores(DECIDED.select(TIMES), TRUTH.select(TIMES), COUNTS)
        same(decision_scores(DECIDED, WEIGHTED, COUNTS), repeated)

    @pytest.mark.parametrize("objective", ["micro", "macro", "recall"])
    def test_offsets_of_classes(self, objective):
        settings = DecisionSettings(rule="balanced", objective=objective, shrinkage=0.0)
        scores, weighted = SCORES + torch.rand(N, L, generator=GENERATOR), counted(CLASSES, WEIGHTS, None)
        assert fit_temperature(scores, weighted) == pytest.approx(fit_temperature(scores[TIMES], CLASSES.select(TIMES)))
        ours = tune_offsets(scores, weighted, COUNTS, settings, 1.0)
        assert ours.unique().numel() > L / 2
        torch.testing.assert_close(ours, tune_offsets(scores[TIMES], CLASSES.select(TIMES), COUNTS, settings, 1.0))

    @pytest.mark.parametrize("objective", ["micro", "macro", "both"])
    @pytest.mark.parametrize("rule", ["global", "per_label"])
    def test_thresholds(self, rule, objective):
        """Those of all labels, and those of pools; own ones, which such a shrinkage leaves out, have random folds."""
        settings = DecisionSettings(rule=rule, objective=objective, shrinkage=1e12)
        scores = SCORES + torch.rand(N, L, generator=GENERATOR)
        ours = tune_decisions(scores, WEIGHTED, COUNTS, settings).thresholds
        theirs = tune_decisions(scores[TIMES], TRUTH.select(TIMES), COUNTS, settings).thresholds
        torch.testing.assert_close(ours, theirs)

    def test_rates_of_labels(self):
        names = ("precision", "recall", "f1", "average_precision")
        ours = label_table(SCORES, DECIDED, WEIGHTED, COUNTS)
        theirs = label_table(SCORES[TIMES], DECIDED.select(TIMES), TRUTH.select(TIMES), COUNTS)
        same([ours[name].tolist() for name in names][3], theirs["average_precision"].tolist())
        same({name: ours[name].sum().item() for name in names}, {name: theirs[name].sum().item() for name in names})
        assert ours["true_documents"].tolist() == TRUTH.counts().tolist()  # documents, not weights

    def test_calibration(self):
        p, edges = SCORES.sigmoid(), torch.tensor([0.0, 0.25, 0.5, 1.0])
        same(calibration_error(p, WEIGHTED), calibration_error(p[TIMES], TRUTH.select(TIMES)))
        ours, theirs = reliability(p, WEIGHTED, edges), reliability(p[TIMES], TRUTH.select(TIMES), edges)
        for name in ("mean", "frequency"):
            same([row[name] for row in ours], [row[name] for row in theirs])
        thresholds = torch.tensor([-1.0, 0.0, 0.75])
        ours, theirs = (
            decision_curve(s, t, thresholds) for s, t in ((SCORES, WEIGHTED), (SCORES[TIMES], TRUTH.select(TIMES)))
        )
        same(ours["micro_f1"], theirs["micro_f1"])
        same(ours["macro_f1"], theirs["macro_f1"])

    def test_one_label(self):
        weighted, repeated, p = counted(CLASSES, WEIGHTS, None), CLASSES.select(TIMES), SCORES.softmax(1)
        same(class_scores(BEST, weighted), class_scores(BEST.select(TIMES), repeated))
        same(log_loss(p, weighted), log_loss(p[TIMES], repeated))
        same(class_calibration_error(p, weighted), class_calibration_error(p[TIMES], repeated))

    def test_resamples(self):
        """A document counts as its own weight times that of the resample."""
        resample = torch.poisson(torch.ones(3, N), generator=torch.Generator().manual_seed(0))
        both = resample * WEIGHTS.float()
        for name, values in resampled_ap(SCORES, WEIGHTED, COUNTS, resample).items():
            same(values.tolist(), resampled_ap(SCORES, TRUTH, COUNTS, both)[name].tolist())
        for name, values in resampled_f1(DECIDED, WEIGHTED, COUNTS, resample).items():
            same(values.tolist(), resampled_f1(DECIDED, TRUTH, COUNTS, both)[name].tolist())


class TestScikitLearn:
    def test_weights(self):
        y, decided, w = TRUE.int().numpy(), DECIDED.to_dense().int().numpy(), WEIGHTS.numpy()
        expected = [
            average_precision_score(y[:, label], SCORES[:, label].numpy(), sample_weight=w) for label in range(L)
        ]
        assert average_precision(SCORES, WEIGHTED).tolist() == pytest.approx(expected)
        micro = average_precision_score(y, SCORES.numpy(), average="micro", sample_weight=w)
        assert micro_average_precision(SCORES, WEIGHTED) == pytest.approx(micro)
        ours = decision_scores(DECIDED, WEIGHTED, COUNTS)
        for average, name in (("micro", "micro_f1"), ("macro", "macro_f1"), ("samples", "document_f1")):
            value = f1_score(y, decided, average=average, sample_weight=w, zero_division=0)
            assert ours[name] == pytest.approx(value)

    def test_weights_of_classes(self):
        y, decided, w = CLASSES.indices.numpy(), BEST.indices.numpy(), WEIGHTS.numpy()
        ours = class_scores(BEST, counted(CLASSES, WEIGHTS, None))
        assert ours["accuracy"] == pytest.approx(accuracy_score(y, decided, sample_weight=w))
        assert ours["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y, decided, sample_weight=w))
        p = SCORES.double().softmax(1)
        expected = log_loss_of_scikit_learn(y, p.numpy(), sample_weight=w, labels=range(L))
        assert log_loss(p, counted(CLASSES, WEIGHTS, None)) == pytest.approx(expected)

    def test_unknown_pairs_are_left_out_of_each_label(self):
        known = ~UNKNOWN
        columns = [(TRUE[known[:, label], label].int(), SCORES[known[:, label], label]) for label in range(L)]
        expected = [average_precision_score(y.numpy(), s.numpy()) for y, s in columns]
        assert average_precision(SCORES, MASKED).tolist() == pytest.approx(expected)
        micro = average_precision_score(TRUE[known].int().numpy(), SCORES[known].numpy())
        assert micro_average_precision(SCORES, MASKED) == pytest.approx(micro)
        f1 = [f1_score(y.numpy(), (s > 0.5).int().numpy(), zero_division=0) for y, s in columns]
        assert label_table(SCORES, DECIDED, MASKED, COUNTS)["f1"].tolist() == pytest.approx(f1)
        micro = f1_score(TRUE[known].int().numpy(), (SCORES[known] > 0.5).int().numpy())
        assert decision_scores(DECIDED, MASKED, COUNTS)["micro_f1"] == pytest.approx(micro)

    def test_both(self):
        truth, known = counted(TRUTH, WEIGHTS, SparseLabels.from_dense(UNKNOWN)), ~UNKNOWN
        rows = [known[:, label] for label in range(L)]
        expected = [
            average_precision_score(
                TRUE[row, label].int().numpy(), SCORES[row, label].numpy(), sample_weight=WEIGHTS[row].numpy()
            )
            for label, row in enumerate(rows)
        ]
        assert average_precision(SCORES, truth).tolist() == pytest.approx(expected)


class TestUnknown:
    def test_labels_are_taken_out_of_the_ranking(self):
        scores = torch.tensor([[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0]])
        truth = SparseLabels.from_lists([[1], [2]], num_labels=4)
        masked = counted(truth, None, SparseLabels.from_lists([[0], [0, 1, 3]], num_labels=4))
        assert precision_at_k(scores, truth, 1).tolist() == [0, 0]
        assert precision_at_k(scores, masked, 1).tolist() == [1, 1]
        assert precision_at_k(scores, masked, 2).tolist() == [1 / 2, 1 / 2]  # the only known label, and a miss

    def test_their_scores_and_decisions_do_not_matter(self):
        other = SCORES.masked_scatter(UNKNOWN, torch.randn(N * L, generator=GENERATOR) * 9)
        decided = SparseLabels.from_dense((SCORES > 0.5) ^ UNKNOWN)
        same(ranking_scores(SCORES, MASKED, COUNTS, 400), ranking_scores(other, MASKED, COUNTS, 400))
        values, others = (decision_scores(each, MASKED, COUNTS) for each in (DECIDED, decided))
        assert values.pop("labels_per_document") != others.pop("labels_per_document")
        same(values, others)
        resample = torch.ones(1, N)
        for name, value in resampled_f1(decided, MASKED, COUNTS, resample).items():
            same(value.item(), values[name])
        thresholds = torch.tensor([0.5])
        curves = [decision_curve(each, MASKED, thresholds) for each in (SCORES, other)]
        assert curves[0] == curves[1]
        assert calibration_error(other.sigmoid(), MASKED) == pytest.approx(calibration_error(SCORES.sigmoid(), MASKED))
