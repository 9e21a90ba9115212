from hyperfocal.classify.grid_layout import LABEL_LAYOUT, scores_on_test, threshold_remark
from hyperfocal.metrics.differences import Difference
from hyperfocal.metrics.verdict import Verdict
from hyperfocal.report.grid_table import Row


def compared(name, **percents):
    """Return a point that differs from the baseline's 0.5 by these percentages, from 3% on beyond chance."""
    differences = {
        metric.replace("__", "."): Difference(
            0.5, 0.5, value / 200, 0, 0, p=0.5, adjusted=0.5 if abs(value) < 3 else 0.01, seeds=1
        )
        for metric, value in percents.items()
    }
    return Row(name, False, False, 1, {}, {}, {}, 1.0, Verdict("words", "sentence", differences))


def test_the_remark_says_what_tuned_thresholds_leave_of_the_largest_gain():
    rows = [
        compared("a", half__macro_f1=20, tuned__macro_f1=5, macro_ap=1),
        compared("b", half__macro_f1=60, tuned__macro_f1=-10, macro_ap=1),
        compared("c", half__macro_f1=2, tuned__macro_f1=1, macro_ap=1),
    ]
    assert threshold_remark(rows) == [
        "With the threshold 0.5, macro-F1 of b is 60% higher than the baseline's; with tuned thresholds it is 10.0% "
        "lower, and its average precision is not shown to differ (+1.0%)."
    ]
    assert threshold_remark(rows[2:]) == []


def test_scores_have_an_interval_if_the_evaluation_has_one():
    values = dict.fromkeys(("half.macro_f1", "tuned.macro_f1", "tuned.micro_f1", "macro_ap"), 0.5)
    values |= dict.fromkeys(("head_ap", "medium_ap", "tail_ap", "precision@1", "ndcg@5"), 0.25)
    interval = {"mean": 0.5, "low": 0.4, "high": 0.6}
    scores = scores_on_test({"values": values, "intervals": {"macro_ap": interval}})
    assert scores["macro average precision"] == interval
    assert scores["head"] == {"mean": 0.25}


def test_the_change_in_the_table_is_of_its_first_metric():
    assert LABEL_LAYOUT.changed == "half.macro_f1"
