import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.errors import DataError
from hyperfocal.labels import BUCKETS, HEAD, TAIL, SparseLabels, bucket_masks, bucket_means

quick = settings(deadline=None, max_examples=60)


@st.composite
def rows_of_labels(draw):
    """Return (num_labels, rows): rows may be empty, unordered and hold duplicates."""
    num_labels = draw(st.integers(1, 9))
    row = st.lists(st.integers(0, num_labels - 1), max_size=6)
    return num_labels, draw(st.lists(row, max_size=6))


def as_sets(labels: SparseLabels) -> list[set[int]]:
    ends = labels.indptr.tolist()
    return [set(labels.indices[start:end].tolist()) for start, end in pairwise(ends)]


class TestAgainstSets:
    """A row is a Python set of label ids: every constructor gives the same sets."""

    @quick
    @given(rows_of_labels())
    def test_from_lists(self, case):
        num_labels, rows = case
        labels = SparseLabels.from_lists(rows, num_labels=num_labels)
        assert as_sets(labels) == [set(row) for row in rows]
        assert labels.indices.tolist() == [label for row in rows for label in sorted(set(row))]
        assert labels.indptr.dtype == labels.indices.dtype == torch.int64

    @quick
    @given(rows_of_labels())
    def test_sizes_rows_and_counts(self, case):
        num_labels, rows = case
        labels, sets = SparseLabels.from_lists(rows, num_labels=num_labels), [set(row) for row in rows]
        assert len(labels) == len(sets)
        assert labels.num_positives == sum(map(len, sets))
        assert labels.rows.tolist() == [number for number, row in enumerate(sets) for _ in row]
        assert labels.counts().tolist() == [sum(label in row for row in sets) for label in range(num_labels)]

    @quick
    @given(rows_of_labels())
    def test_to_dense(self, case):
        num_labels, rows = case
        dense = SparseLabels.from_lists(rows, num_labels=num_labels).to_dense()
        assert dense.shape == (len(rows), num_labels)
        assert dense.tolist() == [[float(label in row) for label in range(num_labels)] for row in rows]

    @quick
    @given(rows_of_labels())
    def test_from_padded(self, case):
        num_labels, rows = case
        ids = torch.full((len(rows), 7), -1)
        for number, row in enumerate(rows):
            ids[number, 7 - len(row) :] = torch.tensor(row, dtype=torch.int64)
        assert as_sets(SparseLabels.from_padded(ids, num_labels=num_labels)) == [set(row) for row in rows]

    @quick
    @given(rows_of_labels())
    def test_from_scipy(self, case):
        num_labels, rows = case
        pairs = [(number, label) for number, row in enumerate(rows) for label in row]
        where = tuple(zip(*pairs, strict=True)) or ([], [])
        matrix = scipy.sparse.coo_array(([1] * len(pairs), where), shape=(len(rows), num_labels))
        labels = SparseLabels.from_scipy(matrix)
        assert as_sets(labels) == [set(row) for row in rows]
        assert labels.num_labels == num_labels

    @quick
    @given(rows_of_labels(), st.sampled_from([torch.bool, torch.int64, torch.float32]), st.booleans())
    def test_from_dense(self, case, dtype, transposed):
        num_labels, rows = case
        dense = torch.tensor([[int(label in row) for label in range(num_labels)] for row in rows])
        dense = dense.reshape(len(rows), num_labels).to(dtype)
        labels = SparseLabels.from_dense(dense.T.contiguous().T if transposed else dense)
        assert as_sets(labels) == [set(row) for row in rows]
        assert labels.indices.tolist() == [label for row in rows for label in sorted(set(row))]
        assert labels.num_labels == num_labels
        assert labels.indptr.dtype == labels.indices.dtype == torch.int64

    @quick
    @given(rows_of_labels(), st.data())
    def test_select(self, case, data):
        num_labels, rows = case
        chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8)) if rows else []
        labels = SparseLabels.from_lists(rows, num_labels=num_labels)
        selected = labels.select(torch.tensor(chosen, dtype=torch.int64))
        assert as_sets(selected) == [set(rows[number]) for number in chosen]
        assert selected.num_labels == num_labels

    @quick
    @given(rows_of_labels(), st.data())
    def test_two_of_the_same_shape(self, case, data):
        num_labels, rows = case
        row = st.lists(st.integers(0, num_labels - 1), max_size=6)
        others = data.draw(st.lists(row, min_size=len(rows), max_size=len(rows)))
        ids = data.draw(st.lists(st.integers(0, num_labels - 1), max_size=6))
        labels, other = (SparseLabels.from_lists(lists, num_labels=num_labels) for lists in (rows, others))
        pairs = list(zip(rows, others, strict=True))
        assert as_sets(labels.without(other)) == [set(row) - set(out) for row, out in pairs]
        assert labels.among(other).tolist() == [label in out for row, out in pairs for label in sorted(set(row))]
        assert labels.holds(torch.tensor(ids, dtype=torch.int64)).tolist() == [[i in row for i in ids] for row in rows]
        assert labels.keys.tolist() == [n * num_labels + i for n, row in enumerate(rows) for i in sorted(set(row))]
        assert labels.lengths.tolist() == [len(set(row)) for row in rows]


