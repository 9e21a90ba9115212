from types import SimpleNamespace

import pytest

from hyperfocal.classify.grid_layout import LABEL_LAYOUT
from hyperfocal.metrics.differences import Difference
from hyperfocal.metrics.verdict import BASELINE, NOTHING, Verdict
from hyperfocal.report.blocks import Bullets, Folded
from hyperfocal.report.grid_table import GridTable, Row
from hyperfocal.report.grid_verdict import lead, verdict_section, verdict_sentence

FEW = "too few documents (7) to compare"


def row(name, words="", *, winner=False, baseline=False, gain=0.05, repeated=True):
    ends = gain - 0.01, gain + 0.01
    difference = Difference(0.5 + gain, 0.5, gain, *ends, p=0.01, adjusted=0.01, seeds=1, repeated=repeated)
    verdict = Verdict(words, f"{name}: {words}.", {"tuned.macro_f1": difference}, "tuned.macro_f1") if words else None
    return Row(name, winner, baseline, 1, {}, {}, {}, 1.0, verdict)


def grid(*, points=4, missing=0):
    state = {"results": dict.fromkeys(range(points)), "missing": [("x", 0)] * missing, "unproposed": 0}
    return SimpleNamespace(**state, by="tuned.macro_f1", baseline="b", about={"documents": 900, "groups": "none"})


@pytest.mark.parametrize(
    ("winner", "expected"),
    [
        (row("a", "ranking better", winner=True), "a is the best of 4 points: ranking better."),
        (row("a", "higher", winner=True, repeated=False), "a leads among 4 points: higher."),
        (row("a", NOTHING, winner=True), "a leads, but this data shows no difference from the baseline."),
        (row("a", FEW, winner=True), f"a leads among 4 points: {FEW}."),
        (row("b", BASELINE, winner=True, baseline=True), "The baseline, b, is the best of 4 points."),
        (row("a", winner=True), "a is the best of 4 points."),
        (row("a"), "No point of this grid has a result yet."),
    ],
)
def test_the_headline_says_which_point_is_best_and_whether_it_differs(winner, expected):
    assert verdict_sentence(grid(), [winner]) == expected


def test_the_headline_of_an_unfinished_grid_begins_with_so_far():
    rows = [row("b", BASELINE, winner=True, baseline=True)]
    assert verdict_sentence(grid(missing=1), rows) == "So far, the baseline, b, is the best of 4 points."


def test_the_headline_of_a_single_point():
    assert verdict_sentence(grid(points=1), [row("a", winner=True)]) == "a is the best of 1 point."


def test_the_lead_is_the_question_and_the_gain_in_the_metric_that_chose_the_winner():
    table = GridTable([row("a", "better", winner=True)], "tuned.macro_f1", LABEL_LAYOUT)
    assert lead(grid(), table) == [
        "Question: which settings are best by macro-F1 with tuned thresholds, compared with b on the same validation "
        "documents, with 1 training per point? Data: 900 documents.",
        "Macro-F1 with tuned thresholds is 0.550, the baseline's 0.500: +10.0% (95% interval +8.0 to +12.0%).",
    ]


def test_on_too_few_documents_the_lead_gives_the_whole_verdict_in_place_of_a_gain():
    table = GridTable([row("a", FEW, winner=True)], "tuned.macro_f1", LABEL_LAYOUT)
    assert lead(grid(), table)[1] == f"a: {FEW}."


def test_verdicts_are_grouped_by_their_words():
    rows = [row("a", "better", winner=True), row("c", "better"), row("b", BASELINE, baseline=True), row("d")]
    groups, note, every = verdict_section(GridTable(rows, "tuned.macro_f1", LABEL_LAYOUT)).blocks
    assert groups == Bullets(["Better: a, c.", "The baseline: b."])
    assert note.text.startswith("The metric that decides is macro-F1 with tuned thresholds: it is tested at 5%")
    assert every == Folded(
        "Every verdict with its numbers", [Bullets(["a: better.", "c: better.", "b: the baseline."])]
    )
