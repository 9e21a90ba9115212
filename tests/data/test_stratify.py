import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.config.classify import TextDataSettings
from hyperfocal.data.documents import Documents, as_documents
from hyperfocal.data.stratify import check_distinct_groups, number_labels, split_documents, stratified_folds
from hyperfocal.errors import DataError, LeakError
from hyperfocal.labels import SparseLabels

DEBTAGS = Path(__file__).parents[2].parent / "shared" / "data" / "debtags" / "train.jsonl.gz"
label_lists = st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=30)


def labels_of(rows: list[list[int]], num_labels: int = 6) -> SparseLabels:
    return SparseLabels.from_lists(rows, num_labels=num_labels)


def held_out_counts(labels: SparseLabels, folds: np.ndarray, fold: int = 1) -> list[int]:
    return labels.select(torch.from_numpy(np.flatnonzero(folds == fold))).counts().tolist()


# Shares


@pytest.mark.parametrize("seed", range(3))
def test_shares_of_labels_are_exact_where_they_can_be(seed):
    labels = labels_of([[0]] * 40 + [[1]] * 20 + [[]] * 60, 2)
    folds = stratified_folds(labels, None, (0.75, 0.25), seed=seed)
    assert held_out_counts(labels, folds) == [10, 5]
    assert np.bincount(folds).tolist() == [90, 30]


def test_folds_of_equal_shares():
    labels = labels_of([[0, 1]] * 10 + [[1]] * 20 + [[2]] * 5, 3)
    folds = stratified_folds(labels, None, [1] * 5, seed=0, first_trains=False)
    assert [held_out_counts(labels, folds, fold) for fold in range(5)] == [[2, 6, 1]] * 5


def test_pairs_that_a_plain_split_would_part_badly():
    # Label 0 is rare and occurs with label 1; assigning label 1 first would use up its places.
    labels = labels_of([[0, 1]] * 4 + [[1]] * 36, 2)
    folds = stratified_folds(labels, None, (0.75, 0.25), seed=0)
    assert held_out_counts(labels, folds) == [1, 10]


def test_shares_need_not_sum_to_one():
    labels = labels_of([[0]] * 12)
    assert np.bincount(stratified_folds(labels, None, (2, 1, 1), seed=0)).tolist() == [6, 3, 3]


# Training first


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_few_documents_of_a_label_train(count):
    labels = labels_of([[0]] * count + [[1]] * 97, 2)
    assert held_out_counts(labels, stratified_folds(labels, None, (0.85, 0.15), seed=0))[0] == 0


def test_documents_of_rare_labels_are_held_out_where_nothing_else_is():
    labels = labels_of([[label] for label in range(10) for _ in range(2)], 10)
    folds = stratified_folds(labels, None, (0.85, 0.15), seed=0)
    assert (folds == 1).sum() == 3  # 0.15 * 20
    assert max(held_out_counts(labels, folds)) == 1


def test_a_label_in_one_group_trains():
    labels = labels_of([[0]] * 5 + [[1]] * 95, 2)
    groups = np.array([7] * 5 + list(range(10, 105)))
    for seed in range(5):
        folds = stratified_folds(labels, groups, (0.1, 0.9), seed=seed)
        assert folds[:5].tolist() == [0] * 5
    free = [stratified_folds(labels, groups, (0.1, 0.9), seed=seed, first_trains=False)[0] for seed in range(5)]
    assert free == [1] * 5  # the largest share lacks most


@settings(deadline=None)
@given(label_lists, st.integers(1, 12), st.floats(0.05, 0.95), st.integers(0, 9))
def test_rules_that_always_hold(rows, num_groups, fraction, seed):
    labels = labels_of(rows)
    groups = np.array([(number * 7) % num_groups for number in range(len(rows))], dtype=np.int64)
    folds = stratified_folds(labels, groups, (1 - fraction, fraction), seed=seed)
    assert folds.shape == (len(rows),)
    assert set(folds.tolist()) <= {0, 1}
    for group in set(groups.tolist()):
        assert len(set(folds[groups == group].tolist())) == 1
    training = np.array(held_out_counts(labels, folds, 0))
    assert ((training > 0) == (labels.counts().numpy() > 0)).all()
    assert folds.tolist() == stratified_folds(labels, groups, (1 - fraction, fraction), seed=seed).tolist()


def test_another_seed_is_another_split():
    labels = labels_of([[number % 3] for number in range(60)])
    splits = {tuple(stratified_folds(labels, None, (0.8, 0.2), seed=seed)) for seed in range(5)}
    assert len(splits) == 5


def test_arguments_that_are_wrong():
    labels = labels_of([[0], [1]])
    for shares in ((), (0.5, 0.0), (1.0, -0.5), (float("nan"), 1.0)):
        with pytest.raises(DataError, match="Expected a number above 0 for each fold"):
            stratified_folds(labels, None, shares, seed=0)
    with pytest.raises(DataError, match=r"groups: 3 for 2 documents\. Give one for each"):
        stratified_folds(labels, np.arange(3), (0.5, 0.5), seed=0)