class TestBuild:
    def test_no_rows(self):
        labels = SparseLabels.from_lists([], num_labels=3)
        assert (len(labels), labels.num_positives, labels.counts().tolist()) == (0, 0, [0, 0, 0])

    def test_no_labels(self):
        labels = SparseLabels.from_lists([[], []], num_labels=0)
        assert (len(labels), labels.num_positives) == (2, 0)
        assert labels.to_dense().shape == (2, 0)

    def test_from_dense_matrices_without_rows_or_labels(self):
        assert len(SparseLabels.from_dense(torch.zeros(0, 3))) == 0
        labels = SparseLabels.from_dense(torch.zeros(2, 0, dtype=torch.bool))
        assert (len(labels), labels.num_labels, labels.indptr.tolist()) == (2, 0, [0, 0, 0])

    def test_a_zero_of_either_sign_is_no_label(self):
        assert as_sets(SparseLabels.from_dense(torch.tensor([[0.0, -0.0, 1.0]]))) == [{2}]

    def test_from_a_generator_of_tuples(self):
        labels = SparseLabels.from_lists(((number, 2) for number in range(2)), num_labels=3)
        assert as_sets(labels) == [{0, 2}, {1, 2}]

    def test_from_tensors_and_numpy_integers(self):
        lists = [torch.tensor([2, 0]), np.array([1], dtype=np.int32), [np.int64(2)]]
        assert as_sets(SparseLabels.from_lists(lists, num_labels=3)) == [{0, 2}, {1}, {2}]

    def test_a_stored_zero_is_not_a_label(self):
        matrix = scipy.sparse.csr_array(([1, 0, 1], [0, 1, 2], [0, 2, 3]), shape=(2, 3))
        assert as_sets(SparseLabels.from_scipy(matrix)) == [{0}, {2}]

    def test_a_pair_that_scipy_stores_twice_is_one_label(self):
        matrix = scipy.sparse.coo_array(([1, 1, 0], ([0, 0, 0], [1, 1, 2])), shape=(1, 3))
        assert as_sets(SparseLabels.from_scipy(matrix)) == [{1}]

    @pytest.mark.parametrize("kind", [scipy.sparse.csr_array, scipy.sparse.csc_matrix, scipy.sparse.lil_matrix])
    def test_every_scipy_format(self, kind):
        assert as_sets(SparseLabels.from_scipy(kind(np.array([[0, 1], [1, 0]])))) == [{1}, {0}]

    def test_another_padding(self):
        ids = torch.tensor([[0, 9, 2], [9, 9, 9]], dtype=torch.int32)
        assert as_sets(SparseLabels.from_padded(ids, num_labels=3, padding=9)) == [{0, 2}, set()]

    def test_the_largest_small_integer_is_a_label_and_not_padding(self):
        ids = torch.tensor([[255, 0]], dtype=torch.uint8)
        assert as_sets(SparseLabels.from_padded(ids, num_labels=256)) == [{0, 255}]

    def test_no_input_is_modified(self):
        indptr, indices = torch.tensor([0, 3, 4], dtype=torch.int32), torch.tensor([2, 0, 2, 1], dtype=torch.int32)
        matrix = scipy.sparse.csr_array(([1, 0, 1], [2, 0, 2], [0, 3]), shape=(1, 3))
        SparseLabels.from_csr(indptr, indices, num_labels=3)
        SparseLabels.from_scipy(matrix)
        assert (indptr.tolist(), indices.tolist()) == ([0, 3, 4], [2, 0, 2, 1])
        assert (matrix.data.tolist(), matrix.indices.tolist()) == ([1, 0, 1], [2, 0, 2])

    def test_dense_in_another_dtype(self):
        labels = SparseLabels.from_lists([[1]], num_labels=2)
        assert labels.to_dense(torch.float16).dtype == torch.float16

    def test_to_another_device(self):
        moved = SparseLabels.from_lists([[1]], num_labels=2).to("meta")
        assert (moved.indptr.device.type, moved.indices.device.type, moved.num_labels) == ("meta", "meta", 2)

    def test_cannot_be_changed(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            SparseLabels.from_lists([[1]], num_labels=2).num_labels = 3


class TestErrors:
    @pytest.mark.parametrize("label", [-1, 4, 99])
    def test_a_label_outside_names_its_row(self, label):
        with pytest.raises(DataError) as caught:
            SparseLabels.from_lists([[0], [], [1, label]], num_labels=4)
        assert str(caught.value) == f"labels: row 2 has label id {label}. Expected 0 to 3 (num_labels=4)"

    @pytest.mark.parametrize(
        ("indptr", "message"),
        [
            ([1, 2], "labels: row pointers must be one-dimensional and start at 0"),
            ([], "labels: row pointers must be one-dimensional and start at 0"),
            ([[0, 2]], "labels: row pointers must be one-dimensional and start at 0"),
            ([0, 2, 1, 2], "labels: row pointers decrease at row 1. Expected pointers that never decrease"),
            ([0, 1], "labels: the last row pointer is 1 but there are 2 label ids"),
            ([0, 3], "labels: the last row pointer is 3 but there are 2 label ids"),
        ],
    )
    def test_wrong_pointers(self, indptr, message):
        with pytest.raises(DataError) as caught:
            SparseLabels.from_csr(torch.tensor(indptr), torch.tensor([0, 1]), num_labels=2)
        assert str(caught.value) == message

    @pytest.mark.parametrize("ids", [torch.zeros(3, dtype=torch.int64), torch.zeros(2, 3), torch.zeros(1, 1).cfloat()])
    def test_padded_ids_must_be_integers_in_two_dimensions(self, ids):
        with pytest.raises(DataError, match=r"padded labels: expected a \(B, N\) integer tensor, got \("):
            SparseLabels.from_padded(ids, num_labels=3)

    def test_another_padding_than_the_one_named(self):
        with pytest.raises(DataError) as caught:
            SparseLabels.from_padded(torch.tensor([[0, 2], [1, -100]]), num_labels=3)
        expected = "padded labels: -100 is neither a label id from 0 to 2 nor the padding -1. "
        assert str(caught.value) == expected + "Name another padding with `padding=`"

    @pytest.mark.parametrize(("label", "shown"), [(1.5, "1.5"), (2.0, "2.0"), ("a", "'a'"), (None, "None")])
    def test_a_label_that_is_no_integer(self, label, shown):
        with pytest.raises(DataError) as caught:
            SparseLabels.from_lists([[0], [label]], num_labels=4)
        expected = f"labels: row 1 has label id {shown}. Expected an integer: number the labels first"
        assert str(caught.value) == expected

    def test_rows_of_zeros_and_ones_are_not_lists_of_labels(self):
        with pytest.raises(DataError, match=r"labels: row 0 has label id True\. Expected an integer"):
            SparseLabels.from_lists([[True, False], [False, True]], num_labels=2)

    @pytest.mark.parametrize(
        ("value", "shown", "fix"),
        [
            (-100.0, "-100", "set missing and ignored entries to 0, and give a loss these pairs as its `mask`"),
            (-1, "-1", "set missing and ignored entries to 0, and give a loss these pairs as its `mask`"),
            (math.nan, "nan", "set missing and ignored entries to 0, and give a loss these pairs as its `mask`"),
            (0.1, "0.1", "cut soft labels at a threshold first, as in `labels > 0.5`"),
            (1e-45, "1.4013e-45", "cut soft labels at a threshold first, as in `labels > 0.5`"),
            (2, "2", "if these are counts, pass `labels > 0`"),
            (math.inf, "inf", "cut soft labels at a threshold first, as in `labels > 0.5`"),
        ],
    )
    def test_an_entry_of_a_matrix_that_is_neither_0_nor_1(self, value, shown, fix):
        dense = torch.tensor([[1, 0, 0], [0, 1, value]])
        expected = f"labels: row 1, column 2 is {shown}. Expected 0 or 1: {fix}"
        with pytest.raises(DataError) as caught:
            SparseLabels.from_dense(dense)
        assert str(caught.value) == expected
        for kind in (scipy.sparse.csr_array, scipy.sparse.csc_array, scipy.sparse.coo_matrix):
            with pytest.raises(DataError) as caught:
                SparseLabels.from_scipy(kind(dense.numpy()))
            assert str(caught.value) == expected

    def test_entries_that_cancel(self):
        matrix = scipy.sparse.coo_array(([1, -1], ([0, 0], [1, 1])), shape=(1, 3))
        with pytest.raises(DataError, match="row 0, column 1 is -1"):
            SparseLabels.from_scipy(matrix)

    @pytest.mark.parametrize(
        ("dense", "kind"),
        [
            (np.eye(2), "ndarray"),
            ([[0, 1]], "list"),
            (torch.ones(2), r"\(2,\) torch.strided"),
            (torch.ones(1, 1, 1), r"\(1, 1, 1\) torch.strided"),
            (torch.eye(2).to_sparse(), r"\(2, 2\) torch.sparse_coo"),
        ],
    )
    def test_a_dense_matrix_must_be_a_tensor_of_two_dimensions(self, dense, kind):
        with pytest.raises(DataError, match=rf"labels: {kind} is not a dense \(B, L\) tensor\. Convert an array"):
            SparseLabels.from_dense(dense)

    @pytest.mark.parametrize(
        ("matrix", "kind"),
        [
            (np.eye(2), r"\(2, 2\) ndarray"),
            ([[0, 1]], "list"),
            (scipy.sparse.coo_array(np.array([1, 0])), r"\(2,\) coo_array"),
        ],
    )
    def test_a_scipy_matrix_must_be_one_of_two_dimensions(self, matrix, kind):
        with pytest.raises(DataError, match=rf"labels: {kind} is not a \(B, L\) scipy matrix\. Convert an array"):
            SparseLabels.from_scipy(matrix)

    def test_pointers_and_ids_that_are_no_integers(self):
        message = "labels: expected integers, got row pointers torch.int64 and label ids torch.float32"
        with pytest.raises(DataError, match=message):
            SparseLabels.from_csr(torch.tensor([0, 1]), torch.tensor([0.5]), num_labels=2)
        with pytest.raises(DataError, match=r"labels: expected integers, got row pointers torch\.float32"):
            SparseLabels.from_csr(torch.tensor([0.0, 1.5]), torch.tensor([1]), num_labels=2)

    def test_ids_in_two_dimensions(self):
        with pytest.raises(DataError, match=r"labels: label ids must be one-dimensional, got \(1, 2\)"):
            SparseLabels.from_csr(torch.tensor([0, 1]), torch.tensor([[0, 1]]), num_labels=2)

    def test_a_negative_number_of_labels(self):
        with pytest.raises(DataError, match=r"labels: num_labels = -1 is not allowed\. Expected 0 or more"):
            SparseLabels.from_lists([[]], num_labels=-1)

    @pytest.mark.parametrize(
        ("examples", "message"),
        [
            ([0, -1], "examples: -1 is not allowed. Expected 0 or more and below 2"),
            ([2], "examples: 2 is not allowed. Expected 0 or more and below 2"),
            ([0.0], r"examples: expected (N,) integers, got (1,) torch.float32"),
            ([True, False], r"examples: expected (N,) integers, got (2,) torch.bool"),
            ([[0]], r"examples: expected (N,) integers, got (1, 1) torch.int64"),
        ],
    )
    def test_examples_that_do_not_exist(self, examples, message):
        with pytest.raises(DataError) as caught:
            SparseLabels.from_lists([[0], [1]], num_labels=2).select(torch.tensor(examples))
        assert str(caught.value) == message


def test_the_borders():
    counts = torch.tensor([0, 1, TAIL - 1, TAIL, TAIL + 1, HEAD - 1, HEAD, HEAD + 1, 10**9])
    masks = bucket_masks(counts)
    assert (HEAD, TAIL) == (200, 20)
    assert counts[masks["tail"]].tolist() == [0, 1, 19]
    assert counts[masks["medium"]].tolist() == [20, 21, 199]
    assert counts[masks["head"]].tolist() == [200, 201, 10**9]


def test_each_label_is_in_one_bucket():
    masks = bucket_masks(torch.arange(500))
    assert tuple(masks) == BUCKETS
    assert torch.stack(list(masks.values())).sum(0).tolist() == [1] * 500


def test_no_label():
    assert all(mask.shape == (0,) and mask.dtype == torch.bool for mask in bucket_masks(torch.arange(0)).values())


class TestBucketMeans:
    def test_by_hand(self):
        means = bucket_means(torch.tensor([1.0, 2, math.nan, 6]), torch.tensor([500, 250, 200, 3]))
        assert {name: mean.item() for name, mean in means.items()} == pytest.approx(
            {"macro": (1 + 2 + 6) / 3, "head": (1 + 2) / 2, "medium": math.nan, "tail": 6}, nan_ok=True
        )

    def test_the_last_axis(self):
        means = bucket_means(torch.tensor([[1.0, 2], [math.nan, 4]]), torch.tensor([5, 5]))
        assert means["tail"].tolist() == [(1 + 2) / 2, 4]
