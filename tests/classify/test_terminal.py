import io
import math

import pytest
from rich.cells import cell_len
from rich.console import Console
from torch import tensor

from hyperfocal.classify import terminal as label_tables
from hyperfocal.classify.terminal import data_lines, holdout_lines, labels_table, opinions_report, scores_report
from hyperfocal.labels import SparseLabels
from hyperfocal.metrics.decisions import decision_scores
from hyperfocal.metrics.label_ranking import ranking_scores
from hyperfocal.report.format import share

RATES = ("f1", "precision", "recall")
DOCUMENTS = {"documents": 20, "empty_texts": 0, "without_labels": 0, "duplicate_texts": 0, "positives": 48}
QUIET = {**DOCUMENTS, "unseen_labels": {}}


def metrics(**changes: float | None) -> dict:
    values = dict.fromkeys(["macro_ap", "head_ap", "medium_ap", "tail_ap", "micro_ap", "ndcg@5"], 0.5)
    values |= {f"{name}@{k}": 0.4 for name in ("precision", "psp") for k in (1, 3, 5)} | {"calibration_error": 0.0123}
    for prefix in ("half", "tuned"):
        values |= {f"{prefix}.{mean}_{rate}": 0.25 for mean in ("micro", "macro", "document") for rate in RATES}
        values |= {f"{prefix}.{bucket}_f1": 0.125 for bucket in ("head", "medium", "tail")}
        values |= {f"{prefix}.labels_per_document": 2.5, f"{prefix}.labels_without_truth": 3.0}
    values |= {name.replace("__", "."): value for name, value in changes.items()}
    intervals = {"macro_ap": {"mean": 0.5, "low": 0.46, "high": 0.52}}
    return {"documents": 1234, "values": values, "intervals": intervals, "data": QUIET}


def rendered(thing: object, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(thing)
    return console.file.getvalue().splitlines()


def row(label: object, train: int, true: int, f1: float) -> dict:
    scores = {"precision": 0.5, "recall": 0.5, "f1": f1, "average_precision": 0.5}
    return {"label": label, "train_documents": train, "true_documents": true, "decided_documents": true, **scores}


def test_a_row_has_score_interval_and_frequency_beside_it():
    lines = rendered(scores_report(metrics(macro_ap=0.4873, tail_ap=math.nan), title="Validation"))
    assert lines[0] == "Validation, 1,234 documents"
    line = next(line for line in lines if "macro AP" in line)
    assert line.split() == ["ranking", "macro", "AP", ".487", "±.030", ".500", ".500", "-"]  # (.52 - .46) / 2


def test_decisions_at_half_and_tuned_ones_each_have_their_rows():
    lines = [line.split() for line in rendered(scores_report(metrics(tuned__macro_f1=0.375), title="Test"))]
    assert ["macro", "F1", ".250", ".250", ".250", ".125", ".125", ".125"] in lines
    assert ["macro", "F1", ".375", ".250", ".250", ".125", ".125", ".125"] in lines
    assert lines.count(["labels/document", "2.50"]) == 2


def test_the_report_reads_every_metric_under_the_name_that_scoring_gives_it():
    truth = SparseLabels.from_lists([[0], [1], [0, 1]], num_labels=2)
    counts = tensor([3, 300])
    values = ranking_scores(tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), truth, counts, 400)
    for prefix in ("half", "tuned"):
        values |= {f"{prefix}.{name}": value for name, value in decision_scores(truth, truth, counts).items()}
    found = {"documents": 3, "values": values, "intervals": {}}
    assert "1.000" in "".join(rendered(scores_report(found, title="Test")))


def test_null_of_json_is_shown_as_nan_is():
    plain, kept = metrics(head_ap=math.nan), metrics(head_ap=None)
    plain["intervals"]["macro_ap"] = {"mean": 0.5, "low": math.nan, "high": math.nan}
    kept["intervals"]["macro_ap"] = {"mean": 0.5, "low": None, "high": None}
    assert rendered(scores_report(plain, title="Test")) == rendered(scores_report(kept, title="Test"))


def test_tiers_are_shown_where_the_labels_have_a_tree():
    tiers = {"1": {"labels": 29, "micro_f1": 0.5, "macro_f1": math.nan}}
    lines = [line.split() for line in rendered(scores_report(metrics() | {"tiers": tiers}, title="Test"))]
    assert ["1", "29", ".500", "-"] in lines
    assert not any("tier" in line for line in rendered(scores_report(metrics(), title="Test")))


def test_the_worst_labels_are_those_with_enough_documents():
    rows = [row(f"frequent{n}", 900 - n, 100, 0.9) for n in range(5)]
    rows += [row("bad", 80, 10, 0.1), row("worse", 70, 12, 0.0), row("too rare", 60, 9, 0.0)]
    text = rendered(labels_table(rows))
    assert [line.split()[0] for line in text[2:7]] == [f"frequent{n}" for n in range(5)]
    assert [line.split()[0] for line in text[8:]] == ["worse", "bad"]


@pytest.mark.parametrize("label", ["x" * 60, "猫" * 40, "[bold]not markup[/x]", "two\nlines", 174])
def test_any_label_fits_into_80_columns(label):
    lines = rendered(labels_table([row(label, 1_234_567, 123_456, 1.0)]))
    assert len(lines) == 3
    assert max(map(cell_len, lines)) <= 80
    assert lines[2].split()[-7:] == ["1,234,567", "123,456", "123,456", ".500", ".500", "1.000", ".500"]


