"""POST /v1/recommend answers as `Recommender.recommend` does, whoever else asks at the same time."""

import json
from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest

from hyperfocal.recommend.recommender import Recommender
from serve_cases import COURSES, ITEMS, RIGHT_TO_LEFT, SCRIPT


@pytest.fixture(scope="module")
def recommender(recommend_path):
    return Recommender.load(recommend_path)


def asked(client, **request):
    response = client.post("/v1/recommend", json=request)
    assert response.status_code == 200, response.text
    return response.json()["answers"]


def items_of(answer):
    return [one["item"] for one in answer["items"]]


def test_requests_answered_together_are_answered_as_alone(recommending, recommender):
    requests = [{"histories": [ITEMS[place : place + 4], ITEMS[place:]], "k": 1 + place} for place in range(12)]
    with ThreadPoolExecutor(12) as threads:
        found = list(threads.map(lambda request: asked(recommending, **request), requests))
    for request, answers in zip(requests, found, strict=True):
        assert list(map(items_of, answers)) == recommender.recommend(request["histories"], request["k"])


def test_scores_are_those_of_predict(recommending, recommender):
    log = pl.DataFrame({"user": ["a"] * 3, "item": ITEMS[:3]})
    (answer,) = asked(recommending, histories=[ITEMS[:3]], k=4)
    frame = recommender.predict(log, 4).frame
    assert items_of(answer) == frame["item"].to_list()
    assert [one["score"] for one in answer["items"]] == pytest.approx(frame["score"].to_list(), abs=1e-5)


def test_without_k_there_are_as_many_as_the_run_was_trained_for(recommending):
    assert len(items_of(asked(recommending, histories=[[]])[0])) == 3


def test_unknown_items_are_listed_once_and_change_nothing(recommending):
    known, unknown = asked(recommending, histories=[ITEMS[:3], ["x", *ITEMS[:3], RIGHT_TO_LEFT * 2, "x"]], k=5)
    assert items_of(unknown) == items_of(known)
    assert (known["unknown"], unknown["unknown"]) == ([], ["x", RIGHT_TO_LEFT * 2])


def test_a_history_without_a_known_item_is_answered_with_a_note(recommending):
    known, unknown, empty = asked(recommending, histories=[[ITEMS[0], "x"], ["x", "y"], []])
    assert known["known"]
    assert "note" not in known
    assert not unknown["known"]
    assert unknown["note"] == "the model knows no item of this history: these are the items for an empty history"
    assert (empty["known"], empty["note"]) == (False, "the history is empty: every empty history gets these items")
    assert unknown["items"] == empty["items"]


def test_all_items_but_history_and_exclusions_come_back_once(recommending):
    request = {"histories": [ITEMS[:2], [SCRIPT]], "k": len(ITEMS), "exclude": [*ITEMS[5:8], "unknown"]}
    first, second = asked(recommending, **request)
    assert sorted(items_of(first)) == sorted([*ITEMS[2:5], *ITEMS[8:]])
    assert sorted(items_of(second)) == sorted(set(ITEMS) - {SCRIPT, *ITEMS[5:8]})


def test_exclusions_of_one_request_are_not_another_ones(recommending):
    with ThreadPoolExecutor(8) as threads:
        requests = [{"histories": [[]] * 3, "k": len(ITEMS), "exclude": ITEMS[place:]} for place in range(1, 9)]
        found = list(threads.map(lambda request: asked(recommending, **request), requests))
    for place, answers in enumerate(found, start=1):
        assert [sorted(items_of(answer)) for answer in answers] == [sorted(ITEMS[:place])] * 3


def test_new_items_are_ranked_by_their_features(recommending, recommender):
    rows = [{"item": "Law of the sea", "topic": "law"}, {"item": COURSES[0], "topic": "art"}]
    (answer,) = asked(recommending, histories=[ITEMS[:3]], k=len(ITEMS) - 2, new_items=rows)
    widened = recommender.with_new_items(pl.DataFrame(rows))
    assert items_of(answer) == widened.recommend([ITEMS[:3]], len(ITEMS) - 2)[0]
    assert "Law of the sea" in items_of(answer)
    assert "Law of the sea" not in items_of(asked(recommending, histories=[ITEMS[:3]], k=len(ITEMS) - 3)[0])


