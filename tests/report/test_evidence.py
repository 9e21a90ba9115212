import json

import numpy as np
import polars as pl
import pytest
import torch

from hyperfocal.classify import evidence as evidence_labels
from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.classify.evidence import confusions
from hyperfocal.classify.prepare import Labelled
from hyperfocal.data.documents import Documents
from hyperfocal.data.examples import Holdout
from hyperfocal.data.vocabulary import Vocabulary
from hyperfocal.labels import SparseLabels
from hyperfocal.recommend import evidence
from hyperfocal.recommend.evidence import item_evidence
from hyperfocal.recommend.ranker import rank
from hyperfocal.recommend.recommender import Recommender
from hyperfocal.report.run import cut
from hyperfocal.sequences import Sequences
from text_cases import FAST, corpus

NAMES = ["a", "b", "c"]


def labels(*rows):
    return SparseLabels.from_lists(rows, num_labels=3)


def documents(*rows):
    """Return documents t0, t1, ... with these labels."""
    texts = Documents.from_lists([f"t{n}" for n in range(len(rows))], [[NAMES[i] for i in row] for row in rows])
    return Labelled(texts, labels(*rows), {})


MISSED, WRONG = {"label": "a", "both": False}, {"label": "b", "both": False}


def test_what_was_mistaken_is_listed_first_however_many_labels_there_are(monkeypatch):
    monkeypatch.setattr(evidence_labels, "LISTED", 1)
    [row] = confusions(labels([0, 2]), documents([0, 1]), NAMES)["confusions"]
    (example,) = row["examples"]
    assert example["true"] == [{"label": "b", "both": False}]
    assert example["decided"] == [{"label": "c", "both": False}]


def test_a_confusion_is_a_missed_and_a_wrong_label_in_one_document():
    valid = documents([0], [0], [0, 2], [1], [0])
    kept = confusions(labels([1], [1], [1, 2], [1], []), valid, NAMES)
    found = kept["confusions"]
    assert kept["confused_documents"] == 5
    assert [(row["true"], row["decided"], row["documents"], row["true_documents"]) for row in found] == [
        ("a", "b", 3, 4)
    ]
    assert found[0]["examples"] == [
        {"id": "0", "text": "t0", "true": [MISSED], "decided": [WRONG]},
        {"id": "1", "text": "t1", "true": [MISSED], "decided": [WRONG]},
    ]


def test_the_worst_confusion_is_the_first_and_only_some_are_kept(monkeypatch):
    monkeypatch.setattr(evidence_labels, "PAIRS", 1)
    found = confusions(labels([1], [2], [2]), documents([0], [0], [1]), NAMES)["confusions"]
    assert len(found) == 1
    found = confusions(labels([1], [2], [2]), documents([0], [1], [1]), NAMES)["confusions"]
    assert [(row["true"], row["decided"], row["documents"]) for row in found] == [("b", "c", 2)]


def test_with_too_many_errors_the_first_documents_count(monkeypatch):
    monkeypatch.setattr(evidence_labels, "MOST_PRODUCTS", 1)
    found = confusions(labels([1], [1], [1]), documents([0], [0], [0]), NAMES)
    [row] = found["confusions"]
    assert (row["documents"], row["true_documents"], found["confused_documents"]) == (1, 1, 1)


def test_right_decisions_are_no_confusions():
    found = confusions(labels([0], [1]), documents([0], [1]), NAMES)
    assert found == {"confusions": [], "confused_documents": 2}


def holdout(histories, truth, num_items):
    offsets = torch.tensor([0, *np.cumsum([len(row) for row in histories])])
    items = torch.tensor([item for row in histories for item in row])
    users = pl.Series([f"u{n}" for n in range(len(histories))])
    return Holdout(
        users, Sequences(items, offsets, num_items), SparseLabels.from_lists(truth, num_labels=num_items + 1)
    )


def best_first(block):
    """Score item 0 best, then 1, ..."""
    return -torch.arange(block.num_items, dtype=torch.float32).repeat(len(block), 1)


