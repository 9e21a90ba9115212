"""Validation decides whether opinions count: useful ones do, noise does not, and frequent labels can be left alone."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from hyperfocal.classify.acceptance import (
    LIMITS,
    POWERS,
    Form,
    Judged,
    choose_form,
    cross_scores,
    fit_form,
    table_of_opinions,
)
from hyperfocal.classify.head import VALIDATION
from hyperfocal.classify.opinions import Shares
from hyperfocal.classify.validation import draw_halves
from hyperfocal.labels import SparseLabels


def uniform(*shape, seed):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def shares(dense):
    return Shares(csr_matrix(dense.numpy()))


def judged(number=300, labels=20, *, seed=0, useful=0.0, harm=0.0):
    """Return logits that know a part of the truth, and an opinion about the rare half of the labels.

    Args:
        number, labels: N and L.
        seed: of everything.
        useful: how much the opinion knows of the truth of rare labels.
        harm: how much it errs on frequent ones.
    """
    counts = torch.cat([torch.full((labels // 2,), 500), torch.full((labels // 2,), 5)])
    rate = torch.where(counts > 50, 0.3, 0.05)
    truth = uniform(number, labels, seed=seed) < rate
    noise = (uniform(number, labels, seed=seed + 1) - 0.5) * 4
    logits = torch.where(counts > 50, 4.0, 1.0) * (truth.float() - rate) + noise
    spread = uniform(number, labels, seed=seed + 2) * (uniform(number, labels, seed=seed + 3) < 0.2)
    rare = (truth & (counts <= 50)) * useful
    frequent = (~truth & (counts > 50)) * harm
    opinion = shares((spread + rare + frequent).float())
    return Judged(logits, {"text": opinion}, SparseLabels.from_dense(truth), counts, "macro_ap", seed)


def divisions_of(number=300, seed=0):
    return draw_halves(number, None, seed=seed)


def halves_of(number=300, seed=0):
    return divisions_of(number, seed)[0]


class TestChoice:
    @pytest.mark.parametrize("seed", range(5))
    def test_useful_opinions_are_accepted(self, seed):
        case = judged(seed=10 * seed, useful=1.0)
        form = choose_form(case, divisions_of(seed=seed))
        assert form is not None
        scores = cross_scores(case, form, halves_of(seed=seed))
        assert case.worth(scores) > case.worth(case.logits) + 0.05

    def test_noise_is_refused(self):
        """What passes by chance must not cost anything on other documents."""
        accepted, gains = 0, []
        for seed in range(20):
            case = judged(600, seed=100 * seed)
            tuned = torch.arange(300)
            part = Judged(
                case.logits[tuned], {"text": case.opinions["text"].select(tuned)}, case.truth.select(tuned),
                case.counts, case.metric, case.seed,
            )  # fmt: skip
            form = choose_form(part, divisions_of(seed=seed))
            accepted += form is not None
            scores = case.combined(fit_form(part, form, tuned))
            fresh = torch.arange(300, 600)
            truth = case.truth.select(fresh)
            gains.append(sum(VALIDATION[name](scores[fresh], truth) - VALIDATION[name](case.logits[fresh], truth)
                             for name in ("macro_ap", "precision@1")))  # fmt: skip
        assert accepted <= 2
        assert np.mean(gains) > -0.002

    def test_nothing_is_chosen_without_opinions_or_without_truth(self):
        case = judged()
        assert choose_form(Judged(case.logits, {}, case.truth, case.counts, "macro_ap", 0), divisions_of()) is None
        none = SparseLabels.from_dense(torch.zeros(300, 20, dtype=torch.bool))
        assert choose_form(Judged(case.logits, case.opinions, none, case.counts, "macro_ap", 0), divisions_of()) is None

    def test_frequent_labels_that_it_hurts_keep_their_logits(self):
        case = judged(useful=1.0, harm=1.5)
        form = choose_form(case, divisions_of())
        assert form.limit in (200, 50)
        scores = cross_scores(case, form, halves_of())
        frequent = case.counts >= form.limit
        torch.testing.assert_close(scores[:, frequent], case.logits[:, frequent], atol=0, rtol=0)
        assert not torch.equal(scores[:, ~frequent], case.logits[:, ~frequent])

    def test_the_choice_is_the_best_of_all_forms(self):
        case, divisions = judged(useful=0.5, harm=0.5), divisions_of()
        forms = [None, *(Form(power, limit) for power in POWERS for limit in LIMITS)]
        worth = [case.worth(cross_scores(case, form, divisions[0])) for form in forms]
        best = max(range(len(forms)), key=worth.__getitem__)
        assert choose_form(case, divisions) == forms[best]

    def test_a_gain_in_one_division_alone_is_none(self):
        case = judged(useful=1.0)
        nothing = torch.zeros(300, dtype=torch.int64)  # the weights of all documents are fitted on none
        assert torch.equal(cross_scores(case, Form(0.5, None), nothing), case.logits)
        assert choose_form(case, [halves_of()]) is not None
        assert choose_form(case, [halves_of(), nothing]) is None


class TestCrossFitting:
    def test_no_truth_of_a_half_reaches_its_own_scores(self):
        case, halves, form = judged(useful=1.0), halves_of(), Form(0.5, None)
        dense = case.truth.to_dense(torch.bool)
        dense[halves == 0] = uniform(int((halves == 0).sum()), 20, seed=9) < 0.5
        other = Judged(case.logits, case.opinions, SparseLabels.from_dense(dense), case.counts, case.metric, case.seed)
        one, two = cross_scores(case, form, halves), cross_scores(other, form, halves)
        torch.testing.assert_close(one[halves == 0], two[halves == 0], atol=0, rtol=0)
        assert not torch.allclose(one[halves == 1], two[halves == 1])

    def test_each_half_gets_the_weights_of_the_other(self):
        case, halves, form = judged(useful=1.0), halves_of(), Form(1.0, 50)
        scores = cross_scores(case, form, halves)
        for half in (0, 1):
            combination = fit_form(case, form, (halves != half).nonzero()[:, 0])
            torch.testing.assert_close(scores[halves == half], case.combined(combination)[halves == half])

    def test_without_a_form_scores_are_the_logits(self):
        case = judged()
        assert torch.equal(cross_scores(case, None, halves_of()), case.logits)
        assert fit_form(case, None, torch.arange(300)).weights == {}


class TestTable:
    def test_a_row_for_each_step(self):
        case = judged(useful=1.0)
        two = Judged(
            case.logits, case.opinions | {"first_line": case.opinions["text"]}, case.truth, case.counts, "macro_ap", 0
        )
        form, halves = Form(0.5, None), halves_of()
        rows = table_of_opinions(two, form, halves)
        names = ["head", "head + name in text", "head + name in first line", "head + all opinions", "opinions alone"]
        assert [row["scores"] for row in rows] == names
        values = {row["scores"]: row for row in rows}
        for name, metric in VALIDATION.items():
            assert values["head"][name] == metric(case.logits, case.truth)
            assert values["head + name in text"][name] == metric(cross_scores(case, form, halves), case.truth)
            assert values["head + all opinions"][name] == metric(cross_scores(two, form, halves), case.truth)
        assert values["head + all opinions"]["macro_ap"] > values["head"]["macro_ap"] + 0.1
        assert values["opinions alone"]["precision@1"] < values["head"]["precision@1"]

    def test_refused_opinions_are_shown_too(self):
        rows = table_of_opinions(judged(), None, halves_of())
        assert [row["scores"] for row in rows] == [
            "head",
            "head + name in text",
            "head + all opinions",
            "opinions alone",
        ]
        assert table_of_opinions(Judged(torch.zeros(2, 1), {}, None, None, "macro_ap", 0), None, torch.arange(2)) == []
