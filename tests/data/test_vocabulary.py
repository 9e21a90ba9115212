import json

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.data.logs import Log
from hyperfocal.data.vocabulary import UNKNOWN, Vocabulary, encode_log
from hyperfocal.errors import DataError

quick = settings(deadline=None, max_examples=60)
ids = st.sampled_from(["b", "a", "10", "9", "010", "é e", 'a"b', "🎉", ""])
texts = st.lists(ids, max_size=8)


def series(items: list[str]) -> pl.Series:
    return pl.Series("item", items, dtype=pl.String)


@quick
@given(texts, texts)
def test_encode_and_decode(known, items):
    vocabulary = Vocabulary.of(series(known))
    order = sorted(set(known), key=str.encode)
    numbers = vocabulary.encode(series(items))
    assert len(vocabulary) == len(order)
    assert numbers.dtype == torch.int64
    assert numbers.tolist() == [order.index(item) if item in order else UNKNOWN for item in items]
    assert vocabulary.decode(numbers[numbers != UNKNOWN]).to_list() == [item for item in items if item in order]


def test_row_order_does_not_matter():
    assert Vocabulary.of(series(["b", "a", "b"])).ids.to_list() == Vocabulary.of(series(["a", "b"])).ids.to_list()


@quick
@given(texts, texts)
def test_extended_keeps_numbers_and_adds_new_ones(known, items):
    vocabulary = Vocabulary.of(series(known))
    wider = vocabulary.extended(series(items))
    assert wider.ids[: len(vocabulary)].to_list() == vocabulary.ids.to_list()
    assert wider.ids[len(vocabulary) :].to_list() == [item for item in dict.fromkeys(items) if item not in known]
    assert UNKNOWN not in wider.encode(series(items + known)).tolist()


@quick
@given(st.lists(st.text(st.characters(codec="utf-8")), unique=True, max_size=8))
def test_json_round_trip(items):
    vocabulary = Vocabulary(series(items))
    assert Vocabulary.from_json(vocabulary.to_json()).ids.to_list() == items
    assert json.loads(vocabulary.to_json()) == {"items": items}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "JSONDecodeError"),
        ('{"items": ["a", ', "JSONDecodeError"),
        ("[]", "TypeError"),
        ("7", "TypeError"),
        ("{}", "KeyError"),
        ('{"items": "ab"}', "'items' is not a list of texts"),
        ('{"items": null}', "'items' is not a list of texts"),
        ('{"items": ["a", 7]}', "'items' is not a list of texts"),
        ('{"items": ["a", null]}', "'items' is not a list of texts"),
        ('{"items": ["a", "b", "a"]}', "of 3 items only 2 differ"),
    ],
)
def test_json_that_is_no_vocabulary(text, message):
    with pytest.raises(DataError, match=f"^not a vocabulary: {message}"):
        Vocabulary.from_json(text)


@quick
@given(st.lists(st.lists(ids.filter(bool), max_size=8), max_size=5), texts)
def test_encode_log_leaves_unknown_items_out_and_counts_them(lists, known):
    vocabulary = Vocabulary.of(series(known))
    sequences, unknown = encode_log(Log.from_lists(lists), vocabulary)
    numbered = [[vocabulary.ids.to_list().index(item) for item in row if item in known] for row in lists]
    assert sequences.items.tolist() == [item for row in numbered for item in row]
    assert sequences.lengths.tolist() == [len(row) for row in numbered]
    assert (len(sequences), sequences.num_items) == (len(lists), len(set(known)))
    assert unknown == sum(item not in known for row in lists for item in row)


def test_encode_log_by_hand():
    sequences, unknown = encode_log(
        Log.from_lists([["a", "zz", "b"], ["zz"], ["b", "b"]]), Vocabulary(series(["a", "b"]))
    )
    assert (sequences.items.tolist(), sequences.offsets.tolist(), unknown) == ([0, 1, 1, 1], [0, 2, 2, 4], 2)


def test_numbers_and_their_texts_are_one_id():
    vocabulary = Vocabulary.of(pl.Series(["10", "x"]))
    assert vocabulary.encode_lists([[10, 10.0, "10", np.int64(10)], ["x"], []]).items.tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("histories", ["10", ["10"], [10], [["x"], "x"]])
def test_a_text_is_not_a_list_of_ids(histories):
    with pytest.raises(DataError, match=r"not (lists|a list) of item ids"):
        Vocabulary.of(pl.Series(["1", "0", "x"])).encode_lists(histories)


@pytest.mark.parametrize("history", [{"a", "b"}, {"a": 1}, frozenset("ab")], ids=lambda history: type(history).__name__)
def test_what_has_no_order_is_no_history(history):
    with pytest.raises(DataError, match=f"histories: a {type(history).__name__} has no order. Give a list of item ids"):
        Vocabulary.of(series(["a", "b"])).encode_lists([history])


def test_missing_items_of_a_history_are_unknown_also_if_an_item_has_such_a_name():
    vocabulary = Vocabulary.of(series(["None", "nan", "a"]))
    assert vocabulary.encode_lists([[None, float("nan"), "a"]]).items.tolist() == [1]


def test_ids_come_back_as_integers_until_one_is_added_that_is_none():
    vocabulary = Vocabulary.of(series(["10", "7"]), "integer")
    assert vocabulary.values == [10, 7]
    assert Vocabulary.from_json(vocabulary.to_json()).values == [10, 7]
    assert vocabulary.extended(series(["8"])).values == [10, 7, 8]
    assert vocabulary.extended(series(["x"])).values == ["10", "7", "x"]
    with pytest.raises(DataError, match="not a vocabulary: its ids are 'float'"):
        Vocabulary.from_json('{"items": [], "kind": "float"}')
