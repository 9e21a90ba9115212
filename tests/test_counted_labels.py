"""Labels with weights and unknown pairs, and the decisions that are tuned on them."""

import pytest
import torch

from hyperfocal.config.classify import DecisionSettings
from hyperfocal.counted_labels import (
    annotated_counts,
    counted,
    followed,
    known_pairs,
    known_scores,
    unknown_of,
    weighted_counts,
    weights_of,
)
from hyperfocal.labels import SparseLabels
from hyperfocal.offsets import fit_temperature, tune_offsets
from hyperfocal.thresholds import tune_decisions

LABELS = SparseLabels.from_lists([[0], [0, 1], [2]], num_labels=3)
UNKNOWN = SparseLabels.from_lists([[1, 2], [], [0]], num_labels=3)
WEIGHTS = torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64)
BOTH = counted(LABELS, WEIGHTS, UNKNOWN)
N, L = 200, 5
GENERATOR = torch.Generator().manual_seed(0)
SCORES = torch.randn(N, L, generator=GENERATOR)
TRUE = torch.rand(N, L, generator=GENERATOR) < (SCORES - 1).sigmoid()
TIMES = 1 + 3 * TRUE.sum(1)
ROWS = torch.arange(N).repeat_interleave(TIMES)
COUNTS = torch.tensor([300, 100, 60, 30, 20])


class TestCountedLabels:
    def test_nothing_to_count(self):
        assert counted(LABELS, None, None) is LABELS
        assert weights_of(LABELS) is unknown_of(LABELS) is None

    def test_sums(self):
        assert weighted_counts(BOTH).tolist() == [2 + 1, 1, 0.5]
        assert annotated_counts(BOTH).tolist() == [2 + 1, 1 + 0.5, 1 + 0.5]
        assert annotated_counts(LABELS).tolist() == [3, 3, 3]

    def test_a_label_that_almost_nobody_annotated(self):
        """The sum of 2 small weights is what is left of 200,000 documents."""
        number = 200_000
        weights = torch.full((number,), 1.03, dtype=torch.float64)
        weights[:2] = torch.tensor([0.001, 0.002])
        unknown = SparseLabels.from_lists([[]] * 2 + [[0]] * (number - 2), num_labels=1)
        labels = counted(SparseLabels.from_lists([[0], []] + [[]] * (number - 2), num_labels=1), weights, unknown)
        assert annotated_counts(labels).item() == pytest.approx(0.003, rel=1e-4)

    def test_rows(self):
        rows = BOTH.select(torch.tensor([2, 0]))
        assert weights_of(rows).tolist() == [0.5, 2]
        assert unknown_of(rows).to_dense().tolist() == [[1, 0, 0], [0, 1, 1]]
        assert rows.to_dense().tolist() == [[0, 0, 1], [1, 0, 0]]

    @pytest.mark.parametrize("first", [LABELS, BOTH])
    @pytest.mark.parametrize("second", [LABELS, BOTH])
    def test_one_after_the_other(self, first, second):
        whole = followed(first, second)
        if first is second is LABELS:
            assert type(whole) is SparseLabels
            return
        expected = [
            *(WEIGHTS.tolist() if first is BOTH else [1] * 3),
            *(WEIGHTS.tolist() if second is BOTH else [1] * 3),
        ]
        assert weights_of(whole).tolist() == expected
        number = UNKNOWN.num_positives * ((first is BOTH) + (second is BOTH))
        assert unknown_of(whole).num_positives == number

    def test_a_true_pair_is_known(self):
        """As a parent in the tree that a label adds."""
        truth = counted(LABELS, None, SparseLabels.from_lists([[0, 1], [], []], num_labels=3))
        assert unknown_of(truth).to_dense()[0].tolist() == [0, 1, 0]

    def test_known_only(self):
        everything = SparseLabels.from_dense(torch.ones(3, 3))
        assert known_pairs(everything, BOTH).to_dense().tolist() == [[1, 0, 0], [1, 1, 1], [0, 1, 1]]
        scores = torch.ones(3, 3)
        assert (known_scores(scores, BOTH) == -torch.inf).nonzero().tolist() == [[0, 1], [0, 2], [2, 0]]
        assert scores.min() == 1  # not edited in place