def test_items_are_counted_over_users():
    vocabulary = Vocabulary(pl.Series("item", [f"i{n}" for n in range(5)]))
    counts = torch.tensor([9, 4, 3, 1, 0])
    valid = holdout([[4], [0, 4], [1]], [[0, 2], [1, 5], [0]], 5)  # item 5 was never seen
    found = item_evidence(rank(best_first, valid.histories, 2), valid, counts, vocabulary, k=2)
    table = {row["item"]: (row["events"], row["true"], row["hits"], row["shown"]) for row in found["table"]}
    assert table == {"i0": (9, 2, 2, 2), "i1": (4, 1, 1, 2), "i2": (3, 1, 0, 2), "i3": (1, 0, 0, 0), "i4": (0, 0, 0, 0)}
    assert found["by_frequency"] == [
        {"from": 0, "to": 0, "items": 1, "true": 0, "hits": 0, "shown": 0},
        {"from": 1, "to": 1, "items": 1, "true": 0, "hits": 0, "shown": 0},
        {"from": 2, "to": 3, "items": 1, "true": 1, "hits": 0, "shown": 2},
        {"from": 4, "to": 7, "items": 1, "true": 1, "hits": 1, "shown": 2},
        {"from": 8, "to": 15, "items": 1, "true": 2, "hits": 2, "shown": 2},
    ]
    by_user = {row["user"]: row for row in found["examples"]}
    assert by_user["u1"] == {
        "user": "u1",
        "history": ["i0", "i4"],
        "earlier": 0,
        "truth": ["i1", None],
        "predicted": [{"item": "i1", "hit": True}, {"item": "i2", "hit": False}],
    }


def test_examples_are_with_a_hit_and_without(monkeypatch):
    monkeypatch.setattr(evidence, "EXAMPLES", 1)
    vocabulary = Vocabulary(pl.Series("item", ["x", "y", "z"]))
    valid = holdout([[2], [2], [2], [2]], [[0], [1], [0], [1]], 3)
    found = item_evidence(rank(best_first, valid.histories, 1), valid, torch.tensor([3, 2, 1]), vocabulary, k=1)[
        "examples"
    ]
    assert [row["predicted"][0]["hit"] for row in found] == [True, False]


def test_long_histories_and_names_are_cut():
    vocabulary = Vocabulary(pl.Series("item", ["x" * 500, *(f"i{n}" for n in range(30))]))
    valid = holdout([[*range(1, 31), 0]], [[0]], 31)
    [example] = item_evidence(
        rank(best_first, valid.histories, 1), valid, torch.ones(31, dtype=torch.int64), vocabulary, k=1
    )["examples"]
    assert (len(example["history"]), example["earlier"]) == (12, 19)
    assert example["history"][-1] == cut("x" * 500)
    assert len(cut("x" * 500)) == 80


@pytest.mark.parametrize("folds", [0, 2])
def test_a_classifier_keeps_evidence_in_its_run_only(tmp_path, folds):
    texts, rows = corpus()
    settings = FAST | {"train.folds": folds}
    MultiLabelClassifier(settings=settings).fit(texts, rows, out=tmp_path / "run")
    found = json.loads((tmp_path / "run" / "evidence.json").read_text())
    assert (found["format"], found["job"], found["labels"]) == (1, "classify", 6)
    assert found["seconds"] > 0
    assert found["peak_bytes"] > 2**20
    curve = found["thresholds"]
    assert len(curve["threshold"]) == len(curve["micro_f1"]) == len(curve["macro_f1"]) == 104
    assert sum(row["pairs"] for row in found["reliability"]) == found["documents"] * 6
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert curve["macro_f1"][curve["threshold"].index(0.5)] == pytest.approx(metrics["values"]["half.macro_f1"])


def test_evidence_has_the_recall_of_the_metrics(tmp_path):
    rows = [(f"u{u}", f"i{(u * 5 + s + (u * s) % 3) % 12}") for u in range(40) for s in range(6 + u % 4)]
    log = pl.DataFrame(rows, schema=["user", "item"], orient="row")
    recommender = Recommender(model="markov", history=4, next_items=1).fit(log, out=tmp_path / "run")
    found = json.loads((tmp_path / "run" / "evidence.json").read_text())
    hits, true = (sum(row[name] for row in found["table"]) for name in ("hits", "true"))
    assert true == recommender.metrics_["data"]["valid"]["true_items"]
    assert hits / found["users"] == pytest.approx(recommender.metrics_["scores"]["markov"]["hit@1"]["mean"])