def test_the_report_fits_into_80_columns():
    wide = metrics() | {"tiers": {str(n): {"labels": 700_000, "micro_f1": 1.0, "macro_f1": 1.0} for n in range(9)}}
    wide["values"] = dict.fromkeys(wide["values"], 1.0)
    wide["intervals"] = {name: {"mean": 1.0, "low": 0.0, "high": 1.0} for name in wide["values"]}
    lines = rendered(scores_report(wide, title="Test"))
    assert max(map(cell_len, lines)) <= 80
    assert not any("…" in line for line in lines)
    assert ["macro", "F1", "1.000", "±.500", *["1.000"] * 5] in [line.split() for line in lines]


def test_out_of_fold_there_is_no_part_held_out():
    counts = {"labels": 2, "labels_in_every_document": [], "train": QUIET, "valid": QUIET, "out_of_fold": True}
    assert data_lines(counts) == ["20 training documents, 2 labels, 2.4 per document; each scored out of fold."]


def test_data_without_oddities_is_one_line():
    counts = {
        "labels": 698,
        "out_of_fold": False,
        "labels_in_every_document": [],
        "train": QUIET,
        "valid": {**QUIET, "documents": 1},
    }
    assert data_lines(counts) == [
        "20 training documents, 698 labels, 2.4 per document; 1 validation document."
    ]  # 48 / 20


def test_each_oddity_is_one_line():
    counts = DOCUMENTS | {"empty_texts": 1, "without_labels": 2, "duplicate_texts": 3}
    assert holdout_lines(counts | {"unseen_labels": {f"l{n}": 2 for n in range(7)}}, "test") == [
        "1 of 20 test documents without text; kept.",
        "2 of 20 test documents without a label; kept as negatives of every label.",
        "3 of 20 test documents with the text of an earlier one; kept. A group column (`group=`) can keep them "
        "together in a split.",
        "7 labels that training never saw, on test documents 14 times; excluded from macro and all other scores: "
        "l0, l1, l2, l3, l4 and 2 more.",
    ]


def test_a_label_of_every_document_is_named():
    counts = {"labels": 2, "out_of_fold": False, "labels_in_every_document": ["all"], "train": QUIET, "valid": QUIET}
    assert data_lines(counts)[1] == "Every training document has all: there is nothing to distinguish."


def test_winner_and_baseline_stand_side_by_side_on_test():
    scores = {"of": {"winner": "cap_7.0_focal_g3", "baseline": "no_cap_no_focal"}}
    scores |= {"winner": metrics(tuned__macro_f1=0.4973), "baseline": metrics(tuned__macro_f1=0.41)}
    lines = [line.split() for line in rendered(label_tables.test_report(scores))]
    assert ["cap_7.0_focal_g3", "no_cap_no_focal"] in lines
    assert ["macro-F1,", "tuned", ".497", ".410"] in lines
    assert ["macro", "average", "precision", ".500", "±.030", ".500", "±.030"] in lines


def test_a_baseline_that_wins_stands_alone_on_test():
    scores = {"of": {"winner": "a", "baseline": "a"}, "winner": metrics(), "baseline": metrics()}
    assert not any("baseline" in line for line in rendered(label_tables.test_report(scores)))


@pytest.mark.parametrize(
    ("value", "text"), [(0.0738, ".074"), (1.0, "1.000"), (0.0, ".000"), (None, "-"), (math.nan, "-")]
)
def test_a_share_has_three_digits(value, text):
    assert share(value) == text


def opinions(*, accepted: bool = True, limit: int | None = 200) -> dict:
    names = ["head", "head + name in text", "head + name in first line", "head + similarity", "head + all opinions"]
    rows = [{"scores": name, "macro_ap": 0.5, "micro_ap": 0.4, "ndcg@5": 1.0, "precision@1": None} for name in names]
    weights = {"text": 2.345, "first_line": -0.5, "similarity": 1_000.0} if accepted else {}
    return {"accepted": accepted, "weights": weights, "limit": limit, "rows": rows}


def test_what_label_texts_add_is_a_small_table():
    lines = rendered(opinions_report(opinions()))
    assert lines[0] == "What the label texts add"
    assert lines[1].split() == ["macro", "AP", "micro", "AP", "P@1", "nDCG@5"]
    assert lines[6].split() == ["head", "+", "all", "opinions", ".500", ".400", "-", "1.000"]
    said = " ".join(line.strip() for line in lines[7:])
    assert "opinions: name in text 2.35, name in first line -0.50, similarity 1000.00." in said
    assert said.endswith("Labels with 200 training documents or more have the score of the head alone.")
    assert "training documents" not in " ".join(rendered(opinions_report(opinions(limit=None))))
    assert max(map(cell_len, lines)) <= 80


def test_refused_label_texts_are_one_sentence_and_missing_ones_none():
    text = " ".join(line.strip() for line in rendered(opinions_report(opinions(accepted=False))))
    assert text.startswith(
        "Label texts do not count: with them, the scores of validation documents are not better by .002 "
    )
    assert "AP" not in text
    assert opinions_report({"accepted": False, "weights": {}, "limit": None, "rows": []}) is None
    assert opinions_report({}) is None  # of a run of an earlier version