MANY = [["a"]] * 10_000
REFUSED = {
    "{": (400, "malformed", None),
    "": (400, "malformed", None),
    '{"histories": [[NaN]]}': (400, "malformed", None),
    '{"histories": [["\\ud800"]]}': (400, "malformed", None),
    "[" * 100_000: (422, "invalid", "$"),
    "{}": (422, "invalid", "$"),
    '{"histories": []}': (422, "invalid", "$.histories"),
    '{"histories": [[true]]}': (422, "invalid", "$.histories[0][0]"),
    '{"histories": [["a", 1e300]]}': (422, "invalid", "$.histories"),
    '{"histories": [["a"]], "exclude": [1e300]}': (422, "invalid", "$.exclude"),
    '{"histories": [["a"]], "k": 0}': (422, "invalid", "$.k"),
    '{"histories": [["a"]], "k": 2.5}': (422, "invalid", "$.k"),
    '{"histories": [["a"]], "k": 1000000}': (422, "invalid", "$.k"),
    '{"histories": [["a"]], "k": 28}': (422, "too_deep", "$.k"),
    json.dumps({"histories": [["a"]] * 1_000, "k": 101}): (422, "too_many", "$.histories"),
    json.dumps({"histories": [["a"]] * 101, "k": 1_000}): (422, "too_many", "$.histories"),
    json.dumps({"histories": [["a"]] * 1_000, "k": 100}): (422, "too_deep", "$.k"),
    '{"histories": [["a"]], "kk": 1}': (422, "invalid", "$"),
    '{"histories": [["a"]], "new_items": [{"item": "new"}]}': (422, "new_items", "$.new_items"),
    '{"histories": [["a"]], "new_items": [{"item": "Algebra", "topic": "law"}]}': (422, "new_items", "$.new_items"),
    '{"histories": [["a"]], "new_items": [{"topic": "law"}]}': (422, "new_items", "$.new_items"),
    '{"histories": [["a"]], "new_items": [{}]}': (422, "new_items", "$.new_items"),
    '{"histories": [["a"]], "new_items": [{"item": ["x"], "topic": "law"}]}': (422, "new_items", "$.new_items"),
    '{"histories": [["a"]], "new_items": [{"item": "x", "topic": {}}]}': (422, "invalid", "$.new_items[0][...]"),
    str(MANY).replace("'", '"').join(('{"histories": ', "}")): (422, "invalid", "$.histories"),
}


@pytest.mark.parametrize("body", REFUSED, ids=lambda body: body[:60])
def test_bad_requests_are_refused_with_a_reason_and_the_place(recommending, body):
    response = recommending.post("/v1/recommend", content=body, headers={"Content-Type": "application/json"})
    error = response.json()["error"]
    assert (response.status_code, error["reason"], error["where"]) == REFUSED[body]
    assert error["message"]


def test_the_message_for_k_says_what_is_allowed(recommending):
    error = recommending.post("/v1/recommend", json={"histories": [[]], "k": 28}).json()["error"]
    assert error["message"] == "k = 28 is not allowed. Expected 1 to 27, the number of items"


def test_the_message_for_many_rows_of_many_items_says_what_is_allowed(recommending):
    error = recommending.post("/v1/recommend", json={"histories": [[]] * 1_000, "k": 200}).json()["error"]
    assert error["message"] == (
        "1,000 histories x k = 200 are 200,000 items, and 100,000 are allowed. "
        "Send fewer histories per request, or a smaller k"
    )


def test_the_other_job_is_refused(recommending):
    response = recommending.post("/v1/classify", json={"texts": ["a"]})
    assert response.status_code == 409
    assert response.json()["error"]["reason"] == "wrong_job"