class TestDecisions:
    @pytest.mark.parametrize("objective", ["micro", "macro", "both", "f_beta"])
    def test_one_threshold_is_that_of_repeated_documents(self, objective):
        settings = DecisionSettings(rule="global", objective=objective)
        weighted = counted(SparseLabels.from_dense(TRUE), TIMES.double(), None)
        ours = tune_decisions(SCORES, weighted, COUNTS, settings)
        theirs = tune_decisions(SCORES[ROWS], SparseLabels.from_dense(TRUE[ROWS]), COUNTS, settings)
        assert torch.equal(ours.thresholds, theirs.thresholds)
        plain = tune_decisions(SCORES, SparseLabels.from_dense(TRUE), COUNTS, settings)
        assert not torch.equal(ours.thresholds, plain.thresholds)

    @pytest.mark.parametrize("rule", ["global", "per_label"])
    def test_equal_weights_change_nothing(self, rule):
        settings, truth = DecisionSettings(rule=rule), SparseLabels.from_dense(TRUE)
        ones = counted(truth, torch.ones(N, dtype=torch.float64), None)
        ours, plain = (tune_decisions(SCORES, each, COUNTS, settings).thresholds for each in (ones, truth))
        assert ours.tolist() == pytest.approx(plain.tolist(), abs=1e-6)

    def test_a_light_document_does_not_move_the_thresholds(self):
        """Documents of weight 1e-6 that contradict all others."""
        contrary = torch.cat([SCORES, -SCORES]), SparseLabels.from_dense(torch.cat([TRUE, TRUE]))
        weights = torch.cat([torch.ones(N), torch.full((N,), 1e-6)]).double()
        settings = DecisionSettings(rule="per_label", shrinkage=0)
        ours = tune_decisions(contrary[0], counted(contrary[1], weights, None), COUNTS, settings)
        plain = tune_decisions(SCORES, SparseLabels.from_dense(TRUE), COUNTS, settings)
        decided, expected = ours.decide(SCORES).to_dense(), plain.decide(SCORES).to_dense()
        assert (decided == expected).float().mean() > 0.97

    @pytest.mark.parametrize("rule", ["global", "per_label"])
    def test_unknown_pairs_do_not_count(self, rule):
        """Half of the pairs of each label are unknown, and would decide otherwise."""
        unknown = torch.zeros(2 * N, L, dtype=torch.bool)
        unknown[N:] = True
        truth = counted(
            SparseLabels.from_dense(torch.cat([TRUE, torch.zeros_like(TRUE)])), None, SparseLabels.from_dense(unknown)
        )
        scores, settings = torch.cat([SCORES, SCORES + 3]), DecisionSettings(rule=rule, shrinkage=0)
        ours = tune_decisions(scores, truth, COUNTS, settings).decide(SCORES).to_dense()
        plain = tune_decisions(SCORES, SparseLabels.from_dense(TRUE), COUNTS, settings).decide(SCORES).to_dense()
        wrong = tune_decisions(
            scores, SparseLabels.from_csr(truth.indptr, truth.indices, num_labels=L), COUNTS, settings
        )
        same, other = (ours == plain).float().mean(), (wrong.decide(SCORES).to_dense() == plain).float().mean()
        assert same > 0.97
        assert same > other

    @pytest.mark.parametrize("objective", ["micro", "macro", "both", "recall"])
    def test_offsets_and_temperature_are_those_of_repeated_documents(self, objective):
        classes = SparseLabels.from_lists([[int(row)] for row in TRUE.int().argmax(1)], num_labels=L)
        weighted, repeated = counted(classes, TIMES.double(), None), classes.select(ROWS)
        temperature = fit_temperature(SCORES, weighted)
        assert temperature == pytest.approx(fit_temperature(SCORES[ROWS], repeated), rel=1e-6)
        settings = DecisionSettings(rule="balanced", objective=objective)
        ours = tune_offsets(SCORES, weighted, COUNTS, settings, temperature)
        theirs = tune_offsets(SCORES[ROWS], repeated, COUNTS, settings, temperature)
        assert ours.tolist() == pytest.approx(theirs.tolist(), abs=1e-5)
