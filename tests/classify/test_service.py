"""POST /v1/classify answers as `MultiLabelClassifier.predict` does, and says which words mattered."""

import json

import pytest

from hyperfocal.classify.classifier import MultiLabelClassifier
from serve_cases import DOCUMENTS, RIGHT_TO_LEFT, SCRIPT

TEXTS = list(DOCUMENTS)
ODD = [SCRIPT, RIGHT_TO_LEFT, "wine\x00\x07\n", "\u202ewine", "wine " * 5_000, "\U0001f377"]


@pytest.fixture(scope="module")
def classifier(classify_path):
    return MultiLabelClassifier.load(classify_path)


def asked(client, **request):
    response = client.post("/v1/classify", json=request)
    assert response.status_code == 200, response.text
    return response.json()["answers"]


def test_labels_and_scores_are_those_of_predict(classifying, classifier):
    answers = asked(classifying, texts=TEXTS + ODD, top=8)
    assert [answer["labels"] for answer in answers] == classifier.predict(TEXTS + ODD)
    probabilities = classifier.predict_proba(TEXTS + ODD)
    for answer, row in zip(answers, probabilities, strict=True):
        expected = dict(zip(classifier.classes_, row.tolist(), strict=True))
        assert {one["label"]: one["score"] for one in answer["scores"]} == pytest.approx(expected, abs=1e-5)
        scores = [one["score"] for one in answer["scores"]]
        assert scores == sorted(scores, reverse=True)


def test_a_label_comes_with_its_threshold_and_its_path(classifying, classifier):
    (answer,) = asked(classifying, texts=[TEXTS[0]], top=8)
    thresholds = classifier.decisions_.thresholds.sigmoid().tolist()
    expected = dict(zip(classifier.classes_, thresholds, strict=True))
    assert {one["label"]: one["threshold"] for one in answer["scores"]} == pytest.approx(expected, abs=1e-5)
    paths = {one["label"]: one["path"] for one in answer["scores"]}
    assert paths["3"] == "Food and drink > Wine > Red wine"
    assert paths["9"] == f"Food and drink > {SCRIPT}"
    assert {one["label"] for one in answer["scores"] if one["decided"]} == set(answer["labels"])


@pytest.mark.parametrize(("threshold", "least"), [("half", 0.5), (0.2, 0.2), (0, 0), (1, 1)])
def test_a_threshold_for_all_labels(classifying, classifier, threshold, least):
    answers = asked(classifying, texts=TEXTS, threshold=threshold, top=2)
    for answer, row in zip(answers, classifier.predict_proba(TEXTS), strict=True):
        wanted = {label for label, value in zip(classifier.classes_, row, strict=True) if value > least}
        assert set(answer["labels"]) == wanted
        assert [one["threshold"] for one in answer["scores"]] == pytest.approx([least] * 2)


def test_top_is_how_many_scores_come_back(classifying):
    assert [len(asked(classifying, texts=["wine"], top=top)[0]["scores"]) for top in (0, 1, 1_000)] == [0, 1, 8]


def test_empty_texts_are_answered_as_in_python_with_a_note(classifying, classify_path):
    empty, blank, wine = asked(classifying, texts=["", " \n\t", "a red wine"], explain=True)
    assert (empty["known"], empty["note"]) == (False, "the text is empty; its labels are unreliable")
    assert empty == blank
    assert empty["labels"] == MultiLabelClassifier.load(classify_path).predict([""])[0]
    assert empty.get("words", []) == []
    assert wine["known"]


def test_a_text_without_a_known_ngram_is_answered_with_a_note(classifying):
    unknown, wine = asked(classifying, texts=["xyzzy plugh", "a red wine"], explain=True)
    assert (unknown["known"], unknown["note"]) == (
        False,
        "the model knows no n-gram or word of this text; its labels are unreliable",
    )
    assert len(unknown["scores"]) == 8
    assert wine["known"]
    assert "note" not in wine


def test_words_are_weighed_by_taking_them_out(classifying, classifier):
    text = "Red wine, red bread"
    (answer,) = asked(classifying, texts=[text], top=1, explain=True)
    label = answer["scores"][0]["label"]
    assert answer["explained"] == label
    column = list(classifier.classes_).index(label)
    scores = classifier.decision_function([text, " wine,  bread", "Red , red bread", "Red wine, red "])[:, column]
    expected = {"red": scores[0] - scores[1], "wine": scores[0] - scores[2], "bread": scores[0] - scores[3]}
    assert {one["word"]: one["effect"] for one in answer["words"]} == pytest.approx(expected, abs=1e-4)
    assert {one["word"]: one["places"] for one in answer["words"]}["red"] == [[0, 3], [10, 13]]
    effects = [abs(one["effect"]) for one in answer["words"]]
    assert effects == sorted(effects, reverse=True)


def test_words_of_texts_answered_together_are_not_mixed(classifying):
    texts = ["a red wine", "", "dark beer", "wine " * 20_000]
    together = asked(classifying, texts=texts, explain=True)
    for text, answer in zip(texts, together, strict=True):
        (alone,) = asked(classifying, texts=[text], explain=True)
        assert [word["word"] for word in answer.get("words", [])] == [word["word"] for word in alone.get("words", [])]


REFUSED = {
    '{"texts": "wine"}': (422, "invalid", "$.texts"),
    '{"texts": []}': (422, "invalid", "$.texts"),
    '{"texts": [null]}': (422, "invalid", "$.texts[0]"),
    '{"texts": ["a"], "threshold": NaN}': (400, "malformed", None),
    '{"texts": ["a"], "threshold": "best"}': (422, "invalid", "$.threshold"),
    '{"texts": ["a"], "threshold": 1.5}': (422, "invalid", "$.threshold"),
    '{"texts": ["a"], "top": -1}': (422, "invalid", "$.top"),
    '{"texts": ["a"], "explain": 1}': (422, "invalid", "$.explain"),
    json.dumps({"texts": ["a"] * 9, "explain": True}): (422, "too_many", "$.texts"),
    json.dumps({"texts": ["a"] * 101, "top": 1_000}): (422, "too_many", "$.texts"),
    json.dumps({"texts": ["a"] * 10_000}): (422, "invalid", "$.texts"),
    json.dumps({"texts": ["a" * 100_001]}): (422, "invalid", "$.texts[0]"),
}


@pytest.mark.parametrize("body", REFUSED, ids=lambda body: body[:60])
def test_bad_requests_are_refused_with_a_reason_and_the_place(classifying, body):
    response = classifying.post("/v1/classify", content=body, headers={"Content-Type": "application/json"})
    error = response.json()["error"]
    assert (response.status_code, error["reason"], error["where"]) == REFUSED[body]
