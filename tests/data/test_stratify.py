import time
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.config.classify import TextDataSettings
from hyperfocal.data.documents import Documents, as_documents
from hyperfocal.data.stratify import ALGORITHM, check_distinct_groups, number_labels, split_documents, stratified_folds
from hyperfocal.errors import DataError, LeakError
from hyperfocal.labels import SparseLabels

DEBTAGS = Path(__file__).parents[2].parent / "shared" / "data" / "debtags" / "train.jsonl.gz"
label_lists = st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=30)


def labels_of(rows: list[list[int]], num_labels: int = 6) -> SparseLabels:
    return SparseLabels.from_lists(rows, num_labels=num_labels)


def share_error(labels: SparseLabels, folds: np.ndarray, shares: list[float]) -> float:
    """Return the mean over labels and folds of |share of the label's documents in the fold - share of the fold|."""
    counts = np.array([held_out_counts(labels, folds, fold) for fold in range(len(shares))])
    total = counts.sum(0)
    return float(np.abs(counts[:, total > 0] / total[total > 0] - np.array(shares)[:, None]).mean())


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


# Sizes


@settings(deadline=None)
@given(label_lists, st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 9))
def test_without_groups_sizes_are_exact(rows, shares, seed):
    folds = stratified_folds(labels_of(rows), None, shares, seed=seed, first_trains=False)
    sizes = np.bincount(folds, minlength=len(shares))
    wanted = np.array(shares) / sum(shares) * len(rows)
    assert (np.abs(sizes - wanted) < 1).all() or len(rows) < 9 * len(
        shares
    )  # a fold of few documents gets at least one
    assert len(rows) < len(shares) or (sizes > 0).all()


def test_a_label_of_few_documents_does_not_make_the_held_out_part_small():
    # 300 labels with 3 documents each: 0.1 * 3 rounds to 0, so that the algorithm of the paper holds out none of them.
    labels = labels_of([[number // 3] for number in range(900)], 300)
    folds = stratified_folds(labels, None, (0.9, 0.1), seed=0)
    assert np.bincount(folds).tolist() == [810, 90]
    assert max(held_out_counts(labels, folds)) == 1


def test_documents_of_many_labels_do_not_make_the_held_out_part_large():
    chances = 1 / np.arange(1, 101)
    rng = np.random.default_rng(0)
    rows = [rng.choice(100, size=15, replace=False, p=chances / chances.sum()).tolist() for _ in range(2_000)]
    labels = labels_of(rows, 100)
    folds = stratified_folds(labels, None, (0.9, 0.1), seed=0)
    assert np.bincount(folds).tolist() == [1_800, 200]
    assert share_error(labels, folds, [0.9, 0.1]) < 0.006  # 0.010 before, with 219 documents held out


@pytest.mark.parametrize("shares", [[0.8, 0.2], [0.9, 0.1], [0.2] * 5])
def test_groups_of_several_sizes_reach_exact_sizes(shares):
    sizes = np.random.default_rng(1).zipf(1.6, 500).clip(max=60)
    groups = np.repeat(np.arange(500), sizes)
    groups = np.append(groups, groups.max() + 1 + np.arange(-len(groups) % 10))  # a multiple of ten
    labels = labels_of([[number * 7 % 11 % 6] for number in range(len(groups))])
    folds = stratified_folds(labels, groups, shares, seed=0, first_trains=False)
    assert np.bincount(folds).tolist() == pytest.approx([share * len(groups) for share in shares])


def test_few_groups_come_as_near_as_any_choice_of_them():
    """Sums of all subsets are the oracle. Moving one group or swapping two falls short of it in few cases."""
    rng, missed = np.random.default_rng(0), 0
    for case in range(100):
        sizes = rng.integers(1, 30, size=rng.integers(3, 9))
        groups = np.repeat(np.arange(len(sizes)), sizes)
        labels = labels_of([[int(label)] for label in rng.integers(0, 3, len(groups))])
        held_out = (stratified_folds(labels, groups, (0.8, 0.2), seed=case, first_trains=False) == 1).sum()
        subsets = (combinations(sizes.tolist(), count) for count in range(1, len(sizes)))
        best = min(abs(sum(chosen) - 0.2 * len(groups)) for each in subsets for chosen in each)
        missed += abs(held_out - 0.2 * len(groups)) > best + 1
    assert missed <= 10  # 56 before


def test_folds_as_they_are_stored():
    """If these change, raise ALGORITHM, so that cross-validated runs of an earlier version are not resumed."""
    labels = labels_of([[n % 8, n * n % 7] if n % 3 else [n * n % 11] for n in range(40)], 11)
    folds = stratified_folds(labels, None, [1] * 3, seed=5, first_trains=False)
    assert ALGORITHM == 2
    assert "".join(map(str, folds)) == "1021010101211221110222121201000020122200"


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
    problem = "one document" if len(labels) == 1 else "one part would be empty, or a label would have no group"
    with pytest.raises(DataError, match=problem):
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
    assert len(held_out) == round(0.15 * len(documents))

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


# The last numbers are errors of label shares before sizes were honored, means of three seeds of benchmarks/stratify.py.
@pytest.mark.parametrize(
    ("name", "text", "group", "fraction", "error_before"),
    [
        ("debtags", "text", "", 0.1, 0.0266),  # 0.5% off
        ("debtags", "text", "group", 0.1, 0.0310),  # 3.3%
        ("debtags", "text", "group", 0.2, 0.0393),  # 1.8%
        ("cooking", "body", "", 0.1, 0.0361),
        ("reuters", "body", "", 0.1, 0.0349),
        ("reuters", "body", "", 0.5, 0.0610),
    ],
)
def test_sizes_cost_no_label_share(name, text, group, fraction, error_before):
    path = DEBTAGS.parents[1] / name / "train.jsonl.gz"
    if not path.exists():
        pytest.skip(f"no {path}")
    documents = as_documents(path, TextDataSettings(text=(text,), group=group))
    labels, shares = number_labels(documents.labels), [1 - fraction, fraction]
    folds = [stratified_folds(labels, documents.group_numbers(), shares, seed=seed) for seed in range(3)]
    assert {int((each == 1).sum()) for each in folds} <= {
        int(fraction * len(labels)),
        -int(-fraction * len(labels) // 1),
    }
    assert np.mean([share_error(labels, each, shares) for each in folds]) <= error_before


def test_100_000_documents_take_seconds():
    chances = 1 / np.arange(1, 601)
    drawn = np.random.default_rng(0).choice(600, size=400_000, p=chances / chances.sum())
    labels = SparseLabels.from_csr(torch.arange(0, 400_001, 4), torch.from_numpy(drawn), num_labels=600)
    start = time.perf_counter()
    folds = stratified_folds(labels, None, (0.85, 0.15), seed=0)
    assert time.perf_counter() - start < 5  # 0.2 s on an idle core
    assert np.bincount(folds).tolist() == [85_000, 15_000]
    off = np.array(held_out_counts(labels, folds)) / labels.counts().numpy() - 0.15
    assert np.abs(off).max() < 0.01