# Documents


def test_split_documents():
    documents = Documents.from_lists(["x"] * 40, [["a", "b"], ["a"]] * 20)
    train, held_out = split_documents(documents, fraction=0.25, seed=3)
    assert sorted([*train, *held_out]) == list(range(40))
    assert (np.diff(train) > 0).all()
    assert documents.select(held_out).labels.explode().value_counts(sort=True).rows() == [("a", 10), ("b", 5)]


@pytest.mark.parametrize("fraction", [0.15, 0.5, 0.9])
def test_documents_without_labels_split_too(fraction):
    _, held_out = split_documents(Documents.from_lists(["x"] * 20), fraction=fraction, seed=0)
    assert len(held_out) == round(20 * fraction)


@pytest.mark.parametrize(
    ("labels", "groups"),
    [([], None), ([["a"]], None), ([["a"], ["b"]], None), ([["a"], ["a"]], ["g", "g"]), ([["a"], ["b"]], [None, None])],
)
def test_documents_that_cannot_be_split(labels, groups):
    documents = Documents.from_lists(["x"] * len(labels), labels, groups=groups)
    with pytest.raises(DataError, match="cannot be split: one part would be empty, or a label would have no group"):
        split_documents(documents, fraction=0.15, seed=0)


def test_two_documents_of_one_label_split():
    train, held_out = split_documents(Documents.from_lists(["x", "y"], [["a"], ["a"]]), fraction=0.15, seed=0)
    assert (len(train), len(held_out)) == (1, 1)


def test_number_labels():
    labels = number_labels(pl.Series([["b", "a"], [], ["b"]], dtype=pl.List(pl.String)))
    assert labels.to_dense().tolist() == [[1, 1], [0, 0], [0, 1]]
    assert len(number_labels(pl.Series([[], []], dtype=pl.List(pl.String)))) == 2


# Leaks


def test_a_shared_group_is_a_leak():
    train = Documents.from_lists(["a", "b", "c"], groups=["g", "h", None])
    held_out = Documents.from_lists(["d", "e", "f"], groups=["h", "h", None])
    with pytest.raises(
        LeakError, match=r"valid\.csv: 1 of its 1 groups are in training too, first 'h'\. Remove these groups"
    ):
        check_distinct_groups(train, held_out, name="valid.csv")
    check_distinct_groups(train, held_out.select(np.array([2])), name="valid.csv")  # row numbers as ids mean nothing


@pytest.mark.parametrize("groups", [(None, None), (["g"], None), (None, ["g"]), ([None], [None])])
def test_without_groups_a_shared_id_is_a_leak(groups):
    train = Documents.from_lists(["a"], ids=["p"], groups=groups[0])
    held_out = Documents.from_lists(["b"], ids=["p"], groups=groups[1])
    with pytest.raises(LeakError, match="valid: 1 of its 1 documents are in training too, first 'p'"):
        check_distinct_groups(train, held_out, name="valid")
    check_distinct_groups(train, Documents.from_lists(["b"], ids=["q"], groups=groups[1]), name="valid")


# Real and large


def test_debtags_split_by_source_package():
    if not DEBTAGS.exists():
        pytest.skip(f"no {DEBTAGS}")
    documents = as_documents(DEBTAGS, TextDataSettings(group="group"))
    train, held_out = split_documents(documents, fraction=0.15, seed=0)
    check_distinct_groups(documents.select(train), documents.select(held_out), name="held out")
    assert abs(len(held_out) / len(documents) - 0.15) < 0.005

    labels, groups = number_labels(documents.labels), documents.group_numbers()
    counts = labels.counts().numpy()
    stratified = labels.select(torch.from_numpy(held_out)).counts().numpy()
    assert (stratified < counts).all()  # every label trains
    drawn = np.random.default_rng(0).random(groups.max() + 1) < 0.15
    random = labels.select(torch.from_numpy(np.flatnonzero(drawn[groups]))).counts().numpy()
    for few, many, allowed in ((1, 10, 0.1), (10, 100, 0.02), (100, 10**9, 0.01)):
        chosen = (counts >= few) & (counts < many)
        off, off_at_random = (np.abs(part / counts - 0.15)[chosen].mean() for part in (stratified, random))
        assert off < allowed
        assert off < off_at_random / 1.8


def test_100_000_documents_take_seconds():
    chances = 1 / np.arange(1, 601)
    drawn = np.random.default_rng(0).choice(600, size=400_000, p=chances / chances.sum())
    labels = SparseLabels.from_csr(torch.arange(0, 400_001, 4), torch.from_numpy(drawn), num_labels=600)
    start = time.perf_counter()
    folds = stratified_folds(labels, None, (0.85, 0.15), seed=0)
    assert time.perf_counter() - start < 5  # 0.2 s on an idle core
    off = np.array(held_out_counts(labels, folds)) / labels.counts().numpy() - 0.15
    assert np.abs(off).max() < 0.01
